"""Every system call on the objects of a store, and no other module makes one.

Carries out `operations`, on the loop or in a worker; keeps no state but descriptors of uploads and downloads, which
their owner closes. The daemon's own folder `.storekeeper/` is home.py's.

Publish order: unnamed file, write, length check, metadata, fsync if asked, link or rename into place, fsync of the
directory if asked, look. A crash between any two steps leaves either the old state or the new one, and nothing
under the object's name that is not whole: an unnamed file vanishes with its descriptor, a private name is cleaned up
at the next start.

No descriptor of the store's directory is held: it would keep the kernel from telling us that it was removed.
"""

from __future__ import annotations

import errno
import itertools
import json
import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from storekeeper import wire
from storekeeper.errors import (
    DiskFailed,
    DiskFull,
    KeyExists,
    NotAnObject,
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
    Origin,
    Outcome,
    Put,
    Read,
    Stat,
    Write,
    failed,
)

ATTRIBUTE = "user.storekeeper"
OBJECT_MODE = 0o440

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_TIME_MAX = float(1 << 40)  # 34,000 years: what a calendar can show
_COMPARE_BYTES = 1024 * 1024
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
        self._private = os.fsencode(private) + b"/"
        self._unnamed_files = unnamed_files
        self._attributes = attributes
        self._read_nowait = read_nowait
        self._inline_bytes_max = inline_bytes_max
        found = os.stat(store)
        self.root = (found.st_dev, found.st_ino)
        self._serial = itertools.count(1)
        self._named: dict[int, bytes] = {}  # descriptor -> private name, where there are no unnamed files
        # Python follows the link /proc/self/fd/N in link() only if it is given a directory descriptor.
        self._descriptors = os.open("/proc/self/fd", os.O_PATH | os.O_CLOEXEC)
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
        os.close(self._descriptors)

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
        descriptor = self._unpublished()
        try:
            _write_all(descriptor, operation.payload, 0)
            return self._publish(descriptor, len(operation.payload), operation)
        finally:
            self._discard(descriptor)

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
        return Outcome(wire.OK, UNSEEN, number=self._unpublished())

    def _write(self, operation: Write, _: bool) -> Outcome:
        _write_all(operation.descriptor, operation.payload, operation.offset)
        return Outcome(wire.OK)

    def _commit(self, operation: Commit, _: bool) -> Outcome:
        try:
            return self._publish(operation.descriptor, operation.size, operation)
        finally:
            self._discard(operation.descriptor)

    def _open(self, operation: Open, _: bool) -> Outcome:
        descriptor, size = self._open_object(operation.name)
        if descriptor < 0:
            return Outcome(b"absent", ABSENT)
        return Outcome(wire.OK, size, number=descriptor)

    def _read(self, operation: Read, wait: bool) -> Outcome:
        return Outcome(wire.OK, payload=self._range(operation.descriptor, operation.offset, operation.length, wait))

    def _close(self, operation: Close, _: bool) -> Outcome:
        self._discard(operation.descriptor)
        return Outcome(wire.OK)

    def _check_root(self) -> None:
        """Raises unless the directory at the store's path is the one whose objects we know: another's are not ours."""
        found = os.stat(self._root)
        if (found.st_dev, found.st_ino) != self.root:
            raise StoreUnavailable("another directory stands at the store's path; nothing was removed")

    # -- looking and reading

    def _size(self, name: bytes) -> int:
        try:
            found = os.lstat(self._root + name)
        except OSError as error:
            if error.errno in _GONE:
                return ABSENT
            raise
        return found.st_size if stat.S_ISREG(found.st_mode) else ABSENT

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
            descriptor = os.open(self._root + name, _READ)
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

    # -- publishing

    def _unpublished(self) -> int:
        """Returns the descriptor of a new empty file that no reader can find; `_discard` ends it."""
        flags = os.O_RDWR | os.O_CLOEXEC
        if self._unnamed_files:
            return os.open(self._private, flags | os.O_TMPFILE, 0o600)
        path = self._private + str(next(self._serial)).encode()
        descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600)
        self._named[descriptor] = path
        return descriptor

    def _discard(self, descriptor: int) -> None:
        path = self._named.pop(descriptor, None)
        os.close(descriptor)
        if path is not None:
            os.unlink(path)

    def _publish(self, descriptor: int, size: int, operation: Put | Commit) -> Outcome:
        """Gives a written file the object's name. Whatever happens, no other name of it is left behind."""
        found = os.fstat(descriptor)
        if found.st_size != size:
            raise DiskFailed(f"{size} bytes were written, the file has {found.st_size}; nothing was stored")
        if self._attributes:
            os.setxattr(descriptor, ATTRIBUTE, _metadata_of(operation.origin))
        os.fchmod(descriptor, OBJECT_MODE)
        if operation.durable:
            os.fsync(descriptor)
        path = self._root + operation.name
        word = self._link_or_compare(descriptor, size, path, operation.replace)
        if operation.durable:
            if word == b"same":
                _sync_file(path)  # the bytes that stay are the other file's
            _sync_directory(os.path.dirname(path))
        return Outcome(word, self._size(operation.name))

    def _link_or_compare(self, descriptor: int, size: int, path: bytes, replace: bool) -> bytes:
        for _ in range(10):
            try:
                self._link(descriptor, path)
                return b"created"
            except FileExistsError:
                pass
            try:
                found = os.lstat(path)
                if not stat.S_ISREG(found.st_mode):
                    raise NotAnObject(
                        "a directory, link or other foreign entry holds that name in the store; "
                        "remove it or choose another key"
                    )
                if replace:
                    self._rename_over(descriptor, path)
                    return b"replaced"
                if found.st_size == size and _same_bytes(descriptor, path, size):
                    return b"same"
            except FileNotFoundError:
                continue  # somebody removed it between our two calls: the name is free again
            raise KeyExists("the key holds other bytes; choose another key, or replace it with replace=true")
        raise DiskFailed("the name comes and goes faster than it can be taken; try again")

    def _link(self, descriptor: int, path: bytes) -> None:
        named = self._named.get(descriptor)
        if named is not None:
            os.link(named, path)
        else:
            # linkat(2), AT_SYMLINK_FOLLOW on /proc/self/fd/N: the way to name an O_TMPFILE without privilege.
            os.link(str(descriptor), path, src_dir_fd=self._descriptors, follow_symlinks=True)

    def _rename_over(self, descriptor: int, path: bytes) -> None:
        """Replaces atomically: a second, private name, then rename(2). Old readers keep the old inode."""
        private = self._private + b"r" + str(next(self._serial)).encode()
        self._link(descriptor, private)
        try:
            os.rename(private, path)
        except OSError:
            os.unlink(private)
            raise


