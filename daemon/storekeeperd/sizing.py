"""Sees to the sizes of objects, a few at a time, behind everything else.

Owns the list of names whose turn is to come, and the steps of time in which growth.py counts. A scan sees names only:
looking at each of a million files at start would take seconds, so their sizes are asked about afterwards, as questions
like any other; slowly, unless somebody waits for them. What may be written in place is asked about as soon as it is
due.
"""

from __future__ import annotations

from storekeeperd.barriers import Barriers
from storekeeperd.coherence import Coherence
from storekeeperd.growth import RECENT_S, Cohorts
from storekeeperd.index import Index
from storekeeperd.loop import Loop

_NAMES = 256
"""Names asked about in one turn: a millisecond or two of looks, that a request may have to wait for."""
_PAUSE_S = 0.01
_BUSY_NAMES = 512
_BUSY_PAUSE_S = 0.1
"""While more names than that wait for a look, sizes are not what matters."""
_SOON_S = 0.25
_LATER_S = RECENT_S / 2
"""The steps of time: a name waits for one to two of them."""


class Sizing:
    """Asks about every object whose size is not known, in doubt, or may still change.

    Args:
        loop: where it takes its turns.
        index: what is looked through; coherence: where the questions go.
        barriers: whether somebody waits for sizes.

    Attributes:
        paused: nothing can be looked at now.
    """

    def __init__(self, loop: Loop, index: Index, coherence: Coherence, barriers: Barriers) -> None:
        self._loop = loop
        self._index = index
        self._coherence = coherence
        self._barriers = barriers
        self._growth = coherence.growth
        self._soon = _Steps(self, loop, self._growth.soon, _SOON_S)
        self._later = _Steps(self, loop, self._growth.later, _LATER_S)
        self._names: list[bytes] = []
        self._running = False
        self.paused = False

    def begin(self) -> None:
        """Goes through all names there are now. Copies them: about 10 ms at a million."""
        if self._index.whole.unsized:
            self._names = self._index.names()
            self.run()

    def turn(self) -> None:
        """Sees to it that time passes for what may grow. To be called in every turn of the loop."""
        self._soon.turn()
        self._later.turn()

    def run(self) -> None:
        """Goes on asking, if it does not."""
        if not self._running:
            self._running = True
            self._loop.call_later(_PAUSE_S, self._go_on)

    def _go_on(self) -> None:
        if self.paused or self._coherence.questions > _BUSY_NAMES:
            self._loop.call_later(_BUSY_PAUSE_S, self._go_on)
            return
        pause_s = 0.0
        if self._growth.due:
            self._coherence.ask_grown(_NAMES)
        else:
            names = self._index.unsized(self._names[-_NAMES:])
            del self._names[-_NAMES:]
            for name in names:
                self._coherence.ask(name)
            if names and not self._barriers.wants_sizes:
                pause_s = _PAUSE_S
        self._running = bool(self._growth.due or self._names)
        if self._running:
            self._loop.call_later(pause_s, self._go_on)


class _Steps:
    """Lets time pass for names that wait, and only while any do: an idle daemon sleeps."""

    def __init__(self, sizing: Sizing, loop: Loop, cohorts: Cohorts, step_s: float) -> None:
        self._sizing = sizing
        self._loop = loop
        self._cohorts = cohorts
        self._step_s = step_s
        self._stepping = False

    def turn(self) -> None:
        if not self._stepping and self._cohorts.waiting:
            self._stepping = True
            self._loop.call_later(self._step_s, self._step)

    def _step(self) -> None:
        self._stepping = False
        self._cohorts.step()
        if self._cohorts.due:
            self._sizing.run()
