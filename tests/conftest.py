"""Shared by all tests: options, a real daemon as a process, and the check that nothing leaks."""

from __future__ import annotations

import contextlib
import gc
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from storekeeper import Client
from storekeeper.lines import somebody_listens
from storekeeperd import home, sight
from storekeeperd.ground import WITNESS, Ground

Run = Callable[..., "subprocess.CompletedProcess[bytes]"]
"""The command line on a daemon: arguments and standard input → how it ended."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seeds", type=int, default=2000, help="worlds that test_simulation runs")
    parser.addoption("--first-seed", type=int, default=1, help="the first of them")
    parser.addoption("--cases", type=int, default=20_000, help="cases of each garbage test")
    parser.addoption("--large-model", action="store_true", help="let test_model visit the larger models, some minutes")
    parser.addoption("--rounds", type=int, default=1, help="rounds of the stress test with outside processes")
    parser.addoption("--files", type=int, default=20_000, help="files of the bursts in test_stress")
    parser.addoption("--looks", type=int, default=600, help="fresh answers asked for in test_stress")
    parser.addoption("--kills", type=int, default=20, help="SIGKILLs of the daemon under load")
    parser.addoption("--dead-clients", type=int, default=200, help="SIGKILLs of clients in the middle of something")
    parser.addoption("--interruptions", type=int, default=600, help="KeyboardInterrupts in the middle of calls")
    parser.addoption("--clients", type=int, default=500, help="short-lived clients, one after the other")
    parser.addoption("--minutes", type=float, default=0, help="how long test_soak lets a mixed load run")
    parser.addoption("--seed", type=int, default=None, help="of the campaigns that print theirs")
    parser.addoption("--fuzz", type=int, default=50_000, help="connections of garbage that test_hostile makes")
    parser.addoption("--short-lived", type=int, default=20_000, help="connections that come and go in test_hostile")
    parser.addoption(
        "--flood-seconds", type=float, default=0.2, help="seconds a verb that test_hostile measures floods"
    )
    parser.addoption("--race-seconds", type=float, default=1.0, help="how long clients race for room, each time")
    parser.addoption("--shelf-seconds", type=float, default=5.0, help="how long shelves are read, written and killed")
    parser.addoption("--pressure-seconds", type=float, default=3.0, help="how long clients put more than there is room")


class Daemon:
    """A storekeeperd process on a directory; may be killed and started again."""

    def __init__(self, store: Path, address: str, *options: str) -> None:
        self.store = store
        self.address = address
        self.options = options
        self.process: subprocess.Popen[bytes] | None = None
        self.descriptors_max = 0
        self.log = store.parent / f"{store.name}.log"

    def launch(self) -> None:
        """Starts it, and does not wait until it can be reached."""
        command = [sys.executable, "-m", "storekeeperd", "serve", str(self.store), "--address", self.address]
        if self.descriptors_max:
            command = ["sh", "-c", f'ulimit -n {self.descriptors_max}; exec "$@"', "sh", *command]
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen([*command, *self.options], stderr=log)

    def start(self) -> Daemon:
        self.launch()
        return self.wait()

    def wait(self) -> Daemon:
        """Waits until it can be reached."""
        assert self.process is not None
        deadline = time.monotonic() + 20
        while not somebody_listens(self.address):
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, "the daemon did not come up"
            time.sleep(0.005)
        return self

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def descriptors(self) -> int:
        """How many it holds for good, but for shelves: a scan or a check holds some more for a moment."""
        return min(self._descriptors() for _ in range(50) if not time.sleep(0.002))

    def _descriptors(self) -> int:
        count = 0
        for number in os.listdir(f"/proc/{self.pid}/fd"):
            with contextlib.suppress(FileNotFoundError):
                count += not os.readlink(f"/proc/{self.pid}/fd/{number}").startswith("/memfd:storekeeper-shelf")
        return count

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)

    def client(self, **options: object) -> Client:
        return Client(self.address, **options)  # type: ignore[arg-type]

    def end(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


@contextlib.contextmanager
def daemons(folder: Path) -> Iterator[Callable[..., Daemon]]:
    """Gives a function that starts daemons below a folder; they end with the block."""
    started: list[Daemon] = []

    def start(*options: str, name: str = "store") -> Daemon:
        daemon = Daemon(folder / name, f"ipc://{folder}/{name}.socket", *options)
        started.append(daemon)
        return daemon.start()

    try:
        yield start
    finally:
        for daemon in started:
            daemon.end()


@pytest.fixture
def start_daemon(tmp_path: Path) -> Iterator[Callable[..., Daemon]]:
    """Gives a function that starts daemons; they end with the test."""
    with daemons(tmp_path) as start:
        yield start


@pytest.fixture
def daemon(start_daemon: Callable[..., Daemon]) -> Daemon:
    """A running daemon on an empty store."""
    return start_daemon()


@pytest.fixture
def client(daemon: Daemon) -> Iterator[Client]:
    """A client of `daemon`."""
    with daemon.client(timeout=20) as client:
        yield client


@pytest.fixture
def run(daemon: Daemon, tmp_path: Path) -> Run:
    """Gives a function that runs `storekeeper` on `daemon`."""

    def run(*arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        command = [sys.executable, "-m", "storekeeper", "--address", daemon.address, *arguments]
        return subprocess.run(command, input=stdin, capture_output=True, timeout=60, cwd=tmp_path)

    return run


@pytest.fixture
def hall() -> Iterator[Callable[..., Daemon]]:
    """Gives a function that starts daemons with a configuration, where every user of this machine can reach them."""
    with tempfile.TemporaryDirectory(prefix="sk-") as made:
        folder = Path(made)
        folder.chmod(0o755)

        with daemons(folder) as start:

            def open_to_all(config: str = "", *options: str, name: str = "store") -> Daemon:
                (folder / f"{name}.toml").write_text(config)
                return start("--config", str(folder / f"{name}.toml"), "--socket-mode", "0666", *options, name=name)

            yield open_to_all


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """A new one every time, unless `--seed` gives it; pytest shows it if the test fails."""
    given = request.config.getoption("--seed")
    chosen = random.SystemRandom().randrange(1 << 32) if given is None else int(given)
    print(f"--seed {chosen}")
    return chosen


def tell(run: Run, *arguments: str, stdin: bytes = b"", status: int = 0) -> str:
    """Returns what a command printed; fails unless it ended as it should."""
    done = run(*arguments, stdin=stdin)
    assert done.returncode == status, done.stderr
    return done.stdout.decode()


def adopt(ground: Ground) -> None:
    """Lets whatever directory has the locked file be the store, as a home does."""
    root = ground.find()
    ground.adopt(root)
    os.close(root)


@contextlib.contextmanager
def held(store: Path) -> Iterator[Ground]:
    """The way into a directory, proven by its locked file as a home does it."""
    (store / home.TEMPORARY).mkdir(parents=True)
    lock = os.open(store / os.fsdecode(WITNESS), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
    try:
        ground = Ground(store)
        found = os.fstat(lock)
        ground.witness = found.st_dev, found.st_ino
        adopt(ground)
        yield ground
    finally:
        os.close(lock)


def by_hand(path: Path) -> int:
    """What is seen of a file that somebody put there by hand: all that stat(2) says of it."""
    found = path.stat()
    return sight.of(found.st_size, found.st_uid, int(found.st_mtime))


def size_of_new(seen: int, owner: int) -> int:
    """The size in what was seen of a new object, once the rest was found right: whose it is, since when, and for good.

    ABSENT and UNSEEN as they are.
    """
    if seen >= 0:
        assert seen == sight.of(sight.size_of(seen), owner, sight.created_of(seen))
        assert -1 <= time.time() - sight.created_of(seen) < 60
    return sight.size_of(seen)


def figures(usage: dict[str, Any]) -> dict[str, Any]:
    """Returns what `usage` says of the objects themselves, without bounds and charges."""
    return {name: usage[name] for name in ("objects", "bytes", "objects_not_sized")}


def eventually(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    """Waits until something is so; fails if it is not in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass in time"
        time.sleep(0.005)


