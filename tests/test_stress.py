"""A real daemon on a directory that others change without pause: whatever happens, its answers end up true."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

import outsiders
from conftest import Daemon, daemons, eventually, figures
from outsiders import KEYS
from storekeeper import Client
from storekeeper.errors import KeyExists

TIMEOUT_S = 100.0
QUIET_S = 15.0
"""How long a file that was written in place may take to be known with all its bytes."""

LOOKS_S = 30.0
"""How long all looks of one test may take: ten times what they need."""


@pytest.fixture(params=["tmpfs", "disk"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A folder in memory, and one where temporary files are; empty again afterwards."""
    if request.param == "disk":
        yield tmp_path
        shutil.rmtree(tmp_path)
        return
    if not os.access("/dev/shm", os.W_OK):
        pytest.skip("no /dev/shm here")
    made = Path(tempfile.mkdtemp(prefix="storekeeper-test-", dir="/dev/shm"))
    yield made
    shutil.rmtree(made)


@pytest.fixture
def daemon(folder: Path) -> Iterator[Daemon]:
    (folder / "outside").mkdir()
    with daemons(folder) as start:
        yield start()


@pytest.fixture
def client(daemon: Daemon) -> Iterator[Client]:
    with daemon.client(timeout=TIMEOUT_S) as client:
        yield client


class Outside:
    """Another process; see outsiders.py."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.process = process
        self._says, self._hears = process.stdout, process.stdin

    def do(self, *command: object) -> None:
        """Has one thing done; returns when it is."""
        print(*command, file=self._hears, flush=True)
        assert self._says.readline() == "done\n", command

    def end(self) -> str:
        """Ends it; returns what it had to say."""
        self._hears.close()
        said = self._says.read()
        assert self.process.wait(TIMEOUT_S) == 0
        return said


@contextlib.contextmanager
def outside(daemon: Daemon, mode: str = "obey", seed: int = 0) -> Iterator[Outside]:
    """Gives a process that changes the store; it ends with the block."""
    command = [sys.executable, "-I", "-S", outsiders.__file__, mode, str(daemon.store)]
    command += [str(daemon.store.parent / "outside"), str(seed)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Outside(process)
        finally:
            process.kill()  # does nothing if it has ended


@contextlib.contextmanager
def stopped(daemon: Daemon) -> Iterator[None]:
    """Stops the daemon for the block, between any two of its instructions."""
    os.kill(daemon.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(daemon.pid, signal.SIGCONT)


def queue_events() -> int:
    """Returns how many events make the kernel's queue overflow for sure."""
    longest = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    if longest > 100_000:
        pytest.skip(f"fs.inotify.max_queued_events is {longest}: an overflow would take too long")
    return longest + 1000


def overflows(client: Client) -> int:
    found: int = client.status()["losses"].get("overflow", 0)
    return found


def sizes_in(store: Path) -> dict[str, int]:
    """Returns names and sizes of the objects in a directory."""
    with os.scandir(store) as entries:
        return {entry.name: entry.stat(follow_symlinks=False).st_size for entry in entries if entry.name[0] != "."}


def assert_same_names(listed: list[str], there: Iterable[str]) -> None:
    assert len(listed) == len(set(listed))
    divergent = set(listed).symmetric_difference(there)
    assert not divergent, f"{len(divergent)} names diverge, for example {sorted(divergent)[:10]}"


def assert_true(client: Client, store: Path, asked: Iterable[str] = ()) -> None:
    """Holds every answer against a directory that nobody changes any more."""
    began = time.monotonic()
    there = sizes_in(store)
    looked_s = time.monotonic() - began
    assert_same_names(client.list(fresh=True), there)
    listed_s = time.monotonic() - began - looked_s
    names = sorted({*asked, *there})
    wrong = [name for name, found in zip(names, client.exists_batch(names), strict=True) if found != (name in there)]
    assert not wrong, f"exists is wrong for {len(wrong)} of {len(names)} names, for example {wrong[:10]}"
    assert_same_names(client.list(), there)
    truth = {"objects": len(there), "bytes": sum(there.values()), "objects_not_sized": 0}
    usage = client.usage(fresh=True)
    assert usage["objects"] == truth["objects"]
    at_once = figures(usage) == truth
    # A file may have been seen before its bytes were written: it is looked at again until it stays the same.
    eventually(lambda: figures(client.usage(fresh=True)) == truth, QUIET_S)
    status = client.status()
    eventually(lambda: client.status()["coherent"], QUIET_S)
    print(
        f"{len(there)} objects: fresh list after {listed_s:.3f} s, bytes right {'at once' if at_once else 'later'}, "
        f"all after {time.monotonic() - began - looked_s:.3f} s; losses {status['losses']}"
    )


