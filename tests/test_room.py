"""Room in namespaces: what is counted, what is evicted, who waits; with a daemon's parts on a directory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from seam import Rig, Setup, quick_folder
from storekeeperd import moments
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
