"""Echoes: the one event that the kernel sends of each change of our own, and that nobody needs to look after.

Pure. Owns which events are awaited; what is heard, watcher.py; when a change may be awaited at all, coherence.py.

Why an echo needs no look. A change is made, then looked at, then told here; nothing else is read of the kernel's queue
between those steps, or the change is not awaited (coherence.py). So when it is awaited its event is in the queue, and
the first event of that name that is read from now on is that one or one before it. The kernel queues the events of a
directory in the order of its changes: what is told first is older than our look, which has seen it already. Each
change lets one event pass, and only one of its own kind; every younger event is a question as ever.

What could go wrong, and why it does not:

* The event was dropped, the queue was full: then a marker of that is in the queue, read before anything younger of that
  name, and at a loss nothing is awaited any more.
* The watch is not the one that the event went to: who arms or closes a watch forgets.
* The kernel joins an event to the one queued last, if they are the same but for the cookie (measured: three renames
  over a name that wait together are read as one). Another's change would be hidden in our echo. Not of a file made or
  removed, as the opposite must have happened in between and be in the queue; but so of a rename over another. A
  replacement is therefore not awaited: it costs a look.
* Nothing comes, for whatever reason: once all is read that was in the queue, nothing is awaited any more.
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
        awaited: the event that is awaited of a name. To be read, not changed.
    """

    def __init__(self) -> None:
        self.sure = False
        self.awaited: dict[bytes, int] = {}

    def expect(self, name: bytes, result: bytes) -> None:
        """Takes that a change of our own was made and looked at, and that nothing was read of it yet."""
        event = _EVENTS.get(result)
        if event is not None and self.sure:
            self.awaited[name] = event

    def is_own(self, name: bytes, event: int) -> bool:
        """Returns whether an event that was just read is an echo; what was awaited of that name is so no more."""
        return self.awaited.pop(name, None) == event

    def forget(self) -> None:
        """Awaits nothing any more."""
        self.awaited.clear()
