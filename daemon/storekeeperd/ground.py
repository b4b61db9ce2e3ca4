"""The directory at the store's path: entered anew for every job, and only if it is the one whose objects we know.

Owns the way in. A path can lead elsewhere from one moment to the next (renamed, exchanged, mounted over, an ancestor
moved), often without any event. So every job opens the directory, sees that our locked file is in it, and works
relative to that descriptor: whatever happens to the path meanwhile, no object is read from, written to or removed from
another directory. The locked file proves it even where an inode number is used again: it is held open, so its own
number cannot be.

A namespace's folder has no such file in it. It is entered by its name, never through a link, and only if it lies on the
store's own file system and is the one that stood there at the last check (home.py, once a second and after a refusal).

The descriptors are held for no longer than a job: the kernel tells nobody that a directory was removed while somebody
has it open, and it could not be unmounted.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from types import TracebackType

from storekeeper.errors import StoreUnavailable

WITNESS = b".storekeeper/lock"
"""The file, relative to the store, that proves which directory it is."""

_FLAGS = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


_AWAY = (errno.ENOENT, errno.ENOTDIR, errno.ESTALE, errno.ELOOP, errno.EACCES)
"""What a path says that leads to no store: nothing there, or nothing that may be entered."""


class Ground:
    """The way into one store. Thread-safe.

    Args:
        store: the directory's path.

    Attributes:
        witness: device and inode of the file that must be found at `WITNESS`; None while nothing proves anything.
        denied: somebody was refused since it was last set to False: the directory is worth a check.
    """

    def __init__(self, store: Path) -> None:
        self.path = os.fsencode(store)
        self.witness: tuple[int, int] | None = None
        self.denied = False
        self._root: tuple[int, int] | None = None  # device and inode of the directory itself
        self._folders: dict[bytes, tuple[int, int]] = {}  # the same of namespaces' folders that were entered since

    def enter(self) -> int:
        """Returns a descriptor (O_PATH) of the store's directory, to be closed soon.

        Raises:
            StoreUnavailable: it is not there, or another directory is.
            OSError: it cannot be told at the moment, as when the process is out of descriptors.
        """
        descriptor, root = self._open()
        if root != self._root:  # our locked file may be in another directory, by a hard link
            os.close(descriptor)
            raise self._deny()
        return descriptor

    def find(self) -> int:
        """Returns a descriptor as `enter` does, of whatever directory has our locked file; raises as `enter`."""
        return self._open()[0]

    def adopt(self, root: int) -> None:
        """Says that the directory of that descriptor is the store from now on."""
        found = os.fstat(root)
        self._root = found.st_dev, found.st_ino
        self._folders = {}

    def forget_folders(self) -> None:
        """Takes namespaces' folders for what stands there when they are entered next, as after a check."""
        self._folders = {}

    def enter_folder(self, name: bytes, root: int) -> int:
        """Returns a descriptor (O_PATH) of a namespace's folder, to be closed soon.

        Args:
            name: of the folder.
            root: descriptor of the store's directory.

        Raises:
            FileNotFoundError: it is not there.
            StoreUnavailable: something else is.
        """
        try:
            descriptor = os.open(name, _FLAGS | os.O_NOFOLLOW, dir_fd=root)
        except OSError as error:
            if error.errno in (errno.ENOTDIR, errno.ELOOP):
                raise self._deny() from None
            raise
        try:
            found = os.fstat(descriptor)
        except OSError:
            os.close(descriptor)
            raise
        folder = found.st_dev, found.st_ino
        root_device = self._root[0] if self._root else None
        if folder[0] != root_device or self._folders.setdefault(name, folder) != folder:
            os.close(descriptor)
            raise self._deny()
        return descriptor

    def _open(self) -> tuple[int, tuple[int, int]]:
        descriptor = -1
        try:
            descriptor = os.open(self.path, _FLAGS)
            found = os.stat(WITNESS, dir_fd=descriptor)
            if (found.st_dev, found.st_ino) != self.witness:
                raise self._deny()
            root = os.fstat(descriptor)
            return descriptor, (root.st_dev, root.st_ino)
        except BaseException as error:
            if descriptor >= 0:
                os.close(descriptor)
            if isinstance(error, OSError) and error.errno in _AWAY:
                raise self._deny() from None
            raise

    def stay(self) -> Stay:
        """Returns a stay in the directory, for the operations of one job; enters when it is first needed."""
        return Stay(self)

    def _deny(self) -> StoreUnavailable:
        self.denied = True
        return StoreUnavailable("the store's directory is not there, or another one is; served again when it is back")


class Stay:
    """One stay in the store's directory. To be used with `with`, by one thread."""

    __slots__ = ("_descriptor", "_folders", "_ground")

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._descriptor = -1
        self._folders: dict[bytes, int] = {}

    @property
    def root(self) -> int:
        """Descriptor of the directory, good until the stay ends; raises as `Ground.enter`."""
        if self._descriptor < 0:
            self._descriptor = self._ground.enter()
        return self._descriptor

    def place(self, name: bytes) -> tuple[int, bytes]:
        """Returns where an object is: descriptor of its directory, good until the stay ends, and its name there.

        Raises as `root`, or as `Ground.enter_folder`.
        """
        if b"/" not in name:
            return self.root if self._descriptor < 0 else self._descriptor, name
        folder, _, key = name.partition(b"/")
        descriptor = self._folders.get(folder)
        if descriptor is None:
            descriptor = self._folders[folder] = self._ground.enter_folder(folder, self.root)
        return descriptor, key

    def __enter__(self) -> Stay:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        while self._folders:
            os.close(self._folders.popitem()[1])
