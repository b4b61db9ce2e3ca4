"""When something happened, so that it can be ordered against the calls of clients on this node.

Owns the choice of the clock: CLOCK_BOOTTIME, which nobody sets, goes on in sleep, and is one for all processes of a
node, together with the boot it counts from. A call that is made again after the daemon went away says when it began;
what was put after that moment is not its to remove, nor to replace if it would have replaced (see `is_newer`).
"""

from __future__ import annotations

import functools
import os
import time
import zlib

from storekeeper.errors import BadRequest
from storekeeperd.metadata import CREATED_US_MAX, TTL_US_MAX, Metadata
from storekeeperd.operations import Mark


def now_ns() -> int:
    """Returns nanoseconds since the machine was booted."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def now_ms() -> int:
    """Returns milliseconds since the machine was booted."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


def ends_ms(kept: Metadata, this_boot: int) -> int:
    """Returns when an object expires, in milliseconds of CLOCK_BOOTTIME; 0 for never.

    Within one boot nobody can move that moment. After another it is told by the calendar, as it is set now; and the
    process that an object was tied to is no more.
    """
    if kept.boot == this_boot:
        return max(1, (kept.moment_ns // 1000 + kept.ttl_us) // 1000) if kept.ttl_us else 0
    if kept.process:
        return 1
    if not kept.ttl_us:
        return 0
    since_boot_us = now_ns() // 1000 - time.time_ns() // 1000
    return max(1, (kept.created_us + kept.ttl_us + since_boot_us) // 1000)


@functools.cache
def boot() -> int:
    """Returns a number of 32 bits that stands for this boot of the machine; 0 where the kernel does not tell."""
    try:
        with open("/proc/sys/kernel/random/boot_id", "rb") as file:
            return zlib.crc32(file.read())
    except OSError:
        return 0


def is_newer(kept: Metadata | None, found: os.stat_result, moment_ns: int, this_boot: int) -> bool:
    """Returns whether an object was put after a moment of this boot.

    Exact for what a daemon put: it took its stamp when it had its turn, so after every earlier change of that name had
    ended. If it is later than the moment at which a call began, the object came after that; if not, nothing that
    call has done can have come before it. Of other files the time of their last change is known, to some milliseconds.

    Args:
        kept: what is kept with it, None for files that no daemon put.
        found: what stat(2) says of it.
        moment_ns: as `now_ns`.
        this_boot: as `boot`.
    """
    if kept is not None and kept.proved:
        return kept.boot == this_boot and kept.moment_ns > moment_ns
    return found.st_ctime_ns > time.time_ns() - (now_ns() - moment_ns)


def keep(ours: Metadata, kept: Metadata | None, found: os.stat_result) -> Metadata:
    """Returns what is to be kept with a copy of an object: whose it is, since when and how long stay what they were.

    Args:
        ours: what is kept with the copy.
        kept, found: as in `is_newer`, of the object.
    """
    if kept is None:
        return ours._replace(
            owner=found.st_uid, created_us=min(max(0, found.st_mtime_ns // 1000), CREATED_US_MAX), ttl_us=0, process=0
        )
    ends = ends_ms(kept, ours.boot)
    copy = ours._replace(owner=kept.owner, created_us=kept.created_us, process=kept.process, pinned=kept.pinned)
    return copy._replace(ttl_us=min(TTL_US_MAX, max(1, ends * 1000 - ours.moment_ns // 1000)) if ends else 0)


def marked(kept: Metadata, mark: Mark, this_boot: int) -> Metadata:
    """Returns what is to be kept with an object that is marked.

    Raises:
        BadRequest: it is from before the machine was booted: nothing that is kept with it can name a process of now.
    """
    ttl_us = mark.ttl_us
    if ttl_us:  # from now on; what is kept counts from when it came
        passed_ns = now_ns() - kept.moment_ns if kept.boot == this_boot else time.time_ns() - kept.created_us * 1000
        ttl_us = min(TTL_US_MAX, max(1, passed_ns // 1000 + ttl_us))
    if mark.process and kept.boot != this_boot:
        raise BadRequest("the object is from before the machine was booted; put it anew to tie it to a process")
    return kept._replace(
        ttl_us=kept.ttl_us if ttl_us is None else ttl_us,
        pinned=kept.pinned if mark.pinned is None else mark.pinned,
        process=kept.process if mark.process is None else mark.process,
    )
