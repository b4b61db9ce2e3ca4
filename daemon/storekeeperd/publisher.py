"""How an object gets its name: the one door by which files enter a store.

Owns the publish order: unnamed file, write, length check, metadata, fsync if asked, link or rename into place, marker
if asked, fsync of the directory if asked, look. A crash between any two steps leaves either the old state or the new
one, and nothing under the object's name that is not whole: an unnamed file vanishes with its descriptor, a private
name is cleaned up at the next start. Many that are asked to be durable go these steps together (see commits.py).

After an fsync that failed the kernel holds the pages for clean: a second one would succeed and mean nothing. So no
fsync is ever tried again on the same file: what failed is thrown away, and bytes that are there already are made
durable by a copy of our own in their place.
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
from storekeeper.errors import BadKey, Denied, DiskFailed, KeyExists, NotAnObject, StoreUnavailable
from storekeeperd import moments
from storekeeperd.entries import MARKER
from storekeeperd.ground import Stay
from storekeeperd.metadata import ATTRIBUTE, Metadata
from storekeeperd.operations import Commit, Origin, Outcome, Put
from storekeeperd.reader import READ_FLAGS, read_all
from storekeeperd.sights import NO_FILE, Sights, is_object, stat_file

OBJECT_MODE, SHARED_MODE = 0o400, 0o440
"""Of objects; the latter where unmodified FileConnectors of the daemon's group read them themselves."""

OURS = (b"created", b"replaced")
"""Results after which the object is the one that we made."""
_COMPARE_BYTES = 1024 * 1024


