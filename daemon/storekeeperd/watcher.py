"""What the kernel says about the store's directories: "look at this name", or "something was lost".

Built on the lower layer of watchdog (`InotifyFD` and a callback): kernel order, and every loss is heard of. Watchdog's
`Observer` swallows overflows and removed roots, and throws queued events away. `InotifyFD` is a thread, but it is not
started here: the loop waits for its descriptor and lets it read. Measured: with the thread, every put paid for a
handful of switches of the interpreter lock, more than for its own system calls.

Owns the watches. Knows nothing of the index: a watcher event is a question, never an answer. Names wait in a table of
distinct names, so a storm of events on few names stays small. Watches ask for neither opens nor reads: readers cause
no events.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import termios
from collections.abc import Iterable
from pathlib import Path

from watchdog.observers.inotify_c import (
    CallbackId,
    InotifyConstants,
    InotifyEvent,
    InotifyFD,
    Mask,
    WatchDescriptor,
)

from storekeeper import wire

log = logging.getLogger(__name__)

_MASK = Mask(
    InotifyConstants.IN_CREATE
    | InotifyConstants.IN_DELETE
    | InotifyConstants.IN_MOVED_FROM
    | InotifyConstants.IN_MOVED_TO
    | InotifyConstants.IN_DELETE_SELF
    | InotifyConstants.IN_MOVE_SELF
    | InotifyConstants.IN_ONLYDIR
)


_READ_BYTES = 16 * 1024
"""Read at once: some 250 events, so that a storm of them leaves the loop time for others."""

OVERFLOW = "event queue overflow"
"""The loss that leaves the watches themselves intact."""


class WatchRefused(Exception):  # the daemon goes on without a watch
    """A directory cannot be watched; the message says what to change."""


class _Directory:
    """The callback of one watched directory."""

    def __init__(self, prefix: bytes, watcher: Watcher) -> None:
        self._prefix = prefix
        self._watcher = watcher
        self.retired = False

    def on_event(self, event: InotifyEvent) -> None:
        """A name changed, or the directory itself did."""
        if self.retired:
            return
        if event.name:
            self._watcher.hear(self._prefix, event.name)
        else:
            self._watcher.lose("directory removed, moved or unmounted")

    def on_watch_deleted(self, wd: WatchDescriptor) -> None:
        """The kernel dropped the watch."""
        del wd
        if not self.retired:
            self._watcher.lose("watch gone")

    def on_queue_overflow(self) -> None:
        """Events were dropped."""
        if not self.retired:
            self._watcher.lose(OVERFLOW)


class Watcher:
    """Watches the directories of a store.

    Args:
        store: the store's directory.
        prefixes: what names of each directory begin with: `b""` for the store itself, `b"namespace/"`.
    """

    def __init__(self, store: Path, prefixes: Iterable[bytes]) -> None:
        self._store = os.fsencode(store)
        self._prefixes = tuple(prefixes)
        self._names: dict[bytes, None] = {}
        self._losses: list[str] = []
        self._directories: list[_Directory] = []
        self._inotify: InotifyFD | None = None

    def arm(self) -> None:
        """Begins to watch, or begins anew after a loss of the directories. Old watches fall silent.

        Raises:
            WatchRefused: the kernel refuses; nothing is watched then.
        """
        self.close()
        try:
            inotify = InotifyFD()
        except OSError as error:
            raise WatchRefused(_advice(error)) from None
        # The descriptor must not leak into programs started by this process: they would share its queue.
        fcntl.fcntl(inotify._inotify_fd, fcntl.F_SETFD, fcntl.FD_CLOEXEC)
        self._inotify = inotify
        try:
            for prefix in self._prefixes:
                directory = _Directory(prefix, self)
                self._directories.append(directory)  # before it can hear anything: close() silences what stands there
                path = self._store + b"/" + prefix
                # watchdog answers -1, not an error, for a directory that may not be read.
                if inotify.add_callback(path, _MASK, directory, CallbackId(0)) == -1:
                    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        except OSError as error:
            self.close()
            raise WatchRefused(_advice(error)) from None

    @property
    def descriptor(self) -> int:
        """Ready for reading when there is something to `take`; -1 while nothing is watched."""
        return -1 if self._inotify is None else self._inotify._inotify_fd

    def take(self) -> tuple[Iterable[bytes], list[str]]:
        """Reads some of what the kernel has; returns the names heard of and the losses. Never waits."""
        inotify = self._inotify
        if inotify is not None and _has_events(inotify._inotify_fd):
            for event in inotify.read_events(event_buffer_size=_READ_BYTES):
                inotify.handle_event(event)
        names, self._names = self._names, {}
        losses, self._losses = self._losses, []
        return names, losses

    def hear(self, prefix: bytes, name: bytes) -> None:
        """Notes a name."""
        if name[0] != 0x2E and (name.isascii() or wire.is_key(name)):
            self._names[prefix + name] = None

    def lose(self, reason: str) -> None:
        """Notes a loss."""
        if reason not in self._losses:
            self._losses.append(reason)

    def close(self) -> None:
        """Ends the watches."""
        for directory in self._directories:
            directory.retired = True
        self._directories = []
        if self._inotify is not None:
            self._inotify.close()
            if self._inotify._is_reading:  # nothing was read yet: it leaves this to its thread, which never ran
                self._inotify._close_resources()
            self._inotify = None


def _has_events(descriptor: int) -> bool:
    """Returns whether a read would not wait: inotify(7), FIONREAD."""
    return any(fcntl.ioctl(descriptor, termios.FIONREAD, b"\0\0\0\0"))


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
    return f"{error.filename or 'inotify'}: {os.strerror(error.errno or 0)}"
