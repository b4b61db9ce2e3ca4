"""The heartbeat of the watch: whether anything is heard at all, and how long it takes until it is known.

Owns the beat that is under way. The beat is sent (home.py opens the store's marker), heard of by the watcher like any
other event, in its turn behind all those that were queued before, and then known once every name that was in doubt by
then has been looked at: that is the lag of the index behind the directory. While one beat is not known yet the next
ones are sent and heard all the same: a name that nobody can look at must not hide a deaf watch.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from storekeeperd.coherence import Coherence


class Heartbeat:
    """Beats, one at a time on its way, and one at a time being measured.

    Args:
        coherence: tells which names are in doubt.
        clock: seconds, monotonic.

    Attributes:
        in_vain: beats that were missed since one was heard.
    """

    def __init__(self, coherence: Coherence, clock: Callable[[], float] = time.monotonic) -> None:
        self._coherence = coherence
        self._clock = clock
        self._sent_at: float | None = None  # of the one that was not heard of yet
        self._measured_at: float | None = None  # when the one that is being measured was sent
        self._doubts: set[bytes] = set()  # since that one was heard
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
        if self._measured_at is None and self._sent_at is not None:
            self._measured_at = self._sent_at
            self._doubts = self._coherence.take_doubts()
        self._sent_at = None

    def turn(self) -> None:
        """Measures, once nothing is in doubt any more that was when the beat was heard."""
        if self._measured_at is not None and not self._doubts:
            self._lag_s = self._clock() - self._measured_at
            self._end_measure()

    @property
    def overdue_s(self) -> float:
        """How long ago the beat was sent that was not heard of yet; 0 if there is none."""
        return 0.0 if self._sent_at is None else self._clock() - self._sent_at

    def missed(self) -> None:
        """Says that the beat will not be heard any more."""
        self.in_vain += 1
        self.forget()

    def forget(self) -> None:
        """Gives up the beats that are under way."""
        self._sent_at = None
        self._end_measure()

    def _end_measure(self) -> None:
        self._coherence.doubts.give_back(self._doubts)
        self._doubts = set()
        self._measured_at = None

    @property
    def lag_s(self) -> float:
        """Seconds from the last beat to its being known, or from one under way until now if that is longer."""
        under_way = [sent_at for sent_at in (self._measured_at, self._sent_at) if sent_at is not None]
        return max(self._lag_s, self._clock() - min(under_way)) if under_way else self._lag_s
