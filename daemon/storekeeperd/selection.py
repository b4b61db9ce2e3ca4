"""Which objects a listing tells of, and in what order.

Pure. Owns the filters and the sorting, by what the index knows: names, sizes, owners, ages. Never more than some
thousands of names are looked through at a time, however many there are; and what is sorted is at most one page long.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from storekeeper import wire
from storekeeper.errors import BadRequest
from storekeeperd.index import Index
from storekeeperd.sight import CREATED_AT, OWNER_AT, SIZE_MAX, UNSEEN, WORD_MAX, created_of, owner_of

_SKIM_NAMES = 20_000
"""Names looked through for one page: two milliseconds, however many there are of other namespaces and prefixes."""
_SIFT_NAMES = 8_000
"""The same, if more than the name matters."""

Seen = tuple[int, bytes]
"""A sight and a name."""


@dataclass(slots=True, frozen=True)
class Filter:
    """What must be true of an object; None or empty where nothing is asked.

    Attributes:
        space: what names of its namespace begin with.
        prefix: what its name begins with, namespace included.
        owner: user id.
        before_s: it came in that second of the epoch or before.
        larger_than: bytes.
        after: its key comes after that one, by its bytes.
    """

    space: bytes
    prefix: bytes
    owner: int | None = None
    before_s: float | None = None
    larger_than: int | None = None
    after: bytes = b""

    @property
    def by_name(self) -> bool:
        """Whether the name alone decides."""
        return self.owner is None and self.before_s is None and self.larger_than is None

    def skim(self, names: list[bytes]) -> list[bytes]:
        """Returns those of the names that are of the namespace, and are named as they must be."""
        if self.prefix:
            names = [name for name in names if name.startswith(self.prefix)]
        if not self.space and b"/" in b"\0".join(names):
            names = [name for name in names if b"/" not in name]
        if self.after:
            after = self.space + self.after
            names = [name for name in names if name > after]
        return names

    def sift(self, some: list[Seen]) -> list[Seen]:
        """Returns those that are as they must be. What nobody has looked at may be: who asks has to see."""
        if self.owner is not None:
            owner = self.owner
            some = [one for one in some if one[0] < 0 or one[0] >> OWNER_AT & WORD_MAX == owner]
        if self.before_s is not None:
            before_s = self.before_s
            some = [one for one in some if one[0] < 0 or one[0] >> CREATED_AT & WORD_MAX <= before_s]
        if self.larger_than is not None:
            larger_than = self.larger_than
            some = [one for one in some if one[0] < 0 or one[0] & SIZE_MAX > larger_than]
        return some


def filter_of(space: bytes, options: Mapping[str, Any], now_s: float) -> Filter:
    """Returns the filter that a request's options ask for."""
    older_than = options.get("older_than")
    return Filter(
        space,
        space + options.get("prefix", "").encode("utf-8", "replace"),
        options.get("owner"),
        None if older_than is None else now_s - older_than - 1,  # what is known is whole seconds, and may be one more
        options.get("larger_than"),
        options.get("after", "").encode("utf-8", "replace"),
    )


