"""Objects that travel in ranges: uploads, downloads and listings, and the handles by which a peer names them.

Pure. A handle belongs to one connection and dies with it. Owns the rule that a descriptor is closed exactly once and
never while a range of it is being read or written: a closed number may already be somebody else's file.

An upload lives in an unnamed file until `commit` publishes it; whatever ends before that leaves nothing behind.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from storekeeper import wire
from storekeeper.errors import BadHandle, BadRequest, IncompleteUpload, StorekeeperError, TooLarge, TooMany
from storekeeperd.answers import Answer, Peer
from storekeeperd.operations import (
    Begin,
    Close,
    Commit,
    Open,
    Operation,
    Origin,
    Outcome,
    Read,
    Write,
    failed,
)

if TYPE_CHECKING:
    from storekeeperd.service import Service


@dataclass(slots=True, eq=False)
class Upload:
    """An object that is arriving."""

    name: bytes
    descriptor: int
    replace: bool
    durable: bool
    written_bytes: int = 0
    ranges: int = 0  # under way
    error: StorekeeperError | None = None
    commit: Answer | None = None  # asked for while ranges are under way
    commit_bytes: int = 0
    ended: bool = False


@dataclass(slots=True, eq=False)
class Download:
    """An object that is being fetched."""

    descriptor: int
    size_bytes: int
    ranges: int = 0
    ended: bool = False


@dataclass(slots=True, eq=False)
class Listing:
    """Names that are being told, page by page, as they were when the listing began."""

    names: list[bytes]
    prefix: bytes
    strip: int


class Transfers:
    """The verbs upload, write, commit, abort, open, read, close and list."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._limits = service.limits
        self._last_handle = 0

    # -- uploads

    def upload(self, peer: Peer, request: wire.Request) -> None:
        """Begins an upload; the reply's details have its handle."""
        name = self._one_name(request)
        self._reserve_handle(peer)
        options = request.options
        replace = options.get("replace", False)
        durable = options.get("durability") == "disk"
        answer = Answer(peer, request, 1)

        def began(_: Operation, outcome: Outcome) -> None:
            peer.opening -= 1
            if outcome.error is None:
                upload = Upload(name, outcome.number, replace, durable)
                if peer.gone:
                    self._order(Close(upload.descriptor))
                else:
                    answer.details["handle"] = self._hand_out(peer, upload).decode()
            self._service.settle(answer, 0, outcome)

        self._order(Begin(name), began)

    def write(self, peer: Peer, request: wire.Request) -> None:
        """Takes a range of an upload."""
        handle, offset, payload = self._arguments(request, 3)
        upload = self._find(peer, handle, Upload)
        start = wire.parse_number(offset, "offset")
        if len(payload) > self._limits.message_bytes_max:
            raise TooLarge(f"a range has at most {self._limits.message_bytes_max} bytes")
        answer = Answer(peer, request, 1, cost_bytes=len(payload))
        upload.ranges += 1

        def wrote(_: Operation, outcome: Outcome) -> None:
            upload.ranges -= 1
            if outcome.error is None:
                upload.written_bytes += len(payload)
            else:
                upload.error = upload.error or outcome.error
            self._service.settle(answer, 0, outcome)
            self._advance(upload)

        self._order(Write(upload.descriptor, start, payload), wrote, len(payload))

    def commit(self, peer: Peer, request: wire.Request) -> None:
        """Publishes an upload as soon as its last range is written."""
        handle, size = self._arguments(request, 2)
        size_bytes = wire.parse_number(size, "size")
        upload = self._find(peer, handle, Upload)
        del peer.handles[bytes(handle)]
        upload.commit = Answer(peer, request, 1)
        upload.commit_bytes = size_bytes
        self._advance(upload)

    def abort(self, peer: Peer, request: wire.Request) -> None:
        """Gives up an upload."""
        (handle,) = self._arguments(request, 1)
        upload = self._find(peer, handle, Upload)
        del peer.handles[bytes(handle)]
        upload.ended = True
        self._advance(upload)
        self._service.reply(peer, request, wire.OK)

    def _advance(self, upload: Upload) -> None:
        """Does what an upload waits for, if no range of it is under way."""
        if upload.ranges or (upload.commit is None and not upload.ended):
            return
        answer = upload.commit
        if answer is None:
            self._order(Close(upload.descriptor))
            return
        error = upload.error
        if error is None and upload.written_bytes != upload.commit_bytes:
            rule = f"{upload.commit_bytes} bytes were announced, {upload.written_bytes} were written"
            error = IncompleteUpload(rule)
        if error is not None:
            self._order(Close(upload.descriptor))
            self._service.settle(answer, 0, failed(error))
            return
        origin = Origin(answer.peer.uid)
        durable = upload.durable
        operation = Commit(upload.name, upload.descriptor, upload.commit_bytes, origin, upload.replace, durable)
        answer.details["durability"] = "disk" if durable else "os"

        def committed(_: Operation, outcome: Outcome) -> None:
            self._service.settle(answer, 0, outcome)

        self._service.mutate(operation, committed)

    # -- downloads

    def open(self, peer: Peer, request: wire.Request) -> None:
        """Opens an object; the reply's details have a handle and the size, which stay true whatever happens to it."""
        name = self._one_name(request)
        self._reserve_handle(peer)
        answer = Answer(peer, request, 1)

        def opened(_: Operation, outcome: Outcome) -> None:
            peer.opening -= 1
            if outcome.word == wire.OK:
                download = Download(outcome.number, outcome.seen)
                if peer.gone:
                    self._order(Close(download.descriptor))
                else:
                    answer.details["handle"] = self._hand_out(peer, download).decode()
                    answer.details["size"] = download.size_bytes
            self._service.observe(name, outcome.seen)
            self._service.settle(answer, 0, outcome)

        self._order(Open(name), opened)

    def read(self, peer: Peer, request: wire.Request) -> None:
        """Answers a range of a download; shorter at the end of the object."""
        handle, offset, length = self._arguments(request, 3)
        download = self._find(peer, handle, Download)
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

        self._order(Read(download.descriptor, start, length_bytes), read, length_bytes)

    def close(self, peer: Peer, request: wire.Request) -> None:
        """Ends a download or a listing."""
        (handle,) = self._arguments(request, 1)
        self._find(peer, handle, (Download, Listing))
        self._end(peer.handles.pop(bytes(handle)))
        self._service.reply(peer, request, wire.OK)

    def _close_if_ended(self, download: Download) -> None:
        if download.ended and not download.ranges:
            self._order(Close(download.descriptor))

    # -- listings

    def list_names(self, peer: Peer, request: wire.Request) -> None:
        """Answers a page of names as one payload, each ended by NUL; the details have a handle if there are more."""
        if not request.arguments:
            space = self._service.prefix(request.options)
            prefix = space + request.options.get("prefix", "").encode("utf-8", "replace")
            listing = Listing(self._service.names_of(space), prefix, len(space))
            handle: wire.Frame = b""
        elif request.options:
            raise BadRequest("list takes options only without a handle")
        else:
            (handle,) = self._arguments(request, 1)
            listing = self._find(peer, handle, Listing)
        page = listing.names[-self._limits.list_names :]
        del listing.names[-self._limits.list_names :]
        details = {}
        if listing.names:
            if not handle:
                self._reserve_handle(peer)
                peer.opening -= 1
                handle = self._hand_out(peer, listing)
            details["handle"] = bytes(handle).decode()
        elif handle:
            del peer.handles[bytes(handle)]
        strip, prefix = listing.strip, listing.prefix
        payload = b"".join(name[strip:] + b"\0" for name in page if name.startswith(prefix))
        self._service.reply(peer, request, wire.OK, [payload], details)

    # -- handles

    def forget(self, peer: Peer) -> None:
        """Ends everything a closed connection held."""
        for transfer in list(peer.handles.values()):
            self._end(transfer)
        peer.handles.clear()

    def _end(self, transfer: Any) -> None:
        if isinstance(transfer, Upload):
            transfer.ended = True
            self._advance(transfer)
        elif isinstance(transfer, Download):
            transfer.ended = True
            self._close_if_ended(transfer)

    def _reserve_handle(self, peer: Peer) -> None:
        if len(peer.handles) + peer.opening >= self._limits.peer_handles_max:
            raise TooMany(
                f"a connection has at most {self._limits.peer_handles_max} uploads, downloads and listings; "
                "end one of them first"
            )
        peer.opening += 1

    def _hand_out(self, peer: Peer, transfer: Any) -> bytes:
        self._last_handle += 1
        handle = str(self._last_handle).encode()
        peer.handles[handle] = transfer
        return handle

    def _find(self, peer: Peer, handle: wire.Frame, kinds: Any) -> Any:
        transfer = peer.handles.get(bytes(handle[:20]))
        if not isinstance(transfer, kinds):
            raise BadHandle("this connection has no such handle; handles end with their connection")
        return transfer

    def _arguments(self, request: wire.Request, count: int) -> list[wire.Frame]:
        if len(request.arguments) != count:
            verb = request.verb
            raise BadRequest(f"{verb.decode()} takes as arguments: {wire.ARGUMENTS[verb]}")
        return request.arguments

    def _one_name(self, request: wire.Request) -> bytes:
        (key,) = self._arguments(request, 1)
        wire.check_key(key)
        return self._service.prefix(request.options) + key

    def _order(self, operation: Operation, ticket: Any = None, moved_bytes: int = 0) -> None:
        self._service.order([operation], [ticket], moved_bytes)
