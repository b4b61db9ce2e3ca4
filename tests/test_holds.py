"""holds.py: what the daemon holds for views, however they end, and whatever else the connection is used for."""

from __future__ import annotations

import gc
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from conftest import Daemon, eventually
from storekeeper import Client
from storekeeper.errors import Busy, StorekeeperError, TimedOut

SIZE = 1 << 20
Hall = Callable[..., Daemon]


@pytest.fixture(autouse=True)
def _by_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOREKEEPER_CARRIER", "unix")  # over ZeroMQ a view is a copy, and holds nothing


@pytest.fixture
def daemon(hall: Hall) -> Daemon:
    """One that counts space: what is removed and still held counts as reserved."""
    return hall(f"[quota]\nbytes_max = {1 << 30}\n")


@pytest.fixture
def other(daemon: Daemon) -> Iterator[Client]:
    """Another client, which holds nothing."""
    with daemon.client(timeout=10) as client:
        yield client


def view_of(client: Client, key: str = "k") -> memoryview:
    """Returns a view of an object that is put for it, and evicted again."""
    client.put(bytes(SIZE), key=key)
    view = client.view(key)
    assert view is not None
    assert client.evict(key)
    return view


def held(client: Client) -> int:
    """How many objects that are removed the daemon still counts."""
    return int(client.status()["reserved_bytes"]) // SIZE


def test_its_end_is_told_at_once_though_nobody_calls(client: Client, other: Client) -> None:
    view = view_of(client)
    assert held(other) == 1
    view.release()
    eventually(lambda: held(other) == 0)
    assert client.put(b"x", key="k") == "k"


def test_what_is_read_by_a_descriptor_is_given_back_though_nobody_calls(client: Client, other: Client) -> None:
    client.put(bytes(5 << 20), key="k")
    for _ in range(40):  # more than a connection has handles
        assert client.get("k") == bytes(5 << 20)
    client.evict("k")
    eventually(lambda: held(other) == 0)


def test_its_end_in_another_thread_in_the_middle_of_a_call(client: Client, other: Client) -> None:
    client.put(os.urandom(64 << 20), key="large")
    views = [view_of(client) for _ in range(5)]
    got: list[Any] = []
    caller = threading.Thread(target=lambda: got.extend(client.get("large") for _ in range(3)))
    caller.start()
    while views:
        views.pop().release()
    caller.join()
    assert len(got) == 3
    eventually(lambda: held(other) == 0)


def test_its_end_in_a_collection_in_the_middle_of_a_call(client: Client, other: Client) -> None:
    class Ring:
        def __init__(self, view: memoryview) -> None:
            self.view, self.me = view, self

    before = gc.get_threshold()
    gc.set_threshold(5)  # so that most of them end inside calls
    try:
        for number in range(100):
            Ring(view_of(client, f"k{number}"))
    finally:
        gc.set_threshold(*before)
    gc.collect()
    eventually(lambda: held(other) == 0)
    assert client.status()["broken"] == 0


def test_many_at_once_are_spread_over_connections(client: Client, other: Client) -> None:
    views = [view_of(client, f"k{number}") for number in range(200)]
    assert held(other) == 200
    assert client.status()["connections"] < 40
    random.Random(7).shuffle(views)
    for left in range(199, -1, -1):
        views.pop().release()
        if left % 50 == 0:
            eventually(lambda left=left: held(other) == left)  # type: ignore[misc]
    assert client.status()["connections"] <= 18


def test_those_whose_view_ended_are_used_again(client: Client) -> None:
    views = [view_of(client, f"k{number}") for number in range(8)]
    client.exists("k")  # on another one: the first is full
    assert client.status()["connections"] == 2
    for number in range(100):
        views.pop(0).release()
        views.append(view_of(client, f"n{number}"))
    assert client.status()["connections"] <= 3


@pytest.mark.parametrize("handles_max", [1, 2, 5])
def test_where_a_connection_may_have_few_handles(hall: Hall, handles_max: int) -> None:
    daemon = hall(f"[limits]\npeer_handles_max = {handles_max}\n", name="few")
    with daemon.client(timeout=10) as client:
        data = os.urandom(5 << 20)
        client.put(data, key="k")
        views = [client.view("k") for _ in range(10)]
        assert client.get("k") == data
        assert client.list() == ["k"]
        with client.writer("other") as writer:
            writer.write(b"x")
        assert all(view == data for view in views)


def test_as_many_as_a_user_may_have(hall: Hall) -> None:
    daemon = hall("[limits]\nuser_handles_max = 10\n", name="few")
    with daemon.client(timeout=1) as client:
        client.put(bytes(SIZE), key="k")
        views = [client.view("k") for _ in range(10)]
        with pytest.raises((Busy, TimedOut)):  # it is tried again until the deadline, which may come before an answer
            client.view("k")
        views.pop()
        views.append(client.view("k"))  # the place of the one that ended is free at once
        assert all(view == bytes(SIZE) for view in views)


