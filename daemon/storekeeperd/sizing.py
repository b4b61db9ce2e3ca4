"""Sees to the sizes of objects, a few at a time, behind everything else.

Owns the list of names whose turn is to come, and the steps of time in which growth.py counts. A scan sees names only:
looking at each of a million files at start would take seconds, so their sizes are asked about afterwards, as questions
like any other, slowly. If somebody waits for sizes that are fresh, every object is looked at, in a round that begins
after he came (a measure), and without a pause. What may be written in place is asked about as soon as it is due.
"""

from __future__ import annotations

from collections.abc import Callable

from storekeeperd.coherence import Coherence
from storekeeperd.growth import RECENT_S, Cohorts
from storekeeperd.index import Index
from storekeeperd.loop import Loop

_NAMES = 256
"""Names asked about in one turn: a millisecond or two of looks, that a request may have to wait for."""
_PAUSE_S = 0.01
_BUSY_NAMES = 512
"""While more names than that wait for a look, or are being looked at, no more are asked about for nobody's sake."""
_BUSY_PAUSE_S = 0.02
_SOON_S = 0.25
_LATER_S = RECENT_S / 2
"""The steps of time: a name waits for one to two of them."""


class Sizing:
    """Asks about every object whose size is not known, in doubt, or may still change.

    Args:
        loop: where it takes its turns.
        index: what is looked through; coherence: where the questions go.
        behind: returns whether more is heard of the directory than is kept up with; then sizes can wait that nobody
            waits for.
        urgent: returns whether it matters soon what every object is: its bounds and lifetimes count.

    Attributes:
        paused: nothing can be looked at now.
    """

    def __init__(
        self,
        loop: Loop,
        index: Index,
        coherence: Coherence,
        behind: Callable[[], bool],
        urgent: Callable[[], bool] = lambda: False,
    ) -> None:
        self._loop = loop
        self._behind = behind
        self._urgent = urgent
        self._index = index
        self._coherence = coherence
        self._growth = coherence.growth
        self._soon = _Steps(self, loop, self._growth.soon, _SOON_S)
        self._later = _Steps(self, loop, self._growth.later, _LATER_S)
        self._names: list[bytes] = []  # the next one last
        self._measure = 0  # the number of the measure that they are looked at for; 0: only some are, for their sizes
        self._once_more = False  # there are new ones without a size
        self._running = False
        self.paused = False

    def begin(self) -> None:
        """Goes through all names there are now, and asks about those whose size is not known or in doubt.

        What is under way is not begun anew: else frequent scans would keep it from coming to its end.
        """
        self._once_more = True
        self.run()

    def turn(self) -> None:
        """Sees to it that time passes for what may grow, and measures begin. To be called in every turn of the loop."""
        self._soon.turn()
        self._later.turn()
        if self.wanted:
            self._names = self._index.names()
            self._measure = self._coherence.begin_measure()
            self.run()

    @property
    def wanted(self) -> bool:
        """Whether a measure is to begin with the next turn."""
        return self._coherence.measures.due and not self._measure

    def run(self) -> None:
        """Goes on asking, if it does not."""
        if not self._running:
            self._running = True
            self._loop.call_later(0, self._go_on)

    def _go_on(self) -> None:
        coherence = self._coherence
        busy = coherence.questions + coherence.looking > _BUSY_NAMES or self._behind()
        if self.paused or (busy and not self._measure):
            self._loop.call_later(_BUSY_PAUSE_S, self._go_on)
            return
        # A measure goes on in any storm, for somebody waits for it; but no faster than others can bear.
        pause_s = _PAUSE_S if busy else 0.0
        growing = bool(self._growth.due) and not busy
        if growing:
            coherence.ask_grown(_NAMES)
        if self._measure:
            self._go_on_measuring()
        elif self._names and not growing:
            pause_s = self._ask_unsized()
        elif self._once_more:
            self._once_more = False
            if self._index.whole.unsized:
                self._names = self._index.names()
        self._running = bool(self._growth.due or self._names or self._measure or self._once_more)
        if self._running:
            self._loop.call_later(pause_s, self._go_on)

    def _go_on_measuring(self) -> None:
        self._coherence.ask_unless_gone(self._names[-_NAMES:])
        del self._names[-_NAMES:]
        if not self._names:
            self._coherence.measures.complete(self._measure)
            self._measure = 0

    def _ask_unsized(self) -> float:
        """Asks about some of the next names; returns how many seconds to pause then."""
        names = self._index.unsized(self._names[-_NAMES:])
        del self._names[-_NAMES:]
        self._coherence.ask_unless_gone(names)
        return _PAUSE_S if names and not self._urgent() else 0.0


class _Steps:
    """Lets time pass for names that wait, and only while any do: an idle daemon sleeps."""

    def __init__(self, sizing: Sizing, loop: Loop, cohorts: Cohorts, step_s: float) -> None:
        self._sizing = sizing
        self._loop = loop
        self._cohorts = cohorts
        self._step_s = step_s
        self._stepping = False

    def turn(self) -> None:
        if not self._stepping and self._cohorts:
            self._stepping = True
            self._loop.call_later(self._step_s, self._step)

    def _step(self) -> None:
        self._stepping = False
        self._cohorts.step()
        if self._cohorts.due:
            self._sizing.run()
