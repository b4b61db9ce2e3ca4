"""When memory is tidied up: in idle moments, not in the middle of a request.

Owns that choice for the whole process. Nearly nothing of the daemon is cyclic, so there is little to collect; but a
collection looks at all that is under way, a tenth of a second for a flood of requests, and nobody is served meanwhile.
The C library keeps what was freed, the more the longer large and small things alternate; it is told to give it back.
(To have it give back large things at once, by its M_MMAP_THRESHOLD, made a put of 64 MiB half as dear again, measured.)
"""

from __future__ import annotations

import ctypes
import gc

_IDLE_OBJECTS = 20_000
_BUSY_OBJECTS = 5_000_000
_LIBC = ctypes.CDLL(None)


def spare() -> None:
    """Takes collecting over from the interpreter. What is there now lives as long as the daemon."""
    gc.freeze()
    gc.disable()


def tick(*, idle: bool) -> None:
    """Collects if it is worth it, and does not hurt. To be called about once a second.

    Args:
        idle: nobody waits for anything just now.
    """
    grown = gc.get_count()[0]  # objects that were made, less those that have gone, since the last collection
    if grown > (_IDLE_OBJECTS if idle else _BUSY_OBJECTS):
        gc.collect()


def fall_idle() -> None:
    """Collects and gives back: a few connections that went in mid-request may hold each other, and megabytes."""
    gc.collect()
    give_back()


def give_back() -> None:
    """Gives memory that was freed back to the system; some milliseconds. To be called now and then
    while the daemon does not fall idle.
    """
    if hasattr(_LIBC, "malloc_trim"):  # glibc
        _LIBC.malloc_trim(0)
