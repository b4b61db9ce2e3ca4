"""Objects that travel in ranges: uploads and downloads. A peer names them by handles (handles.py).

Pure. Owns the rule that a descriptor is closed exactly once and
never while a range of it is being read or written: a closed number may already be somebody else's file.

An upload lives in an unnamed file until `commit` publishes it; whatever ends before that leaves nothing behind.
"""

from __future__ import annotations

import bisect
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from storekeeper import wire
from storekeeper.errors import (
    IncompleteUpload,
    NamespaceMissing,
    StorekeeperError,
    TooLarge,
    TooMany,
)
from storekeeperd.access import READ, WRITE
from storekeeperd.answers import Answer, Peer
from storekeeperd.handles import Handles, arguments
from storekeeperd.ledger import Charge, SpaceFull
from storekeeperd.namespaces import Namespace
from storekeeperd.operations import (
    SEALED,
    Begin,
    Close,
    Commit,
    Life,
    Open,
    Operation,
    Origin,
    Outcome,
    Read,
    Write,
    failed,
)
from storekeeperd.selection import Listing
from storekeeperd.sight import owner_of, size_of

log = logging.getLogger(__name__)

_GAPS_MAX = 1024
_DONE = Outcome(wire.OK)

if TYPE_CHECKING:
    from storekeeperd.changes import Changes
    from storekeeperd.objects import Objects
    from storekeeperd.service import Service


@dataclass(slots=True, eq=False)
class Upload:
    """An object that is arriving."""

    name: bytes
    prefix: bytes
    descriptor: int
    replace: bool
    durable: bool
    origin: Origin
    life: Life
    charge: Charge | None
    size_max: int | None  # as announced
    space: Namespace  # as it was told then: one that was dropped and made anew is another one
    before_ns: int = 0
    written: list[tuple[int, int]] = field(default_factory=list)  # see add_range
    ranges: int = 0  # under way
    error: StorekeeperError | None = None
    commit: Answer | None = None  # asked for while ranges are under way
    commit_bytes: int = 0
    abort: Answer | None = None  # to be sent when the file is closed
    ended: bool = False
    lent: bool = False  # the peer may write into its file by a descriptor of its own


@dataclass(slots=True, eq=False)
class Download:
    """An object that is being fetched."""

    name: bytes
    descriptor: int
    size_bytes: int
    owner: int
    prefix: bytes
    unlinked: _Unlinked | None = None
    ranges: int = 0
    close: Answer | None = None  # to be sent when the file is closed
    ended: bool = False


@dataclass(slots=True, eq=False)
class _Unlinked:
    """A file that has no name any more, and is still being read: its space is not free."""

    charge: Charge
    readers: int


def add_range(ranges: list[tuple[int, int]], start: int, end: int) -> None:
    """Adds a written range to a sorted list of disjoint ones, joining those that touch."""
    if start == end:
        return
    place = bisect.bisect_left(ranges, (start, end))
    first = place
    while first > 0 and ranges[first - 1][1] >= start:
        first -= 1
    last = place
    while last < len(ranges) and ranges[last][0] <= end:
        last += 1
    touched = [(start, end), *ranges[first:last]]
    ranges[first:last] = [(min(s for s, _ in touched), max(e for _, e in touched))]