class Publisher:
    """Makes files and gives them names. Thread-safe.

    Args:
        private: where temporary names are, relative to the store; an existing directory that only this daemon uses.
        unnamed_files: whether the file system has O_TMPFILE.
        attributes: whether it has user attributes.
        ready_markers: make FileConnector's markers, so that it reads what is put here.
        flush: whether bytes are always handed to the disk before their object gets its name: where a full disk or a
            lost server shows only then, as on NFS.
        boot: as `moments.boot`.
        sights: how names are looked at.
    """

    def __init__(
        self,
        private: str,
        *,
        unnamed_files: bool,
        attributes: bool,
        ready_markers: bool,
        flush: bool = False,
        boot: int,
        sights: Sights,
    ) -> None:
        self._private = os.fsencode(private) + b"/"
        self._mode = SHARED_MODE if ready_markers else OBJECT_MODE
        self._ready_markers = ready_markers
        self._unnamed_files = unnamed_files
        self._attributes = attributes
        self._flush = flush
        self._boot = boot
        self._sights = sights
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
        # Whatever close(2) says, the descriptor is closed. Where it may tell of lost bytes, they were flushed before.
        try:
            os.close(descriptor)
        except OSError:
            pass
        if path is not None:
            with contextlib.suppress(StoreUnavailable):
                _remove(path, stay.root)

    def publish(self, descriptor: int, operation: Put | Commit, checksum: int, stay: Stay) -> Outcome:
        """Gives a written file the object's name. Whatever happens, no other name of it is left behind."""
        metadata = self.prepare(descriptor, operation, checksum, stay)
        if operation.durable:
            os.fsync(descriptor)
        word = self.name(descriptor, operation, stay)
        place, name = stay.place(operation.name)
        try:
            if operation.durable:
                sync_directory(place)
            return Outcome(word, self._sights.look(name, place, metadata if word in OURS else None))
        except OSError as error:
            raise unsettled(error) from None

    def prepare(self, descriptor: int, operation: Put | Commit, checksum: int, stay: Stay) -> Metadata | None:
        """Makes a written file ready for its name: everything but what makes it durable.

        Returns:
            What is kept with it; None if nothing can be.
        """
        size = operation.size
        if isinstance(operation, Commit):  # the bytes of a Put were counted as they were written
            there = os.fstat(descriptor).st_size
            if there != size:
                raise DiskFailed(f"{size} bytes were written, the file has {there}; nothing was stored")
        if not size and operation.name.endswith(MARKER):
            raise BadKey("an empty object cannot be named like a marker of FileConnector: *.ready")
        if self._ready_markers and len(stay.place(operation.name)[1] + MARKER) > wire.KEY_BYTES_MAX:
            raise BadKey(
                f"a key has at most {wire.KEY_BYTES_MAX - len(MARKER)} bytes here: it needs a marker beside it"
            )
        metadata = None
        if self._attributes:
            uid, now_us, now_ns = operation.origin.uid, time.time_ns() // 1000, moments.now_ns()
            durable, replace, life = operation.durable, operation.replace, operation.life
            metadata = Metadata(uid, now_us, self._boot, now_ns, checksum, durable, replace, life.ttl_us, life.process)
            if not self._describe(descriptor, metadata):
                metadata = None
        os.fchmod(descriptor, self._mode)
        if self._flush and not operation.durable:
            os.fsync(descriptor)
        return metadata

    def name(self, descriptor: int, operation: Put | Commit, stay: Stay) -> bytes:
        """Links or renames a file that is ready, and makes its marker; returns the result word."""
        word = self._link_or_compare(descriptor, operation, stay)
        if self._ready_markers:  # last, as FileConnector does: who sees the marker finds the object
            place, name = stay.place(operation.name)
            try:
                os.mknod(name + MARKER, stat.S_IFREG | 0o444, dir_fd=place)
            except FileExistsError:
                pass
            except OSError as error:
                raise unsettled(error) from None
        return word

    def unpublish(self, name: bytes, place: int) -> None:
        """Removes an object, then its marker; raises `FileNotFoundError` if the object was not there."""
        try:
            os.unlink(name, dir_fd=place)
        except FileNotFoundError:
            self.remove_marker(name, place)
            raise
        except OSError:  # on NFS a call can fail after it was carried out
            if stat_file(name, place) is not None:
                raise
        self.remove_marker(name, place)

    def remove_marker(self, name: bytes, place: int) -> None:
        """Removes the marker of an object that is not there, if markers are kept and it has one."""
        if not self._ready_markers:
            return
        marker = name + MARKER
        try:
            found = os.stat(marker, dir_fd=place, follow_symlinks=False)
            if stat.S_ISREG(found.st_mode) and not found.st_size:  # else it is an object that is named so
                os.unlink(marker, dir_fd=place)
        except OSError as error:
            if error.errno not in NO_FILE:
                raise DiskFailed(
                    f"the object is gone, its marker is not: {os.strerror(error.errno or 0)}; evict it once more"
                ) from None

    def mark(self, descriptor: int, metadata: Metadata) -> None:
        """Changes what is kept with an object.

        user.* attributes can be written by whom the file's mode lets write, xattr(7): for a moment it has to. Nobody
        else can reach it, the store's directory is the daemon's.
        """
        os.fchmod(descriptor, self._mode | stat.S_IWUSR)
        try:
            os.setxattr(descriptor, ATTRIBUTE, metadata.pack())
        finally:
            os.fchmod(descriptor, self._mode)

    def _describe(self, descriptor: int, metadata: Metadata) -> bool:
        try:
            os.setxattr(descriptor, ATTRIBUTE, metadata.pack())
        except OSError as error:  # the store came back on another file system
            if error.errno != errno.EOPNOTSUPP:
                raise
            return False
        return True

    def _link_or_compare(self, descriptor: int, operation: Put | Commit, stay: Stay) -> bytes:
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
                kept = self._sights.kept_with(name, place, found)
                if self._sights.is_over(kept):  # it is no more to anybody, only its file is there
                    self._rename_over(descriptor, name, place, stay.root)
                    return b"created"
                mine = operation.origin.uid == (kept.owner if kept else found.st_uid)
                # Another one's object is not replaced by the same bytes: it would change nothing but the owner.
                same = not (operation.replace and mine) and self._is_same(descriptor, operation, name, place, found)
                if operation.replace and not same:
                    check_owner(operation.origin, kept, found)
                    if self._is_superseded(operation, kept, found):
                        return b"superseded"
                    self._rename_over(descriptor, name, place, stay.root)
                    return b"replaced"
                if same:
                    if operation.durable:
                        self._take_the_place_of_the_same(descriptor, name, place, found, stay.root)
                    return b"same"
            except FileNotFoundError:
                continue  # somebody removed it between our two calls: the name is free again
            except IsADirectoryError:
                raise _not_an_object() from None  # somebody put it there between our two calls
            raise KeyExists("the key holds other bytes; choose another key, or replace it with replace=true")
        raise DiskFailed("the name comes and goes faster than it can be taken; try again")

    @staticmethod
    def _is_same(descriptor: int, operation: Put | Commit, name: bytes, place: int, found: os.stat_result) -> bool:
        return found.st_size == operation.size and _same_bytes(descriptor, name, place, operation.size)

    def _is_superseded(self, operation: Put | Commit, kept: Metadata | None, found: os.stat_result) -> bool:
        """Returns whether the object there is one that came after the call, and must stay.

        Not if it was put without `replace`: then there was nothing before it, and to leave it would be to lose a put
        that was perhaps never carried out.
        """
        return (
            operation.before_ns > 0
            and moments.is_newer(kept, found, operation.before_ns, self._boot)
            and (kept is None or kept.replaces)
        )

    def _take_the_place_of_the_same(
        self, descriptor: int, name: bytes, place: int, found: os.stat_result, root: int
    ) -> None:
        """Makes bytes durable that are there already: by our synced copy, which keeps whose they are and since when.

        An fsync of the other file would prove nothing: if its pages could not be written at some time, that was told
        to whoever asked then, and is forgotten.
        """
        if self._attributes:
            ours = Metadata.unpack(os.getxattr(descriptor, ATTRIBUTE))
            kept = self._sights.kept_with(name, place, found)
            if ours is not None:
                self.mark(descriptor, moments.keep(ours, kept, found))
                os.fsync(descriptor)
        self._rename_over(descriptor, name, place, root)

    def _link(self, descriptor: int, name: bytes, place: int) -> None:
        # linkat(2), AT_SYMLINK_FOLLOW on /proc/self/fd/N: the way to name an O_TMPFILE without privilege. It names what
        # was written, even if another file stands at its private name by now.
        try:
            os.link(str(descriptor), name, src_dir_fd=self._descriptors, dst_dir_fd=place, follow_symlinks=True)
        except OSError:
            if not _stands_at(descriptor, name, place):
                raise

    def _rename_over(self, descriptor: int, name: bytes, place: int, root: int) -> None:
        """Replaces atomically: a second, private name, then rename(2). Old readers keep the old inode."""
        private = self._private + b"r" + str(next(self._serial)).encode()
        try:
            self._link(descriptor, private, root)
            os.rename(private, name, src_dir_fd=root, dst_dir_fd=place)
        except OSError:
            _remove(private, root)
            if not _stands_at(descriptor, name, place):
                raise


