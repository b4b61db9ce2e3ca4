"""How an object gets its name: the one door by which files enter a store.

Owns the publish order: unnamed file, write, length check, metadata, fsync if asked, link or rename into place, marker
if asked, fsync of the directory if asked, look. A crash between any two steps leaves either the old state or the new
one, and nothing under the object's name that is not whole: an unnamed file vanishes with its descriptor, a private
name is cleaned up at the next start.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import stat
import time
from typing import Any

from storekeeper import wire
from storekeeper.errors import BadKey, DiskFailed, KeyExists, NotAnObject, StoreUnavailable
from storekeeperd.entries import MARKER
from storekeeperd.ground import Stay
from storekeeperd.operations import ABSENT, Commit, Origin, Outcome, Put

ATTRIBUTE = "user.storekeeper"
OBJECT_MODE = 0o440
READ_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC

_COMPARE_BYTES = 1024 * 1024

NO_FILE = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EINVAL)
"""What stat(2) says of a name that is not there; the last two of one that this file system could not even have."""


class Publisher:
    """Makes files and gives them names. Thread-safe.

    Args:
        private: where temporary names are, relative to the store; an existing directory that only this daemon uses.
        unnamed_files: whether the file system has O_TMPFILE.
        attributes: whether it has user attributes.
        ready_markers: make FileConnector's markers, so that it reads what is put here.
    """

    def __init__(self, private: str, *, unnamed_files: bool, attributes: bool, ready_markers: bool) -> None:
        self._private = os.fsencode(private) + b"/"
        self._ready_markers = ready_markers
        self._unnamed_files = unnamed_files
        self._attributes = attributes
        self._serial = itertools.count(1)
        self._named: dict[int, bytes] = {}  # descriptor -> private name, where there are no unnamed files
        # Python follows the link /proc/self/fd/N in link() only if it is given a directory descriptor.
        self._descriptors = os.open("/proc/self/fd", os.O_PATH | os.O_CLOEXEC)

    def close(self) -> None:
        """Releases what the publisher itself holds; to be called once."""
        os.close(self._descriptors)

    def begin(self, root: int) -> int:
        """Returns the descriptor of a new empty file that no reader can find; `discard` ends it."""
        flags = os.O_RDWR | os.O_CLOEXEC
        if self._unnamed_files:
            try:
                return os.open(self._private, flags | os.O_TMPFILE, 0o600, dir_fd=root)
            except OSError as error:  # the store came back on another file system
                if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR):
                    raise
        path = self._private + str(next(self._serial)).encode()
        descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=root)
        self._named[descriptor] = path
        return descriptor

    def discard(self, descriptor: int, stay: Stay) -> None:
        """Closes a file that `begin` made; what was not published of it is gone.

        A private name that cannot be removed now, because the store is away, is removed at the next start.
        """
        path = self._named.pop(descriptor, None)
        os.close(descriptor)
        if path is not None:
            with contextlib.suppress(StoreUnavailable, OSError):
                os.unlink(path, dir_fd=stay.root)

    def publish(self, descriptor: int, size: int, operation: Put | Commit, stay: Stay) -> Outcome:
        """Gives a written file the object's name. Whatever happens, no other name of it is left behind."""
        place, name = stay.place(operation.name)
        found = os.fstat(descriptor)
        if found.st_size != size:
            raise DiskFailed(f"{size} bytes were written, the file has {found.st_size}; nothing was stored")
        if not size and name.endswith(MARKER):
            raise BadKey("an empty object cannot be named like a marker of FileConnector: *.ready")
        if self._ready_markers and len(name + MARKER) > wire.KEY_BYTES_MAX:
            raise BadKey(
                f"a key has at most {wire.KEY_BYTES_MAX - len(MARKER)} bytes here: it needs a marker beside it"
            )
        if self._attributes:
            self._describe(descriptor, operation.origin)
        os.fchmod(descriptor, OBJECT_MODE)
        if operation.durable:
            os.fsync(descriptor)
        word = self._link_or_compare(descriptor, size, operation, stay)
        if self._ready_markers:  # last, as FileConnector does: who sees the marker finds the object
            with contextlib.suppress(FileExistsError):
                os.mknod(name + MARKER, stat.S_IFREG | 0o444, dir_fd=place)
        if operation.durable:
            if word == b"same":
                _sync_file(name, place)  # the bytes that stay are the other file's
            _sync_directory(place)
        return Outcome(word, look(name, place))

    def _describe(self, descriptor: int, origin: Origin) -> None:
        try:
            os.setxattr(descriptor, ATTRIBUTE, _metadata_of(origin))
        except OSError as error:  # as above
            if error.errno != errno.EOPNOTSUPP:
                raise

    def unpublish(self, name: bytes, place: int) -> None:
        """Removes an object, then its marker; raises `FileNotFoundError` if the object is not there."""
        os.unlink(name, dir_fd=place)
        if self._ready_markers:
            self._remove_marker(name + MARKER, place)

    def _remove_marker(self, name: bytes, place: int) -> None:
        with contextlib.suppress(OSError):
            found = os.stat(name, dir_fd=place, follow_symlinks=False)
            if stat.S_ISREG(found.st_mode) and not found.st_size:  # else it is an object that is named so
                os.unlink(name, dir_fd=place)

    def _link_or_compare(self, descriptor: int, size: int, operation: Put | Commit, stay: Stay) -> bytes:
        place, name = stay.place(operation.name)
        for _ in range(10):
            try:
                self._link(descriptor, name, place)
                return b"created"
            except FileExistsError:
                pass
            try:
                found = os.stat(name, dir_fd=place, follow_symlinks=False)
                if not is_object(name, found):
                    raise _not_an_object()
                if operation.replace:
                    self._rename_over(descriptor, name, place, stay.root)
                    return b"replaced"
                if found.st_size == size and _same_bytes(descriptor, name, place, size):
                    return b"same"
            except FileNotFoundError:
                continue  # somebody removed it between our two calls: the name is free again
            except IsADirectoryError:
                raise _not_an_object() from None  # somebody put it there between our two calls
            raise KeyExists("the key holds other bytes; choose another key, or replace it with replace=true")
        raise DiskFailed("the name comes and goes faster than it can be taken; try again")

    def _link(self, descriptor: int, name: bytes, place: int) -> None:
        # linkat(2), AT_SYMLINK_FOLLOW on /proc/self/fd/N: the way to name an O_TMPFILE without privilege. It names what
        # was written, even if another file stands at its private name by now.
        os.link(str(descriptor), name, src_dir_fd=self._descriptors, dst_dir_fd=place, follow_symlinks=True)

    def _rename_over(self, descriptor: int, name: bytes, place: int, root: int) -> None:
        """Replaces atomically: a second, private name, then rename(2). Old readers keep the old inode."""
        private = self._private + b"r" + str(next(self._serial)).encode()
        self._link(descriptor, private, root)
        try:
            os.rename(private, name, src_dir_fd=root, dst_dir_fd=place)
        except OSError:
            os.unlink(private, dir_fd=root)
            raise


