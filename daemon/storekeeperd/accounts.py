"""The verbs `usage` and `status`: what the store holds, and how it is.

Pure. Owns no figure: they come from the index, from coherence.py, and from whoever runs the daemon.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from storekeeper import wire
from storekeeper.errors import BadRequest
from storekeeperd.access import READ
from storekeeperd.answers import Peer
from storekeeperd.coherence import Coherence
from storekeeperd.index import NOBODY, Index, Totals

if TYPE_CHECKING:
    from storekeeperd.service import Service


class Accounts:
    """Answers to `usage` and `status`.

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