class Transfers:
    """The verbs upload, write, commit, abort, open, read and close; and the handles, for listings too."""

    def __init__(self, service: Service, objects: Objects, changes: Changes) -> None:
        self._service = service
        self._objects = objects
        self._changes = changes
        self._reading: dict[bytes, list[Download]] = {}  # those whose object has its name
        service.orders.unlinked = self._take_unlinked
        self._limits = service.limits
        self.handles = Handles(service.limits, self._end)

    # -- uploads

    def upload(self, peer: Peer, request: wire.Request) -> None:
        """Begins an upload; the reply's details have its handle."""
        name, prefix = self._one_name(peer, request, WRITE)
        service, options = self._service, request.options
        size = options.get("size")
        life = self._changes.life(peer, options, prefix)
        self.handles.reserve(peer)
        try:
            charge = service.ledger.reserve(prefix, peer.uid, size or 0)
            service.evictions.heed(prefix, peer.uid)
        except SpaceFull as full:
            self.handles.give_up(peer)
            if service.evictions.wait(peer, request, self.upload, full, 0):
                return
            raise
        except StorekeeperError:
            self.handles.give_up(peer)
            raise
        durable, space = self._changes.is_durable(options, prefix), service.spaces[prefix]
        origin = self._changes.origin(peer, prefix)
        replace, before_ns = options.get("replace", False), options.get("before", 0)
        answer = Answer(peer, request, 1)

        def began(_: Operation, outcome: Outcome) -> None:
            if outcome.error is not None or peer.gone:
                self.handles.give_up(peer)
                service.ledger.release(charge)
                if outcome.error is None:
                    self._order(Close(outcome.number))
            else:
                upload = Upload(
                    name, prefix, outcome.number, replace, durable, origin, life, charge, size, space, before_ns
                )
                answer.details["handle"] = self.handles.hand_out(peer, upload).decode()
                if options.get("descriptor") and self._may_lend(peer):
                    upload.lent = True
                    answer.lends = upload
            service.settle(answer, 0, outcome)

        self._order(Begin(), began, answer)

    def _may_lend(self, peer: Peer) -> bool:
        """Returns whether a peer may be given what it can write to an upload by.

        Nothing bounds what is written so, nor ends it with the connection: not where anything is bounded.
        """
        service = self._service
        return service.lends and (not service.ledger.bounds_anything or service.access.is_admin(peer))

    def write(self, peer: Peer, request: wire.Request) -> None:
        """Takes a range of an upload."""
        handle, offset, payload = arguments(request, 3)
        upload = self.handles.find(peer, handle, Upload)
        start = wire.parse_number(offset, "offset")
        if len(payload) > self._limits.message_bytes_max:
            raise TooLarge(f"a range has at most {self._limits.message_bytes_max} bytes")
        end = start + len(payload)
        if len(upload.written) > _GAPS_MAX and not any(a <= end and start <= b for a, b in upload.written):
            raise TooMany(f"an upload has at most {_GAPS_MAX} gaps at a time; fill one of them first")
        self._make_room(upload, end)
        answer = Answer(peer, request, 1, cost_bytes=len(payload))
        upload.ranges += 1

        def wrote(_: Operation, outcome: Outcome) -> None:
            upload.ranges -= 1
            if outcome.error is None:
                add_range(upload.written, start, end)
            else:
                upload.error = upload.error or outcome.error
            self._service.settle(answer, 0, outcome)
            self._advance(upload)

        self._order(Write(upload.descriptor, start, payload), wrote, answer)

    def _make_room(self, upload: Upload, end: int) -> None:
        """Reserves what a range needs beyond what is reserved; raises, and the upload comes to nothing, if it cannot.

        Nothing is written then.
        """
        try:
            if upload.size_max is not None and end > upload.size_max:
                raise IncompleteUpload(f"{upload.size_max} bytes were announced; a range ends at {end}")
            self._service.ledger.grow(upload.charge, upload.prefix, end)
        except StorekeeperError as error:
            upload.error = upload.error or error
            raise

    def commit(self, peer: Peer, request: wire.Request) -> None:
        """Publishes an upload as soon as its last range is written."""
        handle, size = arguments(request, 2)
        size_bytes = wire.parse_number(size, "size")
        upload = self.handles.find(peer, handle, Upload)
        self.handles.take_back(peer, handle)
        upload.commit = Answer(peer, request, 1)
        upload.commit_bytes = size_bytes
        self._advance(upload)

    def abort(self, peer: Peer, request: wire.Request) -> None:
        """Gives up an upload; answered when its file is closed, and so its room free."""
        (handle,) = arguments(request, 1)
        upload = self.handles.find(peer, handle, Upload)
        self.handles.take_back(peer, handle)
        upload.abort = Answer(peer, request, 1)
        upload.ended = True
        self._advance(upload)

    def _advance(self, upload: Upload) -> None:
        """Does what an upload waits for, if no range of it is under way."""
        if upload.ranges or (upload.commit is None and not upload.ended):
            return
        answer = upload.commit
        if answer is None:
            self._close(upload, upload.abort, _DONE)
            return
        error = upload.error
        if self._service.spaces.get(upload.prefix) is not upload.space:
            error = NamespaceMissing("the namespace of this upload was dropped; nothing was stored")
        whole = [(0, upload.commit_bytes)] if upload.commit_bytes else []
        if error is None and upload.written != whole and not (upload.lent and not upload.written):
            there = sum(end - start for start, end in upload.written)
            error = IncompleteUpload(f"{upload.commit_bytes} bytes were announced, {there} were written")
        if error is not None:
            self._close(upload, answer, failed(error))
            return
        durable, service = upload.durable, self._service
        operation = Commit(
            upload.name,
            _give(upload),
            upload.commit_bytes,
            upload.origin,
            upload.replace,
            durable,
            upload.before_ns,
            upload.life,
            upload.lent,
        )
        answer.details["durability"] = "disk" if durable else "os"

        def committed(_: Operation, outcome: Outcome) -> None:
            service.ledger.release(upload.charge)
            service.evictions.changed(upload.name)
            service.evictions.use(upload.prefix, upload.name, lease=False)
            service.settle(answer, 0, outcome)

        service.evictions.hurry(upload.name)
        witnessed = upload.replace and upload.origin.any_owner
        ticket = self._changes.witness(upload.origin, committed) if witnessed else committed
        service.orders.change([(operation, ticket)], answer)

    def _close(self, upload: Upload, answer: Answer | None, outcome: Outcome) -> None:
        """Gives an upload up; its room is free when its file is closed, and only then is somebody told so."""

        def closed(_: Operation, __: Outcome) -> None:
            self._service.ledger.release(upload.charge)
            if answer is not None:
                self._service.settle(answer, 0, outcome)

        self._order(Close(_give(upload)), closed)

    # -- downloads

    def open(self, peer: Peer, request: wire.Request) -> None:
        """Opens an object; the reply's details have a handle and the size, which stay true whatever happens to it.

        With the option `descriptor` the reply brings one for reading, if the object is one that never changes and the
        peer may have it. Its space counts as taken until the handle ends, with the connection at the latest.
        """
        name, prefix = self._one_name(peer, request, READ)
        if name in self._service.lifetimes.ended:
            self._service.reply(peer, request, b"absent")
            return
        self.handles.reserve(peer)
        answer = Answer(peer, request, 1)

        def opened(operation: Open, outcome: Outcome) -> None:
            self._objects.observe(operation, outcome, answer, settle)

        def settle(outcome: Outcome) -> None:
            if outcome.word != wire.OK or peer.gone:
                self.handles.give_up(peer)
                if outcome.word == wire.OK:
                    self._order(Close(outcome.number))
            else:
                seen = outcome.seen
                download = Download(name, outcome.number, size_of(seen), owner_of(seen), prefix)
                self._reading.setdefault(name, []).append(download)
                self._service.evictions.use(prefix, name)
                if request.options.get("descriptor") and outcome.payload == SEALED and self._service.hands_out(peer):
                    answer.lends = download
                handle = self.handles.hand_out(peer, download, lasting=answer.lends is not None)
                answer.details["handle"] = handle.decode()
                answer.details["size"] = download.size_bytes
            self._service.settle(answer, 0, outcome)

        self._order(Open(name), opened, answer)

    def read(self, peer: Peer, request: wire.Request) -> None:
        """Answers a range of a download; shorter at the end of the object."""
        handle, offset, length = arguments(request, 3)
        download = self.handles.find(peer, handle, Download)
        start = wire.parse_number(offset, "offset")
        length_bytes = wire.parse_number(length, "length")
        if length_bytes > self._limits.message_bytes_max:
            raise TooLarge(f"a range has at most {self._limits.message_bytes_max} bytes")
        length_bytes = max(0, min(length_bytes, download.size_bytes - start))
        answer = Answer(peer, request, 1, cost_bytes=length_bytes, payloads=True)
        download.ranges += 1

        def read(_: Operation, outcome: Outcome) -> None:
            download.ranges -= 1
            self._service.settle(answer, 0, outcome)
            self._close_if_ended(download)

        self._order(Read(download.descriptor, start, length_bytes), read, answer)

    def close(self, peer: Peer, request: wire.Request) -> None:
        """Ends a download or a listing.

        Nobody waits for the closing of a file that has its name still: it frees nothing.
        """
        (handle,) = arguments(request, 1)
        self.handles.find(peer, handle, (Download, Listing))
        transfer = self.handles.take_back(peer, handle)
        if isinstance(transfer, Download) and transfer.unlinked is not None:
            transfer.close = Answer(peer, request, 1)
        else:
            self._service.reply(peer, request, wire.OK)
        self._end(transfer)

    def _close_if_ended(self, download: Download) -> None:
        if not download.ended or download.ranges:
            return
        others = self._reading.get(download.name, [])
        if download in others:
            others.remove(download)
            if not others:
                del self._reading[download.name]
        unlinked, answer = download.unlinked, download.close

        def closed(_: Operation, __: Outcome) -> None:
            assert unlinked is not None
            unlinked.readers -= 1
            if not unlinked.readers:
                self._service.ledger.release(unlinked.charge)
            if answer is not None:
                self._service.settle(answer, 0, _DONE)

        self._order(Close(_give(download)), None if unlinked is None else closed)

    def _take_unlinked(self, name: bytes) -> None:
        """Takes that an object has lost its name: it is charged for until nobody reads it any more."""
        readers = self._reading.pop(name, None)
        if readers:
            first = readers[0]
            charge = self._service.ledger.hold(first.prefix, first.owner, first.size_bytes)
            unlinked = _Unlinked(charge, len(readers))
            for download in readers:
                download.unlinked = unlinked

    # -- parts

    def _end(self, transfer: Any) -> None:
        if isinstance(transfer, Upload):
            transfer.ended = True
            self._advance(transfer)
        elif isinstance(transfer, Download):
            transfer.ended = True
            self._close_if_ended(transfer)

    def _one_name(self, peer: Peer, request: wire.Request, right: int) -> tuple[bytes, bytes]:
        """Returns the name that a request is about, and what names of its namespace begin with."""
        (key,) = arguments(request, 1)
        wire.check_key(key)
        prefix = self._service.enter(peer, request.options, right)
        return prefix + key, prefix

    def _order(self, operation: Operation, ticket: Any = None, owner: Answer | None = None) -> None:
        self._service.orders.order([operation], [ticket], owner)


def _give(transfer: Upload | Download) -> int:
    """Returns the descriptor of a transfer, which is about to be closed: from now on it has none."""
    descriptor, transfer.descriptor = transfer.descriptor, -1
    return descriptor
