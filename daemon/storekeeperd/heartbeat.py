"""The heartbeat of the watch: whether anything is heard at all, and how long it takes until it is known.

Owns the beat that is under way. The beat is sent (home.py opens the store's marker), heard of by the watcher like any
other event, in its turn behind all those that were queued before, and then known once every name that was in doubt by
then has been looked at: that is the lag of the index behind the directory.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from storekeeperd.coherence import Coherence


class Heartbeat:
    """Beats, one at a time.

    Args:
        coherence: tells which names are in doubt.
        clock: seconds, monotonic.

    Attributes:
        in_vain: beats that were missed since one was heard.
    """

    def __init__(self, coherence: Coherence, clock: Callable[[], float] = time.monotonic) -> None:
        self._coherence = coherence
        self._clock = clock
        self._sent_at: float | None = None
        self._doubts: set[bytes] | None = None  # since it was heard
        self._lag_s = 0.0
        self.in_vain = 0

    def sent(self) -> None:
        """Says that a beat is on its way; means nothing while another one is."""
        if self._sent_at is None:
            self._sent_at = self._clock()

    def heard(self) -> None:
        """Says that the beat was heard of."""
        self.in_vain = 0
        self.may_be_lost()

    def may_be_lost(self) -> None:
        """Says that the beat may be among events that were lost: it proves nothing any more, but it measures."""
        if self._sent_at is not None and self._doubts is None:
            self._doubts = self._coherence.doubts()

    def turn(self) -> None:
        """Measures, once nothing is in doubt any more that was when the beat was heard."""
        if self._doubts is not None and not self._doubts and self._sent_at is not None:
            self._lag_s = self._clock() - self._sent_at
            self.forget()

    @property
    def overdue(self) -> bool:
        """Whether a beat was sent and not heard of yet."""
        return self._sent_at is not None and self._doubts is None

    def missed(self) -> None:
        """Says that the beat will not be heard any more."""
        self.in_vain += 1
        self.forget()

    def forget(self) -> None:
        """Gives the beat up that is under way."""
        if self._doubts is not None:
            self._coherence.forget(self._doubts)
        self._doubts = None
        self._sent_at = None

    @property
    def lag_s(self) -> float:
        """Seconds from the last beat to its being known, or from the one under way until now if that is longer."""
        if self._sent_at is None:
            return self._lag_s
        return max(self._lag_s, self._clock() - self._sent_at)
