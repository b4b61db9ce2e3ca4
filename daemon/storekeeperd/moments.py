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

from storekeeperd.metadata import Metadata


def now_ns() -> int:
    """Returns nanoseconds since the machine was booted."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


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
    if kept is not None:
        return kept.boot == this_boot and kept.moment_ns > moment_ns
    return found.st_ctime_ns > time.time_ns() - (now_ns() - moment_ns)
