"""Namespaces that users make: whose they become, and what happens to those who are at work in one that is dropped."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import zmq

from conftest import Daemon, eventually
from storekeeper import Client, wire
from storekeeper.errors import BadRequest, StorekeeperError
from storekeeperd.home import Home
from storekeeperd.namespaces import BadSetting, parse
from storekeeperd.principals import resolve


@pytest.fixture
def ask(daemon: Daemon) -> Callable[..., list[bytes]]:
    """Gives a function that makes requests over one connection and returns the answer's outcome and what follows."""
    context = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.connect(daemon.address)

    def ask(verb: bytes, *arguments: bytes, **options: object) -> list[bytes]:
        socket.send_multipart(wire.encode_request(verb, b"id", options, arguments))
        assert socket.poll(10_000), verb
        return socket.recv_multipart()[2:]

    yield ask  # type: ignore[misc]
    context.destroy(linger=0)


def test_a_folder_that_holds_something_does_not_become_anybodys_namespace(tmp_path: Path) -> None:
    home = Home(tmp_path / "store")
    try:
        (tmp_path / "store/theirs").mkdir()
        (tmp_path / "store/theirs/key").write_bytes(b"private")
        with pytest.raises(BadRequest, match="not empty"):
            home.found("theirs", {})
        assert not home.made
        (tmp_path / "store/left-behind").mkdir()  # by a daemon that was killed
        home.found("left-behind", {})
        assert home.made == {"left-behind": {}}
    finally:
        home.leave()


def test_namespaces_that_are_made_together_are_all_kept(daemon: Daemon) -> None:
    names = [b"space-%d" % number for number in range(40)]
    context = zmq.Context()
    try:
        socket = context.socket(zmq.DEALER)
        socket.connect(daemon.address)
        for name in names:
            socket.send_multipart(wire.encode_request(b"create", name, {}, [name]))
        words = []
        for _ in names:
            assert socket.poll(10_000)
            words.append(socket.recv_multipart()[4])
        assert words == [b"ok"] * len(names)
    finally:
        context.destroy(linger=0)
    made = json.loads((daemon.store / ".storekeeper/namespaces").read_text())
    assert sorted(made) == sorted(name.decode() for name in names)


def test_an_upload_does_not_enter_the_namespace_that_is_made_after_its_own_was_dropped(
    ask: Callable[..., list[bytes]],
) -> None:
    assert ask(b"create", b"team")[2] == b"ok"
    handle = str(json.loads(ask(b"upload", b"key", namespace="team")[1])["handle"]).encode()
    assert ask(b"write", handle, b"0", b"bytes")[2] == b"ok"
    assert ask(b"drop", b"team")[2] == b"ok"
    assert ask(b"create", b"team")[2] == b"ok"
    assert ask(b"commit", handle, b"5")[2] == b"no_namespace"
    assert ask(b"exists", b"key", namespace="team")[2] == b"no"


def test_settings_that_are_none_are_refused_not_a_fault() -> None:
    with pytest.raises(BadSetting):
        parse([])  # type: ignore[arg-type]
    with pytest.raises(BadSetting):
        resolve(["9" * 5000], "read")


# -- the watch goes on while namespaces come and go


def watch_of(client: Client) -> tuple[object, ...]:
    status = client.status()
    assert status["coherent"], status
    return status["epoch"], status["scans"], status["losses"], status["watch"]


def test_namespaces_come_and_go_and_nothing_is_lost_nor_scanned_for_it(daemon: Daemon) -> None:
    with daemon.client() as client:
        client.put(b"x", key="k")
        eventually(lambda: client.status()["coherent"])
        before = watch_of(client)
        for _ in range(20):
            client.create_namespace("team")
            with daemon.client(namespace="team") as team:
                team.put(b"y", key="k")
                with pytest.raises(BadRequest, match="not empty"):
                    client.drop_namespace("team")
                assert team.exists("k")
                team.evict("k")
            client.drop_namespace("team")
        assert watch_of(client) == before


