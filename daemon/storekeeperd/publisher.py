"""How an object gets its name: the one door by which files enter a store.

Owns the publish order: unnamed file, write, length check, metadata, fsync if asked, link or rename into place, fsync of
the directory if asked, look. A crash between any two steps leaves either the old state or the new one, and nothing
under the object's name that is not whole: an unnamed file vanishes with its descriptor, a private name is cleaned up
at the next start.
"""

from __future__ import annotations

import itertools
import os
import stat
import time
from pathlib import Path
from typing import Any

from storekeeper.errors import DiskFailed, KeyExists, NotAnObject
from storekeeperd.operations import ABSENT, Commit, Origin, Outcome, Put

ATTRIBUTE = "user.storekeeper"
OBJECT_MODE = 0o440
READ_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC

_COMPARE_BYTES = 1024 * 1024


class Publisher:
    """Makes files and gives them names. Thread-safe.

    Args:
        root: the store's directory, with a slash at its end.
        private: an existing directory on the same file system for temporary names; only this daemon uses it.
        unnamed_files: whether the file system has O_TMPFILE.
        attributes: whether it has user attributes.
    """

    def __init__(self, root: bytes, private: Path, *, unnamed_files: bool, attributes: bool) -> None:
        self._root = root
        self._private = os.fsencode(private) + b"/"
        self._unnamed_files = unnamed_files
        self._attributes = attributes
        self._serial = itertools.count(1)
        self._named: dict[int, bytes] = {}  # descriptor -> private name, where there are no unnamed files
        # Python follows the link /proc/self/fd/N in link() only if it is given a directory descriptor.
        self._descriptors = os.open("/proc/self/fd", os.O_PATH | os.O_CLOEXEC)

    def close(self) -> None:
        """Releases what the publisher itself holds; to be called once."""
        os.close(self._descriptors)

    def begin(self) -> int:
        """Returns the descriptor of a new empty file that no reader can find; `discard` ends it."""
        flags = os.O_RDWR | os.O_CLOEXEC
        if self._unnamed_files:
            return os.open(self._private, flags | os.O_TMPFILE, 0o600)
        path = self._private + str(next(self._serial)).encode()
        descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600)
        self._named[descriptor] = path
        return descriptor

    def discard(self, descriptor: int) -> None:
        """Closes a file that `begin` made; what was not published of it is gone."""
        path = self._named.pop(descriptor, None)
        os.close(descriptor)
        if path is not None:
            os.unlink(path)

    def publish(self, descriptor: int, size: int, operation: Put | Commit) -> Outcome:
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
        return Outcome(word, look(path))

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


def look(path: bytes) -> int:
    """Returns the size of the object at a path, ABSENT if there is no regular file; raises `OSError` otherwise."""
    try:
        found = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return ABSENT
    return found.st_size if stat.S_ISREG(found.st_mode) else ABSENT


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


def _same_bytes(descriptor: int, path: bytes, size: int) -> bool:
    other = os.open(path, READ_FLAGS)
    try:
        for offset in range(0, size, _COMPARE_BYTES):
            if os.pread(descriptor, _COMPARE_BYTES, offset) != os.pread(other, _COMPARE_BYTES, offset):
                return False
        return True
    finally:
        os.close(other)


def _sync_directory(path: bytes) -> None:
    _sync_file(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _sync_file(path: bytes, flags: int = READ_FLAGS) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