def check_owner(origin: Origin, kept: Metadata | None, found: os.stat_result) -> None:
    """Raises `Denied` if somebody may not change an object for being another one's."""
    owner = kept.owner if kept else found.st_uid
    if not origin.any_owner and origin.uid != owner:
        raise Denied(
            f"the object belongs to uid {owner}: only its owner, a manager of the namespace or root may change it"
        )


def unsettled(error: OSError) -> DiskFailed:
    """Returns the error of what failed after an object had its name."""
    reason = os.strerror(error.errno or 0)
    return DiskFailed(f"the object is there, but what comes after that failed ({reason}): put it once more to be sure")


def _not_an_object() -> NotAnObject:
    return NotAnObject(
        "a directory, link or other foreign entry holds that name in the store; remove it or choose another key"
    )


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
            length = min(_COMPARE_BYTES, size - offset)
            if read_all(descriptor, offset, length) != read_all(other, offset, length):
                return False
        return True
    finally:
        os.close(other)


def _stands_at(descriptor: int, name: bytes, place: int) -> bool:
    """Returns whether a file has that name. On NFS a call can fail after it was carried out."""
    try:
        return os.path.samestat(os.stat(name, dir_fd=place, follow_symlinks=False), os.fstat(descriptor))
    except OSError:
        return False


def _remove(path: bytes, root: int) -> None:
    """Removes a private name, if it is there; tried once more if that fails, and else at the next start."""
    for _ in range(2):
        try:
            os.unlink(path, dir_fd=root)
            return
        except FileNotFoundError:
            return
        except OSError:
            continue


def sync_directory(place: int) -> None:
    """Makes the names of a directory survive a power cut, as they are now."""
    descriptor = open_directory(place)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_directory(place: int) -> int:
    """Returns a descriptor of a directory that can be synced; `place` is one that cannot (O_PATH)."""
    return os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=place)
