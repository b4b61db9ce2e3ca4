"""The verb `list`: names, page by page, as they were when the listing began.

Pure. Owns the pages; what is on them decides selection.py. A listing is made from the index once that can be believed
(barriers.py sees to it). A connection has one at a time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from storekeeper import wire
from storekeeper.errors import BadRequest, Busy, TooMany
from storekeeperd.access import READ
from storekeeperd.answers import Peer
from storekeeperd.barriers import Barriers
from storekeeperd.handles import arguments
from storekeeperd.index import Index
from storekeeperd.selection import Listing, check_order, filter_of

if TYPE_CHECKING:
    from storekeeperd.service import Service


class Listings:
    """Listings, and the requests for one that wait.

    Args:
        service: whose verb it is.
        barriers: when the index may be believed.
        index: what exists.
    """

    def __init__(self, service: Service, barriers: Barriers, index: Index) -> None:
        self._service = service
        self._barriers = barriers
        self._index = index

    def list_names(self, peer: Peer, request: wire.Request) -> None:
        """Answers a page of names as one payload, each ended by NUL; the details have a handle if there are more.

        A long listing has a second payload: what is known of each.
        """
        if request.arguments:
            self._go_on(peer, request)
            return
        space = self._service.enter(peer, request.options, READ)  # refuses before anything waits
        check_order(request.options, self._service.limits.list_names)
        self._hold(peer, request, space)

    def _hold(self, peer: Peer, request: wire.Request, space: bytes) -> None:
        """Lets a request wait until the names may be believed; measured, if some may be of objects that have ended."""
        names = min(self._service.limits.list_names, len(self._index))
        measured = not self._service.believes_names
        cost_bytes = names * wire.KEY_BYTES_MAX
        self._barriers.hold(peer, request, self._begin, space=space, measured=measured, cost_bytes=cost_bytes)

    def _begin(self, peer: Peer, request: wire.Request) -> None:
        options, service = request.options, self._service
        space = service.enter(peer, options, READ)
        if not service.believes_names:  # a scan has brought some since the request came, the first one above all
            self._hold(peer, request, space)
            return
        service.end_due()
        order, reverse, limit = check_order(options, service.limits.list_names)
        if any(isinstance(held, Listing) for held in peer.handles.values()):
            raise TooMany("a connection has one listing at a time; read it to its end, or close it")
        if peer.user.listings >= self._service.limits.user_listings_max:
            raise Busy(
                f"uid {peer.uid} has {peer.user.listings} listings under way, as many as one user may; "
                "try again in a moment"
            )
        handles = self._service.transfers.handles
        handles.reserve(peer)
        chosen = filter_of(space, options, service.outside.now_s())
        long, ended = options.get("long", False), service.lifetimes.ended
        listing = Listing(self._index.names(), chosen, self._index, ended, long, order, reverse, limit)
        page = listing.page(self._service.limits.list_names)
        if listing.more:
            handle = handles.hand_out(peer, listing)
        else:
            handles.give_up(peer)
            handle = b""
        self._tell(peer, request, listing, page, handle)

    def _go_on(self, peer: Peer, request: wire.Request) -> None:
        if request.options:
            raise BadRequest("list takes options only without a handle")
        handles = self._service.transfers.handles
        (handle,) = arguments(request, 1)
        listing = handles.find(peer, handle, Listing)
        page = listing.page(self._service.limits.list_names)
        if not listing.more:
            handles.take_back(peer, handle)
            handle = b""
        self._tell(peer, request, listing, page, handle)

    def _tell(self, peer: Peer, request: wire.Request, listing: Listing, page: list[bytes], handle: wire.Frame) -> None:
        strip = len(listing.filter.space)
        payloads = [_joined([name[strip:] for name in page] if strip else page)]
        if listing.long:
            payloads.append(_joined(listing.describe(page)))
        details = {"handle": bytes(handle).decode()} if handle else {}
        self._service.reply(peer, request, wire.OK, payloads, details)


def _joined(page: list[bytes]) -> bytes:
    return b"\0".join(page) + b"\0" * bool(page)
