"""The verbs `usage` and `status`: what the store holds, and how it is.

Pure. Owns no figure: they come from the index, from coherence.py, and from whoever runs the daemon.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from storekeeper import wire
from storekeeper.errors import BadRequest
from storekeeperd.answers import Peer
from storekeeperd.coherence import Coherence
from storekeeperd.index import Index

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
        """Answers with the sums over a namespace, once they may be believed."""
        self._refuse_arguments(request)
        space = self._service.prefix(request.options)  # refuses an unknown namespace before anything waits
        self._service.barriers.hold(peer, request, self._tell_usage, space=space, sizes=True)

    def _tell_usage(self, peer: Peer, request: wire.Request) -> None:
        totals = self._index.totals(self._service.prefix(request.options))
        details = {"objects": totals.objects, "bytes": totals.bytes, "objects_not_sized": totals.unsized}
        self._service.reply(peer, request, wire.OK, (), details)

    def status(self, peer: Peer, request: wire.Request) -> None:
        """Answers with everything the daemon says of itself, at once."""
        self._refuse_arguments(request)
        coherence, whole, limits = self._coherence, self._index.whole, self._service.limits
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
            "namespaces": list(self._service.prefixes),
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
