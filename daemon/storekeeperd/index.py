"""What exists: names and sizes in memory.

Owns the table and its totals. Does not decide what is true: only coherence.py writes here, after a look or a scan.

Each entry is one integer, `size << 9 | doubt << 8 | mark`: the size in bytes (-1 while nobody has looked), whether the
size is from before a loss and may be out of date, and the mark of the scan that last confirmed the entry. Entries
that a scan found but nobody looked at share one integer, so that a million of them cost no more than their names.
"""

from __future__ import annotations

from collections.abc import Iterable

from storekeeperd.operations import ABSENT

_MARKS = 256
_MARK = 0xFF
_DOUBT = 0x100
_SIZE_SHIFT = 9


class Index:
    """A table of names; all methods are plain memory and fast, but for `names`, which copies the table's keys."""

    def __init__(self) -> None:
        self._entries: dict[bytes, int] = {}
        self._mark = 0
        self.known_bytes = 0
        self.sized_objects = 0
        # The test of membership is the hottest call of the daemon: the dict's own method, no call in between.
        self.has = self._entries.__contains__

    def __len__(self) -> int:
        return len(self._entries)

    def size(self, name: bytes) -> int | None:
        """Returns the size in bytes, -1 if it is not known yet, None if there is no such entry."""
        entry = self._entries.get(name)
        return None if entry is None else entry >> _SIZE_SHIFT

    def assign(self, name: bytes, seen: int) -> None:
        """Makes the entry what a look saw: a size in bytes, or ABSENT."""
        old = self._entries.get(name)
        if old is not None and old >= 0:
            self.known_bytes -= old >> _SIZE_SHIFT
            self.sized_objects -= 1
        if seen == ABSENT:
            if old is not None:
                del self._entries[name]
            return
        assert seen >= 0, seen
        self.known_bytes += seen
        self.sized_objects += 1
        self._entries[name] = seen << _SIZE_SHIFT | self._mark

    def next_mark(self) -> None:
        """Begins a new generation: entries that are not confirmed from now on are `unmarked`."""
        self._mark = (self._mark + 1) % _MARKS

    def confirm(self, names: Iterable[bytes]) -> None:
        """Marks names as seen by the running scan; unknown ones are entered, size not known.

        The size of one that was not looked at since the scan began is in doubt: it may have been replaced unseen.
        """
        entries = self._entries
        mark = self._mark
        unknown = -1 << _SIZE_SHIFT | mark
        for name in names:
            entry = entries.get(name)
            if entry is None or entry < 0:
                entries[name] = unknown
            elif entry & _MARK != mark:
                entries[name] = entry & ~_MARK | _DOUBT | mark

    def unmarked(self, names: Iterable[bytes]) -> list[bytes]:
        """Returns those of the names that are entered but not confirmed by the running scan."""
        entries, mark = self._entries, self._mark
        return [name for name in names if entries.get(name, mark) & _MARK != mark]

    def unsized(self, names: Iterable[bytes]) -> list[bytes]:
        """Returns those of the names that are entered, but whose size is not known or in doubt."""
        entries = self._entries
        return [name for name in names if (entry := entries.get(name, 0)) < 0 or entry & _DOUBT]

    def names(self) -> list[bytes]:
        """Returns all names at this moment, in no order. Copies: about 10 ms at a million."""
        return list(self._entries)
