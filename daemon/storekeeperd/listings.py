"""The verb `list`: names, page by page, as they were when the listing began.

Pure. Owns the pages. A listing is made from the index once that can be believed (barriers.py sees to it). A connection
has one at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from storekeeper import wire
from storekeeper.errors import BadRequest, TooMany
from storekeeperd.answers import Peer
from storekeeperd.barriers import Barriers

if TYPE_CHECKING:
    from storekeeperd.service import Service


@dataclass(slots=True, eq=False)
class Listing:
    """Names that are being told."""

    names: list[bytes]
    prefix: bytes
    strip: int


class Listings:
    """Listings, and the requests for one that wait."""

    def __init__(self, service: Service, barriers: Barriers) -> None:
        self._service = service
        self._barriers = barriers

    def list_names(self, peer: Peer, request: wire.Request) -> None:
        """Answers a page of names as one payload, each ended by NUL; the details have a handle if there are more."""
        if request.arguments:
            self._go_on(peer, request)
            return
        self._service.prefix(request.options)  # refuses an unknown namespace before anything waits
        names = min(self._service.limits.list_names, self._service.objects)
        self._barriers.hold(peer, request, self._begin, cost_bytes=names * wire.KEY_BYTES_MAX)

    def _begin(self, peer: Peer, request: wire.Request) -> None:
        space = self._service.prefix(request.options)
        if any(isinstance(held, Listing) for held in peer.handles.values()):
            raise TooMany("a connection has one listing at a time; read it to its end, or close it")
        transfers = self._service.transfers
        transfers.reserve(peer)
        prefix = space + request.options.get("prefix", "").encode("utf-8", "replace")
        listing = Listing(self._service.names_of(space), prefix, len(space))
        if len(listing.names) <= self._service.limits.list_names:
            transfers.give_up(peer)
            self._tell(peer, request, listing, b"")
        else:
            self._tell(peer, request, listing, transfers.hand_out(peer, listing))

    def _go_on(self, peer: Peer, request: wire.Request) -> None:
        if request.options:
            raise BadRequest("list takes options only without a handle")
        transfers = self._service.transfers
        (handle,) = transfers.arguments(request, 1)
        listing = transfers.find(peer, handle, Listing)
        if len(listing.names) <= self._service.limits.list_names:
            transfers.take_back(peer, handle)
            handle = b""
        self._tell(peer, request, listing, handle)

    def _tell(self, peer: Peer, request: wire.Request, listing: Listing, handle: wire.Frame) -> None:
        count = self._service.limits.list_names
        page = listing.names[-count:]
        del listing.names[-count:]
        strip, prefix = listing.strip, listing.prefix
        payload = b"".join(name[strip:] + b"\0" for name in page if name.startswith(prefix))
        details = {"handle": bytes(handle).decode()} if handle else {}
        self._service.reply(peer, request, wire.OK, [payload], details)
