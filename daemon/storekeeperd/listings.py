"""The verb `list`: names, page by page, as they were when the listing began.

Pure. A listing is made from the index only while that can be believed: until then it waits for the scan that is
under way, and where nothing is ever heard of changes it asks for a scan of its own. A connection has one at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from storekeeper import wire
from storekeeper.errors import BadRequest, TooMany
from storekeeperd.answers import Peer
from storekeeperd.coherence import Coherence

if TYPE_CHECKING:
    from storekeeperd.service import Service


@dataclass(slots=True, eq=False)
class Listing:
    """Names that are being told."""

    names: list[bytes]
    prefix: bytes
    strip: int


class Listings:
    """Listings, and the requests for one that wait for a scan."""

    def __init__(self, service: Service, coherence: Coherence) -> None:
        self._service = service
        self._coherence = coherence
        self._waiting: list[tuple[int, Peer, wire.Request]] = []

    def list_names(self, peer: Peer, request: wire.Request) -> None:
        """Answers a page of names as one payload, each ended by NUL; the details have a handle if there are more."""
        if request.arguments:
            self._go_on(peer, request)
            return
        space = self._service.prefix(request.options)  # refuses an unknown namespace before anything waits
        if self._coherence.coherent:
            self._begin(peer, request, space)
            return
        if not self._coherence.watched and not self._coherence.wants_scan:  # a scan that runs began too early
            self._coherence.lost("asked for a list without a watch")
        peer.owed_requests += 1
        self._waiting.append((self._coherence.epoch, peer, request))

    def proceed(self) -> None:
        """Answers the requests whose scan is complete. To be called when one may be."""
        if not self._waiting:
            return
        clean = self._coherence.clean
        ready = [waiting for waiting in self._waiting if waiting[0] <= clean or waiting[1].gone]
        if ready:
            self._waiting = [waiting for waiting in self._waiting if waiting[0] > clean and not waiting[1].gone]
        for _, peer, request in ready:
            peer.owed_requests -= 1
            if not peer.gone:
                self._service.guarded(peer, request, self._begin_again)

    def _begin_again(self, peer: Peer, request: wire.Request) -> None:
        self._begin(peer, request, self._service.prefix(request.options))

    def _begin(self, peer: Peer, request: wire.Request, space: bytes) -> None:
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
