"""What the file system said, as an error that a client understands.

Owns the translation: an OSError in, an error of the closed set out.
"""

from __future__ import annotations

import errno
import os

from storekeeper.errors import Busy, DiskFailed, DiskFull, StorekeeperError, StoreUnavailable

GONE = (errno.ENOENT, errno.ENOTDIR)
_FULL = (errno.ENOSPC, errno.EDQUOT)
_OUT_OF_FILES = (errno.EMFILE, errno.ENFILE)


def typed(error: OSError) -> StorekeeperError:
    """Returns the error that tells a client what a system call said."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    if error.errno in _FULL:
        return DiskFull(f"{reason}; nothing was stored: free some space or quota and try again")
    if error.errno in _OUT_OF_FILES:
        return Busy(f"the daemon can open no more files just now ({reason}); try again in a moment")
    if error.errno == errno.EXDEV:
        return StoreUnavailable("a folder of the store lies on another file system; served again when that is gone")
    if error.errno in GONE:
        return StoreUnavailable("the store's directory is not there; the daemon serves again when it is back")
    return DiskFailed(f"the file system refused: {reason}")
