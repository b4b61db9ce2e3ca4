"""Every system call on the objects of a store, and no other module makes one.

Carries out `operations`, on the loop or in a worker; keeps no state but descriptors of uploads and downloads, which
their owner closes. How a file gets its name is publisher.py's, the daemon's own folder `.storekeeper/` home.py's.

No descriptor of the store's directory is held: it would keep the kernel from telling us that it was removed.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from storekeeper import wire
from storekeeper.errors import (
    DiskFailed,
    DiskFull,
    StorekeeperError,
    StoreUnavailable,
)
from storekeeperd.operations import (
    ABSENT,
    UNSEEN,
    Begin,
    Close,
    Commit,
    Evict,
    Get,
    Look,
    Open,
    Operation,
    Outcome,
    Put,
    Read,
    Stat,
    Write,
    failed,
)
from storekeeperd.publisher import ATTRIBUTE, READ_FLAGS, Publisher, look, write_all

_TIME_MAX = float(1 << 40)  # 34,000 years: what a calendar can show
_SCAN_NAMES = 4096
_GONE = (errno.ENOENT, errno.ENOTDIR)
_NOT_REGULAR = (errno.ELOOP, errno.ENXIO, errno.ENODEV)
_FULL = (errno.ENOSPC, errno.EDQUOT)


class WouldWait(Exception):  # not an error: the same operation, made in a worker, succeeds
    """The operation would wait for the disk, or is too long for the loop."""


class Disk:
    """The objects of one store. Thread-safe: every method is a few system calls on its own descriptors.

    Args:
        store: the directory.
        private: an existing directory on the same file system for temporary names; only this daemon uses it.
        unnamed_files: whether the file system has O_TMPFILE.
        attributes: whether it has user attributes.
        read_nowait: whether it can read from the page cache alone (RWF_NOWAIT).
        inline_bytes_max: longest read or comparison that is made without waiting.

    Attributes:
        root: device and inode of the directory whose objects these are.
    """

    def __init__(
        self,
        store: Path,
        private: Path,
        *,
        unnamed_files: bool = True,
        attributes: bool = True,
        read_nowait: bool = True,
        inline_bytes_max: int = 64 * 1024,
    ) -> None:
        self._root = os.fsencode(store) + b"/"
        self._publisher = Publisher(self._root, private, unnamed_files=unnamed_files, attributes=attributes)
        self._attributes = attributes
        self._read_nowait = read_nowait
        self._inline_bytes_max = inline_bytes_max
        found = os.stat(store)
        self.root = (found.st_dev, found.st_ino)
        self._methods: dict[type, Callable[[Any, bool], Outcome]] = {
            Look: self._look,
            Get: self._get,
            Put: self._put,
            Evict: self._evict,
            Stat: self._stat,
            Begin: self._begin,
            Write: self._write,
            Commit: self._commit,
            Open: self._open,
            Read: self._read,
            Close: self._close,
        }

    def close(self) -> None:
        """Releases what the disk itself holds; to be called once."""
        self._publisher.close()

    def perform(self, operation: Operation, *, wait: bool = True) -> Outcome:
        """Carries out an operation; every failure is an outcome with a typed error.

        Args:
            operation: what to do.
            wait: whether it may wait for the disk.

        Raises:
            WouldWait: `wait` is false and it would; nothing was changed.
        """
        try:
            return self._methods[type(operation)](operation, wait)
        except StorekeeperError as error:
            return failed(error, self._seen(operation))
        except OSError as error:
            return failed(_typed(error), self._seen(operation))

    def scan(self, directory: bytes) -> Iterator[tuple[list[bytes], int]]:
        """Reads a directory of objects: `b""` for the default namespace, `b"namespace/"` for others.

        Yields:
            Lists of names, with the number of entries passed over because they are no objects.

        Raises:
            OSError: it cannot be read to its end; what was yielded is then no complete picture.
        """
        names: list[bytes] = []
        foreign = 0
        with os.scandir(self._root + directory) as entries:
            for entry in entries:
                name = entry.name
                if name[0] == 0x2E:
                    continue
                if entry.is_file(follow_symlinks=False) and (name.isascii() or wire.is_key(name)):
                    names.append(directory + name)
                else:
                    foreign += 1
                if len(names) >= _SCAN_NAMES:
                    yield names, foreign
                    names, foreign = [], 0
        yield names, foreign

    # -- one method per operation

    def _look(self, operation: Look, _: bool) -> Outcome:
        return Outcome(wire.OK, self._size(operation.name))

    def _get(self, operation: Get, wait: bool) -> Outcome:
        descriptor, size = self._open_object(operation.name)
        if descriptor < 0:
            return Outcome(b"absent", ABSENT)
        try:
            budget = operation.budget
            if size > budget.bytes_max:
                return Outcome(b"large", size)
            if size > budget.bytes_left:
                return Outcome(b"later", size)
            payload = self._range(descriptor, 0, size, wait)
            budget.bytes_left -= size
            return Outcome(wire.OK, size, payload)
        finally:
            os.close(descriptor)

    def _put(self, operation: Put, wait: bool) -> Outcome:
        descriptor = self._publisher.begin()
        try:
            write_all(descriptor, operation.payload, 0)
            return self._publisher.publish(descriptor, len(operation.payload), operation)
        finally:
            self._publisher.discard(descriptor)

    def _evict(self, operation: Evict, _: bool) -> Outcome:
        name = operation.name
        if self._size(name) == ABSENT:  # a directory, link or fifo of that name is not ours to remove
            return Outcome(b"absent", ABSENT)
        self._check_root()
        try:
            os.unlink(self._root + name)
        except FileNotFoundError:
            return Outcome(b"absent", self._size(name))
        return Outcome(b"evicted", self._size(name))

    def _stat(self, operation: Stat, _: bool) -> Outcome:
        path = self._root + operation.name
        try:
            found = os.lstat(path)
        except OSError as error:
            if error.errno in _GONE:
                return Outcome(b"absent", ABSENT)
            raise
        if not stat.S_ISREG(found.st_mode):
            return Outcome(b"absent", ABSENT)
        told = {"size": found.st_size, "owner": found.st_uid, "created": found.st_mtime}
        told.update(self._metadata(path))
        return Outcome(wire.OK, found.st_size, json.dumps(told).encode())

    def _begin(self, operation: Begin, _: bool) -> Outcome:
        return Outcome(wire.OK, UNSEEN, number=self._publisher.begin())

    def _write(self, operation: Write, _: bool) -> Outcome:
        write_all(operation.descriptor, operation.payload, operation.offset)
        return Outcome(wire.OK)

    def _commit(self, operation: Commit, _: bool) -> Outcome:
        try:
            return self._publisher.publish(operation.descriptor, operation.size, operation)
        finally:
            self._publisher.discard(operation.descriptor)

    def _open(self, operation: Open, _: bool) -> Outcome:
        descriptor, size = self._open_object(operation.name)
        if descriptor < 0:
            return Outcome(b"absent", ABSENT)
        return Outcome(wire.OK, size, number=descriptor)

    def _read(self, operation: Read, wait: bool) -> Outcome:
        return Outcome(wire.OK, payload=self._range(operation.descriptor, operation.offset, operation.length, wait))

    def _close(self, operation: Close, _: bool) -> Outcome:
        self._publisher.discard(operation.descriptor)
        return Outcome(wire.OK)

    def _check_root(self) -> None:
        """Raises unless the directory at the store's path is the one whose objects we know: another's are not ours."""
        found = os.stat(self._root)
        if (found.st_dev, found.st_ino) != self.root:
            raise StoreUnavailable("another directory stands at the store's path; nothing was removed")

    # -- looking and reading

    def _size(self, name: bytes) -> int:
        return look(self._root + name)

    def _seen(self, operation: Operation) -> int:
        name = getattr(operation, "name", None)
        if name is None:
            return UNSEEN
        try:
            return self._size(name)
        except (OSError, ValueError):
            return UNSEEN

    def _open_object(self, name: bytes) -> tuple[int, int]:
        """Returns descriptor and size of an object; -1 if there is none."""
        try:
            descriptor = os.open(self._root + name, READ_FLAGS)
        except OSError as error:
            if error.errno in _GONE or error.errno in _NOT_REGULAR:
                return -1, ABSENT
            raise
        found = os.fstat(descriptor)
        if stat.S_ISREG(found.st_mode):
            return descriptor, found.st_size
        os.close(descriptor)
        return -1, ABSENT

    def _range(self, descriptor: int, offset: int, length: int, wait: bool) -> Any:
        if wait:
            return _read_all(descriptor, offset, length)
        if length > self._inline_bytes_max:
            raise WouldWait
        if not length:
            return b""
        if not self._read_nowait:
            return os.pread(descriptor, length, offset)
        payload = bytearray(length)
        try:
            read = os.preadv(descriptor, [payload], offset, os.RWF_NOWAIT)
        except BlockingIOError:
            raise WouldWait from None
        if read < length:
            raise WouldWait
        return payload

    def _metadata(self, path: bytes) -> dict[str, Any]:
        """Returns what is kept with an object; nothing of it if it is not as this daemon writes it."""
        if not self._attributes:
            return {}
        try:
            kept = json.loads(os.getxattr(path, ATTRIBUTE, follow_symlinks=False))
            owner, created = int(kept["owner"]), float(kept["created"])
        except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError):
            return {}
        return {"owner": owner, "created": created} if 0 <= created < _TIME_MAX else {}


def _read_all(descriptor: int, offset: int, length: int) -> bytes:
    """Returns `length` bytes, fewer only at the end of the file."""
    payload = os.pread(descriptor, length, offset)
    while len(payload) < length:
        part = os.pread(descriptor, length - len(payload), offset + len(payload))
        if not part:
            break
        payload += part
    return payload


def _typed(error: OSError) -> StorekeeperError:
    reason = os.strerror(error.errno) if error.errno else str(error)
    if error.errno in _FULL:
        return DiskFull(f"{reason}; nothing was stored: free some space or quota and try again")
    if error.errno in _GONE:
        return StoreUnavailable("the store's directory is not there; the daemon serves again when it is back")
    return DiskFailed(f"the file system refused: {reason}")
