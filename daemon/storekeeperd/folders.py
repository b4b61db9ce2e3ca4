"""The folders of a store: its namespaces' and the daemon's own. Made, looked at, emptied, removed.

Owns what a folder must be: a directory, no link to one, on the store's own file system; and that it survives a power
cut once it is made. Every name is relative to a descriptor of the store's directory. Which folders there are is
home.py's.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from storekeeper.errors import BadRequest
from storekeeperd import papers


def furnish(root: int, names: Iterable[str]) -> None:
    """Makes the folders that must be there, if they are not, so that they survive a power cut."""
    made = False
    for name in names:
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=root)
            made = True
    if made:  # whatever is put into a namespace would go with its folder
        _sync(root)


def check(root: int, names: Iterable[str], store: Path) -> None:
    """Raises unless what is there of them are folders, no links, on the store's own file system.

    Nothing can be linked into another file system; and a link would lead us to somebody else's files.

    Args:
        root: the store's directory.
        names: of the folders.
        store: its path, for the error.
    """
    device = os.fstat(root).st_dev
    for name in names:
        try:
            found = os.stat(name, dir_fd=root, follow_symlinks=False)
        except FileNotFoundError:
            continue
        path = store / name
        if not stat.S_ISDIR(found.st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
        if found.st_dev != device:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), path)


def clear(root: int, name: str) -> None:
    """Removes the files of a folder: none was published, and their writers are gone."""
    with contextlib.suppress(FileNotFoundError), papers.opened(name, root) as folder:
        for file in os.listdir(folder):
            with contextlib.suppress(IsADirectoryError, PermissionError):
                os.unlink(file, dir_fd=folder)


def make(root: int, name: str) -> None:
    """Makes the folder of a namespace, or takes an empty one that is there; waits for the disk.

    Raises:
        BadRequest: what is there already is not empty.
        OSError: there is none, or it may not survive a power cut.
    """
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, 0o700, dir_fd=root)
    found = os.stat(name, dir_fd=root, follow_symlinks=False)
    if not stat.S_ISDIR(found.st_mode) or found.st_dev != os.fstat(root).st_dev:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), name)
    with papers.opened(name, root) as folder, os.scandir(folder) as entries:
        if next(entries, None) is not None:  # whoever makes a namespace gets nothing of others with it
            raise BadRequest(f"a folder {name!r} is there already, and not empty: it is not served")
    _sync(root)


def remove(root: int, name: str) -> None:
    """Removes the folder of a namespace; waits for the disk.

    Raises:
        BadRequest: it is not empty.
        OSError: it is there still, or it may be again after a power cut.
    """
    try:
        os.rmdir(name, dir_fd=root)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        raise BadRequest(f"namespace {name!r} is not empty: evict what is in it first") from None
    _sync(root)


def _sync(root: int) -> None:
    with contextlib.suppress(PermissionError), papers.opened(".", root) as store:  # which may not be read
        os.fsync(store)