# -- everybody at once


def use_until(client: Client, seed: int, enough: threading.Event, failures: list[BaseException]) -> None:
    """Does what clients do, on the keys that others change too."""
    chance = random.Random(seed)
    try:
        while not enough.is_set():
            key = chance.choice(KEYS)
            kind = chance.randrange(5)
            if kind == 0:
                client.put(chance.randbytes(chance.randrange(300)), key=key, replace=True)
            elif kind == 1:
                with contextlib.suppress(KeyExists):
                    client.put(chance.randbytes(chance.randrange(300)), key=key)
            elif kind == 2:
                client.evict(key)
            elif kind == 3:
                client.exists(key, fresh=chance.random() < 0.3)
            else:
                client.get(key)
    except BaseException as error:
        failures.append(error)


def test_outsiders_clients_and_overflows_leave_no_divergence(
    daemon: Daemon, client: Client, request: pytest.FixtureRequest
) -> None:
    events = queue_events()
    failures: list[BaseException] = []
    for _ in range(request.config.getoption("--rounds", default=2)):
        seed = int.from_bytes(os.urandom(4))
        print("seed", seed)
        enough = threading.Event()
        threads = [
            threading.Thread(target=use_until, args=(client, seed + number, enough, failures)) for number in range(2)
        ]
        with contextlib.ExitStack() as stack:
            others = [stack.enter_context(outside(daemon, "churn", seed + number)) for number in range(3)]
            flooder = stack.enter_context(outside(daemon, seed=seed))
            try:
                for thread in threads:
                    thread.start()
                for _ in range(2):
                    time.sleep(random.Random(seed).uniform(0.1, 0.6))
                    before = overflows(client)
                    with stopped(daemon):
                        flooder.do("flood", events)
                    eventually(lambda before=before: overflows(client) > before, 30)  # type: ignore[misc]
            finally:
                enough.set()
                for thread in threads:
                    thread.join()
            print("changes", [int(other.end()) for other in others])
            flooder.end()
        assert not failures
        assert_true(client, daemon.store, KEYS)


# -- bursts