def test_beside_a_writer(client: Client, other: Client) -> None:
    view = view_of(client)
    with client.writer("w") as writer:
        writer.write(b"x")
    assert held(other) == 1
    view.release()
    eventually(lambda: held(other) == 0)


@pytest.mark.parametrize("ending", ["closed", "forgotten"])
def test_it_outlives_its_client(daemon: Daemon, other: Client, ending: str) -> None:
    client = daemon.client()
    views = [view_of(client, f"k{number}") for number in range(10)]
    if ending == "closed":
        client.close()
    del client
    gc.collect()
    assert held(other) == 10
    for view in views:
        assert view == bytes(SIZE)
    for view in views[1:]:
        view.release()
    eventually(lambda: held(other) == 1)
    views[0].release()
    eventually(lambda: other.status()["connections"] == 1)
    eventually(lambda: held(other) == 0)


def test_it_outlives_a_burst_of_threads(client: Client, other: Client) -> None:
    views: list[memoryview] = []
    together = threading.Barrier(40)

    def work(number: int) -> None:
        together.wait()
        for turn in range(3):
            views.append(view_of(client, f"k{number}-{turn}"))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert held(other) == 120
    while views:
        views.pop().release()
    eventually(lambda: held(other) == 0)
    assert client.status()["connections"] <= 18


def test_it_outlives_a_call_that_failed(client: Client, other: Client) -> None:
    view = view_of(client)
    client.put(bytes(5 << 20), key="large")
    with pytest.raises(ValueError, match="the buffer"):  # after which the connection is not used again
        client.get("large", into=bytearray(1))
    assert held(other) == 1
    view.release()
    eventually(lambda: held(other) == 0)


def test_in_a_forked_child_it_is_not_the_childs_to_end(client: Client, other: Client) -> None:
    view = view_of(client)
    child = os.fork()
    if not child:
        status = 1
        try:
            whole = view == bytes(SIZE)
            view.release()
            gc.collect()
            client.put(b"x", key="of the child")
            status = 0 if whole else 2
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert held(other) == 1
    assert view == bytes(SIZE)
    assert client.exists("of the child")
    view.release()
    eventually(lambda: held(other) == 0)


def test_across_a_restart_of_the_daemon(daemon: Daemon, client: Client, other: Client) -> None:
    views = [view_of(client, f"k{number}") for number in range(10)]
    daemon.kill()
    views.pop().release()
    daemon.start()
    assert client.put(bytes(SIZE), key="new") == "new"
    for view in views:
        assert view == bytes(SIZE)
        view.release()
    new = view_of(client)
    assert held(other) == 1
    new.release()
    eventually(lambda: held(other) == 0)
    assert client.status()["broken"] == 0


@pytest.mark.parametrize("ending", ["pass", "client.close()", "del client", "os._exit(0)", "del view"])
def test_at_the_end_of_the_interpreter(daemon: Daemon, other: Client, ending: str) -> None:
    other.put(bytes(SIZE), key="k")
    code = (
        "import os, sys; from storekeeper import Client; client = Client(sys.argv[1])\n"
        f"view = client.view('k'); views = [client.view('k') for _ in range(20)]; client.evict('k')\n{ending}"
    )
    done = subprocess.run([sys.executable, "-c", code, daemon.address], timeout=30, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    eventually(lambda: held(other) == 0)


def test_any_number_of_threads_view_and_call(client: Client, other: Client, seed: int) -> None:
    faults: list[BaseException] = []

    def work(number: int) -> None:
        chance = random.Random(seed + number)
        views: list[tuple[bytes, memoryview]] = []
        try:
            for turn in range(150):
                key = f"k{number}-{turn}"
                mark = os.urandom(8)
                client.put(mark + bytes(SIZE // 4), key=key, replace=True)
                view = client.view(key)
                assert view is not None
                views.append((mark, view))
                client.evict(key)
                while views and chance.random() < 0.5:
                    mark, view = views.pop(chance.randrange(len(views)))
                    assert view[:8] == mark
                    shared.append(view)
                    del view
                    while len(shared) > 3:  # of any thread
                        shared.pop()
        except (AssertionError, IndexError, StorekeeperError) as error:
            if not isinstance(error, IndexError):
                faults.append(error)

    shared: list[memoryview] = []
    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults
    shared.clear()
    gc.collect()
    eventually(lambda: other.status()["reserved_bytes"] == 0)
    assert client.status()["broken"] == 0
