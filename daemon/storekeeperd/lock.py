"""The lock of a store, `.storekeeper/lock`: one daemon at a time, and who it is.

Owns how it is taken: with flock(2) on a file that nobody put in its place, and that still is what its name leads to.
Keeps nothing: the descriptor that holds it is home.py's, and so is when it is taken again.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from pathlib import Path

from storekeeperd import papers
from storekeeperd.exits import EX_DATAERR, EX_TEMPFAIL, StartError


def take(store: Path, folder: Path) -> tuple[int, tuple[int, int]]:
    """Returns a descriptor that holds the lock until it is closed, and device and inode of the file.

    Args:
        store: the store's directory, for messages.
        folder: the daemon's own in it, where the file is.

    Raises:
        StartError: another daemon has it, or what is there is no file.
        OSError: it can be neither opened nor made.
    """
    # Not for writing: as long as a file is open for that, its file system cannot be made read-only. But flock(2)
    # on NFS, which makes it a lock of fcntl(2), takes nothing less.
    try:
        lock = _locked(store, folder, os.O_RDONLY)
    except OSError as error:
        if error.errno != errno.EBADF:
            raise
        lock = _locked(store, folder, os.O_RDWR)
    try:
        held = os.fstat(lock)
        with papers.opened(folder) as inside:
            if not os.path.samestat(os.stat("lock", dir_fd=inside, follow_symlinks=False), held):
                raise StartError(f"{store} changes hands at this very moment", EX_TEMPFAIL)
            if held.st_nlink == 1:  # else it is somebody's file, too
                papers.overwrite("lock", inside, f"pid {os.getpid()} uid {os.geteuid()}\n")
    except BaseException:
        os.close(lock)
        raise
    return lock, (held.st_dev, held.st_ino)


def _locked(store: Path, folder: Path, flags: int) -> int:
    with papers.opened(folder) as inside:
        lock = os.open("lock", flags | os.O_CREAT | papers.CAREFUL, 0o644, dir_fd=inside)
    try:
        if not stat.S_ISREG(os.fstat(lock).st_mode):
            raise StartError(f"{folder}/lock is no file: remove it and start again", EX_DATAERR)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(lock, 200, 0).decode("utf-8", "replace").strip() or "an unknown process"
        os.close(lock)
        raise StartError(f"{store} is owned by another daemon: {holder}", EX_TEMPFAIL) from None
    except BaseException:
        os.close(lock)
        raise
    return lock
