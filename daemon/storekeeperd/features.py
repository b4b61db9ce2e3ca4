"""What a store's file system can do, tried out before anybody relies on it.

Owns the trial. What is not there is done without (publisher.py, disk.py), and said at start and in `status`.
"""

from __future__ import annotations

import errno
import fcntl
import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Features:
    """What the store's file system can do.

    Attributes:
        unnamed_files: O_TMPFILE with a link afterwards.
        attributes: user extended attributes.
        read_nowait: reads from the page cache alone (RWF_NOWAIT).
        leases: read leases, by which it is proven that nobody can write to a file any more (F_SETLEASE).
    """

    unnamed_files: bool
    attributes: bool
    read_nowait: bool
    leases: bool


def probe(private: Path) -> Features:
    """Returns what works where objects are made; leaves nothing behind.

    Args:
        private: the folder of files that are not published yet.

    Raises:
        OSError: no file can be made there at all.
    """
    unnamed_files = True
    flags = os.O_RDWR | os.O_CLOEXEC
    try:
        trial = os.open(private, flags | os.O_TMPFILE, 0o600)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT):
            raise
        unnamed_files = False
        trial = os.open(private / "probe", flags | os.O_CREAT, 0o600)
    try:
        os.pwrite(trial, b"probe", 0)
        attributes = _works(lambda: os.setxattr(trial, "user.storekeeper", b"probe"))
        read_nowait = _works(lambda: os.preadv(trial, [bytearray(5)], 0, os.RWF_NOWAIT))
    finally:
        os.close(trial)
        (private / "probe").unlink(missing_ok=True)
    return Features(unnamed_files, attributes, read_nowait, unnamed_files and _has_leases(private))


def _has_leases(private: Path) -> bool:
    trial = os.open(private, os.O_RDWR | os.O_CLOEXEC | os.O_TMPFILE, 0o600)
    try:
        return _works(lambda: prove_unwritable(trial))
    finally:
        os.close(trial)


def prove_unwritable(descriptor: int) -> None:
    """Lets go of the right to write that a descriptor gives, and proves that nobody else has it.

    The kernel grants a read lease only if no descriptor that is open for writing and no writable mapping of the file is
    left anywhere, on the way between processes included: fcntl(2), F_SETLEASE. The lease is given back at once. The
    file has no name yet, and a mode that lets nobody but its owner open it anew.

    Raises:
        BlockingIOError: somebody has.
        OSError: the file system has no leases.
    """
    reading = os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.dup2(reading, descriptor, inheritable=False)
    finally:
        os.close(reading)
    fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)


def _works(attempt: object) -> bool:
    assert callable(attempt)
    try:
        attempt()
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL):
            raise
        return False
    return True
