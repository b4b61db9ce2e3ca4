"""What the kernel says about the store's directories: "look at this name", or "something was lost".

Built on the lower layer of watchdog: `InotifyFD` makes the watches. Watchdog's `Observer` swallows overflows and
removed roots, and throws queued events away. `InotifyFD` is a thread, but it is not started here: the loop waits for
its descriptor and reads. Measured: with the thread, every put paid for a handful of switches of the interpreter lock,
more than for its own system calls. What was read is taken apart here, too: 2 µs an event, 5 by watchdog's way of an
object per event, and a storm of 50,000 changes a second leaves no more.

Owns the watches. Knows nothing of the index: a watcher event is a question, never an answer. Names wait in a table of
distinct names, so a storm of events on few names stays small. Echoes of our own changes (echoes.py) do not wait.
Watches ask for neither opens nor reads of objects: readers cause no events.

Our own folder is watched, too, for the one event that only we cause: the marker is opened once a second (home.py). If
that is not heard of, nothing else would be: the watch is deaf. And of the directories above the store it is heard if
one moves: then the path leads elsewhere, and the store itself says nothing.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import struct
import termios
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from watchdog.observers.inotify_c import (
    CallbackId,
    InotifyConstants,
    InotifyEvent,
    InotifyFD,
    Mask,
    WatchDescriptor,
    inotify_add_watch,
)

from storekeeper import wire
from storekeeperd.echoes import Echoes

log = logging.getLogger(__name__)

_DELETED = InotifyConstants.IN_DELETE | InotifyConstants.IN_MOVED_FROM
# Nothing that happens to a file that is there already, as IN_CLOSE_WRITE: for such a mask the kernel marks every name
# it has cached of the directory (0.1 s at a million, measured, and nobody can look at them meanwhile). A file that is
# written in place is looked at again for that (coherence.py).
_OBJECTS = Mask(
    _DELETED
    | InotifyConstants.IN_CREATE
    | InotifyConstants.IN_MOVED_TO
    | InotifyConstants.IN_DELETE_SELF
    | InotifyConstants.IN_MOVE_SELF
    | InotifyConstants.IN_ONLYDIR
)
_BEAT = Mask(InotifyConstants.IN_OPEN | InotifyConstants.IN_ONLYDIR)
# Of the directories above the store only that they move themselves: nothing of what happens in them.
_ABOVE = Mask(InotifyConstants.IN_MOVE_SELF | InotifyConstants.IN_DELETE_SELF | InotifyConstants.IN_ONLYDIR)
_MASK_ADD = 0x20000000  # inotify(7), IN_MASK_ADD
_OVERFLOWED = InotifyConstants.IN_Q_OVERFLOW
_IGNORED = InotifyConstants.IN_IGNORED

_EVENT = struct.Struct("iIII")  # struct inotify_event of inotify(7): watch, mask, cookie, length of the name
_READ_BYTES = 32 * 1024
"""Read at once: some 500 events, so that a storm of them leaves the loop time for others."""

_CROWDED_BYTES = 256 * 1024
"""A quarter of the kernel's queue, by default and for names as long as UUIDs."""

_FOLDER = b".storekeeper"
_MARKER = b"store"

OVERFLOW = "overflow"
"""Events were dropped, the kernel's queue was full; that a watch came to its end may have been among them."""
MOVED = "directory_moved"
"""A watched directory was removed, renamed, exchanged or unmounted."""
GONE = "watch_gone"
"""The kernel dropped a watch."""
FOLDER_GONE = "own_folder_gone"
"""Our own folder was removed; the objects' directories are still watched."""
DEAF = "watch_deaf"
"""The watch is there, but nothing is heard of it."""


class WatchRefused(Exception):  # the daemon goes on without a watch
    """A directory cannot be watched; the message says what to change."""


class _Unread:
    """The callback that `InotifyFD` wants for a watch: never called, events are read here."""

    def on_event(self, event: InotifyEvent) -> None:
        """Never called."""

    def on_watch_deleted(self, wd: WatchDescriptor) -> None:
        """Never called."""

    def on_queue_overflow(self) -> None:
        """Never called."""


@dataclass(slots=True)
class Heard:
    """What one reading brought.

    Attributes:
        names: names to look at.
        deleted: those of them that were deleted or moved away, maybe among other things.
        losses: kinds of what was lost.
        echoes: whether events of our own changes were among it.
        beat: whether our own opening of the marker was heard of.
        moved_above: whether a directory above the store was renamed or removed.
    """

    names: dict[bytes, None] = field(default_factory=dict)
    deleted: dict[bytes, None] = field(default_factory=dict)
    losses: list[str] = field(default_factory=list)
    echoes: bool = False
    beat: bool = False
    moved_above: bool = False


