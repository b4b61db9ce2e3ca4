"""When the cycle collector runs: in idle moments, not in the middle of a request.

Owns that choice for the whole process. Nearly nothing of the daemon is cyclic, so there is little to collect; but a
collection looks at all that is under way, a tenth of a second for a flood of requests, and nobody is served meanwhile.
"""

from __future__ import annotations

import gc

_IDLE_OBJECTS = 20_000
_BUSY_OBJECTS = 5_000_000


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
