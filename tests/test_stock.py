"""stock.py, with shelves.py around it: what is put on a shelf, when it is taken off, and whom it is given."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from fake_shelf import FakeMemory
from storekeeperd import shelves
from storekeeperd.answers import Peer
from storekeeperd.namespaces import Namespace
from storekeeperd.operations import Get, Job, Outcome, Put, Task
from test_service import Bench


class Room(Bench):
    """A service whose default namespace has a shelf."""

    def __init__(self, space: Namespace | None = None) -> None:
        super().__init__()
        self.made: list[FakeMemory] = []
        self.service.outside.make_shelf = self.make
        self.disk.objects[b"k"] = b"old bytes"
        if space is not None:
            self.service.set_space("default", space)
        self.scan()
        self.coherence.hear(dict.fromkeys(self.disk.objects), {})
        self.turn()
        self.service.evictions.turn(0)
        self.peer.passes_descriptors = True
        self.service.shelves.judge()
        assert self.shelf() == ["ok"]
        self.turn()

    def make(self, table_bytes: int) -> FakeMemory:
        self.made.append(FakeMemory(table_bytes))
        return self.made[-1]

    def do(self, job: Job) -> None:
        job.outcomes = [self.perform(operation) for operation in job.operations]
        self.service.finished(job)

    def perform(self, operation: Any) -> Outcome:
        if isinstance(operation, Task):
            operation.run()
            return Outcome(b"ok")
        return replace(self.disk.perform(operation), sealed=True)  # type: ignore[no-any-return]

    def shelf(self) -> list[str]:
        self.send(b"shelf")
        self.do_all()
        return self.reply().words

    @property
    def memory(self) -> FakeMemory:
        return self.made[-1]


@pytest.fixture
def room() -> Room:
    return Room()


def test_what_is_said_to_be_there_and_what_is_read_is_put_on(room: Room) -> None:
    assert room.ask(b"exists", b"k").words == ["yes"]
    assert room.memory.held == {b"k": None}
    assert room.ask(b"get", b"k").payloads == [b"old bytes"]
    assert room.memory.held == {b"k": b"old bytes"}
    assert room.ask(b"exists", b"absent").words == ["no"]
    assert room.memory.held == {b"k": b"old bytes"}


def test_it_is_off_before_a_change_begins_and_again_when_anything_is_heard_of_it(room: Room) -> None:
    room.ask(b"get", b"k")
    room.send(b"evict", b"k")
    assert room.memory.held == {}
    room.do_all()
    room.reply()
    room.ask(b"put", b"k", b"new bytes")
    room.turn()
    room.ask(b"get", b"k")
    assert room.memory.held == {b"k": b"new bytes"}
    room.coherence.hear({b"k": None}, {})
    assert room.memory.held == {}


def test_a_read_that_was_ordered_while_the_object_was_replaced_and_ends_later_puts_nothing_on(room: Room) -> None:
    # It has the old file open. Its bytes are as many as the new ones are: nothing else tells them apart.
    room.disk._changed = lambda *_: None  # the kernel's event of our own change is no question
    room.send(b"put", b"k", b"new bytes", replace=True)
    put = room.take()
    assert isinstance(put.operations[0], Put)
    room.send(b"get", b"k")
    get = room.take()
    assert isinstance(get.operations[0], Get)
    get.outcomes = [room.perform(operation) for operation in get.operations]
    room.do(put)
    room.turn()
    room.service.replies.clear()  # the put is acknowledged
    room.service.finished(get)
    assert room.memory.held.get(b"k") in (None, b"new bytes")
    room.turn()
    room.service.replies.clear()
    assert room.ask(b"get", b"k").payloads == [b"new bytes"]
    assert room.memory.held == {b"k": b"new bytes"}


def test_a_read_since_which_anything_was_heard_puts_nothing_on(room: Room) -> None:
    room.send(b"get", b"k")
    get = room.take()
    get.outcomes = [room.perform(operation) for operation in get.operations]
    room.coherence.hear({b"k": None}, {})
    room.turn()
    room.service.finished(get)
    assert room.memory.held == {}


def test_whoever_asks_for_it_again_and_again_is_one_reader(room: Room) -> None:
    for _ in range(1000):
        assert room.shelf() == ["ok"]
    other = Peer(1001, 100, 2, passes_descriptors=True)
    room.peer, mine = other, room.peer
    assert room.shelf() == ["ok"]
    found = room.service.shelves._shelves[b""]
    assert found.readers == {mine, other}
    mine.gone = True
    room.service.shelves.tick()
    assert found.readers == {other}


def test_when_its_last_reader_has_gone_it_goes_a_minute_later(room: Room) -> None:
    for _ in range(100):
        room.service.shelves.tick()
    assert len(room.service.shelves) == 1
    room.peer.gone = True
    for _ in range(62):
        room.service.shelves.tick()
    assert len(room.service.shelves) == 0
    while room.service.jobs:
        room.do(room.take())
    assert room.memory.released
    assert room.service.shelves.taken_bytes == 0


def test_one_that_is_made_in_a_moment_of_doubt_is_believed_when_it_is_over(room: Room) -> None:
    room.service.shelves.judge()
    room.service.shelves.retire(b"")
    room.do_all()
    room.send(b"shelf")
    job = room.take()
    room.coherence.missed(b"absent")
    room.do(job)
    room.reply()
    room.turn()
    assert room.coherence.coherent
    room.service.shelves.judge()
    assert room.memory.believed


def test_it_is_not_believed_while_hits_are_not_and_ends_when_something_was_lost(room: Room) -> None:
    room.service.shelves.judge()
    assert room.memory.believed
    room.coherence.missed(b"absent")
    room.service.shelves.judge()
    assert not room.memory.believed
    room.turn()
    room.service.shelves.judge()
    assert room.memory.believed
    room.coherence.lost("test")
    room.service.shelves.judge()
    assert not room.memory.believed
    assert len(room.service.shelves) == 0


@pytest.mark.parametrize("ends", ["its time", "its shelf"])
def test_where_room_is_made_by_use_what_was_on_it_was_in_use_until_it_is_taken_off(ends: str) -> None:
    room = Room(Namespace(eviction="lru", bytes_max=1 << 30))
    lease_ms = room.service.evictions._lease_ms
    room.service.turn(1_000_000)
    room.turn()
    assert room.ask(b"get", b"k").payloads == [b"old bytes"]
    assert room.memory.held == {b"k": b"old bytes"}
    off_ms = 1_000_000 + 10 * lease_ms  # nobody turned in between
    if ends == "its time":
        room.service.turn(off_ms)
        assert room.memory.held == {}
    else:
        room.service.now_ms = off_ms
        room.service.shelves.retire(b"")
    uses = room.service.evictions._spaces[b""].uses
    assert uses.is_leased(b"k", off_ms + lease_ms - 1, lease_ms)


def test_what_is_put_where_room_is_made_by_use_is_not_on_it_until_it_is_read() -> None:
    room = Room(Namespace(eviction="lru", bytes_max=1 << 30))
    room.ask(b"put", b"new", b"bytes")
    room.turn()
    assert b"new" not in room.memory.held


def test_there_are_fewer_than_the_kernel_unlocks_when_their_writer_dies(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert shelves._SHELVES_MAX < 2048
    monkeypatch.setattr(shelves, "_SHELVES_MAX", 1)
    room.send(b"shelf", namespace="team")
    room.do_all()
    assert room.reply().words == ["none"]
