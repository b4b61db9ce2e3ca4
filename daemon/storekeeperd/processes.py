"""Which process has a number: processes as objects know them.

Owns the reading of /proc. A process is known by its number and the moment it was started, in clock ticks since boot: a
number alone is given to another process one day.
"""

from __future__ import annotations

from storekeeperd.sight import PID_MAX

_PID_BITS = PID_MAX.bit_length()
_START_MAX = (1 << 42) - 1


def find(pid: int) -> int:
    """Returns the process that has a number now, with the moment it was started; 0 if there is none.

    Raises:
        OSError: it cannot be told, as when this process is out of descriptors: there may be one.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        if fields[0] in (b"Z", b"X"):  # proc(5): a zombie has ended
            return 0
        started = int(fields[19])  # field 22 of the line
    except (FileNotFoundError, ProcessLookupError, ValueError, IndexError):
        return 0
    return min(started, _START_MAX) << _PID_BITS | pid


def lives(process: int) -> bool:
    """Returns whether a process has not ended, as far as can be told."""
    try:
        return find(process & PID_MAX) == process
    except OSError:
        return True


def number_of(descriptor: int) -> int:
    """Returns the number of the process that a descriptor is of; -1 if it has ended and been waited for: proc(5)."""
    try:
        with open(f"/proc/self/fdinfo/{descriptor}", "rb") as file:
            lines = dict(line.split(b":", 1) for line in file.read().splitlines() if b":" in line)
        return int(lines[b"Pid"])
    except (OSError, ValueError, KeyError):
        return -1
