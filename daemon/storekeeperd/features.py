"""What a store's file system can do, tried out before anybody relies on it.

Owns the trial. What is not there is done without (publisher.py, disk.py), and said at start and in `status`.
"""

from __future__ import annotations

import errno
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
    """

    unnamed_files: bool
    attributes: bool
    read_nowait: bool


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
    return Features(unnamed_files, attributes, read_nowait)


def _works(attempt: object) -> bool:
    assert callable(attempt)
    try:
        attempt()
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL):
            raise
        return False
    return True
