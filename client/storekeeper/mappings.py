"""Large objects by a descriptor that the daemon hands out: read, or mapped, without a byte passing through a socket.

Owns what is done with such a descriptor. The daemon gives one only of a file that never changes, so a mapping of it
cannot be cut short under its reader; where it gives none the caller goes on in ranges (ranges.py).
"""

from __future__ import annotations

import contextlib
import io
import mmap
import os
import stat
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, BinaryIO, Final, Literal, TypeVar

from storekeeper.errors import from_wire
from storekeeper.exchange import Exchange
from storekeeper.holds import Hold
from storekeeper.ranges import Download

T = TypeVar("T")


class _Nothing(Enum):
    NOT_MAPPED = "not mapped"


NOT_MAPPED: Final = _Nothing.NOT_MAPPED
"""Returned if no descriptor came: the object has to be fetched otherwise."""
Unless = Literal[_Nothing.NOT_MAPPED]

_READ_BYTES = 1 << 30  # read(2) takes no more than 2 GiB at once


class _Mapped(mmap.mmap):
    """A mapping that lets go of its handle when it ends: the daemon then knows that nobody looks at the file."""

    hold: Hold | None = None

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # the interpreter is ending
            if self.hold is not None:
                self.hold.end()


def view(exchange: Exchange, key: bytes, options: Mapping[str, Any]) -> memoryview | Unless | None:
    """Returns the bytes of an object, mapped; its handle is held for as long as they are."""

    def use(download: Download, size: int) -> memoryview | Unless:
        try:
            mapped = _Mapped(download.descriptor, size, mmap.MAP_SHARED, mmap.PROT_READ)
        except (OSError, ValueError):  # mmap(2): ENOMEM; and Python duplicates the descriptor: EMFILE
            return NOT_MAPPED
        mapped.hold = exchange.hold(download.handle)
        return memoryview(mapped)

    return _use(exchange, key, options, use, holds=True)


def read(exchange: Exchange, key: bytes, options: Mapping[str, Any]) -> bytes | Unless | None:
    """Returns the bytes of an object."""

    def use(download: Download, size: int) -> bytes:
        parts = []
        while size > 0:
            part = os.read(download.descriptor, min(size, _READ_BYTES))
            if not part:
                raise from_wire("disk_failed", "the object became shorter while it was read")
            parts.append(part)
            size -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    return _use(exchange, key, options, use)


def read_into(exchange: Exchange, key: bytes, options: Mapping[str, Any], target: memoryview) -> int | Unless | None:
    """Reads an object into a buffer; returns its size.

    Raises:
        ValueError: the buffer is too short; nothing was written into it.
    """

    def use(download: Download, size: int) -> int:
        if size > len(target):
            raise ValueError(f"the object has {size} bytes, the buffer {len(target)}")
        done = 0
        while done < size:
            count = os.readv(download.descriptor, [target[done : min(size, done + _READ_BYTES)]])
            if not count:
                raise from_wire("disk_failed", "the object became shorter while it was read")
            done += count
        return size

    return _use(exchange, key, options, use)


def _file_below(file: BinaryIO) -> int:
    """Returns the descriptor of a plain file or pipe; -1 if what is written goes through something on its way there.

    Files of gzip, of a TLS socket and others have a `fileno` too: of what lies below them.
    """
    raw: Any = file.raw if type(file) in (io.BufferedWriter, io.BufferedRandom) else file  # type: ignore[attr-defined]
    return int(raw.fileno()) if type(raw) is io.FileIO else -1


def send_to(exchange: Exchange, key: bytes, options: Mapping[str, Any], file: BinaryIO) -> int | Unless | None:
    """Writes an object into a file, in the kernel where it can; returns its size."""

    number = _file_below(file)

    def use(download: Download, size: int) -> int | Unless:
        if number < 0:
            return NOT_MAPPED
        done = 0
        while done < size:
            try:
                count = os.sendfile(number, download.descriptor, done, min(size - done, _READ_BYTES))
            except (OSError, ValueError):  # sendfile(2): to a file opened for appending; or it is no file of the system
                if done:
                    raise
                return NOT_MAPPED
            if not count:
                raise from_wire("disk_failed", "the object became shorter while it was read")
            done += count
        return size

    return _use(exchange, key, options, use)


def _is_file(descriptor: int, size: int) -> bool:
    """Whether a descriptor is what the daemon says: a read from anything else could wait for ever."""
    found = os.fstat(descriptor)
    return stat.S_ISREG(found.st_mode) and found.st_size == size


def _use(
    exchange: Exchange,
    key: bytes,
    options: Mapping[str, Any],
    use: Callable[[Download, int], T | Unless],
    *,
    holds: bool = False,
) -> T | Unless | None:
    """Opens an object and does something with its descriptor, and with its size.

    Unless what is done holds the handle, it is closed then. Nobody waits for that: all is there, and if the daemon goes
    away now, the call is not made again for it.
    """
    if not exchange.passes_descriptors:
        return NOT_MAPPED
    download = Download(exchange, key, options, descriptor=True)
    try:
        size = download.size
        if size is None:
            return None
        found: T | Unless = NOT_MAPPED
        if download.descriptor >= 0 and size and _is_file(download.descriptor, size):
            exchange.allow(size)
            found = use(download, size)
        if not holds or found is NOT_MAPPED:
            exchange.close_later(download.handle)
        return found
    finally:
        exchange.drop_descriptors()