def test_a_burst_of_files_made_and_deleted_is_followed(
    daemon: Daemon, client: Client, request: pytest.FixtureRequest
) -> None:
    count = request.config.getoption("--files", default=20_000)
    with outside(daemon) as other:
        other.do("files", 0, count)
        other.do("delete", 0, count // 2)
        other.end()
    assert_true(client, daemon.store, [f"file-{number:06}" for number in range(count)])


def test_what_changed_while_the_daemon_was_stopped_is_seen_at_once(
    daemon: Daemon, client: Client, request: pytest.FixtureRequest
) -> None:
    changes = max(queue_events(), request.config.getoption("--files", default=20_000) // 4)
    known = 3000
    with outside(daemon) as other:
        other.do("files", 0, known)
        assert len(client.list(fresh=True)) == known
        before = overflows(client)
        with stopped(daemon):
            other.do("delete", 0, known // 4)
            other.do("swap", known // 2, known // 2)
            other.do("files", known, changes - known * 3 // 4)
        other.end()
    asked = [f"{kind}-{number:06}" for kind in ("file", "swap") for number in range(changes)]
    assert_true(client, daemon.store, asked)
    assert overflows(client) > before


# -- answers at once


def look_at_once(client: Client, store: Path, other: Outside, chance: random.Random, looks: int) -> list[str]:
    """Asks for fresh answers right after changes; returns what was wrong."""
    names = [f"look-{number}" for number in range(12)]
    wrong: list[str] = []

    def expect(what: str, answer: object, expected: object) -> None:
        if answer != expected:
            wrong.append(f"{what}: {answer}, not {expected}")

    there: set[str] = set()
    deadline = time.monotonic() + LOOKS_S
    for look in range(looks):
        assert time.monotonic() < deadline, f"only {look} looks in {LOOKS_S} s, of which wrong: {wrong}"
        changed = chance.sample(names, 2)
        if changed[0] not in there:
            change = chance.choice(("create", "come", "join"))
        elif changed[1] in there or chance.random() < 0.4:
            change = chance.choice(("unlink", "leave"))
        else:
            change = chance.choice(("rename", "link"))
        if change not in ("rename", "link"):
            del changed[1]
        other.do(change, *changed)
        # Not what the change should have done: a rename onto another name of the same file, for one, does nothing.
        there = {name for name in os.listdir(store) if name in names}
        questions = ["exists", "list", "plain", "get"]
        chance.shuffle(questions)
        for question in questions:
            if question == "exists":
                for one in changed:
                    expect(f"{change}, exists fresh", client.exists(one, fresh=True), one in there)
            elif question == "list":
                expect(f"{change}, list fresh", client.list("look-", fresh=True), sorted(there))
                expect(f"{change}, exists after it", client.exists_batch(names), [one in there for one in names])
            elif question == "plain":
                for one in changed:
                    if one in there:  # what is not in memory is always looked up
                        expect(f"{change}, exists", client.exists(one), True)
            else:
                for one in changed:
                    expect(f"{change}, get", client.get(one) is not None, one in there)
                    expect(f"{change}, exists after get", client.exists(one), one in there)
    return wrong


@pytest.mark.parametrize("noise", [False, True], ids=["quiet", "noise"])
def test_a_fresh_answer_has_seen_all_that_was_done_before(
    daemon: Daemon, client: Client, request: pytest.FixtureRequest, noise: bool
) -> None:
    seed = int.from_bytes(os.urandom(4))
    print("seed", seed)
    looks = request.config.getoption("--looks", default=1500) // 2
    with contextlib.ExitStack() as stack:
        other = stack.enter_context(outside(daemon))
        if noise:
            stack.enter_context(outside(daemon, "churn", seed))
        wrong = look_at_once(client, daemon.store, other, random.Random(seed), looks)
    assert not wrong, f"{len(wrong)} answers of {looks} looks: {wrong[:5]}"


@pytest.mark.parametrize("change", [False, True], ids=["unchanged", "changed"])
def test_a_fresh_answer_does_not_wait_for_the_clock(daemon: Daemon, client: Client, change: bool) -> None:
    client.put(b"bytes", key="k")
    fresh_s, plain_s = [], []
    with outside(daemon) as other:
        for number in range(9):
            if change:
                other.do("create", f"new-{number}")
            began = time.monotonic()
            client.exists("k", fresh=True)
            looked = time.monotonic()
            client.list(fresh=True)
            client.usage(fresh=True)
            plain_s.append(looked - began)
            fresh_s.append(time.monotonic() - looked)
        other.end()
    # A few times as long as a look, while what is done every second would take thousands.
    assert statistics.median(fresh_s) < 100 * statistics.median(plain_s), (fresh_s, plain_s)


def test_a_get_of_a_file_just_removed_corrects_exists_at_once(daemon: Daemon) -> None:
    wrong = 0
    with outside(daemon) as other, daemon.client(shelf=False) as client:
        for number in range(300):
            key = f"k-{number}"
            client.put(b"bytes", key=key)
            assert client.exists(key)
            other.do("unlink", key)
            wrong += client.get(key) is not None
            wrong += client.exists(key)
        other.end()
    assert not wrong


def test_a_file_just_removed_is_off_the_shelf_when_it_is_heard_of(daemon: Daemon, client: Client) -> None:
    with outside(daemon) as other:
        for number in range(100):
            key = f"k-{number}"
            client.put(b"bytes", key=key)
            assert client.get(key) == b"bytes"
            other.do("unlink", key)
            eventually(lambda key=key: client.get(key) is None, QUIET_S)  # type: ignore[misc]
            assert not client.exists(key)
        other.end()


def test_files_written_slowly_in_place_end_with_all_their_bytes(daemon: Daemon, client: Client, folder: Path) -> None:
    with outside(daemon) as other:
        other.do("grow", 20, 13, 0.25)
        other.end()
    began = time.monotonic()
    there = sizes_in(daemon.store)
    assert sum(there.values()) == sum(13 * (1000 + number) for number in range(20))
    eventually(lambda: client.usage(fresh=True)["bytes"] == sum(there.values()), QUIET_S)
    print(f"all bytes known after {time.monotonic() - began:.3f} s")
    assert_true(client, daemon.store)
