"""What exists: names and what is known of each, in memory.

Owns the table and its totals. Does not decide what is true: only coherence.py writes here, after a look or a scan.

Each entry is one integer, `sight << 33 | doubt << 32 | mark`: what a look saw (see sight.py; -1 while nobody has
looked), whether that is from before a loss and may be out of date, and the mark of the scan that last confirmed the
entry. Entries that a scan found but nobody looked at share one integer, so that a million of them cost no more than
their names.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import repeat

from storekeeperd.sight import ABSENT, LIFE_AT, SIZE_MAX, UNSEEN, owner_of

UNSIZED = -1
"""The size of an object that nobody has looked at yet."""
NOBODY = -1
"""The owner of an object that nobody has looked at yet."""
BLOCK_BYTES = 4096
"""What bytes are charged in: a file system's blocks."""

_BLOCK_REST = BLOCK_BYTES - 1
_MARK_BITS = 32  # a scan a second for 136 years
_MARK = (1 << _MARK_BITS) - 1
_DOUBT = 1 << _MARK_BITS
_SEEN_AT = _MARK_BITS + 1
_LIFE = 1 << (_SEEN_AT + LIFE_AT)


def charge_of(size: int) -> int:
    """Returns the bytes that an object of a size is charged for: it takes whole blocks."""
    return size + _BLOCK_REST & ~_BLOCK_REST


@dataclass(slots=True)
class Totals:
    """Sums over some entries.

    Attributes:
        objects: how many there are.
        unsized: how many of them have a size that is not known, or in doubt.
        bytes: the sum of the sizes as far as known.
        charged_bytes: the same in whole blocks.
    """

    objects: int = 0
    unsized: int = 0
    bytes: int = 0
    charged_bytes: int = 0

    def add(self, other: Totals) -> None:
        """Adds other sums to these."""
        self.objects += other.objects
        self.unsized += other.unsized
        self.bytes += other.bytes
        self.charged_bytes += other.charged_bytes


