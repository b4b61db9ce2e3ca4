"""Names that were reported deleted, but were not seen to be gone.

Pure. Owns when they are looked at a second time; the steps of time are its caller's, some 50 ms. Some kernels (5.3 to
5.16) report a delete before lstat(2) sees it: a look that follows at once may still find the object.
"""

from __future__ import annotations

from collections.abc import Iterable


class Deletes:
    """Names that wait for a second look."""

    def __init__(self) -> None:
        self._new: dict[bytes, None] = {}
        self._old: dict[bytes, None] = {}  # for long enough to look a second time

    def __bool__(self) -> bool:
        """Whether any name waits."""
        return bool(self._new or self._old)

    def report(self, names: dict[bytes, None]) -> None:
        """Takes names that were reported deleted."""
        self._new.update(names)

    def seen(self, names: Iterable[bytes]) -> None:
        """Takes names that were seen to be gone: they need no second look."""
        for name in names:
            self._new.pop(name, None)
            self._old.pop(name, None)

    def step(self) -> list[bytes]:
        """Says that a step of time has passed; returns the names that have waited for a whole one."""
        names = list(self._old)
        self._old, self._new = self._new, {}
        return names
