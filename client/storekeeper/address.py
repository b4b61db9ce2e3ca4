"""Where a daemon is, and who may be there: the addresses tried when none is given, and whose sockets they must be.

Owns the rules, nothing else: `$STOREKEEPER_ADDRESS`, else the user's own daemon if its socket is there, else the
node's. The daemon listens by the same rule.
"""

from __future__ import annotations

import errno
import os
import pwd
import stat
from pathlib import Path

from storekeeper.errors import WrongServer

VARIABLE = "STOREKEEPER_ADDRESS"
INSTANCE = "default"
SERVICE_USER = "storekeeper"
"""Whom the node's daemon runs as."""

Servers = frozenset[int]
"""Users who may serve an address; anybody, if there are none."""


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


def expected_servers(server: str | int | None, *, given: bool) -> Servers:
    """Returns who may serve an address.

    Args:
        server: a user's name or number; None if nothing was said.
        given: whether the address was: then whoever is there may, for somebody has named it. Else root, the user of
            the node's daemon, and this one.

    Raises:
        ValueError: this system knows no such user.
    """
    if server is None:
        if given or os.environ.get(VARIABLE):
            return frozenset()
        return frozenset({0, os.geteuid(), *_numbers(SERVICE_USER)})
    if isinstance(server, int) or server.isdigit():
        return frozenset({int(server)})
    found = _numbers(server)
    if not found:
        raise ValueError(f"server={server!r}: this system knows no such user; a number will do")
    return found


def check_server(address: str, uid: int, servers: Servers) -> None:
    """Raises `WrongServer` if a user who is none of those expected serves an address."""
    if servers and uid not in servers:
        expected = ", ".join(map(str, sorted(servers)))
        raise WrongServer(f"uid {uid} serves {address}, and not uid {expected}, as expected; nothing was sent there")


def check_socket(address: str, servers: Servers) -> None:
    """Raises `WrongServer` if an address's socket is of a user who is none of those expected."""
    if servers and address.startswith("ipc://"):
        try:
            owner = os.stat(address.removeprefix("ipc://")).st_uid
        except OSError:  # nobody is there, which shows soon enough
            return
        check_server(address, owner, servers)


def _numbers(user: str) -> Servers:
    try:
        return frozenset({pwd.getpwnam(user).pw_uid})
    except KeyError:
        return frozenset()
