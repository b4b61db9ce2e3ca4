"""Real processes on a real daemon: spawned, forked, threads; restarts, hangs, a dead client; see test_kills.py too."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import random
import signal
import sys
import sysconfig
import threading
import time
from pathlib import Path

import pytest

from conftest import Daemon, eventually
from storekeeper import Client, StorekeeperError
from storekeeper.errors import DaemonUnreachable, KeyExists, TimedOut

SPAWN = multiprocessing.get_context("spawn")
FORK = multiprocessing.get_context("fork")


def digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


def work(store: Client, name: str, count: int) -> None:
    """Puts, gets and evicts; every object carries its own digest."""
    chance = random.Random(name)
    mine: dict[str, bytes] = {}
    for number in range(count):
        data = chance.randbytes(chance.choice((0, 10, 1000, 70_000)))
        key = f"{name}-{number}"
        store.put(data, key=key)
        mine[key] = digest(data)
        if number % 3 == 0:
            gone = chance.choice(list(mine))
            assert store.evict(gone)
            del mine[gone]
            assert not store.exists(gone)
    for key, expected in mine.items():
        found = store.get(key)
        assert found is not None, key
        assert digest(found) == expected, key
    assert store.evict_batch(mine) == [True] * len(mine)


def work_in_process(address: str, name: str, count: int) -> None:
    with Client(address) as store:
        work(store, name, count)


def ended_well(processes: list[multiprocessing.process.BaseProcess]) -> None:
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
        process.close()


def test_spawned_and_forked_processes_and_threads_share_a_store(daemon: Daemon, client: Client) -> None:
    client.put(b"warm", key="warm")  # a connection that the forked children inherit and must not use
    forked = [FORK.Process(target=work, args=(client, f"forked-{n}", 40)) for n in range(4)]
    spawned = [SPAWN.Process(target=work_in_process, args=(daemon.address, f"spawned-{n}", 40)) for n in range(4)]
    failures: list[BaseException] = []

    def in_thread(name: str) -> None:
        try:
            work(client, name, 40)
        except BaseException as error:
            failures.append(error)

    for process in (*forked, *spawned):
        process.start()
    threads = [threading.Thread(target=in_thread, args=(f"thread-{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ended_well([*forked, *spawned])
    assert not failures
    assert client.list() == ["warm"]
    assert sorted(p.name for p in daemon.store.iterdir()) == [".storekeeper", "warm"]


def real_files(count: int) -> list[Path]:
    """Files of the Python that runs this: real input of all sizes, and not made for the test."""
    found: list[Path] = []
    for folder, folders, names in os.walk(sysconfig.get_path("stdlib")):
        folders.sort()
        found += [Path(folder) / name for name in sorted(names)]
        if len(found) > 3 * count:
            break
    return [path for path in found if path.is_file() and not path.is_symlink()][:count]


def put_and_get_files(address: str, part: list[str], into: str) -> None:
    with Client(address) as store:
        keys = {path: path.replace("/", "|")[-200:] for path in part}
        for path, key in keys.items():
            store.put(Path(path).read_bytes(), key=key)
        for key in keys.values():
            (Path(into) / key).write_bytes(store.get(key))


def test_fifteen_hundred_real_files_come_back_equal_through_four_processes(daemon: Daemon, tmp_path: Path) -> None:
    files = [str(path) for path in real_files(1500)]
    assert len(files) == 1500
    into = tmp_path / "back"
    into.mkdir()
    parts = [files[n::4] for n in range(4)]
    processes = [SPAWN.Process(target=put_and_get_files, args=(daemon.address, part, str(into))) for part in parts]
    for process in processes:
        process.start()
    ended_well(processes)
    for file in files:
        key = file.replace("/", "|")[-200:]
        original = Path(file).read_bytes()
        assert (into / key).read_bytes() == original
        assert (daemon.store / key).read_bytes() == original  # one file per object, as it is


def test_a_file_removed_or_moved_in_by_hand_is_seen(daemon: Daemon, client: Client, tmp_path: Path) -> None:
    client.put(b"bytes", key="k")
    (daemon.store / "k").unlink()
    eventually(lambda: not client.exists("k"))
    (tmp_path / "outside").write_bytes(b"from outside")
    (tmp_path / "outside").rename(daemon.store / "k")
    assert client.exists("k")  # a miss is always looked up: no moment of lag
    assert client.get("k") == b"from outside"
    (daemon.store / "k").rename(daemon.store / "l")
    eventually(lambda: not client.exists("k") and client.exists("l"))
    eventually(lambda: client.list() == ["l"])


def test_a_get_finds_out_that_a_file_is_gone(daemon: Daemon, client: Client) -> None:
    client.put(b"bytes", key="k")
    (daemon.store / "k").unlink()
    assert client.get("k") is None
    assert client.exists("k", fresh=True) is False


def upload_and_hang(address: str) -> None:
    from storekeeper.carriers import Carriers
    from storekeeper.exchange import Exchange

    exchange = Exchange(Carriers(address).take(), time.monotonic() + 60)
    begun = exchange.ask(b"upload", [b"never"])
    for place in range(8):
        exchange.ask(b"write", [begun.details["handle"].encode(), b"%d" % (place << 20), bytes(1 << 20)])
    print("uploading", flush=True)
    time.sleep(60)


def test_a_client_that_dies_in_mid_upload_leaves_nothing(daemon: Daemon) -> None:
    with daemon.client() as client:
        client.status()
        held = daemon.descriptors
        process = SPAWN.Process(target=upload_and_hang, args=(daemon.address,))
        process.start()
        eventually(lambda: client.status()["connections"] == 2 and _written(daemon) > 8_000_000)
        process.kill()
        process.join()
        process.close()
        eventually(lambda: client.status()["connections"] == 1)
        assert client.exists("never") is False
        assert client.list() == []
        eventually(lambda: daemon.descriptors == held)
    assert sorted(p.name for p in daemon.store.iterdir()) == [".storekeeper"]
    assert list((daemon.store / ".storekeeper" / "tmp").iterdir()) == []


def _written(daemon: Daemon) -> int:
    with open(f"/proc/{daemon.pid}/io") as told:
        return int(told.read().split("wchar: ")[1].split()[0])


def test_a_large_put_and_get_ride_over_a_restart(daemon: Daemon, client: Client) -> None:
    data = random.Random(1).randbytes(48 << 20)
    kills = 0

    def restart() -> None:
        nonlocal kills
        for _ in range(3):
            time.sleep(0.05)
            daemon.kill()
            kills += 1
            daemon.start()

    thread = threading.Thread(target=restart)
    thread.start()
    client.put(data, key="large")
    got = client.get("large")
    thread.join()
    assert kills == 3
    assert got == data
    assert client.get("large") == data


def test_a_call_ends_by_its_deadline_when_the_daemon_hangs(daemon: Daemon) -> None:
    with daemon.client(timeout=0.5) as client:
        client.put(b"bytes", key="k")
        os.kill(daemon.pid, signal.SIGSTOP)
        try:
            started = time.monotonic()
            with pytest.raises(TimedOut):
                client.get("k")
            assert 0.4 < time.monotonic() - started < 5
        finally:
            os.kill(daemon.pid, signal.SIGCONT)
        assert client.get("k") == b"bytes"  # a late answer to the call before confuses nobody


def test_a_dead_daemon_is_an_error_and_fast_the_second_time(daemon: Daemon) -> None:
    with daemon.client(timeout=1) as client:
        client.put(b"bytes", key="k")
        daemon.kill()
        started = time.monotonic()
        with pytest.raises(DaemonUnreachable):
            client.get("k")
        first_s = time.monotonic() - started
        started = time.monotonic()
        for _ in range(100):
            with pytest.raises(DaemonUnreachable):
                client.evict("k")
        assert time.monotonic() - started < 10 * first_s  # a hundred of the first kind would take ten times that
        daemon.start()
        assert client.get("k") == b"bytes"


def test_the_daemon_finishes_what_is_under_way_and_exits_with_0(daemon: Daemon) -> None:
    data = bytes(24 << 20)
    outcome: list[object] = []

    def put() -> None:
        try:
            with daemon.client(carrier="zmq", timeout=20) as client:  # in ranges, which the daemon writes
                outcome.append(client.put(data, key="large"))
        except StorekeeperError as error:
            outcome.append(error)

    thread = threading.Thread(target=put)
    thread.start()
    eventually(lambda: _written(daemon) > 1_000_000)
    started = time.monotonic()
    assert daemon.stop() == 0
    assert time.monotonic() - started < 5
    assert not Path(daemon.address.removeprefix("ipc://")).exists()
    daemon.start()
    thread.join()
    assert outcome == ["large"]


def test_both_durabilities_are_reached_and_told(client: Client) -> None:
    for durability in ("os", "disk"):
        key = client.put(b"bytes", durability=durability)
        assert client.get(key) == b"bytes"
        reply = client._traffic.ask(b"put", [key.encode(), b"bytes"], {"durability": durability})
        assert reply.words == ["same"]
        assert reply.details["durability"] == durability


def test_of_many_puts_of_one_key_at_once_one_wins(daemon: Daemon) -> None:
    outcomes: list[str] = []

    def put(number: int) -> None:
        with daemon.client() as client:
            try:
                client.put(b"%d" % number, key="contested")
                outcomes.append("won")
            except KeyExists:
                outcomes.append("refused")

    threads = [threading.Thread(target=put, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["refused"] * 7 + ["won"]


def test_the_interpreter_ends_though_nobody_closed_the_client(daemon: Daemon) -> None:
    import subprocess

    script = (
        f"from storekeeper import Client; c = Client({daemon.address!r}); k = c.put(b'x'); print(c.get(k)); "
        "import threading; threading.Thread(target=c.get, args=(k,)).start()"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, timeout=30)
    assert done.stdout == b"b'x'\n"
    assert done.stderr == b""
    assert done.returncode == 0
