"""What a start can fail with: a line that says why, and the status that the daemon's process ends with.

Owns the statuses of sysexits.h that are used, and what a refusal of the file system means to who starts a daemon. Says
nothing to anybody and ends no process: that is cli.py's.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

EX_DATAERR, EX_NOINPUT, EX_OSERR, EX_CANTCREAT, EX_IOERR, EX_TEMPFAIL, EX_NOPERM, EX_CONFIG = (
    65, 66, 71, 73, 74, 75, 77, 78,
)  # fmt: skip
"""As in sysexits.h."""


class StartError(Exception):
    """The daemon cannot start; one line that says why, and a status of sysexits.h."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


def refusal(store: Path, error: OSError) -> StartError:
    """Returns what to tell whoever starts a daemon on a store, when a system call was refused."""
    reason = os.strerror(error.errno or 0)
    if error.errno == errno.EXDEV:
        return StartError(f"{error.filename} lies on another file system than {store}: a namespace cannot", EX_CONFIG)
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return StartError(f"{error.filename or store} is not a directory: a store is one", EX_NOINPUT)
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return StartError(
            f"{store} cannot be written by uid {os.geteuid()}: {reason} ({error.filename or store})", EX_NOPERM
        )
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StartError(f"{store} is full ({reason}): free some space or quota, then start again", EX_CANTCREAT)
    return StartError(f"{store}: {reason} ({error.filename or store})", EX_IOERR)