class Index:
    """A table of names; all methods are plain memory and fast, but for `names`, which copies the table's keys.

    Attributes:
        whole: the sums over all entries.
        on_life: called with the name, the sight and the sight before of an object that does not simply live on, or did
            not: it is pinned, expires, or is tied to a process. ABSENT where there is or was none.
        followed: namespaces of which new objects are told: each has a list to which their names and sights are added.
    """

    def __init__(self) -> None:
        self._entries: dict[bytes, int] = {}
        self._mark = 0
        self._doubt = 0  # what this generation adds to the entries that it confirms
        self._only_confirmed = True  # since the mark, of an empty table: then a scan's names are all new
        self.whole = Totals()
        self._cells: dict[tuple[bytes, int], Totals] = {}  # by namespace and owner
        self._sums: dict[tuple[bytes, int], tuple[Totals, ...]] = {}  # all sums that an entry of such a cell is part of
        self._spaces: dict[bytes, Totals] = {}
        self._owners: dict[int, Totals] = {}
        self.on_life: Callable[[bytes, int, int], None] = lambda _name, _seen, _was: None
        self.followed: Mapping[bytes, list[tuple[bytes, int]]] = {}
        # The test of membership is the hottest call of the daemon: the dict's own method, no call in between.
        self.has = self._entries.__contains__

    def __len__(self) -> int:
        return len(self._entries)

    def size(self, name: bytes) -> int | None:
        """Returns the size in bytes, UNSIZED if it is not known yet, None if there is no such entry."""
        entry = self._entries.get(name)
        if entry is None or entry < 0:
            return entry if entry is None else UNSIZED
        return entry >> _SEEN_AT & SIZE_MAX

    def seen(self, name: bytes) -> int | None:
        """Returns what a look saw, UNSIZED if there was none, None if there is no such entry."""
        entry = self._entries.get(name)
        return None if entry is None else entry >> _SEEN_AT

    def sights(self, names: Iterable[bytes]) -> list[int]:
        """Returns what a look saw of each name; UNSIZED if there was none, UNSEEN if there is no such entry by now."""
        get, gone = self._entries.get, UNSEEN << _SEEN_AT
        return [get(name, gone) >> _SEEN_AT for name in names]

    # -- sums

    def totals(self, prefix: bytes) -> Totals:
        """Returns the sums over one namespace: `b""` for the default one, `b"namespace/"` for others."""
        return replace(self._spaces.get(prefix, Totals()))

    def sums(self, prefix: bytes, owner: int) -> tuple[Totals, ...]:
        """Returns the sums over all, a namespace, what a user owns, and what he owns there. No copies: only to read."""
        return self._sums.get((prefix, owner)) or self._sums_of(prefix, owner)

    def of_owner(self, owner: int) -> Totals:
        """Returns the sums over what a user owns."""
        return replace(self._owners.get(owner, Totals()))

    def cell(self, prefix: bytes, owner: int) -> Totals:
        """Returns the sums over what a user owns in a namespace."""
        return replace(self._cells.get((prefix, owner), Totals()))

    def cells(self) -> Iterator[tuple[bytes, int, Totals]]:
        """Yields namespace, owner (NOBODY: not looked at yet) and the sums over what he owns there."""
        for (prefix, owner), totals in self._cells.items():
            if totals.objects:
                yield prefix, owner, totals

    # -- changes

    def assign(self, name: bytes, seen: int) -> int | None:
        """Makes the entry what a look saw; returns the size before, as `size` does."""
        assert seen >= ABSENT, seen
        entries = self._entries
        old = entries.get(name)
        if seen >= 0:
            new = entries[name] = seen << _SEEN_AT | self._mark
            self._only_confirmed = False
            if old == new:
                return seen & SIZE_MAX
            if new >= _LIFE or (old or 0) >= _LIFE:
                self.on_life(name, seen, ABSENT if old is None else old >> _SEEN_AT)
            if self.followed and (old is None or old < 0):
                news = self.followed.get(name[: name.index(b"/") + 1] if b"/" in name else b"")
                if news is not None:
                    news.append((name, seen))
        elif old is None:
            return None
        else:
            del entries[name]
            new = None
            if old >= _LIFE:
                self.on_life(name, ABSENT, old >> _SEEN_AT)
        if old is None:
            assert new is not None
            self._count(name, new, 1)
            return None
        self._recount(name, old, new)
        return UNSIZED if old < 0 else old >> _SEEN_AT & SIZE_MAX

    def _recount(self, name: bytes, old: int, new: int | None) -> None:
        """Takes the change of one entry from one value to another, None for no entry."""
        self._count(name, old, -1)
        if new is not None:
            self._count(name, new, 1)

    def _count(self, name: bytes, entry: int, sign: int) -> None:
        """Adds an entry to the sums it is part of, or takes it out (-1)."""
        prefix = name[: name.index(b"/") + 1] if b"/" in name else b""
        if entry < 0:
            owner, size, unsized = NOBODY, 0, sign
        else:
            size, unsized = entry >> _SEEN_AT & SIZE_MAX, sign if entry & _DOUBT else 0
            owner = owner_of(entry >> _SEEN_AT)
        sums = self._sums.get((prefix, owner)) or self._sums_of(prefix, owner)
        charged = (size + _BLOCK_REST & ~_BLOCK_REST) * sign
        size *= sign
        for totals in sums:
            totals.objects += sign
            totals.bytes += size
            totals.charged_bytes += charged
        if unsized:
            for totals in sums:
                totals.unsized += unsized

    def _sums_of(self, prefix: bytes, owner: int) -> tuple[Totals, ...]:
        cell = self._cells.setdefault((prefix, owner), Totals())
        space = self._spaces.setdefault(prefix, Totals())
        sums = self._sums[prefix, owner] = (self.whole, space, self._owners.setdefault(owner, Totals()), cell)
        return sums

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
        unknown = UNSIZED << _SEEN_AT | mark
        before = len(entries)
        doubt = self._doubt
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
                    entries[name] = entry & ~_MARK | doubt | mark
                    if doubt and not entry & _DOUBT:
                        self._doubted(name, entry)
        new = len(entries) - before
        if new:
            name = next(iter(names))
            prefix = name[: name.index(b"/") + 1] if b"/" in name else b""
            for totals in self._sums_of(prefix, NOBODY):
                totals.objects += new
                totals.unsized += new

    def _doubted(self, name: bytes, entry: int) -> None:
        prefix = name[: name.index(b"/") + 1] if b"/" in name else b""
        for totals in self._sums_of(prefix, owner_of(entry >> _SEEN_AT)):
            totals.unsized += 1

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
