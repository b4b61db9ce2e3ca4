"""What stands under a name: seen by stat(2), and nothing else is ever believed.

Owns what counts as an object: a regular file, but no marker of FileConnector.
"""

from __future__ import annotations

import errno
import os
import stat
import time

from storekeeper.errors import StorekeeperError, StoreUnavailable
from storekeeperd.entries import MARKER
from storekeeperd.ground import Stay
from storekeeperd.growth import RECENT_S
from storekeeperd.operations import ABSENT, UNSEEN

NO_FILE = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EINVAL)
"""What stat(2) says of a name that is not there; the last two of one that this file system could not even have."""


def look(name: bytes, place: int) -> int:
    """Returns the size of the object of that name in a directory, ABSENT if there is none; raises `OSError` else."""
    found = stat_file(name, place)
    return found.st_size if found is not None and is_object(name, found) else ABSENT


def look_again(name: bytes, stay: Stay) -> int:
    """Returns what `look` sees of an object's path; UNSEEN if nothing can be said."""
    try:
        place, key = stay.place(name)
        return look(key, place)
    except FileNotFoundError:  # there is no folder for it
        return ABSENT
    except (OSError, ValueError, StorekeeperError):
        return UNSEEN


def stat_file(name: bytes, place: int) -> os.stat_result | None:
    """Returns what stat(2) says of a name in a directory, None if there is nothing; raises `OSError` else."""
    try:
        return os.stat(name, dir_fd=place, follow_symlinks=False)
    except OSError as error:
        if error.errno in NO_FILE:
            return None
        raise


def is_object(name: bytes, found: os.stat_result) -> bool:
    """Returns whether what was found under a name is an object: a regular file, but no marker of FileConnector."""
    return stat.S_ISREG(found.st_mode) and (found.st_size > 0 or not name.endswith(MARKER))


def sights(names: list[bytes], stay: Stay) -> tuple[list[int], set[bytes], OSError | StoreUnavailable | None]:
    """Looks at names: the hot path of a storm of changes.

    Returns:
        What was seen of each; which of them are files that were written to a moment ago; and why of some of them
        nothing can be said, if so.
    """
    root = stay.root
    recently = time.time() - RECENT_S
    sizes, recent = [], set()
    why: OSError | StoreUnavailable | None = None
    for name in names:
        try:
            place, key = stay.place(name) if b"/" in name else (root, name)
            found = os.stat(key, dir_fd=place, follow_symlinks=False)
        except FileNotFoundError:
            sizes.append(ABSENT)
            continue
        except (OSError, StoreUnavailable) as error:
            if isinstance(error, OSError) and error.errno in NO_FILE:
                sizes.append(ABSENT)
            else:
                sizes.append(UNSEEN)
                why = error
            continue
        there = is_object(name, found)
        sizes.append(found.st_size if there else ABSENT)
        # What is no object, but a file, is an empty one that is named like a marker: it may become an object.
        if found.st_mtime > recently and (there or stat.S_ISREG(found.st_mode)):
            recent.add(name)
    return sizes, recent, why
