"""What became of objects: answers to `events`, page by page, made whole.

Owns what an event is to a caller, and how one goes on where another answer ended.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from storekeeper.exchange import Exchange


class Event(NamedTuple):
    """An object was evicted or replaced by somebody else than its owner."""

    namespace: str
    number: int
    """Which event of its namespace it is, from 1 when the daemon started."""
    when: float
    """Seconds since the epoch."""
    key: str
    what: str
    """"evicted" or "replaced"."""
    why: str
    """"expired", "process" (it had ended), "room" (was needed); "asked": by another user who may."""
    size: int | None = None
    """Bytes; None if nobody had looked at the object yet."""
    owner: int | None = None
    """User id of whose it was; None if nobody had looked at it yet."""
    by: int | None = None
    """User id of who did it, or for whose put room was made; None: the daemon of its own accord."""


class News(NamedTuple):
    """Events, oldest first, and how to go on.

    Attributes:
        events: what became of objects.
        marks: how far that goes: `Client.events(news.marks)` tells what came after.
        missed: namespaces of which there were events that are not kept any more: there were too many since the marks
            that were given, or the daemon was started anew.
    """

    events: list[Event]
    marks: list[str]
    missed: list[str]


def news(exchange: Exchange, options: Mapping[str, Any], marks: Sequence[str]) -> News:
    """Returns all events after some marks."""
    found: list[Event] = []
    missed: dict[str, None] = {}
    more = True
    while more:
        reply = exchange.ask(b"events", [mark.encode() for mark in marks], options)
        found += [Event(**told) for told in json.loads(bytes(reply.payloads[0]))]
        missed.update(dict.fromkeys(reply.details.get("missed", ())))
        marks, more = reply.details["marks"], reply.details.get("more", False)
    return News(found, list(marks), list(missed))
