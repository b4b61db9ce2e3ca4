"""The verb `list`: names, page by page, as they were when the listing began.

Pure. Owns the pages. A listing is made from the index once that can be believed (barriers.py sees to it). A connection
has one at a time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from storekeeper import wire
from storekeeper.errors import BadRequest, Busy, TooMany
from storekeeperd.answers import Peer
from storekeeperd.barriers import Barriers
from storekeeperd.index import Index

if TYPE_CHECKING:
    from storekeeperd.service import Service


_SKIM_NAMES = 20_000
"""Names looked through for one page: two milliseconds, however many there are of other namespaces and prefixes."""


@dataclass(slots=True, eq=False)
class Listing:
    """Names that are being told.

    Attributes:
        names: those of all namespaces that were not looked through yet.
        space: what names of the namespace begin with; prefix: what those that are told begin with.
    """

    names: list[bytes]
    space: bytes
    prefix: bytes
    _found: list[bytes] = field(default_factory=list)

    def page(self, count: int) -> list[bytes]:
        """Takes the next names; at most `count`, maybe none though there are more."""
        skimmed = 0
        while self.names and len(self._found) < count and skimmed < _SKIM_NAMES:
            some = self.names[-count:]
            del self.names[-count:]
            skimmed += len(some)
            if self.prefix:
                some = [name for name in some if name.startswith(self.prefix)]
            if not self.space and b"/" in b"\0".join(some):
                some = [name for name in some if b"/" not in name]
            self._found += some
        page = self._found[:count]
        del self._found[:count]
        return page

    @property
    def more(self) -> bool:
        """Whether there may be more names."""
        return bool(self.names or self._found)


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
        """Answers a page of names as one payload, each ended by NUL; the details have a handle if there are more."""
        if request.arguments:
            self._go_on(peer, request)
            return
        space = self._service.prefix(request.options)  # refuses an unknown namespace before anything waits
        names = min(self._service.limits.list_names, len(self._index))
        self._barriers.hold(peer, request, self._begin, space=space, cost_bytes=names * wire.KEY_BYTES_MAX)

    def _begin(self, peer: Peer, request: wire.Request) -> None:
        space = self._service.prefix(request.options)
        if any(isinstance(held, Listing) for held in peer.handles.values()):
            raise TooMany("a connection has one listing at a time; read it to its end, or close it")
        if peer.user.listings >= self._service.limits.user_listings_max:
            raise Busy(
                f"uid {peer.uid} has {peer.user.listings} listings under way, as many as one user may; "
                "try again in a moment"
            )
        transfers = self._service.transfers
        transfers.reserve(peer)
        prefix = space + request.options.get("prefix", "").encode("utf-8", "replace")
        listing = Listing(self._index.names(), space, prefix)
        page = listing.page(self._service.limits.list_names)
        if listing.more:
            handle = transfers.hand_out(peer, listing)
        else:
            transfers.give_up(peer)
            handle = b""
        self._tell(peer, request, page, len(space), handle)

    def _go_on(self, peer: Peer, request: wire.Request) -> None:
        if request.options:
            raise BadRequest("list takes options only without a handle")
        transfers = self._service.transfers
        (handle,) = transfers.arguments(request, 1)
        listing = transfers.find(peer, handle, Listing)
        page = listing.page(self._service.limits.list_names)
        if not listing.more:
            transfers.take_back(peer, handle)
            handle = b""
        self._tell(peer, request, page, len(listing.space), handle)

    def _tell(self, peer: Peer, request: wire.Request, page: list[bytes], strip: int, handle: wire.Frame) -> None:
        payload = b"\0".join([name[strip:] for name in page] if strip else page) + b"\0" * bool(page)
        details = {"handle": bytes(handle).decode()} if handle else {}
        self._service.reply(peer, request, wire.OK, [payload], details)
