"""What stands under a name: seen by stat(2) and in the object's attribute, and nothing else is ever believed.

Owns what counts as an object: a regular file, but no marker of FileConnector. And whose it is: who put it, if a daemon
wrote that beside it; else the file's own owner.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Sequence
from itertools import repeat

from storekeeper.errors import StorekeeperError, StoreUnavailable
from storekeeperd import moments, processes, sight
from storekeeperd.entries import MARKER
from storekeeperd.ground import Stay
from storekeeperd.growth import RECENT_S
from storekeeperd.metadata import ATTRIBUTE, Metadata
from storekeeperd.sight import ABSENT, CREATED_S_MAX, SIZE_MAX, UNSEEN, created_of

NO_FILE = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EINVAL)
"""What stat(2) says of a name that is not there; the last two of one that this file system could not even have."""

_WRITABLE = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH
_MARKED = (0o600, 0o640)


class Sights:
    """Looks at names. Thread-safe.

    Args:
        attributes: whether the file system has user attributes.
        boot: as `moments.boot`.
    """

    def __init__(self, *, attributes: bool, boot: int) -> None:
        self._attributes = attributes
        self._boot = boot

    def look(self, name: bytes, place: int, ours: Metadata | None = None) -> int:
        """Returns the sight (see sight.py) of the object of that name in a directory; raises `OSError`.

        `ours`: what we have kept with it, if it was just put there: that is not read again.
        """
        found = stat_file(name, place)
        if found is None or not is_object(name, found):
            return ABSENT
        return self.describe(name, place, found) if ours is None else self.of(ours, found)

    def look_again(self, name: bytes, stay: Stay, ours: Metadata | None = None) -> int:
        """Returns what `look` sees of an object's path; UNSEEN if nothing can be said."""
        try:
            place, key = stay.place(name)
            return self.look(key, place, ours)
        except FileNotFoundError:  # there is no folder for it
            return ABSENT
        except (OSError, ValueError, StorekeeperError):
            return UNSEEN

    def look_at_all(
        self, names: list[bytes], stay: Stay, known: Sequence[int | None] | None = None
    ) -> tuple[list[int], set[bytes], OSError | StoreUnavailable | None]:
        """Looks at names: the hot path of a storm of changes.

        Args:
            names: paths in the store.
            stay: the store's directory.
            known: what was seen of each before. An object of that size that nobody has changed since, to the second, is
                taken for the same: what is kept with it is not read again.

        Returns:
            What was seen of each; which of them are files that were written to a moment ago; and why of some of them
            nothing can be said, if so.
        """
        root = stay.root
        recently = time.time() - RECENT_S
        seen, recent = [], set()
        why: OSError | StoreUnavailable | None = None
        for name, before in zip(names, repeat(None) if known is None else known, strict=False):
            try:
                place, key = stay.place(name) if b"/" in name else (root, name)
                found = os.stat(key, dir_fd=place, follow_symlinks=False)
                there = is_object(name, found)
                if not there:
                    seen.append(ABSENT)
                elif before is not None and _is_unchanged(before, found):
                    seen.append(before)
                else:
                    seen.append(self.describe(key, place, found))
            except FileNotFoundError:
                seen.append(ABSENT)
                continue
            except (OSError, StoreUnavailable) as error:
                if isinstance(error, OSError) and error.errno in NO_FILE:
                    seen.append(ABSENT)
                else:
                    seen.append(UNSEEN)
                    why = error
                continue
            # What is no object, but a file, is an empty one that is named like a marker: it may become an object.
            if found.st_mtime > recently and (there or stat.S_ISREG(found.st_mode)):
                recent.add(name)
        return seen, recent, why

    def describe(self, name: bytes, place: int, found: os.stat_result) -> int:
        """Returns the sight of an object, of which stat(2) says what was `found`."""
        return self.of(self.kept_with(name, place, found), found)

    def kept_with(self, name: bytes, place: int, found: os.stat_result) -> Metadata | None:
        """Returns as `kept`, if it may be believed: what others can write to may be anybody's by now."""
        return self.kept(name, place) if is_ours(found) else None

    def of(self, kept: Metadata | None, found: os.stat_result) -> int:
        """Returns the sight of an object, by what is kept with it and what stat(2) says."""
        if kept is None:
            return sight.of(found.st_size, found.st_uid, int(found.st_mtime))
        created_s = kept.created_us // 1_000_000
        if not (kept.ttl_us or kept.process or kept.pinned):
            return sight.plain(found.st_size, kept.owner, min(created_s, CREATED_S_MAX))
        expires_ms = moments.ends_ms(kept, self._boot)
        if not (kept.process or kept.pinned):
            return sight.ending(found.st_size, kept.owner, min(created_s, CREATED_S_MAX), expires_ms)
        process = kept.process if kept.boot == self._boot else 0
        return sight.of(
            found.st_size, kept.owner, created_s, pinned=kept.pinned, expires_ms=expires_ms, process=process
        )

    def is_over(self, kept: Metadata | None) -> bool:
        """Returns whether an object has ended by now, by what is kept with it: it expired, or its process is gone."""
        if kept is None or kept.pinned or not (kept.ttl_us or kept.process):
            return False
        if kept.process and kept.boot == self._boot and not processes.lives(kept.process):
            return True
        return 0 < moments.ends_ms(kept, self._boot) <= moments.now_ms()

    def kept(self, name: bytes, place: int) -> Metadata | None:
        """Returns what is kept with the object of that name; None if there is nothing, or nothing of ours."""
        if not self._attributes:
            return None
        try:
            # A path through /proc/self/fd, because getxattr(2) takes no descriptor of a directory.
            raw = os.getxattr(b"/proc/self/fd/%d/%s" % (place, name), ATTRIBUTE, follow_symlinks=False)
        except OSError:
            return None
        return Metadata.unpack(raw)


def is_ours(found: os.stat_result) -> bool:
    """Returns whether a file can be one that a daemon made: nobody writes to these.

    But whom it runs as, for a moment: what is kept with an object can only be changed then, and the daemon may be
    killed in that moment.
    """
    if not found.st_mode & _WRITABLE:
        return True
    return stat.S_IMODE(found.st_mode) in _MARKED and found.st_uid == os.geteuid()


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


def _is_unchanged(before: int, found: os.stat_result) -> bool:
    """Returns whether an object of ours is what was seen before, as far as stat(2) tells."""
    return (
        before >= 0
        and before & SIZE_MAX == found.st_size
        and created_of(before) == int(found.st_ctime)
        and is_ours(found)
    )
