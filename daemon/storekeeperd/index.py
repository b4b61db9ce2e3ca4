"""What exists: names and sizes in memory.

Owns the table and its totals. Does not decide what is true: only coherence.py writes here, after a look or a scan.

Each entry is one integer, `size << 33 | doubt << 32 | mark`: the size in bytes (-1 while nobody has looked), whether
the size is from before a loss and may be out of date, and the mark of the scan that last confirmed the entry. Entries
that a scan found but nobody looked at share one integer, so that a million of them cost no more than their names.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from itertools import repeat

from storekeeperd.operations import ABSENT

UNSIZED = -1
"""The size of an object that nobody has looked at yet."""

_MARK_BITS = 32  # a scan a second for 136 years
_MARK = (1 << _MARK_BITS) - 1
_DOUBT = 1 << _MARK_BITS
_SIZE_SHIFT = _MARK_BITS + 1


@dataclass(slots=True)
class Totals:
    """Sums over some entries.

    Attributes:
        objects: how many there are.
        unsized: how many of them have a size that is not known, or in doubt.
        bytes: the sum of the sizes as far as known.
    """

    objects: int = 0
    unsized: int = 0
    bytes: int = 0

    def count(self, old: int | None, new: int | None) -> None:
        """Takes the change of one entry from one value to another, None for no entry."""
        if old is not None:
            self.objects -= 1
            if old < 0:
                self.unsized -= 1
            else:
                self.bytes -= old >> _SIZE_SHIFT
                self.unsized -= (old & _DOUBT) // _DOUBT
        if new is not None:
            self.objects += 1
            self.bytes += new >> _SIZE_SHIFT


class Index:
    """A table of names; all methods are plain memory and fast, but for `names`, which copies the table's keys.

    Attributes:
        whole: the sums over all entries.
    """

    def __init__(self) -> None:
        self._entries: dict[bytes, int] = {}
        self._mark = 0
        self._doubt = 0  # what this generation adds to the entries that it confirms
        self._only_confirmed = True  # since the mark, of an empty table: then a scan's names are all new
        self.whole = Totals()
        self._spaces: dict[bytes, Totals] = {}  # of namespaces other than the default one, by prefix
        # The test of membership is the hottest call of the daemon: the dict's own method, no call in between.
        self.has = self._entries.__contains__

    def __len__(self) -> int:
        return len(self._entries)

    def size(self, name: bytes) -> int | None:
        """Returns the size in bytes, UNSIZED if it is not known yet, None if there is no such entry."""
        entry = self._entries.get(name)
        return None if entry is None else entry >> _SIZE_SHIFT

    def totals(self, prefix: bytes) -> Totals:
        """Returns the sums over one namespace: `b""` for the default one, `b"namespace/"` for others."""
        if prefix:
            return replace(self._spaces.get(prefix, Totals()))
        default = replace(self.whole)
        for space in self._spaces.values():
            default.objects -= space.objects
            default.unsized -= space.unsized
            default.bytes -= space.bytes
        return default

    def assign(self, name: bytes, seen: int) -> int | None:
        """Makes the entry what a look saw, a size in bytes or ABSENT; returns the size before, as `size` does."""
        assert seen >= ABSENT, seen
        entries = self._entries
        old = entries.get(name)
        if seen >= 0:
            new = entries[name] = seen << _SIZE_SHIFT | self._mark
            self._only_confirmed = False
        elif old is None:
            return None
        else:
            del entries[name]
            new = None
        if old != new:
            self.whole.count(old, new)
            if b"/" in name:
                self._space(name).count(old, new)
        return None if old is None else old >> _SIZE_SHIFT

    def next_mark(self, *, doubt_sizes: bool = False) -> None:
        """Begins a new generation: entries that are not confirmed from now on are `unmarked`.

        With `doubt_sizes` those that are confirmed may have been replaced unseen: their sizes are in doubt.
        """
        self._mark += 1
        self._doubt = _DOUBT if doubt_sizes else 0
        self._only_confirmed = not self._entries

    def confirm(self, names: Collection[bytes]) -> None:
        """Marks names as seen by the running scan; unknown ones are entered, size not known.

        All names are of one namespace.
        """
        entries = self._entries
        mark = self._mark
        unknown = UNSIZED << _SIZE_SHIFT | mark
        before = len(entries)
        doubt = self._doubt
        doubted = 0
        if self._only_confirmed:  # the first scan, at the speed of C
            deque(map(entries.setdefault, names, repeat(unknown)), maxlen=0)
        elif entries.keys().isdisjoint(names):
            entries.update(dict.fromkeys(names, unknown))
        else:
            for name in names:
                entry = entries.get(name)
                if entry is None or entry < 0:
                    entries[name] = unknown
                elif entry & _MARK != mark:
                    doubted += not entry & _DOUBT
                    entries[name] = entry & ~_MARK | doubt | mark
        new = len(entries) - before
        if not doubt:
            doubted = 0
        if new or doubted:
            name = next(iter(names))
            for totals in (self.whole, self._space(name)) if b"/" in name else (self.whole,):
                totals.objects += new
                totals.unsized += new + doubted

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

    def _space(self, name: bytes) -> Totals:
        return self._spaces.setdefault(name[: name.index(b"/") + 1], Totals())