@dataclass(slots=True, eq=False)
class Listing:
    """Names that are being told.

    Attributes:
        names: those of all namespaces that were not looked through yet.
        filter: which of them are told.
        index: what is known of them; long: that is told, too.
        order: what decides which are told first ("name", "size", "created"); empty: nothing.
        reverse: the last ones first; limit: no more than so many.
        ended: names of objects that have ended.
    """

    names: list[bytes]
    filter: Filter
    index: Index
    ended: Mapping[bytes, Any]
    long: bool = False
    order: str = ""
    reverse: bool = False
    limit: int = 0
    _found: list[bytes] = field(default_factory=list)
    _best: list[tuple[Any, bytes]] = field(default_factory=list)

    def page(self, count: int) -> list[bytes]:
        """Takes the next names; at most `count`, maybe none though there are more."""
        if self.order:
            return self._sorted_page()
        skimmed, by_name = 0, self.filter.by_name
        most = _SKIM_NAMES if by_name else _SIFT_NAMES
        while self.names and len(self._found) < count and skimmed < most:
            some = self._skim(min(count, most))
            skimmed += count
            self._found += some if by_name else [name for _, name in self._sift(some)]
        if self.limit:
            count = min(count, self.limit)
        page = self._found[:count]
        del self._found[:count]
        if self.limit:
            self.limit -= len(page)
            if not self.limit:
                self.names.clear()
                self._found.clear()
        return page

    @property
    def more(self) -> bool:
        """Whether there may be more names."""
        return bool(self.names or self._found)

    def describe(self, page: list[bytes]) -> list[bytes]:
        """Returns what is known of objects, for a long listing: size, owner, seconds of the epoch; or nothing."""
        sights = self.index.sights(page)
        return [
            b"%d %d %d" % (seen & SIZE_MAX, owner_of(seen), created_of(seen)) if seen >= 0 else b"" for seen in sights
        ]

    def _skim(self, count: int) -> list[bytes]:
        """Takes some of the names that are named as they must be, and have not ended."""
        some = self.filter.skim(self.names[-count:])
        del self.names[-count:]
        return [name for name in some if name not in self.ended] if self.ended else some

    def _sift(self, names: list[bytes]) -> list[Seen]:
        some = zip(self.index.sights(names), names, strict=True)
        return self.filter.sift([one for one in some if one[0] != UNSEEN])  # that went meanwhile

    def _sorted_page(self) -> list[bytes]:
        """Looks through some names and keeps the first ones of all; nothing until all are looked through."""
        names = self._skim(_SKIM_NAMES if self.order == "name" and self.filter.by_name else _SIFT_NAMES)
        if self.order == "name":
            if not self.filter.by_name:
                names = [name for _, name in self._sift(names)]
            ranked: list[tuple[Any, bytes]] = [(name, name) for name in self._closer(names)]
        else:
            ranked = self._ranked(self._sift(names))
        # What was sorted before is one run to this sort: less than a third of the time of a heap, measured.
        self._best = sorted([*self._best, *ranked], reverse=self.reverse)[: self.limit]
        return [] if self.names else [name for _, name in self._best]

    def _ranked(self, some: list[Seen]) -> list[tuple[Any, bytes]]:
        """Returns objects by size or age; not those that are beyond the last of as many as are told."""
        at, most = (0, SIZE_MAX) if self.order == "size" else (CREATED_AT, WORD_MAX)
        if len(self._best) >= self.limit:
            last = self._best[-1][0]  # of what nobody has looked at: -1
            if not self.reverse:
                some = [one for one in some if one[0] < 0 or one[0] >> at & most <= last]
            elif last >= 0:
                some = [one for one in some if one[0] >= 0 and one[0] >> at & most >= last]
        return [(seen >> at & most if seen >= 0 else -1, name) for seen, name in some]

    def _closer(self, names: list[bytes]) -> list[bytes]:
        """Returns those of the names that are not beyond the last of as many as are told."""
        if len(self._best) < self.limit:
            return names
        last = self._best[-1][1]
        return [name for name in names if name > last] if self.reverse else [name for name in names if name < last]


def check_order(options: Mapping[str, Any], names_max: int) -> tuple[str, bool, int]:
    """Returns by what a listing is sorted, whether backwards, and how many it tells; raises `BadRequest`."""
    order, limit = options.get("sort", ""), options.get("limit", 0)
    if order and not 0 < limit <= names_max:
        raise BadRequest(f"a listing that is sorted has a limit, at most {names_max}")
    if options.get("reverse") and not order:
        raise BadRequest(f"a listing is reversed with the option sort: {', '.join(wire.SORTS)}")
    return order, options.get("reverse", False), limit
