"""Whether the bytes of an object are those that were put, and where it goes if they are not: the quarantine.

Owns the folder `.storekeeper/quarantine/` and the rule what is looked at when. Every object that is read whole is
proved as it is read: a tenth of what reading costs. One that is read in ranges is proved when it is opened, if the
machine was booted since it was put and it was not on the platter then: it may have been torn by a power cut. Rot on the
disk of long ones is scrub.py's to find. What no daemon put has no checksum and is served as it is.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from storekeeper.errors import CorruptObject
from storekeeperd import checksums, moments
from storekeeperd.ground import Stay
from storekeeperd.metadata import ATTRIBUTE, Metadata

log = logging.getLogger(__name__)

QUARANTINE = b".storekeeper/quarantine"
_PROVED_MAX = 4096
_KEPT_NAME_BYTES = 200


class Proofs:
    """Proofs of objects that are open. Thread-safe.

    Args:
        attributes: whether the file system can keep checksums; nothing is ever proved otherwise.
        boot: as `moments.boot`.
        is_over: whether an object has ended, by what is kept with it.
    """

    def __init__(self, *, attributes: bool, boot: int, is_over: Callable[[Metadata | None], bool]) -> None:
        self._attributes = attributes
        self._boot = boot
        self._is_over = is_over
        self._proved: OrderedDict[tuple[int, int, int], None] = OrderedDict()  # files that were read for it already

    def prove_payload(self, descriptor: int, payload: Any) -> bool:
        """Holds all bytes of an object against what is kept with it; raises `CorruptObject`.

        Returns:
            False if the object has ended by now.
        """
        return self._prove(descriptor, checksums.of, payload)

    def prove_short_file(self, descriptor: int, size: int, flags: int) -> bool:
        """Reads an object and holds it against what is kept with it, as `prove_payload`.

        Args:
            descriptor: of the object.
            size: its length.
            flags: of preadv2(2); BlockingIOError is raised if with RWF_NOWAIT it cannot be read at once.
        """
        return self._prove(descriptor, checksums.of_short_file, descriptor, size, flags)

    def _prove(self, descriptor: int, checksum: Callable[..., int], *arguments: Any) -> bool:
        if not self._attributes:
            return True
        try:
            raw = os.getxattr(descriptor, ATTRIBUTE)
        except OSError:  # ENODATA: nothing is kept with it
            return True
        kept, ends_ms, process, boot = Metadata.glance(raw)
        if kept is not None and checksum(*arguments) != kept:
            raise corrupt()
        if not process and (not ends_ms or (boot == self._boot and ends_ms > moments.now_ms())):
            return True
        return not self._is_over(Metadata.unpack(raw))

    def needs_reading(self, kept: Metadata | None, found: os.stat_result) -> bool:
        """Returns whether `prove_file` should be called before ranges of an object are served.

        Args:
            kept: what is kept with it.
            found: what fstat(2) says of it.
        """
        if kept is None or not kept.proved or kept.synced or kept.boot == self._boot:
            return False
        return _identity(found) not in self._proved

    def prove_file(self, descriptor: int) -> bool:
        """Reads an object and holds it against what is kept with it; raises `CorruptObject`.

        Returns:
            False if nothing is kept with it that would tell.
        """
        kept = self.kept(descriptor)
        if kept is None or not kept.proved:
            return False
        found = os.fstat(descriptor)
        if checksums.of_file(descriptor, found.st_size) != kept.checksum:
            raise corrupt()
        self._proved[_identity(found)] = None
        while len(self._proved) > _PROVED_MAX:
            self._proved.popitem(last=False)
        return True

    def kept(self, descriptor: int) -> Metadata | None:
        """Returns what is kept with an object; None if there is nothing, or nothing of ours."""
        if not self._attributes:
            return None
        try:
            return Metadata.unpack(os.getxattr(descriptor, ATTRIBUTE))
        except OSError:  # ENODATA: nothing is kept with it
            return None


def corrupt() -> CorruptObject:
    """Returns the error of an object whose bytes are not those that were put."""
    return CorruptObject(
        "the bytes of this object are not those that were put; it was moved to .storekeeper/quarantine: put it again"
    )


def move_away(descriptor: int, name: bytes, stay: Stay) -> None:
    """Moves an object, proved to be corrupt, into the quarantine; raises `OSError`.

    Args:
        descriptor: of the object.
        name: its path in the store. What stands there by now, if that is another file, stays.
        stay: the store's directory.
    """
    place, key = stay.place(name)
    with contextlib.suppress(FileExistsError):
        os.mkdir(QUARANTINE, 0o700, dir_fd=stay.root)
    kept_name = b"%d-%s" % (time.time_ns(), name.replace(b"/", b"+")[:_KEPT_NAME_BYTES])
    target = QUARANTINE + b"/" + kept_name
    os.rename(key, target, src_dir_fd=place, dst_dir_fd=stay.root)
    moved = os.stat(target, dir_fd=stay.root, follow_symlinks=False)
    if not os.path.samestat(moved, os.fstat(descriptor)):
        # Somebody put another file there by hand, between our look and the rename: it goes back, unless the name is
        # taken once more.
        if stat.S_ISREG(moved.st_mode):
            with contextlib.suppress(FileExistsError):
                os.link(target, key, src_dir_fd=stay.root, dst_dir_fd=place, follow_symlinks=False)
                os.unlink(target, dir_fd=stay.root)
        return
    log.error("%r is corrupt; moved to %s", name.decode("utf-8", "replace"), target.decode("utf-8", "replace"))


def _identity(found: os.stat_result) -> tuple[int, int, int]:
    return found.st_dev, found.st_ino, found.st_ctime_ns
