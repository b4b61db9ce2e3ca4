"""Room in namespaces: what is counted, what is evicted, who waits; with a daemon's parts on a directory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from seam import Rig, Setup, quick_folder
from storekeeper.errors import StoreUnavailable
from storekeeperd import moments
from storekeeperd.answers import Peer
from storekeeperd.namespaces import Namespace


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with quick_folder(tmp_path) as folder:
        rig = Rig(folder / "store", Setup(boot=moments.boot()))
        rig.scan()
        yield rig
        rig.close()


def test_bytes_that_are_still_read_count_when_the_same_take_their_place(rig: Rig) -> None:
    rig.put((b"key", b"x" * 100_000))
    handle = str(rig.ask(b"open", b"key").details["handle"]).encode()
    assert rig.put((b"key", b"x" * 100_000), durability="disk").words == [b"same"]
    assert rig.service.ledger.reserved().charged_bytes == 102_400
    rig.ask(b"close", handle)
    assert rig.service.ledger.reserved().charged_bytes == 0


def test_who_waits_for_room_in_a_namespace_that_is_dropped_is_answered(rig: Rig) -> None:
    rig.service.set_space("team", Namespace(bytes_max=8192, eviction="lru"))
    rig.ask(b"upload", b"large", namespace="team", size=8192)
    request = rig.send(b"put", [b"key", b"bytes"], namespace="team")
    rig.settle()
    rig.service.drop_space("team")
    rig.settle()
    assert rig.answer(request, b"put", [], {}).outcome == b"no_namespace"
    assert not rig.peer.owed_requests
    rig.leave()


def fill(rig: Rig, key: bytes, now_ms: int) -> list[bytes]:
    request = rig.send(b"put", [key, b"x" * 4000], namespace="team")
    for _ in range(5):
        rig.service.turn(now_ms)
        rig.settle()
    return rig.answer(request, b"put", [], {}).words


def test_what_was_pinned_when_room_was_made_has_its_turn_when_it_is_not_any_more(rig: Rig) -> None:
    rig.service.set_space("team", Namespace(bytes_max=40_960, eviction="lru"))
    for number in range(8):
        fill(rig, b"pinned-%d" % number, 1_000_000 + number)
    pinned = [b"pinned-%d" % number for number in range(8)]
    rig.ask(b"pin", *pinned, namespace="team")
    for number in range(6):
        assert fill(rig, b"other-%d" % number, 2_000_000 + 10_000 * number) == [b"created"]
    assert rig.ask(b"exists", *pinned, namespace="team").words == [b"yes"] * 8
    rig.ask(b"unpin", *pinned, namespace="team")
    for number in range(12):
        assert fill(rig, b"later-%d" % number, 3_000_000 + 10_000 * number) == [b"created"]
    assert rig.ask(b"exists", *pinned, namespace="team").words == [b"no"] * 8


def test_what_was_being_changed_when_room_was_made_has_its_turn_later(rig: Rig) -> None:
    rig.service.set_space("team", Namespace(objects_max=5, eviction="lru"))
    for number in range(4):
        fill(rig, b"key-%d" % number, 1_000_000 + number)
    names = [b"team/key-%d" % number for number in range(4)]
    requests = [rig.send(b"verify", [b"key-%d" % number], namespace="team") for number in range(4)]
    waits = rig.send(b"put", [b"more", b""], namespace="team")
    rig.service.turn(2_000_000)  # all are being read: none can go
    rig.settle()
    for request in requests:
        assert rig.answer(request, b"verify", [], {}).words == [b"ok"]
    rig.answer(waits, b"put", [], {})
    rig.service.evictions.tick()
    for number in range(8):
        assert fill(rig, b"next-%d" % number, 3_000_000 + 10_000 * number) == [b"created"]
    assert not any(map(rig.index.has, names))


def test_who_waits_for_room_is_not_behind_all_that_has_ended(rig: Rig) -> None:
    rig.service.set_space("team", Namespace(objects_max=4, eviction="lru"))
    for number in range(4):
        fill(rig, b"key-%d" % number, number)
    for start in range(0, 3000, 1000):
        keys = [(b"ends-%d" % number, b"") for number in range(start, start + 1000)]
        rig.put(*keys, ttl=0.001)
    waits = rig.send(b"put", [b"more", b""], namespace="team")
    rig.settle()
    now_ms = moments.now_ms() + 10_000
    for _ in range(5):
        rig.service.turn(now_ms)
        rig.settle()
    assert len(rig.service.lifetimes.ended) > 2000
    assert rig.answer(waits, b"put", [], {}).words == [b"created"]


def test_a_store_that_is_gone_is_away_where_room_is_kept_free_too(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "store", Setup(boot=moments.boot()))
    try:
        (tmp_path / "store").rename(tmp_path / "away")
        with pytest.raises(StoreUnavailable):
            rig.disk.free()
    finally:
        rig.close()


def test_a_durable_put_over_what_another_one_owns_is_denied(rig: Rig) -> None:
    rig.put((b"key", b"mine"))
    rig.peer = Peer(1235, 1235, 2)
    assert rig.put((b"key", b"theirs"), replace=True, durability="disk").words == [b"denied"]
    assert rig.ask(b"get", b"key").payloads == [b"mine"]