def _metadata_of(origin: Origin) -> bytes:
    return b'{"v":1,"owner":%d,"created":%.3f}' % (origin.uid, time.time())


def _write_all(descriptor: int, payload: Any, offset: int) -> None:
    written = os.pwrite(descriptor, payload, offset)
    if written == len(payload):
        return
    view = memoryview(payload)
    while written < len(view):
        written += os.pwrite(descriptor, view[written:], offset + written)


def _read_all(descriptor: int, offset: int, length: int) -> bytes:
    """Returns `length` bytes, fewer only at the end of the file."""
    payload = os.pread(descriptor, length, offset)
    while len(payload) < length:
        part = os.pread(descriptor, length - len(payload), offset + len(payload))
        if not part:
            break
        payload += part
    return payload


def _same_bytes(descriptor: int, path: bytes, size: int) -> bool:
    other = os.open(path, _READ)
    try:
        for offset in range(0, size, _COMPARE_BYTES):
            if os.pread(descriptor, _COMPARE_BYTES, offset) != os.pread(other, _COMPARE_BYTES, offset):
                return False
        return True
    finally:
        os.close(other)


def _sync_directory(path: bytes) -> None:
    _sync_file(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _sync_file(path: bytes, flags: int = _READ) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _typed(error: OSError) -> StorekeeperError:
    reason = os.strerror(error.errno) if error.errno else str(error)
    if error.errno in _FULL:
        return DiskFull(f"{reason}; nothing was stored: free some space or quota and try again")
    if error.errno in _GONE:
        return StoreUnavailable("the store's directory is not there; the daemon serves again when it is back")
    return DiskFailed(f"the file system refused: {reason}")