class Watcher:
    """Watches the directories of a store.

    Args:
        store: the store's directory.
        prefixes: what names of each directory begin with: `b""` for the store itself, `b"namespace/"`.
        echoes: what is awaited of our own changes.

    Attributes:
        prefixes: those that are watched from the next `arm` on.
        leaving: the one that we are about to remove, if any: that it comes to its end is no loss.
    """

    def __init__(self, store: Path, prefixes: Iterable[bytes], echoes: Echoes | None = None) -> None:
        self._store = os.fsencode(store)
        self.prefixes = tuple(prefixes)
        self._echoes = echoes or Echoes()
        self._watched: dict[int, bytes] = {}  # watch -> prefix
        self.leaving: bytes | None = None
        self._beat_watch = -1
        self._above: set[int] = set()
        self._inotify: InotifyFD | None = None

    def arm(self) -> None:
        """Begins to watch, or begins anew after a loss of the directories. Old watches fall silent.

        Raises:
            WatchRefused: the kernel refuses; nothing is watched then.
        """
        self.close()
        try:
            _need_descriptors()
        except OSError as error:
            raise WatchRefused(f"the process is out of descriptors: {error.strerror}") from None
        try:
            inotify = InotifyFD()
        except OSError as error:
            raise WatchRefused(_advice(error)) from None
        # The descriptor must not leak into programs started by this process: they would share its queue.
        fcntl.fcntl(inotify._inotify_fd, fcntl.F_SETFD, fcntl.FD_CLOEXEC)
        self._inotify = inotify
        try:
            for prefix in self.prefixes:
                if prefix != self.leaving:  # it may be gone
                    self._watched[_add(inotify, self._store + b"/" + prefix, _OBJECTS)] = prefix
            with contextlib.suppress(FileNotFoundError):  # removed at this moment; it is made again
                self._beat_watch = _add(inotify, self._store + b"/" + _FOLDER, _BEAT)
        except OSError as error:
            self.close()
            raise WatchRefused(_advice(error)) from None
        for directory in Path(os.fsdecode(os.path.realpath(self._store))).parents:
            with contextlib.suppress(OSError):  # it may not be read, or there are no watches left: a check tells, later
                self._above.add(_add(inotify, os.fsencode(directory), _ABOVE))

    def follow(self, prefixes: Iterable[bytes]) -> None:
        """Watches some directories more, or less, and the others as before. To be called while it is armed.

        Of one that is watched no longer what is not read yet is ignored: read everything first.

        Raises:
            WatchRefused: the kernel refuses one of them: arm anew.
        """
        self.prefixes = tuple(prefixes)
        assert self._inotify is not None
        self._watched = {watch: prefix for watch, prefix in self._watched.items() if prefix in self.prefixes}
        try:
            for prefix in set(self.prefixes) - set(self._watched.values()):
                self._watched[_add(self._inotify, self._store + b"/" + prefix, _OBJECTS)] = prefix
        except OSError as error:
            raise WatchRefused(_advice(error)) from None

    @property
    def descriptor(self) -> int:
        """Ready for reading when there is something to `take`; -1 while nothing is watched."""
        return -1 if self._inotify is None else self._inotify._inotify_fd

    @property
    def hears_beats(self) -> bool:
        """Whether our own folder is watched, too."""
        return self._beat_watch >= 0

    @property
    def whole(self) -> bool:
        """Whether what is watched stands at the paths, as far as one sees: an overflow may have hidden its end.

        A new directory may have the inode number of the old one, but the kernel knows them apart: inotify_add_watch(2)
        returns the watch of a directory that is watched already, else a new one.
        """
        if self._inotify is None:
            return False
        # Adding to its mask what is in it changes nothing. To set it anew would: the kernel clears it first, and drops
        # what happens just then.
        mask = _OBJECTS | _MASK_ADD
        return all(
            inotify_add_watch(self._inotify._inotify_fd, self._store + b"/" + prefix, mask) in (watch, -1)
            for watch, prefix in self._watched.items()
        )

    @property
    def waiting_bytes(self) -> int:
        """How much the kernel has for us: inotify(7), FIONREAD. About 64 bytes an event."""
        if self._inotify is None:
            return 0
        return int.from_bytes(fcntl.ioctl(self._inotify._inotify_fd, termios.FIONREAD, bytes(4)), "little")

    @property
    def behind(self) -> bool:
        """Whether much waits: more happens there than is kept up with."""
        return self.waiting_bytes > 2 * _READ_BYTES

    def take(self, *, everything: bool = False) -> Heard:
        """Reads some of what the kernel has, or everything it has at this moment. Never waits.

        Everything is at most what the kernel's queue holds: 16,384 events by default, some 40 ms.
        """
        heard = Heard()
        inotify = self._inotify
        if inotify is None:
            return heard
        waiting = self.waiting_bytes
        # Names that wait with us are distinct, and none is lost: so more is read while the kernel's queue fills.
        enough = waiting if everything else _READ_BYTES if waiting < _CROWDED_BYTES else 4 * _READ_BYTES
        left = waiting - enough
        while waiting > max(0, left):
            buffer = os.read(inotify._inotify_fd, min(waiting, _READ_BYTES))  # whole events, and no room to spare
            self._understand(buffer, heard)
            waiting -= len(buffer)
        if left <= 0:
            self._echoes.drained()
        return heard

    def _understand(self, buffer: bytes, heard: Heard) -> None:
        """Takes a buffer of struct inotify_event apart. The hot path of a storm: one loop, no calls per event."""
        names, deleted, watched = heard.names, heard.deleted, self._watched
        awaited, held, is_own = self._echoes.awaited, self._echoes.held, self._echoes.is_own
        unpack, header = _EVENT.unpack_from, _EVENT.size
        place, end = 0, len(buffer)
        while place < end:
            watch, mask, _, length = unpack(buffer, place)
            place += header
            name = buffer[place : place + length].rstrip(b"\0")
            place += length
            prefix = watched.get(watch)
            if prefix is None:
                self._understand_other(watch, mask, name, heard)
            elif not name:
                self._understand_end(watch, mask, prefix, heard)
            elif name[0] != 0x2E and (name.isascii() or wire.is_key(name)):
                if prefix:
                    name = prefix + name
                if (awaited or held) and is_own(name, mask):
                    heard.echoes = True
                    continue
                names[name] = None
                if mask & _DELETED:
                    deleted[name] = None

    def _understand_end(self, watch: int, mask: int, prefix: bytes, heard: Heard) -> None:
        """Takes what is said of a directory itself. What the kernel drops at `close` is not read any more."""
        if mask & _IGNORED:
            del self._watched[watch]
        if prefix != self.leaving:
            heard.losses.append(GONE if mask & _IGNORED else MOVED)

    def _understand_other(self, watch: int, mask: int, name: bytes, heard: Heard) -> None:
        if mask & _OVERFLOWED:
            heard.losses.append(OVERFLOW)
            self._echoes.forget()  # before the next event, which is younger than those that were dropped
        elif watch in self._above:
            heard.moved_above = True
        elif watch == self._beat_watch:
            if mask & _IGNORED:
                self._beat_watch = -1
                heard.losses.append(FOLDER_GONE)
            elif name == _MARKER:
                heard.beat = True

    def close(self) -> None:
        """Ends the watches."""
        self._watched = {}
        self._beat_watch = -1
        self._above = set()
        self._echoes.forget()
        if self._inotify is not None:
            self._inotify.close()
            if self._inotify._is_reading:  # its thread never ran: it would have closed them
                self._inotify._close_resources()
            self._inotify = None


def _need_descriptors() -> None:
    """Raises unless there are as many as `InotifyFD` takes: it loses its first one if it does not get the others."""
    opened: list[int] = []
    try:
        for _ in range(2):
            opened += os.pipe()
    finally:
        for descriptor in opened:
            os.close(descriptor)


def _add(inotify: InotifyFD, path: bytes, mask: Mask) -> int:
    try:
        watch = inotify.add_callback(path, mask, _Unread(), CallbackId(0))
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None
    if watch == -1:  # watchdog's answer, instead of an error, for a directory that may not be read
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
    return watch


def _advice(error: OSError) -> str:
    if error.errno == errno.EMFILE:
        return (
            f"uid {os.geteuid()} has no inotify instances left; raise them with "
            "'sysctl fs.inotify.max_user_instances=1024'"
        )
    if error.errno == errno.ENOSPC:
        return (
            f"uid {os.geteuid()} has no inotify watches left; raise them with "
            "'sysctl fs.inotify.max_user_watches=524288'"
        )
    path = os.fsdecode(error.filename) if error.filename else "inotify"
    cure = f"; it takes read permission for uid {os.geteuid()}" if error.errno == errno.EACCES else ""
    return f"{path}: {os.strerror(error.errno or 0)}{cure}"
