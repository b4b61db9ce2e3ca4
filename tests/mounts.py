"""What tests of a store's directory share: a mount namespace of their own, daemons in it, comparisons with the disk.

The host's mounts are never changed: `Mounts` holds a private namespace, and what is in it is reached from outside
through /proc/PID/root.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from conftest import Daemon, eventually, figures
from storekeeper import Client
from storekeeper.errors import BatchFailed, DiskFailed, StoreUnavailable
from storekeeper.lines import somebody_listens
from storekeeperd.home import Home

NOBODY = 65_534
TMPFS, EXT4 = "/dev/shm", "/tmp"
SETTLE_S = 20.0
"""How long a test waits for what takes two seconds at most where nothing else runs."""

Refusals = (StoreUnavailable, DiskFailed)
"""What may be said of a directory that cannot be read."""

_CAP_SYS_ADMIN = 21


def cannot_mount() -> str:
    """Returns why this process cannot make mount namespaces; empty if it can."""
    status = Path("/proc/self/status").read_text()
    effective = int(status.split("CapEff:")[1].split()[0], 16)
    if os.geteuid() != 0:
        return "only root can do this to a directory"
    if not effective >> _CAP_SYS_ADMIN & 1:
        return "mounting takes CAP_SYS_ADMIN"
    missing = [tool for tool in ("unshare", "nsenter", "setpriv", "mount", "umount") if shutil.which(tool) is None]
    return f"missing tools: {', '.join(missing)}" if missing else ""


needs_mounts = pytest.mark.skipif(bool(cannot_mount()), reason=cannot_mount() or "-")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


class Mounts:
    """A private mount namespace: a process that only waits keeps it."""

    def __init__(self) -> None:
        command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", "echo; exec cat"]
        self._holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == b"\n"
        self.prefix = ["nsenter", "-m", "-t", str(self._holder.pid), "--"]

    def path(self, path: Path) -> Path:
        """Returns where a path as the namespace has it is found from outside."""
        return Path(f"/proc/{self._holder.pid}/root{path}")

    def run(self, *command: object) -> None:
        done = subprocess.run([*self.prefix, *map(str, command)], capture_output=True, text=True)
        assert done.returncode == 0, f"{command}: {done.stderr}"

    def mount(self, kind: str, where: Path, *options: object, source: object = "test") -> None:
        self.run("mount", "-t", kind, *options, source, where)

    def bind(self, source: Path, where: Path) -> None:
        self.run("mount", "--bind", source, where)

    def umount(self, where: Path, *, lazy: bool = False) -> None:
        self.run("umount", *(["-l"] if lazy else []), where)

    def close(self) -> None:
        assert self._holder.stdin is not None
        assert self._holder.stdout is not None
        self._holder.stdin.close()
        self._holder.wait(20)
        self._holder.stdout.close()


class Placed(Daemon):
    """A daemon started by way of a command that becomes it: nsenter, setpriv, unshare."""

    def __init__(
        self, store: Path, address: str, *options: str, prefix: Sequence[str] = (), named: bool = True
    ) -> None:
        super().__init__(store, address, *options)
        self.prefix = prefix
        self.named = named  # the store, on the command line
        self.log = Path(address.removeprefix("ipc://") + ".log")

    def start(self) -> Placed:
        command = [*self.prefix, sys.executable, "-m", "storekeeperd", "serve", *([str(self.store)] * self.named)]
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen([*command, "--address", self.address, *self.options], stderr=log)
        deadline = time.monotonic() + 30
        while not somebody_listens(self.address):
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, "the daemon did not come up"
            time.sleep(0.005)
        return self

    @property
    def alive(self) -> bool:
        assert self.process is not None
        return self.process.poll() is None


class Place:
    """A folder for one test: the store's parent, the parent's parent, and the daemons.

    Attributes:
        base: the folder, on the host's file system; sockets and logs lie here, outside of everything that is mounted.
        up: an ancestor of the store, to be moved or mounted over.
        store: the store's directory, as the daemon has it.
    """

    def __init__(self, base: str) -> None:
        self.base = Path(tempfile.mkdtemp(prefix="sk-", dir=base))
        self.base.chmod(0o755)
        self.up = self.base / "up"
        self.up.mkdir()
        self.store = self.up / "store"
        self._mounts: Mounts | None = None
        self._daemons: list[Placed] = []
        self._clients: list[Client] = []
        self._loops: list[str] = []

    @property
    def mounts(self) -> Mounts:
        """The namespace that daemons started from now on run in."""
        if self._mounts is None:
            self._mounts = Mounts()
        return self._mounts

    def seen(self, path: Path) -> Path:
        """Returns a path as the daemon has it as one that leads there from here."""
        return path if self._mounts is None else self._mounts.path(path)

    def loop(self, megabytes: int = 32) -> str:
        """Returns a loop device with an empty ext4 on it; it goes with its last mount."""
        image = self.base / f"image{len(self._loops)}"
        with open(image, "wb") as file:
            file.truncate(megabytes << 20)
        subprocess.run(["mkfs.ext4", "-q", image], check=True)
        found = subprocess.run(["losetup", "-f", "--show", image], check=True, capture_output=True, text=True)
        self._loops.append(found.stdout.strip())
        return self._loops[-1]

    def start(
        self,
        *options: str,
        uid: int = 0,
        store: Path | None = None,
        prefix: Sequence[str] = (),
        named: bool = True,
    ) -> Placed:
        command = [*(self._mounts.prefix if self._mounts else ()), *prefix]
        if uid:
            command += ["setpriv", "--reuid", str(uid), "--regid", str(uid), "--clear-groups", "--"]
            sockets = self.base / f"sockets{uid}"
            sockets.mkdir(exist_ok=True)
            os.chown(sockets, uid, uid)
        else:
            sockets = self.base
        address = f"ipc://{sockets}/s{len(self._daemons)}"
        daemon = Placed(store or self.store, address, *options, prefix=command, named=named)
        self._daemons.append(daemon)
        daemon.start()
        return daemon

    def client(self, daemon: Daemon, **options: object) -> Client:
        client = daemon.client(timeout=20, **options)
        self._clients.append(client)
        return client

    def close(self) -> None:
        for client in self._clients:
            client.close()
        for daemon in self._daemons:
            if daemon.process is not None and daemon.alive:
                os.kill(daemon.pid, 18)  # SIGCONT: it may have been stopped
            daemon.end()
        if self._mounts is not None:
            self._mounts.close()
        for loop in self._loops:
            subprocess.run(["losetup", "-d", loop], capture_output=True)
            backing = Path(f"/sys/block/{Path(loop).name}/loop/backing_file")
            eventually(lambda backing=backing: str(self.base) not in _read(backing), SETTLE_S)
        shutil.rmtree(self.base)
        assert str(self.base) not in Path("/proc/self/mountinfo").read_text(), "a mount leaked to the host"


def places(base: str) -> Iterator[Place]:
    place = Place(base)
    try:
        yield place
    finally:
        place.close()


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


# -- directories


def fill(directory: Path, names: Iterable[str], tag: str = "") -> None:
    """Makes objects behind the daemon's back: whole, by a rename from a name that is none of a key."""
    for name in names:
        private = directory / f".new-{name}"
        private.write_bytes(f"{tag}{name}".encode() * 3)
        private.rename(directory / name)


