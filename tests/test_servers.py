"""Who serves an address: a client sends nothing to another user's daemon than the one that was expected.

The impostor here listens as another user, speaks the protocol, and keeps every byte that it is told.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from callers import FIRST_UID, Caller, User, callers
from conftest import Daemon, daemons
from hostile import GREETING, as_user, message, ready, split
from mounts import needs_root
from storekeeper import Client
from storekeeper.errors import StorekeeperError, WrongServer
from test_many_users import open_folder

pytestmark = needs_root

MALLORY, VICTIM = FIRST_UID + 666, FIRST_UID + 1
SECRET = b"the secret key, or the secret bytes"

pytestmark = pytest.mark.usefixtures("each_carrier")


class Impostor(threading.Thread):
    """A server that takes what it is given: it shakes hands, and says yes to everything."""

    def __init__(self, path: Path, *, uid: int = MALLORY, owner: int | None = None) -> None:
        super().__init__(name="impostor")
        self.heard = b""
        self.connections = 0
        self._ends = False
        self._listener = socket.socket(socket.AF_UNIX)
        self._peers: list[socket.socket] = []
        try:
            self._listener.bind(str(path))
            os.chmod(path, 0o666)
            os.chown(path, uid if owner is None else owner, 0)
            with as_user(uid):  # SO_PEERCRED of who connects tells who called listen(2)
                self._listener.listen(16)
            self._listener.settimeout(0.02)
        except BaseException:
            self._listener.close()
            raise
        self.start()

    def run(self) -> None:
        while not self._ends:
            with contextlib.suppress(TimeoutError):
                peer, _ = self._listener.accept()
                self.connections += 1
                self._peers.append(peer)
                peer.settimeout(0.3)
                with contextlib.suppress(OSError):
                    peer.sendall(GREETING + ready(kind=b"ROUTER"))
                    self._talk(peer)

    def _talk(self, peer: socket.socket) -> None:
        data = b""
        for _ in range(100):
            part = peer.recv(1 << 16)
            if not part:
                return
            self.heard += part
            data += part
            frames, _ = split(data[64:])
            bodies = [body for flags, body in frames if not flags & 4]
            if len(bodies) >= 5:
                peer.sendall(message(b"SK01", bodies[2], b"ok", b"", b"yes"))
                return

    def end(self) -> None:
        self._ends = True
        self.join(20)
        for one in (*self._peers, self._listener):
            one.close()


@contextlib.contextmanager
def impostor(path: Path, *, uid: int = MALLORY, owner: int | None = None) -> Iterator[Impostor]:
    one = Impostor(path, uid=uid, owner=owner)
    try:
        yield one
    finally:
        one.end()
        with contextlib.suppress(FileNotFoundError):
            path.unlink()


@pytest.fixture
def commons() -> Iterator[Path]:
    with open_folder() as folder:
        yield folder


@pytest.fixture
def start(commons: Path) -> Iterator[Callable[..., Daemon]]:
    with daemons(commons) as start:
        yield start


CALLS: dict[str, Callable[[Client], object]] = {
    "exists": lambda client: client.exists(SECRET.decode()),
    "get": lambda client: client.get(SECRET.decode()),
    "put": lambda client: client.put(SECRET, "k"),
    "put_large": lambda client: client.put(SECRET + bytes(5 << 20), SECRET.decode()),
    "put_batch": lambda client: client.put_batch([SECRET] * 20, [f"{SECRET.decode()}{n}" for n in range(20)]),
    "evict": lambda client: client.evict(SECRET.decode()),
    "status": lambda client: client.status(),
}


def check_refused(client: Client, call: Callable[[Client], object], one: Impostor) -> None:
    with pytest.raises(WrongServer) as refused:
        call(client)
    assert not refused.value.retry
    time.sleep(0.1)  # what was sent would be heard by now
    assert SECRET not in one.heard
    assert b"SK01" not in one.heard, "a request was sent"


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_socket_of_another_user_is_not_talked_to(commons: Path, call: Callable[[Client], object]) -> None:
    with impostor(commons / "socket") as one, Client(f"ipc://{commons}/socket", server=0, timeout=5) as client:
        check_refused(client, call, one)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_another_user_who_listens_at_the_right_users_file_is_not_talked_to(
    commons: Path, call: Callable[[Client], object]
) -> None:
    with impostor(commons / "socket", owner=0) as one, Client(f"ipc://{commons}/socket", server=0, timeout=5) as client:
        for _ in range(10):  # each time anew: a race is lost sooner or later
            check_refused(client, call, one)


def test_the_right_user_who_listens_at_anothers_file_is_not_talked_to(commons: Path) -> None:
    address = f"ipc://{commons}/socket"
    with impostor(commons / "socket", uid=0, owner=MALLORY) as one, Client(address, server=0, timeout=5) as client:
        check_refused(client, CALLS["put"], one)


def test_a_link_to_the_socket_of_another_user_is_not_talked_to(commons: Path) -> None:
    (commons / "link").symlink_to(commons / "socket")
    with impostor(commons / "socket") as one, Client(f"ipc://{commons}/link", server=0, timeout=5) as client:
        check_refused(client, CALLS["put"], one)


@pytest.mark.parametrize("owner", [MALLORY, 0])
def test_who_takes_the_place_of_a_daemon_that_ended_is_not_talked_to(
    commons: Path, start: Callable[..., Daemon], owner: int
) -> None:
    daemon = start()
    path = Path(daemon.address.removeprefix("ipc://"))
    with Client(daemon.address, server=0, timeout=5) as client:
        client.put(b"x", "k")
        daemon.kill()
        path.unlink()
        with impostor(path, owner=owner) as one:
            check_refused(client, CALLS["put"], one)
        daemon.start()
        assert client.get("k") == b"x"


def test_the_expected_server_is_talked_to_by_name_and_by_number(start: Callable[..., Daemon]) -> None:
    daemon = start()
    for server in (0, "0", pwd.getpwuid(0).pw_name, None):
        with Client(daemon.address, server=server) as client:
            assert client.put(b"x", "k") == "k"
    with Client(daemon.address, server=MALLORY) as client, pytest.raises(WrongServer):
        client.get("k")
    with pytest.raises(ValueError, match="no-such-user"):
        Client(daemon.address, server="no-such-user")


def test_at_an_address_that_was_given_anybody_may_serve(commons: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with impostor(commons / "socket") as one, Client(f"ipc://{commons}/socket", timeout=5) as client:
        assert client.exists("k") is True
    with impostor(commons / "other") as one:
        monkeypatch.setenv("STOREKEEPER_ADDRESS", f"ipc://{commons}/other")
        with Client(timeout=5) as client:
            assert client.exists("k") is True
        with Client(server=0, timeout=5) as client, pytest.raises(WrongServer):
            client.exists("k")
        assert one.connections == 1


# -- the address that nobody gave


@pytest.fixture
def own_folder(commons: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the user's own daemons."""
    monkeypatch.delenv("STOREKEEPER_ADDRESS", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(commons))
    folder = commons / "storekeeperd" / "default"
    folder.mkdir(parents=True)
    os.chown(folder.parent, VICTIM, VICTIM)
    os.chown(folder, VICTIM, VICTIM)
    return folder