@pytest.fixture(params=["unix", "zmq"])
def each_carrier(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets a test run over each carrier; for a whole file, `pytestmark = pytest.mark.usefixtures("each_carrier")`."""
    monkeypatch.setenv("STOREKEEPER_CARRIER", request.param)


@pytest.fixture
def by_plain_socket(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets a test that is about descriptors go by the carrier that passes them, whatever the environment says."""
    monkeypatch.delenv("STOREKEEPER_SHELF", raising=False)
    if "each_carrier" not in request.fixturenames:
        monkeypatch.setenv("STOREKEEPER_CARRIER", "unix")


def _held() -> tuple[int, int, int]:
    children = 0
    for task in os.listdir("/proc/self/task"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that has just ended
            children += len(Path(f"/proc/self/task/{task}/children").read_text().split())
    return len(os.listdir("/proc/self/fd")), threading.active_count(), children


@pytest.fixture(scope="session", autouse=True)
def _warm() -> None:
    """Makes what lives as long as the process: what ZeroMQ and multiprocessing keep for themselves."""
    import multiprocessing

    import zmq

    from storekeeper.dealer import _process_context

    with _process_context().socket(zmq.PAIR) as one, _process_context().socket(zmq.PAIR) as other:
        one.bind("inproc://warm")
        other.connect("inproc://warm")
        other.send(bytes(1 << 20), copy=False)
        one.recv()
    process = multiprocessing.get_context("spawn").Process(target=int)
    process.start()
    process.join()
    process.close()
    gc.collect()
    gc.freeze()  # what is there now stays: the collections around every test need not look at it


@pytest.fixture(autouse=True)
def _nothing_leaks(_warm: None) -> Iterator[None]:
    """Fails a test that leaves descriptors, threads or child processes behind."""
    gc.collect()
    before = _held()
    yield
    deadline = time.monotonic() + 3
    while True:
        gc.collect()
        after = _held()
        if all(now <= then for now, then in zip(after, before, strict=True)):
            return
        if time.monotonic() > deadline:
            break
        time.sleep(0.02)
    names = "descriptors, threads, child processes"
    pytest.fail(f"leaked: {names} were {before}, are {after}: {[t.name for t in threading.enumerate()]}")


_figures: Counter[str] = Counter()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Takes what the campaigns of this process came to: see seam.py. A worker hands it to who started it."""
    _figures.update(getattr(sys.modules.get("seam"), "FIGURES", {}))
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["figures"] = dict(_figures)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    _figures.update(getattr(node, "workeroutput", {}).get("figures", {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for what, count in _figures.items():
        terminalreporter.write_line(f"{what}: {count}")