def decoy(directory: Path, names: Iterable[str]) -> None:
    """Makes a directory with objects of the same names and other bytes, that is no store."""
    directory.mkdir(parents=True)
    fill(directory, [*names, "only-in-decoy"], "decoy:")


def other_store(directory: Path, names: Iterable[str]) -> None:
    """The same, that is another store."""
    decoy(directory, names)
    Home(directory).leave()


def contents(directory: Path) -> dict[str, bytes]:
    """Returns the objects in a directory, by `os`."""
    found = {}
    for entry in os.scandir(directory):
        if not entry.name.startswith(".") and entry.is_file(follow_symlinks=False):
            found[entry.name] = Path(entry.path).read_bytes()
    return found


def picture(directory: Path) -> dict[str, tuple[int, int, int, bytes]]:
    """Returns all that can be seen of a directory tree: to find that nothing was changed in it."""
    found = {}
    for folder, folders, files in os.walk(directory):
        for name in [*folders, *files, "."]:
            path = Path(folder, name)
            status = path.lstat()
            content = path.read_bytes() if stat.S_ISREG(status.st_mode) else b""
            found[str(path)] = (status.st_ino, status.st_mode, status.st_mtime_ns, content)
    return found


_RENAME_EXCHANGE = 2


def exchange(one: Path, other: Path) -> None:
    """Exchanges two names in one step: renameat2(2)."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(-100, os.fsencode(one), -100, os.fsencode(other), _RENAME_EXCHANGE):
        raise OSError(ctypes.get_errno(), "renameat2")


# -- what a daemon says, beside what is so


def only_unavailable(action: Callable[[], object]) -> object:
    """Returns what an action returns, `StoreUnavailable` itself if it was refused so; other errors are raised."""
    try:
        return action()
    except StoreUnavailable:
        return StoreUnavailable
    except BatchFailed as failed:
        errors = [result for result in failed.results if isinstance(result, Exception)]
        assert all(isinstance(error, StoreUnavailable) for error in errors), errors
        return StoreUnavailable


def disagreement(client: Client, directory: Path, names: Collection[str], *, fresh: bool = True) -> str:
    """Returns the first answer that is not as the directory is; empty if all are. Without `fresh`, from memory."""
    so = contents(directory)
    asked = sorted({*names, *so, "never-there"})
    expected = {
        "exists": [name in so for name in asked],
        "exists fresh": [name in so for name in asked],
        "get": [so.get(name) for name in asked],
        "list": sorted(so),
        "usage": {"objects": len(so), "bytes": sum(map(len, so.values())), "objects_not_sized": 0},
    }
    said: dict[str, Callable[[], object]] = {
        "exists": lambda: list(client.exists_batch(asked)),
        "exists fresh": lambda: list(client.exists_batch(asked, fresh=True)),
        "get": lambda: list(client.get_batch(asked)),
        "list": lambda: list(client.list(fresh=fresh)),
        "usage": lambda: figures(client.usage(fresh=fresh)),
    }
    for what, ask in said.items():
        answer = only_unavailable(ask)
        if what == "usage" and not fresh and isinstance(answer, dict):
            answer = {**answer, "objects_not_sized": 0}  # it need not have looked at them
        if answer != expected[what]:
            return f"{what}: said {str(answer)[:300]}, is {str(expected[what])[:300]}"
    return ""


def settle(client: Client, directory: Path, names: Collection[str] = (), *, coherent: bool = True) -> None:
    """Waits until all answers are as the directory is, and sees that they stay so."""
    deadline = time.monotonic() + SETTLE_S
    while True:
        wrong = disagreement(client, directory, names)
        if not wrong and coherent and not client.status()["coherent"]:
            wrong = f"not coherent: {client.status()}"
        if not wrong:
            break
        assert time.monotonic() < deadline, f"{wrong}; status: {client.status()}"
        time.sleep(0.02)
    wrong = disagreement(client, directory, names, fresh=False)
    assert not wrong, wrong


def right_or_refused(client: Client, so: Mapping[str, bytes | None], *, rounds: int = 3) -> None:
    """Asks for objects whose state is certain; every answer is right, or says that the store is not there."""
    for _ in range(rounds):
        for name, content in so.items():
            there = content is not None
            assert only_unavailable(lambda name=name: client.exists(name)) in (there, StoreUnavailable), name
            assert only_unavailable(lambda name=name: client.exists(name, fresh=True)) in (there, StoreUnavailable)
            assert only_unavailable(lambda name=name: client.get(name)) in (content, StoreUnavailable), name


def nothing_written(client: Client, wrong: Path | None, name: str) -> None:
    """Tries to change the store while another directory is at its path; nothing is changed there."""
    before = {} if wrong is None else picture(wrong)
    with pytest.raises(StoreUnavailable):
        client.put(b"intruder", key="intruder")
    with pytest.raises(StoreUnavailable):
        client.put(b"intruder", key=name, replace=True)
    with pytest.raises(StoreUnavailable):
        client.put(bytes(5 << 20), key="intruder")  # travels in ranges
    with pytest.raises(StoreUnavailable):
        client.evict(name)
    with pytest.raises(StoreUnavailable):
        client.get(name)
    if wrong is not None:
        assert picture(wrong) == before


def away(client: Client, wrong: Path | None, name: str) -> None:
    """Waits until the daemon has seen that the store is not there; then everything is refused, for good."""
    nothing_written(client, wrong, name)
    before = {} if wrong is None else picture(wrong)
    eventually(lambda: client.status()["store_away"], SETTLE_S)
    for ask in (
        lambda: client.exists(name),
        lambda: client.exists("only-in-decoy"),
        lambda: client.exists(name, fresh=True),
        client.list,
        lambda: client.list(fresh=True),
        client.usage,
        lambda: client.stat(name),
    ):
        with pytest.raises(StoreUnavailable):
            ask()
    nothing_written(client, wrong, name)
    if wrong is not None:
        assert picture(wrong) == before


def lost(client: Client, *kinds: str) -> None:
    """Sees that the daemon counted a loss of one of these kinds."""
    losses = client.status()["losses"]
    assert any(losses.get(kind) for kind in kinds), losses
