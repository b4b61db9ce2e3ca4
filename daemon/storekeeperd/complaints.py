"""What was refused to whom and why, for the log: what the client is told, with the peer's uid and pid.

Pure but for the log. Owns the measure: so many lines a second for one user and for all, the rest is counted. Who is
refused a million times a second must not fill the disk, nor keep others out of the log.
"""

from __future__ import annotations

import logging
from collections import Counter

from storekeeper.errors import CorruptObject, DiskFailed, DiskFull, InternalError, StorekeeperError, StoreUnavailable
from storekeeperd.answers import Peer

log = logging.getLogger(__name__)

_LINES_PER_USER = 10
_LINES = 50
_GRAVE = (CorruptObject, DiskFailed, DiskFull, InternalError, StoreUnavailable)
"""Not the client's doing: warnings."""


class Complaints:
    """Refusals, told to the log in measure. `tick` is to be called about once a second."""

    def __init__(self) -> None:
        self._lines = 0
        self._of_user: Counter[int] = Counter()
        self._untold: Counter[int] = Counter()

    def tell(self, peer: Peer, verb: bytes, code: str, sentence: str, items: int = 0) -> None:
        """Tells of one refusal.

        Args:
            peer: who asked.
            verb: for what.
            code, sentence: what he is told.
            items: how many items of a batch failed; the first of them is told.
        """
        if self._lines >= _LINES or self._of_user[peer.uid] >= _LINES_PER_USER:
            self._untold[peer.uid] += 1
            return
        self._lines += 1
        self._of_user[peer.uid] += 1
        level = logging.WARNING if any(code == grave.code for grave in _GRAVE) else logging.INFO
        more = f" (the first of {items} items)" if items > 1 else ""
        asked = verb.decode("ascii", "replace") or "a request"
        log.log(level, "refused %s of uid %d pid %d: %s: %s%s", asked, peer.uid, peer.pid, code, sentence, more)

    def tell_error(self, peer: Peer, verb: bytes, error: StorekeeperError) -> None:
        """Tells of the refusal of a whole request."""
        self.tell(peer, verb, error.code, str(error))

    def tick(self) -> None:
        """Allows lines anew; says how many refusals were not told."""
        if self._untold:
            told = ", ".join(f"{count} of uid {uid}" for uid, count in self._untold.most_common(5))
            log.info("refused %d more requests: %s", sum(self._untold.values()), told)
        self._lines = 0
        self._of_user.clear()
        self._untold.clear()