def look(name: bytes, place: int) -> int:
    """Returns the size of the object of that name in a directory, ABSENT if there is none; raises `OSError` else."""
    found = stat_file(name, place)
    return found.st_size if found is not None and is_object(name, found) else ABSENT


def stat_file(name: bytes, place: int) -> os.stat_result | None:
    """Returns what stat(2) says of a name in a directory, None if there is nothing; raises `OSError` else."""
    try:
        return os.stat(name, dir_fd=place, follow_symlinks=False)
    except OSError as error:
        if error.errno in NO_FILE:
            return None
        raise


def is_object(name: bytes, found: os.stat_result) -> bool:
    """Returns whether what was found under a name is an object: a regular file, but no marker of FileConnector."""
    return stat.S_ISREG(found.st_mode) and (found.st_size > 0 or not name.endswith(MARKER))


def _not_an_object() -> NotAnObject:
    return NotAnObject(
        "a directory, link or other foreign entry holds that name in the store; remove it or choose another key"
    )


def _metadata_of(origin: Origin) -> bytes:
    return b'{"v":1,"owner":%d,"created":%.3f}' % (origin.uid, time.time())


def write_all(descriptor: int, payload: Any, offset: int) -> None:
    """Writes all of a payload, however little the system takes at a time."""
    written = os.pwrite(descriptor, payload, offset)
    if written == len(payload):
        return
    view = memoryview(payload)
    while written < len(view):
        written += os.pwrite(descriptor, view[written:], offset + written)


def _same_bytes(descriptor: int, name: bytes, place: int, size: int) -> bool:
    other = os.open(name, READ_FLAGS, dir_fd=place)
    try:
        for offset in range(0, size, _COMPARE_BYTES):
            if os.pread(descriptor, _COMPARE_BYTES, offset) != os.pread(other, _COMPARE_BYTES, offset):
                return False
        return True
    finally:
        os.close(other)


def _sync_directory(place: int) -> None:
    _sync_file(b".", place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _sync_file(name: bytes, place: int, flags: int = READ_FLAGS) -> None:
    descriptor = os.open(name, flags, dir_fd=place)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
