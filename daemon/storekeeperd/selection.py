"""Which objects a listing tells of, and in what order.

Pure. Owns the filters and the sorting, by what the index knows: names, sizes, owners, ages. Never more than some
thousands of names are looked through at a time, however many there are; and what is sorted is at most one page long.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from storekeeper import wire
from storekeeper.errors import BadRequest
from storekeeperd.index import Index
from storekeeperd.sight import created_of, owner_of, size_of

_SKIM_NAMES = 20_000
"""Names looked through for one page: two milliseconds, however many there are of other namespaces and prefixes."""
_SIFT_NAMES = 4_000
"""The same, if more than the name matters."""


@dataclass(slots=True, frozen=True)
class Filter:
    """What must be true of an object; None or empty where nothing is asked.

    Attributes:
        space: what names of its namespace begin with.
        prefix: what its name begins with, namespace included.
        owner: user id.
        before_s: it came before that second of the epoch.
        larger_than: bytes.
        after: its key comes after that one, by bytes.
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
        return self.owner is None and self.before_s is None and self.larger_than is None and not self.after

    def admits(self, name: bytes, seen: int) -> bool:
        """Returns whether an object is one of those. What nobody has looked at may be: who asks has to see."""
        if self.after and name[len(self.space) :] <= self.after:
            return False
        if seen < 0:
            return True
        return (
            (self.owner is None or owner_of(seen) == self.owner)
            and (self.before_s is None or created_of(seen) < self.before_s)
            and (self.larger_than is None or size_of(seen) > self.larger_than)
        )


def filter_of(space: bytes, options: Mapping[str, Any], now_s: float) -> Filter:
    """Returns the filter that a request's options ask for."""
    older_than = options.get("older_than")
    return Filter(
        space,
        space + options.get("prefix", "").encode("utf-8", "replace"),
        options.get("owner"),
        None if older_than is None else now_s - older_than,
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
            self._found += some if by_name else [name for name in some if self._admits(name)]
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

    def describe(self, name: bytes) -> bytes:
        """Returns what is known of an object, for a long listing: size, owner, seconds of the epoch; or nothing."""
        seen = self.index.seen(name)
        return b"" if seen is None or seen < 0 else b"%d %d %d" % (size_of(seen), owner_of(seen), created_of(seen))

    def _skim(self, count: int) -> list[bytes]:
        """Takes some of the names that are of the namespace, begin as they must, and have not ended."""
        some = self.names[-count:]
        del self.names[-count:]
        if self.filter.prefix:
            some = [name for name in some if name.startswith(self.filter.prefix)]
        if not self.filter.space and b"/" in b"\0".join(some):
            some = [name for name in some if b"/" not in name]
        return [name for name in some if name not in self.ended] if self.ended else some

    def _admits(self, name: bytes) -> bool:
        seen = self.index.seen(name)
        return seen is not None and self.filter.admits(name, seen)

    def _sorted_page(self) -> list[bytes]:
        """Looks through some names and keeps the first ones of all; nothing until all are looked through."""
        pick = heapq.nlargest if self.reverse else heapq.nsmallest
        some = [(self._rank(name), name) for name in self._skim(_SIFT_NAMES) if self._admits(name)]
        self._best = pick(self.limit, [*self._best, *some])
        if self.names:
            return []
        return [name for _, name in self._best]

    def _rank(self, name: bytes) -> Any:
        if self.order == "name":
            return name
        seen = self.index.seen(name)
        if seen is None or seen < 0:
            return -1
        return size_of(seen) if self.order == "size" else created_of(seen)


def check_order(options: Mapping[str, Any], names_max: int) -> tuple[str, bool, int]:
    """Returns by what a listing is sorted, whether backwards, and how many it tells; raises `BadRequest`."""
    order, limit = options.get("sort", ""), options.get("limit", 0)
    if order and not 0 < limit <= names_max:
        raise BadRequest(f"a listing that is sorted has a limit, at most {names_max}")
    if options.get("reverse") and not order:
        raise BadRequest(f"a listing is reversed with the option sort: {', '.join(wire.SORTS)}")
    return order, options.get("reverse", False), limit
