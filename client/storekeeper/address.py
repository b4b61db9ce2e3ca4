"""Where a daemon is: the addresses tried when none is given.

Owns the rule, nothing else: `$STOREKEEPER_ADDRESS`, else the user's own daemon if its socket is there, else the
node's. The daemon listens by the same rule.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

VARIABLE = "STOREKEEPER_ADDRESS"
INSTANCE = "default"


def node_address(instance: str = INSTANCE) -> str:
    """Returns the address of the node's daemon."""
    return f"ipc:///run/storekeeperd/{instance}/socket"


def user_folder() -> Path:
    """Returns the folder of this user's own daemons: below $XDG_RUNTIME_DIR, else one in /tmp named for the user."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    return Path(runtime) / "storekeeperd" if runtime else Path(f"/tmp/storekeeperd-{os.geteuid()}")


def is_private(folder: Path) -> bool:
    """Returns whether a folder is this user's own and nobody else may write into it.

    /tmp is everybody's: another user could have made the folder, to be given what is meant for ours.
    """
    try:
        found = os.lstat(folder)
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o022


def make_user_folder() -> None:
    """Makes the folder of this user's own daemons, for this user alone.

    Raises:
        PermissionError: it is there, and somebody else's.
    """
    folder = user_folder()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not is_private(folder):
        raise PermissionError(errno.EPERM, "it belongs to somebody else, or others may write into it", str(folder))


def user_address(instance: str = INSTANCE) -> str:
    """Returns the address of a daemon that this user runs."""
    return f"ipc://{user_folder() / instance / 'socket'}"


def default_address() -> str:
    """Returns the address that a client without one takes. Never blocks: an environment variable and one stat."""
    given = os.environ.get(VARIABLE)
    if given:
        return given
    own = user_address()
    if is_private(user_folder()) and os.path.exists(own.removeprefix("ipc://")):
        return own
    return node_address()


def normal_address(address: str) -> str:
    """Returns an address with its scheme: a plain path is an ipc:// address."""
    return address if "://" in address else f"ipc://{os.path.abspath(address)}"
