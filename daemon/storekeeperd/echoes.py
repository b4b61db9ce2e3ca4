"""Echoes: the one event that the kernel sends of each change of our own, and that nobody needs to look after.

Pure. Owns which events are awaited, and which were heard early; what is heard is watcher.py's, what follows from it
coherence.py's.

Why an echo needs no look. A change begins, is made, is looked at, and is told here to be finished. Its event is queued
when it is made. So the first event of that name that is read since it began is that one, or one before it. The kernel
queues the events of a directory in the order of its changes: what that first event tells of is older than our look,
which has seen it already. Each change lets one event pass, the first, and only if it is of its own kind; every other
one is a question as ever. While the change is under way nobody knows its kind: the first event is kept until then.

What could go wrong, and why it does not:

* The event was dropped, the queue was full: then a marker of that is in the queue, read before anything younger of that
  name, and at a loss nothing is awaited any more, nor of changes that are under way.
* The watch is not the one that the event went to: who arms or closes a watch forgets.
* The kernel joins an event to the one queued last, if they are the same but for the cookie (measured: three renames
  over a name that wait together are read as one). Another's change would be hidden in our echo. Not of a file made or
  removed, as the opposite must have happened in between and be in the queue; but so of a rename over another. A
  replacement is therefore not awaited: it costs a look.
* It is read while the next change of that name is under way: then it is held as that one's first, and awaited no more.
* Nothing comes, for whatever reason: once all is read that was in the queue, nothing is awaited of finished changes.
* Somebody waits for the truth about a name of which an event is held: it is in doubt until the change is finished.
"""

from __future__ import annotations

MADE = 0x100
"""inotify(7), IN_CREATE; with IN_ISDIR it is another number, and none of ours."""
REMOVED = 0x200
"""inotify(7), IN_DELETE."""

_EVENTS = {b"created": MADE, b"evicted": REMOVED}
"""What the kernel says of a change, by the change's result."""


class Echoes:
    """The events that are awaited. Not locked: one thread owns it.

    Attributes:
        sure: whether the kernel tells of every change in the directory, whoever makes it. Nothing is awaited else.
        awaited: of names that were changed, their event that was not read yet.
        held: of names that are being changed, the first event that was read since then; 0 if there was none.
    """

    def __init__(self) -> None:
        self.sure = False
        self.awaited: dict[bytes, int] = {}
        self.held: dict[bytes, int] = {}

    def begin(self, name: bytes) -> None:
        """Takes that a change of our own begins."""
        if self.sure:
            self.held[name] = 0

    def finish(self, name: bytes, result: bytes) -> bool:
        """Takes that a change was made and looked at, and what it was; returns whether another's event was held."""
        first, event = self.held.pop(name, None), _EVENTS.get(result)
        if first:
            return first != event
        if first is not None and event is not None:
            self.awaited[name] = event
        return False

    def is_own(self, name: bytes, event: int) -> bool:
        """Returns whether nobody is to be asked about an event that was just read: it is an echo, or held."""
        awaited = self.awaited.pop(name, None)  # if it was to come, this is it, or it is older
        first = self.held.get(name)
        if first is None:
            return awaited == event
        if first:
            return False
        self.held[name] = event
        return True

    def drained(self) -> None:
        """Takes that all was read that was in the queue a moment ago."""
        self.awaited.clear()

    def forget(self) -> None:
        """Awaits nothing any more, nor holds anything: who calls it sees to it that it is looked at."""
        self.awaited.clear()
        self.held.clear()
