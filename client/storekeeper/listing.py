"""Which objects there are: a listing of the daemon, page by page, made whole.

Owns what a listing is asked for and how its pages come together. The daemon filters by what it knows without a look at
the disk; what it has not looked at yet, soon after its start, is asked about here, one by one.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from storekeeper import ranges, wire
from storekeeper.exchange import Exchange

_STATS = 256
"""Objects asked about in one request."""


class ObjectInfo(NamedTuple):
    """What is known of an object."""

    key: str
    size: int
    """Bytes."""
    owner: int
    """User id of who put it; the file's owner if the daemon did not make it."""
    created: float
    """Seconds since the epoch."""
    expires_in: float | None = None
    """Seconds until it expires, None for never. Only `Client.stat` tells."""
    process: int | None = None
    """The process it ends with, None for none. Only `Client.stat` tells."""
    pinned: bool = False
    """Whether the daemon leaves it alone. Only `Client.stat` tells."""


class Selection(NamedTuple):
    """What a listing is to tell of.

    Attributes:
        prefix: what keys begin with.
        owner: user id of the owner.
        older_than: seconds since it was put.
        larger_than: bytes.
        sort: "name", "size" or "created"; reverse: the last ones first.
        after: keys that come after that one, by their bytes.
        limit: no more than so many.
    """

    prefix: str = ""
    owner: int | None = None
    older_than: float | None = None
    larger_than: int | None = None
    sort: str = "name"
    reverse: bool = False
    after: str = ""
    limit: int | None = None

    def to_options(self, names_max: int) -> dict[str, Any]:
        """Returns the options of the request; sorted by the daemon if no more is asked for than it sorts."""
        options: dict[str, Any] = {
            name: value
            for name, value in self._asdict().items()
            if value not in (None, "") and name not in ("sort", "reverse", "limit")
        }
        if self.limit is not None and self.limit <= names_max:
            options.update(sort=self.sort, reverse=self.reverse, limit=max(1, self.limit))
        return options

    def admits(self, info: ObjectInfo, now: float) -> bool:
        """Returns whether an object is one of those, by what `stat` tells of it."""
        return (
            (self.owner is None or info.owner == self.owner)
            and (self.older_than is None or info.created < now - self.older_than)
            and (self.larger_than is None or info.size > self.larger_than)
        )

    def arrange(self, infos: Sequence[ObjectInfo]) -> list[ObjectInfo]:
        """Returns objects in the order that is asked for, and no more than that."""
        ranks: dict[str, Callable[[ObjectInfo], Any]] = {
            "name": lambda info: info.key,
            "size": lambda info: (info.size, info.key),
            "created": lambda info: (info.created, info.key),
        }
        return sorted(infos, key=ranks[self.sort], reverse=self.reverse)[: self.limit]


def keys(exchange: Exchange, options: Mapping[str, Any]) -> list[str]:
    """Returns all keys of a listing, as they come."""
    return [key for reply in _pages(exchange, options) for key in _split(reply.payloads[0])]


def infos(exchange: Exchange, namespace: Mapping[str, Any], selection: Selection, names_max: int) -> list[ObjectInfo]:
    """Returns what is known of all objects of a listing, in order."""
    options = {**namespace, **selection.to_options(names_max), "long": True}
    found, unknown = _take(exchange, options)
    if unknown and "limit" in options:  # it could not be sorted by what nobody knows
        found, unknown = _take(exchange, {**namespace, **selection.to_options(0), "long": True})
    now = time.time()
    found += [info for info in stat(exchange, namespace, unknown) if info is not None and selection.admits(info, now)]
    return selection.arrange(found)


def stat(exchange: Exchange, namespace: Mapping[str, Any], names: Sequence[str]) -> Iterator[ObjectInfo | None]:
    """Yields what the daemon tells of each object when it looks at it; None for those that are not there."""
    for start in range(0, len(names), _STATS):
        part = names[start : start + _STATS]
        reply = exchange.ask(b"stat", [wire.key_frame(name) for name in part], namespace)
        for item, name in enumerate(part):
            ranges.check_item(reply, item)
            yield None if reply.words[item] == "absent" else ObjectInfo(name, **json.loads(reply.payloads[item]))


def _take(exchange: Exchange, options: Mapping[str, Any]) -> tuple[list[ObjectInfo], list[str]]:
    """Returns what is known of objects, and the keys of those of which nothing is."""
    found, unknown = [], []
    for reply in _pages(exchange, options):
        for key, told in zip(_split(reply.payloads[0]), _split(reply.payloads[1]), strict=True):
            if told:
                size, owner, created = told.split(" ")
                found.append(ObjectInfo(key, int(size), int(owner), float(created)))
            else:
                unknown.append(key)
    return found, unknown


def _pages(exchange: Exchange, options: Mapping[str, Any]) -> Iterator[wire.Reply]:
    reply = exchange.ask(b"list", [], options)
    while True:
        yield reply
        handle = reply.details.get("handle")
        if handle is None:
            return
        reply = exchange.ask(b"list", [handle.encode()])


def _split(payload: Any) -> list[str]:
    return bytes(payload).decode("utf-8").split("\0")[:-1]
