"""A call that is made again after its answer was lost: what came since stays, what was there before does not.

The daemon carries the first call out; then the connection breaks, as in a SIGKILL, and somebody else may come first.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from conftest import Daemon
from storekeeper import Client
from storekeeper.carriers import Carrier, Carriers
from storekeeper.errors import DaemonUnreachable
from storekeeperd.operations import Budget, Evict, Get, Origin, Put

LARGE = 5 * 1024 * 1024
CARRIER: Any = type(Carriers("ipc:///nowhere").take())
"""The one that clients take here."""


@pytest.fixture
def lose_answer(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Any]], None]:
    """Gives a function: the next answer of this process is lost, and what it is given happens before the retry."""
    real = CARRIER.receive

    def lose(meanwhile: Callable[[], Any]) -> None:
        def receive(self: Carrier, deadline: float, *, copy: bool = True) -> list[Any]:
            frames = real(self, deadline, copy=copy)
            if frames[2] == b"ok" and frames[4] in (b"ok",):  # the ranges of an upload are no answer to the call
                return frames
            monkeypatch.setattr(CARRIER, "receive", real)
            meanwhile()
            raise DaemonUnreachable("the answer was lost")

        monkeypatch.setattr(CARRIER, "receive", receive)

    return lose


Lose = Callable[[Callable[[], Any]], None]


@pytest.fixture
def other(daemon: Daemon) -> Any:
    """Another client, which nothing is lost for."""
    with daemon.client() as client:
        yield client


def test_a_call_that_never_arrived_is_carried_out_by_its_retry(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    real = CARRIER.send

    def lose(*_: object) -> None:
        monkeypatch.setattr(CARRIER, "send", real)
        raise DaemonUnreachable("the request was lost")

    client.put(b"old", key="k")
    monkeypatch.setattr(CARRIER, "send", lose)
    client.put(b"new", key="k", replace=True)
    assert client.get("k") == b"new"
    monkeypatch.setattr(CARRIER, "send", lose)
    assert client.evict("k") is True
    assert not client.exists("k")


def test_an_evict_that_was_carried_out_finds_nothing_when_it_is_made_again(client: Client, lose_answer: Lose) -> None:
    client.put(b"old", key="k")
    lose_answer(lambda: None)
    assert client.evict("k") is False
    assert not client.exists("k")


def test_a_retried_evict_leaves_an_object_that_was_put_since(client: Client, other: Client, lose_answer: Lose) -> None:
    client.put(b"old", key="k")
    lose_answer(lambda: other.put(b"newer", key="k"))
    assert client.evict("k") is False
    assert other.get("k") == b"newer"
    assert client.evict("k") is True


@pytest.mark.parametrize("size", [5, LARGE])
@pytest.mark.parametrize("durability", ["os", "disk"])
def test_a_retried_replace_leaves_what_replaced_it_since(
    client: Client, other: Client, lose_answer: Lose, size: int, durability: str
) -> None:
    client.put(b"old", key="k")
    lose_answer(lambda: other.put(b"newer", key="k", replace=True))
    client.put(bytes(size), key="k", replace=True, durability=durability)
    assert other.get("k") == b"newer"
    client.put(b"newest", key="k", replace=True)
    assert other.get("k") == b"newest"


def test_a_replace_that_never_arrived_is_not_lost_to_an_object_that_was_new(
    client: Client, other: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = CARRIER.send

    def lose(*_: object) -> None:
        monkeypatch.setattr(CARRIER, "send", real)
        other.put(b"new", key="k")
        raise DaemonUnreachable("the request was lost")

    monkeypatch.setattr(CARRIER, "send", lose)
    client.put(b"replaces", key="k", replace=True)
    assert other.get("k") == b"replaces"


def test_a_retried_replace_finds_its_own_bytes(client: Client, lose_answer: Lose, daemon: Daemon) -> None:
    lose_answer(lambda: None)
    client.put(b"mine", key="k", replace=True)
    assert client.get("k") == b"mine"


def test_a_retried_put_is_one_put(client: Client, lose_answer: Lose) -> None:
    lose_answer(lambda: None)
    key = client.put(b"mine")
    assert client.list() == [key]


def test_a_batch_that_is_made_again_keeps_what_came_since(client: Client, other: Client, lose_answer: Lose) -> None:
    client.put_batch([b"1", b"2"], ["a", "b"])
    lose_answer(lambda: other.put(b"newer", key="b"))
    assert client.evict_batch(["a", "b"]) == [False, False]
    assert client.list() == ["b"]


def test_a_retried_evict_leaves_a_file_that_was_moved_in_since(
    client: Client, daemon: Daemon, lose_answer: Lose, tmp_path: Any
) -> None:
    client.put(b"old", key="k")

    def move_in() -> None:
        time.sleep(0.05)
        (tmp_path / "new").write_bytes(b"theirs")
        (tmp_path / "new").rename(daemon.store / "k")

    lose_answer(move_in)
    assert client.evict("k") is False
    assert client.get("k") == b"theirs"


def test_after_a_reboot_what_was_put_before_it_is_older(tmp_path: Any) -> None:
    from conftest import adopt
    from storekeeperd import moments
    from storekeeperd.disk import Disk
    from storekeeperd.ground import WITNESS, Ground
    from storekeeperd.home import TEMPORARY

    (tmp_path / TEMPORARY).mkdir(parents=True)
    witness = tmp_path / WITNESS.decode()
    witness.touch()
    ground = Ground(tmp_path)
    ground.witness = witness.stat().st_dev, witness.stat().st_ino
    adopt(ground)
    before, after = Disk(ground, TEMPORARY, boot=1), Disk(ground, TEMPORARY, boot=2)
    try:
        with before.stay() as stay:
            before.perform(Put(b"k", b"bytes", Origin(1), replace=False, durable=False), stay)
            assert before.perform(Evict(b"k", True, Origin(1), before_ns=1), stay).word == b"absent"
            assert before.perform(Get(b"k", Budget(9, 9)), stay).payload == b"bytes"
            assert after.perform(Evict(b"k", True, Origin(1), before_ns=moments.now_ns()), stay).word == b"evicted"
    finally:
        before.close()
        after.close()
