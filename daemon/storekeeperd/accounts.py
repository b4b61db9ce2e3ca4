"""The verbs `usage`, `events` and `status`: what the store holds, what became of objects, and how it is.

Pure. Owns what of that a caller is told. No figure is its own: they come from the index, from coherence.py, from
chronicle.py, and from whoever runs the daemon.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from storekeeper import wire
from storekeeper.errors import BadRequest
from storekeeperd.access import READ
from storekeeperd.answers import Peer
from storekeeperd.chronicle import Event, Mark, parse_mark
from storekeeperd.coherence import Coherence
from storekeeperd.index import NOBODY, Index, Totals
from storekeeperd.sight import owner_of, size_of

if TYPE_CHECKING:
    from storekeeperd.service import Service


_EVENTS_MAX = 500
"""Events in one answer: they take the loop a millisecond and a half, measured."""
_encode = json.JSONEncoder(separators=(",", ":")).encode


class Accounts:
    """Answers to `usage`, `events` and `status`.

    Args:
        service: sends the answers.
        index, coherence: where the figures come from.
        more: returns what `status` answers beyond that.
    """

    def __init__(
        self, service: Service, index: Index, coherence: Coherence, more: Callable[[], Mapping[str, Any]]
    ) -> None:
        self._service = service
        self._index = index
        self._coherence = coherence
        self._more = more

    def usage(self, peer: Peer, request: wire.Request) -> None:
        """Answers with the sums over a namespace, or over parts of all that the caller may read, once they are true."""
        self._refuse_arguments(request)
        space = self._service.enter(peer, request.options, READ)  # refuses before anything waits
        unbelieved = not self._service.believes_names
        self._service.barriers.hold(peer, request, self._tell_usage, space=space, sizes=True, measured=unbelieved)

    def _tell_usage(self, peer: Peer, request: wire.Request) -> None:
        options, service = request.options, self._service
        space = service.enter(peer, options, READ)
        details: dict[str, Any] = {**_told(self._index.totals(space)), **self._told_bounds(peer, space)}
        by = options.get("by")
        if by == "user":
            readable = [space] if "namespace" in options else self._readable(peer)
            details["users"] = self._by_user(readable)
        elif by == "namespace":
            names = {prefix: name for name, prefix in service.prefixes.items()}
            details["namespaces"] = {
                names[prefix]: {**_told(self._index.totals(prefix)), **self._told_bounds(peer, prefix)}
                for prefix in self._readable(peer)
            }
        service.reply(peer, request, wire.OK, (), details)

    def _readable(self, peer: Peer) -> list[bytes]:
        rights = self._service.access.rights
        return [prefix for prefix in self._service.prefixes.values() if rights(peer, prefix) & READ]

    def _by_user(self, prefixes: list[bytes]) -> dict[str, dict[str, int]]:
        """Returns the sums over what each user owns in some namespaces; of nobody: what was not looked at yet."""
        users: dict[int, Totals] = {}
        among = frozenset(prefixes)
        for prefix, owner, totals in self._index.cells():
            if prefix in among:
                users.setdefault(owner, Totals()).add(totals)
        return {str(owner) if owner != NOBODY else "unknown": _told(totals) for owner, totals in users.items()}

    def _told_bounds(self, peer: Peer, prefix: bytes) -> dict[str, Any]:
        """Returns the bounds that hold for the caller in a namespace, and what he has used of them."""
        service, told = self._service, {}
        for bound, (most, used) in service.ledger.bounds_of(prefix, peer.uid).items():
            told[bound] = {"bound": most, "used": used}
        return {"bounds": told} if told else {}

    def events(self, peer: Peer, request: wire.Request) -> None:
        """Answers with what became of objects since some marks, oldest first: of a namespace, or of all he may read.

        The details have the marks to go on from, of which namespaces some events are kept no more, and whether there
        are more events than one answer tells.
        """
        service, options = self._service, request.options
        names = {prefix: name for name, prefix in service.prefixes.items()}
        asked = [service.enter(peer, options, READ)] if "namespace" in options else self._readable(peer)
        given = dict(parse_mark(bytes(mark).decode("utf-8", "replace")) for mark in request.arguments)
        marks: dict[str, Mark] = {}
        missed, pages = [], []
        for prefix in asked:
            name, book = names[prefix], service.chronicle.book(prefix)
            marks[name], late = book.begin(given.get(name))
            missed += [name] * late
            pages.append(_named(name, book.read(marks[name])))
        rows, more = self._page(heapq.merge(*pages, key=_when), marks)
        details: dict[str, Any] = {"marks": [mark.to_text(name) for name, mark in marks.items()]}
        if missed:
            details["missed"] = missed
        if more:
            details["more"] = True
        service.reply(peer, request, wire.OK, [b"[%s]" % b",".join(rows)], details)

    def _page(self, events: Iterable[tuple[Event, str]], marks: dict[str, Mark]) -> tuple[list[bytes], bool]:
        """Returns as many events as one answer tells, and whether there are more; moves the marks behind them."""
        rows: list[bytes] = []
        left = self._service.limits.message_bytes_max
        for event, name in events:
            row = _row(event, name)
            left -= len(row) + 1
            if rows and (left < 0 or len(rows) == _EVENTS_MAX):
                return rows, True
            rows.append(row)
            marks[name] = Mark(marks[name].began, event.number)
        return rows, False

    def status(self, peer: Peer, request: wire.Request) -> None:
        """Answers with everything the daemon says of itself, at once."""
        self._refuse_arguments(request)
        coherence, limits, readable = self._coherence, self._service.limits, self._readable(peer)
        names = {prefix: name for name, prefix in self._service.prefixes.items()}
        whole = Totals()
        for prefix in readable:
            whole.add(self._index.totals(prefix))
        details = {
            "objects": whole.objects,
            "bytes": whole.bytes,
            "objects_not_sized": whole.unsized,
            "coherent": coherence.coherent,
            "epoch": coherence.epoch,
            "clean": coherence.clean,
            "scans": coherence.scans,
            "losses": dict(coherence.losses),
            "names_in_doubt": coherence.in_doubt,
            "namespaces": [names[prefix] for prefix in readable],
            "evictions": dict(self._service.evictions.counts),
            "reserved_bytes": self._service.ledger.reserved().charged_bytes,
            "jobs": self._service.orders.unfinished,
            "shelves": len(self._service.shelves),
            "shelves_bytes": self._service.shelves.taken_bytes,
            "limits": {
                "message_bytes_max": limits.message_bytes_max,
                "batch_items_max": limits.batch_items_max,
            },
            **self._more(),
        }
        self._service.reply(peer, request, wire.OK, (), details)

    @staticmethod
    def _refuse_arguments(request: wire.Request) -> None:
        if request.arguments:
            raise BadRequest(f"{request.verb.decode()} takes as arguments: {wire.ARGUMENTS[request.verb]}")


def _told(totals: Totals) -> dict[str, int]:
    return {
        "objects": totals.objects,
        "bytes": totals.bytes,
        "charged_bytes": totals.charged_bytes,
        "objects_not_sized": totals.unsized,
    }


def _named(name: str, events: Iterator[Event]) -> Iterator[tuple[Event, str]]:
    return ((event, name) for event in events)


def _when(told: tuple[Event, str]) -> float:
    return told[0].when_s


def _row(event: Event, namespace: str) -> bytes:
    """Returns an event as it is told."""
    told: dict[str, Any] = {
        "namespace": namespace,
        "number": event.number,
        "when": event.when_s,
        "key": event.key.decode("utf-8", "replace"),
        "what": event.what,
        "why": event.why,
    }
    if event.seen >= 0:
        told.update(size=size_of(event.seen), owner=owner_of(event.seen))
    if event.by is not None:
        told["by"] = event.by
    return _encode(told).encode()