@contextlib.contextmanager
def victim() -> Iterator[Caller]:
    """A process of the user's, whose `Client` is told no address."""
    with callers("", [User(VICTIM, VICTIM)]) as (caller,):
        yield caller


@pytest.mark.parametrize(("uid", "owner"), [(MALLORY, MALLORY), (MALLORY, VICTIM), (MALLORY, 0), (VICTIM, MALLORY)])
def test_at_the_default_address_another_user_is_not_talked_to(own_folder: Path, uid: int, owner: int) -> None:
    with impostor(own_folder / "socket", uid=uid, owner=owner) as one, victim() as caller:
        for _ in range(10):
            code, message = caller.do("put", SECRET, "k")
            assert code == "wrong_server", message
        time.sleep(0.1)
        assert SECRET not in one.heard


@pytest.mark.parametrize("uid", [VICTIM, 0])
def test_at_the_default_address_the_user_himself_and_root_are_talked_to(own_folder: Path, uid: int) -> None:
    with impostor(own_folder / "socket", uid=uid) as one, victim() as caller:
        assert caller.do("exists", "k") == ("ok", True)
        assert one.connections == 1


@pytest.mark.parametrize("what", ["others may write into it", "it is another's", "it is a link"])
def test_the_users_own_folder_counts_only_if_it_is_his_alone(own_folder: Path, what: str) -> None:
    folder = own_folder.parent
    if what == "others may write into it":
        folder.chmod(0o777)
    elif what == "it is another's":
        os.chown(folder, MALLORY, MALLORY)
    else:
        folder.rename(folder.with_name("elsewhere"))
        folder.symlink_to("elsewhere")
        os.chown(folder, VICTIM, VICTIM, follow_symlinks=False)
    with impostor(own_folder / "socket", uid=VICTIM) as one, victim() as caller:
        _, message = caller.do("exists", "k")
        assert one.connections == 0
        assert "/run/storekeeperd/default/socket" in str(message) or message is False


# -- the command line


def test_the_command_line_says_whom_it_expects(commons: Path, start: Callable[..., Daemon]) -> None:
    def storekeeper(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "storekeeper", *arguments]
        return subprocess.run(command, capture_output=True, text=True, input=SECRET.decode(), timeout=60)

    daemon = start()
    put = ("put", "--key", "k", "-")
    assert storekeeper("--address", daemon.address, "--server", "0", *put).returncode == 0
    assert storekeeper("--address", daemon.address, "--server", pwd.getpwuid(0).pw_name, *put).returncode == 0
    assert storekeeper("--address", daemon.address, "--server", str(MALLORY), *put).returncode == 77
    assert storekeeper("--address", daemon.address, "--server", "no-such-user", *put).returncode == 2
    for owner in (MALLORY, 0):
        with impostor(commons / "socket", owner=owner) as one:
            done = storekeeper("--address", f"ipc://{commons}/socket", "--server", "0", *put)
            assert done.returncode == 77
            assert len(done.stderr.splitlines()) == 1
            assert str(MALLORY) in done.stderr
            time.sleep(0.1)
            assert SECRET not in one.heard


def test_the_error_is_one_of_ours() -> None:
    assert issubclass(WrongServer, StorekeeperError)
