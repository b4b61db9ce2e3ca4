"""What is said of a line to a daemon that is not there, does not answer, or cannot be opened.

Owns the sentences of those errors, the same whatever carries the frames, and the question whether anybody listens.
"""

from __future__ import annotations

import socket

from storekeeper.errors import DaemonUnreachable, TimedOut, TooMany


def unreachable(address: str, error: OSError | None = None) -> DaemonUnreachable:
    """Returns the error that says nobody serves an address, or why one may not connect."""
    if isinstance(error, PermissionError):
        return DaemonUnreachable(
            f"you may not use the socket of {address} (permission denied): ask its administrator to put you into the "
            "socket's group, or start your own daemon with 'storekeeperd serve DIRECTORY'"
        )
    return DaemonUnreachable(
        f"no daemon answers at {address}: start one with 'storekeeperd serve DIRECTORY', "
        "or name another with address= or $STOREKEEPER_ADDRESS"
    )


def dropped(address: str) -> DaemonUnreachable:
    """Returns the error that says that a daemon is there, but ended the connection."""
    return DaemonUnreachable(
        f"the daemon at {address} ended the connection: it has too many, or was just restarted; try again in a moment"
    )


def exhausted(error: Exception) -> TooMany:
    """Returns the error that says that this process cannot open a connection."""
    return TooMany(f"this process can open no more connections ({error}); close some clients")


def late() -> TimedOut:
    """Returns the error that says that no answer came by the deadline."""
    return TimedOut("the daemon did not answer in time; try again, or allow more with timeout=")


def somebody_listens(address: str) -> bool:
    """Returns whether a connection to an ipc:// address is taken; True for others. Some 20 µs; never blocks."""
    if not address.startswith("ipc://"):
        return True
    try:
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    except OSError as error:
        raise exhausted(error) from None
    with made as probe:
        probe.setblocking(False)
        try:
            probe.connect(address.removeprefix("ipc://"))
        except BlockingIOError:  # its queue is full: somebody is there
            return True
        except OSError:
            return False
    return True