def test_a_new_namespace_is_watched_and_one_that_was_not_dropped_still_is(daemon: Daemon) -> None:
    with daemon.client() as client:
        client.create_namespace("team")
        with daemon.client(namespace="team") as team:
            for key in ("first", "second"):
                (daemon.store / "team" / key).write_bytes(b"by hand")
                eventually(lambda key=key: key in team.list())
                with pytest.raises(BadRequest, match="not empty"):
                    client.drop_namespace("team")
            for key in ("first", "second"):
                (daemon.store / "team" / key).unlink()
                eventually(lambda key=key: key not in team.list())
        assert client.status()["losses"] == {}


def test_of_a_namespace_that_was_emptied_by_hand_and_dropped_nothing_is_left(daemon: Daemon) -> None:
    with daemon.client() as client:
        for _ in range(10):
            client.create_namespace("team")
            with daemon.client(namespace="team") as team:
                for number in range(50):
                    team.put(bytes(100), key=f"k{number}")
                for number in range(50):
                    (daemon.store / f"team/k{number}").unlink()
                client.drop_namespace("team")  # before the daemon has looked
                client.create_namespace("team")
                assert not any(team.exists_batch([f"k{number}" for number in range(50)]))
            client.drop_namespace("team")
        eventually(lambda: client.status()["objects"] == 0)
        assert client.status()["losses"] == {}


def test_a_namespace_whose_folder_is_moved_away_while_it_is_dropped_is_healed(daemon: Daemon, tmp_path: Path) -> None:
    with daemon.client() as client:
        client.create_namespace("team")
        (daemon.store / "team").rename(tmp_path / "away")
        with pytest.raises(StorekeeperError):
            client.drop_namespace("team")
        with daemon.client(namespace="team", timeout=20) as team:
            eventually((daemon.store / "team").is_dir)
            eventually(lambda: client.status()["coherent"])
            team.put(b"x", key="k")
            (daemon.store / "team/k").unlink()
            eventually(lambda: team.list() == [])


def test_nothing_that_was_asked_of_a_namespace_is_done_in_the_next_one_of_its_name(daemon: Daemon) -> None:
    stop = threading.Event()

    def flood(number: int) -> None:
        with daemon.client(namespace="team", timeout=20) as client:
            while not stop.is_set():
                with contextlib.suppress(StorekeeperError):
                    client.put_batch(
                        [b"theirs"] * 50, [f"theirs-{number}-{each}" for each in range(50)], durability="disk"
                    )

    threads = [threading.Thread(target=flood, args=(number,)) for number in range(3)]
    with daemon.client(timeout=20) as client:
        for thread in threads:
            thread.start()
        try:
            for _ in range(15):
                client.create_namespace("team")
                with daemon.client(namespace="team", timeout=20) as team:
                    time.sleep(0.02)
                    for _ in range(200):
                        team.evict_batch(team.list(fresh=True))
                        try:
                            client.drop_namespace("team")
                            break
                        except BadRequest:  # they were quicker
                            continue
                    else:
                        pytest.fail("it is never empty")
                # Between the two nobody may put anything there, and what was asked before must be over.
                assert not (daemon.store / "team").exists()
                time.sleep(0.01)
                assert not (daemon.store / "team").exists()
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert client.status()["losses"] == {}
        assert not client.status()["store_away"]


def test_who_asks_of_a_namespace_that_is_being_dropped_is_told_of_that(daemon: Daemon) -> None:
    codes: set[str] = set()
    stop = threading.Event()

    def ask() -> None:
        with daemon.client(namespace="team", timeout=0.05) as client:
            while not stop.is_set():
                try:
                    client.put(b"x", key="k")
                    client.evict("k")
                except StorekeeperError as error:
                    codes.add(error.code)

    thread = threading.Thread(target=ask)
    with daemon.client(timeout=20) as client:
        thread.start()
        for _ in range(60):
            client.create_namespace("team")
            with contextlib.suppress(BadRequest):
                client.drop_namespace("team")
            while "team" in client.namespaces():
                with contextlib.suppress(BadRequest):
                    client.drop_namespace("team")
        stop.set()
        thread.join()
    assert codes <= {"no_namespace", "busy", "timed_out"}
