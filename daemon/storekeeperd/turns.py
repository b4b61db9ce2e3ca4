"""One at a time: who may change a name now, and who waits for it.

Pure. Owns the queues of operations that want to change the same name; operations on different names never wait for
each other. Without it two puts of one key could finish in another order than they were looked at.
"""

from __future__ import annotations

from collections import deque
from typing import Any


class Turns:
    """A queue per name that is being changed.

    Attributes:
        queued: claimants that wait, for all names together.
    """

    def __init__(self) -> None:
        self._waiting: dict[bytes, deque[Any] | None] = {}
        self.queued = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, name: bytes) -> bool:
        return name in self._waiting

    def has_any(self, prefix: bytes) -> bool:
        """Returns whether a name that begins so is being changed."""
        return any(name.startswith(prefix) for name in self._waiting)

    def take(self, name: bytes, claimant: Any) -> bool:
        """Returns True if the name is free and now taken; else the claimant is queued and `release` will return it."""
        if name not in self._waiting:
            self._waiting[name] = None
            return True
        queue = self._waiting[name]
        if queue is None:
            queue = self._waiting[name] = deque()
        queue.append(claimant)
        self.queued += 1
        return False

    def release(self, name: bytes) -> Any | None:
        """Ends the turn; returns the claimant whose turn it is now (the name stays taken), or None."""
        queue = self._waiting[name]
        if queue:
            self.queued -= 1
            return queue.popleft()
        del self._waiting[name]
        return None
