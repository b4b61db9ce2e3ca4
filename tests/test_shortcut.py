"""shortcut.py: when a client has a shelf, and what a daemon that lies, or a caller that attacks, can do with one."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from conftest import Daemon, eventually
from storekeeper import Client
from storekeeper.errors import Busy, ClientClosed, QuotaExceeded

pytestmark = pytest.mark.usefixtures("by_plain_socket")


def given(client: Client, key: str = "k") -> None:
    """Reads until the client has a shelf that knows an object."""
    deadline = time.monotonic() + 20
    while client._shortcut.get(key) is None:
        assert time.monotonic() < deadline, "no shelf"
        client.get(key)
        assert client.exists(key)
        time.sleep(0.001)


def held() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


# -- a client of an honest daemon


def test_after_some_reads_what_is_there_is_read_without_the_daemon(daemon: Daemon, client: Client) -> None:
    client.put(b"bytes", key="k")
    given(client)
    assert client._shortcut.get("k") == b"bytes"
    os.kill(daemon.pid, signal.SIGSTOP)
    try:
        target = bytearray(5)
        assert client.exists("k")
        assert client.get("k") == b"bytes"
        assert client.get("k", into=target) == 5
        assert target == b"bytes"
        assert client.exists_batch(["k", "k"]) == [True, True]
        assert client.get_batch(["k", "k"]) == [b"bytes", b"bytes"]
    finally:
        os.kill(daemon.pid, signal.SIGCONT)


def test_a_daemon_that_is_stopped_is_not_believed_after_three_seconds_and_again_when_it_goes_on(
    daemon: Daemon, client: Client
) -> None:
    client.put(b"bytes", key="k")
    given(client)
    os.kill(daemon.pid, signal.SIGSTOP)
    try:
        eventually(lambda: not client._shortcut.has("k"), 10)
        assert client._shortcut.get("k") is None
    finally:
        os.kill(daemon.pid, signal.SIGCONT)
    eventually(lambda: client._shortcut.has("k"))


def test_what_was_evicted_replaced_or_removed_by_hand_is_not_read_any_more(daemon: Daemon, client: Client) -> None:
    with daemon.client() as other:
        client.put(b"0", key="k")
        given(client)
        for number in range(1, 200):
            data = b"%d" % number
            other.put(data, key="k", replace=True)
            assert client.get("k") == data
            assert client.get("k") == data
        other.evict("k")
        assert not client.exists("k")
        assert client.get("k") is None
        for _ in range(50):
            other.put(b"1", key="k")
            given(client)
            (daemon.store / "k").unlink()
            assert not other.exists("k", fresh=True)
            assert not client.exists("k")
            assert client.get("k") is None


@pytest.mark.parametrize("how", ["ttl", "lifetime", "pin", "touch"])
def test_what_does_not_simply_live_on_is_never_on_it(client: Client, how: str) -> None:
    client.put(b"x", key="plain")
    given(client, "plain")
    terms: dict[str, Any] = {"ttl": {"ttl": 60.0}, "lifetime": {"lifetime": "process"}}.get(how, {})
    client.put(b"x", key="k", **terms)
    if how == "pin":
        client.pin("k")
    elif how == "touch":
        client.touch("k", 60.0)
    for _ in range(20):
        assert client.exists("k")
        assert client.get("k") == b"x"
        assert not client._shortcut.has("k")
        assert client._shortcut.get("k") is None


def test_a_killed_daemon_is_not_believed_nor_is_its_shelf_when_the_next_one_is_there(
    daemon: Daemon, client: Client
) -> None:
    client.put(b"old", key="k")
    for number in range(5):
        given(client)
        has, get = client._shortcut.has, client._shortcut.get
        daemon.kill()
        assert (has("k"), get("k")) == (False, None)
        daemon.start()
        with daemon.client() as other:
            other.put(b"%d" % number, key="k", replace=True)
            assert (has("k"), get("k")) == (False, None)
            assert client.get("k") == b"%d" % number


def test_a_client_that_was_closed_refuses_whatever_another_thread_was_about_to_fetch(
    daemon: Daemon, client: Client
) -> None:
    client.put(b"x", key="k")
    for _ in range(20):
        other = daemon.client()

        def read(other: Client = other) -> None:
            with contextlib.suppress(ClientClosed):
                for _ in range(1000):
                    other.get("k")

        threads = [threading.Thread(target=read) for _ in range(2)]
        for thread in threads:
            thread.start()
        time.sleep(0.003)
        other.close()
        for thread in threads:
            thread.join()
        for call in (other.exists, other.get):
            with pytest.raises(ClientClosed):
                call("k")


def test_without_one_everything_is_asked_for(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOREKEEPER_SHELF", "0")
    with daemon.client() as by_variable, daemon.client(shelf=False) as by_word, daemon.client(carrier="zmq") as by_zmq:
        by_word.put(b"x", key="k")
        for client in (by_variable, by_word, by_zmq):
            assert all(client.get("k") == b"x" for _ in range(30))
            assert not client._shortcut.is_open
        assert by_word.status()["shelves"] == 0


# -- nothing is left


def test_short_clients_and_namespaces_that_come_and_go_leave_nothing(daemon: Daemon, client: Client) -> None:
    client.put(b"x", key="k")
    given(client)
    mine, theirs = held(), daemon.descriptors
    for _ in range(300):
        with daemon.client() as short:
            given(short)
    for number in range(40):
        client.create_namespace(f"n{number}")
        with daemon.client(namespace=f"n{number}") as short:
            short.put(b"x", key="k")
            given(short)
            has = short._shortcut.has
            short.evict("k")
        client.drop_namespace(f"n{number}")
        assert not has("k")
    del short, has
    assert held() <= mine
    eventually(lambda: daemon.descriptors <= theirs)
    eventually(lambda: client.status()["shelves_bytes"] == 16 << 20)


def test_an_interruption_at_any_moment_leaves_the_client_usable_and_no_descriptor(
    daemon: Daemon, client: Client
) -> None:
    client.put(b"x", key="k")
    given(client)
    before = held()

    def strike(*_: object) -> None:
        raise KeyboardInterrupt

    former = signal.signal(signal.SIGALRM, strike)
    struck = 0
    try:
        for number in range(400):
            with daemon.client() as short:
                try:
                    signal.setitimer(signal.ITIMER_REAL, 0.0002 + (number % 100) * 2e-5)
                    for _ in range(60):
                        short.get("k")
                    signal.setitimer(signal.ITIMER_REAL, 0)
                except KeyboardInterrupt:
                    struck += 1
                finally:
                    signal.setitimer(signal.ITIMER_REAL, 0)
                assert short.get("k") == b"x"
                assert short.exists("k")
    finally:
        signal.signal(signal.SIGALRM, former)
    assert struck > 20
    del short
    assert held() <= before


# -- a larger one, and room made by use


def test_when_bytes_have_to_go_before_their_turn_a_larger_one_takes_its_place(daemon: Daemon, client: Client) -> None:
    client.put(b"x", key="k")
    given(client)
    has = client._shortcut.has
    for number in range(250):
        client.put(os.urandom(60_000), key=f"k{number}")
    eventually(lambda: not has("k"))
    eventually(lambda: all(client.exists(f"k{number}") for number in range(20)) and client._shortcut.is_open)
    given(client)
    assert client.status()["shelves_bytes"] == 64 << 20


def test_what_it_says_is_there_can_be_fetched_though_room_is_made_all_the_time(
    hall: Callable[..., Daemon],
) -> None:
    daemon = hall('[namespace.default]\neviction = "lru"\nbytes_max = 4000000\n[limits]\nlease_s = 1.0\n')
    with daemon.client() as client, daemon.client(shelf=False) as other:
        hits = 0
        until = time.monotonic() + 3
        number = 0
        while time.monotonic() < until:
            number += 1
            key = f"k{number % 40}"
            with contextlib.suppress(QuotaExceeded, Busy):
                other.put(bytes(40_000), key=f"new{number}")
            if not client.exists(key):
                with contextlib.suppress(QuotaExceeded, Busy):
                    other.put(b"x" * 4000, key=key)
            found = f"k{(number * 7) % 40}"
            if client._shortcut.has(found):
                hits += 1
                assert other.get(found) is not None
        assert hits > 10
        assert other.status()["evictions"]
