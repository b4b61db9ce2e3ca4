"""Sees to the sizes of objects, a few at a time, behind everything else.

Owns the list of names whose turn is to come. A scan sees names only: looking at each of a million files at start would
take seconds, so their sizes are asked about afterwards, as questions like any other. And a file that somebody writes in
place grows without anybody hearing of it: what came or grew is asked about again a second later, until it stays the
same.
"""

from __future__ import annotations

from storekeeperd.coherence import Coherence
from storekeeperd.index import Index
from storekeeperd.loop import Loop

_NAMES = 256
_PAUSE_S = 0.01
_BUSY_NAMES = 512
_BUSY_PAUSE_S = 0.1
"""While more names than that wait for a look, sizes are not what matters."""


class Sizing:
    """Asks about every object whose size is not known, in doubt, or may still change.

    Args:
        loop: where it takes its turns.
        index: what is looked through; coherence: where the questions go.

    Attributes:
        paused: nothing can be looked at now.
    """

    def __init__(self, loop: Loop, index: Index, coherence: Coherence) -> None:
        self._loop = loop
        self._index = index
        self._coherence = coherence
        self._names: list[bytes] = []
        self._running = False
        self.paused = False

    def begin(self) -> None:
        """Goes through all names there are now. Copies them: about 10 ms at a million."""
        if self._index.whole.unsized:
            self._names = self._index.names()
            self._run()

    def tick(self) -> None:
        """Asks again about what came or grew at least a second ago. To be called every second."""
        if self._coherence.age_young():
            self._run()

    def _run(self) -> None:
        if not self._running:
            self._running = True
            self._loop.call_later(_PAUSE_S, self._go_on)

    def _go_on(self) -> None:
        if self.paused or self._coherence.questions > _BUSY_NAMES:
            self._loop.call_later(_BUSY_PAUSE_S, self._go_on)
            return
        asked = self._coherence.ask_grown(_NAMES)
        if not asked:
            names = self._index.unsized(self._names[-_NAMES:])
            del self._names[-_NAMES:]
            for name in names:
                self._coherence.ask(name)
            asked = len(names)
        self._running = bool(self._coherence.grown or self._names)
        if self._running:
            self._loop.call_later(_PAUSE_S if asked else 0, self._go_on)
