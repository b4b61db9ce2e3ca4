"""A client that knows only a directory: it finds the daemon that owns it, and starts one if none does.

Owns finding and starting. The daemon's address stands in `.storekeeper/address`; that it is the right daemon is
checked by the store's UUID, because another one may have taken over the address. Of several processes that want to
start a daemon one does, the others wait for it; should two start all the same, the daemon's own lock on the store
settles it.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import json
import os
import select
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from storekeeper.address import make_user_folder, user_folder
from storekeeper.client import TIMEOUT_S, Client
from storekeeper.errors import DaemonUnreachable, StorekeeperError, TimedOut
from storekeeper.lines import somebody_listens
from storekeeper.session import Session

FOLDER = ".storekeeper"
IDLE_EXIT_S = 30
"""How long a daemon started here stays after its last client."""
SOCKET_PATH_BYTES_MAX = 107
EX_TEMPFAIL = "75"
"""The exit status of a daemon that finds another one owning the directory (sysexits.h)."""
_BY_SIGNAL = 128
"""What a shell adds to the number of the signal that ended a program."""
_DAEMON_NEEDS = ("storekeeperd", "watchdog", "click", "xxhash")
_POLL_S = 0.01


class DirectorySession(Session):
    """A line to the daemon that owns a directory.

    Args:
        directory: the store. It is made if it is missing.
        timeout_s: how long a call may take, starting a daemon included.
    """

    def __init__(self, directory: str | os.PathLike[str], timeout_s: float) -> None:
        self._directory = Path(os.path.abspath(directory))
        self._found = False
        super().__init__(own_address(self._directory), timeout_s)

    def expect_daemon(self, deadline: float) -> None:
        """Finds the daemon, or starts one, before the first call."""
        if not self._found:
            self._find(deadline)

    def await_daemon(self, error: StorekeeperError, started: float, deadline: float) -> None:
        """Finds the next daemon, or starts one."""
        if time.monotonic() >= deadline:
            raise error
        self._find(deadline)

    def _find(self, deadline: float) -> None:
        self.move(find_daemon(self._directory, deadline) or start_daemon(self._directory, deadline))
        self._found = True


def directory_client(directory: str | os.PathLike[str], *, timeout: float = TIMEOUT_S) -> Client:
    """Returns a `Client` of the daemon that owns a directory; it is found, or started, at the first call.

    Args:
        directory: the store. It is made if it is missing.
        timeout: seconds a call may take, starting a daemon included.
    """
    return Client(session=DirectorySession(directory, timeout))


class _Probe(Session):
    """Asks once: a daemon that is stopping, or has gone, is none."""

    def await_daemon(self, error: StorekeeperError, started: float, deadline: float) -> None:
        raise error


def own_address(directory: Path) -> str:
    """Returns where a daemon started for a directory listens: inside it, if the path is not too long for that."""
    inside = directory / FOLDER / "socket"
    if len(os.fsencode(inside)) <= SOCKET_PATH_BYTES_MAX:
        return f"ipc://{inside}"
    name = hashlib.sha256(os.fsencode(directory)).hexdigest()[:16]
    return f"ipc://{user_folder() / name / 'socket'}"


def find_daemon(directory: Path, deadline: float) -> str | None:
    """Returns the address of the daemon that owns a directory, None if none answers.

    Args:
        directory: the store.
        deadline: time.monotonic() until which it may take to answer.

    Raises:
        TimedOut: somebody is there, but does not answer.
    """
    try:
        address = (directory / FOLDER / "address").read_text("utf-8").strip()
        store_id = json.loads((directory / FOLDER / "store").read_text("utf-8"))["uuid"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not somebody_listens(address):
        return None
    with Client(session=_Probe(address, max(0.01, deadline - time.monotonic()))) as client:
        try:
            return address if client.status()["store_id"] == store_id else None
        except TimedOut:
            raise
        except (StorekeeperError, KeyError):
            return None


def start_daemon(directory: Path, deadline: float) -> str:
    """Starts a daemon for a directory, or waits for the one that somebody else is starting; returns its address.

    Args:
        directory: the store.
        deadline: time.monotonic() until which to wait for it.

    Raises:
        DaemonUnreachable: it cannot be started, or did not answer in time; says why.
    """
    if any(importlib.util.find_spec(module) is None for module in _DAEMON_NEEDS):
        raise DaemonUnreachable(
            f"no daemon owns {directory}, and none can be started: pip install 'storekeeper[daemon]'"
        )
    try:
        (directory / FOLDER).mkdir(mode=0o755, parents=True, exist_ok=True)
        while True:
            with _starting(directory) as first:
                address = find_daemon(directory, deadline) or (_run(directory, deadline) if first else None)
            if address is not None:
                return address
            if time.monotonic() >= deadline:
                raise DaemonUnreachable(f"no daemon came up for {directory} in time: {_last_words(directory)}")
            time.sleep(_POLL_S)
    except OSError as error:
        if isinstance(error, StorekeeperError):
            raise
        raise DaemonUnreachable(f"no daemon owns {directory}, and none can be started: {error}") from None


@contextmanager
def _starting(directory: Path) -> Iterator[bool]:
    """Whether this process is the one that may start a daemon now."""
    first = False
    try:
        lock = os.open(directory / FOLDER / "starting", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except PermissionError:  # another user's folder: whoever may start its daemon will
        yield False
        return
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            first = True
        except BlockingIOError:
            first = False
        yield first
    finally:
        if first:
            # Unlocked by name: a child that was forked meanwhile holds the same lock through its own descriptor.
            fcntl.flock(lock, fcntl.LOCK_UN)
        os.close(lock)


def _run(directory: Path, deadline: float) -> str | None:
    """Starts a daemon and waits until it answers; None if another one owns the directory, perhaps not for long."""
    ended = _spawn(directory)
    try:
        while (address := find_daemon(directory, deadline)) is None:
            if select.select([ended], [], [], _POLL_S)[0]:
                status = os.read(ended, 20).decode().strip()
                if status == EX_TEMPFAIL or not status or int(status) > _BY_SIGNAL:  # it was killed, or its shell was
                    return None
                raise DaemonUnreachable(f"the daemon for {directory} ended at once: {_last_words(directory)}")
            if time.monotonic() >= deadline:
                break
        return address
    finally:
        os.close(ended)


def _spawn(directory: Path) -> int:
    """Starts a daemon; returns a descriptor from which its exit status can be read when it has ended."""
    daemon = [sys.executable, "-m", "storekeeperd", "serve", str(directory)]
    daemon += ["--address", own_address(directory), "--idle-exit", str(IDLE_EXIT_S)]
    daemon += ["--socket-mode", f"{_socket_mode(directory):04o}", "--log-level", "warning"]
    if own_address(directory).startswith(f"ipc://{user_folder()}"):
        make_user_folder()
    ended, says = os.pipe()
    try:
        with open(_log(directory), "ab") as stderr:
            # The shell leaves at once, so the daemon is nobody's child here: no zombie, no signal of our terminal.
            subprocess.run(
                ["/bin/sh", "-c", '{ "$@" >/dev/null; echo $?; } &', "sh", *daemon],
                stdin=subprocess.DEVNULL,
                stdout=says,
                stderr=stderr,
                cwd="/",
                start_new_session=True,
                check=True,
            )
    except BaseException:
        os.close(ended)
        raise
    finally:
        os.close(says)
    return ended


def _log(directory: Path) -> Path:
    return directory / FOLDER / "log"


def _last_words(directory: Path) -> str:
    try:
        said = _log(directory).read_text("utf-8", "replace").strip().splitlines()[-1:]
    except OSError:
        said = []
    return " ".join(said) or f"see {_log(directory)}"


def _socket_mode(directory: Path) -> int:
    """Who may write into the directory may talk to its daemon."""
    mode = stat.S_IMODE(os.stat(directory).st_mode)
    writers = mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH)
    return 0o600 | writers | writers << 1
