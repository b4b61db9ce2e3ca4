"""ranges.py: large objects in ranges."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from simulation import FakeDisk
from storekeeper import ranges, wire
from storekeeper.errors import DiskFailed, DiskFull, KeyExists, StorekeeperError, TimedOut
from storekeeper.exchange import Exchange
from storekeeper.holds import Held
from storekeeperd.answers import Peer
from storekeeperd.coherence import Coherence
from storekeeperd.config import Limits
from storekeeperd.index import Index
from storekeeperd.operations import Operation, Outcome, Read, Write, failed
from storekeeperd.service import Service

RANGE = 8


class Shared(bytes):
    """A frame as zmq.Frame shows it."""

    @property
    def buffer(self) -> memoryview:
        return memoryview(self)


class ServiceCarrier:
    """Carries frames to a real service; its jobs are done, in any order, only when somebody wants an answer."""

    passes_descriptors = False

    def descriptor(self) -> int:
        return -1

    def __init__(self) -> None:
        self.chance = random.Random(7)
        self.disk = FakeDisk()
        index = Index()
        self.service = Service(Limits(), index, Coherence(index))
        self.peer = Peer(1000, 100, 1)
        self.verbs: list[bytes] = []
        self.under_way = self.most_under_way = 0
        self.held = Held()
        self.fault: Callable[[Operation], StorekeeperError | None] = lambda operation: None

    def send(self, frames: Sequence[Any], *, later: bool = False) -> None:
        self.verbs.append(frames[1])
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        self.service.request(self.peer, [bytes(frame) for frame in frames])

    def receive(self, deadline: float, *, copy: bool = True) -> list[Any]:
        jobs = self.service.jobs
        while not self.service.replies:
            jobs.rotate(self.chance.randrange(len(jobs)))
            job = jobs.popleft()
            job.outcomes = [self.perform(operation) for operation in job.operations]
            self.service.finished(job)
        self.under_way -= 1
        frames = self.service.replies.popleft()[1]
        return frames if copy else [Shared(frame) for frame in frames]

    def perform(self, operation: Operation) -> Outcome:
        error = self.fault(operation)
        return self.disk.perform(operation) if error is None else failed(error)

    def rest(self) -> None:
        """Carries out what nobody waits for."""
        while self.service.jobs:
            job = self.service.jobs.popleft()
            job.outcomes = [self.perform(operation) for operation in job.operations]
            self.service.finished(job)


@pytest.fixture(autouse=True)
def _short_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "RANGE_BYTES", RANGE)


@pytest.fixture
def carrier() -> ServiceCarrier:
    return ServiceCarrier()


@pytest.fixture
def exchange(carrier: ServiceCarrier) -> Exchange:
    return Exchange(carrier, 100.0)  # type: ignore[arg-type]


SIZES = [0, 1, RANGE - 1, RANGE, RANGE + 1, 4 * RANGE, 11 * RANGE + 3]


def content(size: int) -> bytes:
    return random.Random(size).randbytes(size)


# -- uploads


@pytest.mark.parametrize("size", SIZES)
def test_an_upload_stores_every_byte(carrier: ServiceCarrier, exchange: Exchange, size: int) -> None:
    moved: list[int] = []
    reply = ranges.upload(exchange, b"k", memoryview(content(size)), {}, moved.append)
    assert reply.words == ["created"]
    assert carrier.disk.objects == {b"k": content(size)}
    assert carrier.verbs == [b"upload", *[b"write"] * -(-size // RANGE), b"commit"]
    assert sum(moved) == size
    assert len(moved) == -(-size // RANGE)


def test_a_window_of_ranges_is_under_way(carrier: ServiceCarrier, exchange: Exchange) -> None:
    ranges.upload(exchange, b"k", memoryview(bytes(20 * RANGE)), {})
    assert carrier.most_under_way == ranges.WINDOW


def test_an_upload_is_allowed_time_for_its_size(exchange: Exchange) -> None:
    ranges.upload(exchange, b"k", memoryview(bytes(16)), {})
    assert exchange.ranged
    assert exchange.deadline == 100.0 + 16 / (16 * 1024 * 1024)


def test_options_go_with_the_upload(carrier: ServiceCarrier, exchange: Exchange) -> None:
    carrier.disk.objects[b"k"] = b"old"
    reply = ranges.upload(exchange, b"k", memoryview(b"new"), {"replace": True, "durability": "disk"})
    assert reply.words == ["replaced"]
    assert reply.details["durability"] == "disk"


def test_what_the_commit_says_is_the_callers(carrier: ServiceCarrier, exchange: Exchange) -> None:
    carrier.disk.objects[b"k"] = b"old"
    reply = ranges.upload(exchange, b"k", memoryview(b"new"), {})
    with pytest.raises(KeyExists):
        ranges.check_item(reply)


def test_an_upload_that_cannot_begin_sends_no_range(carrier: ServiceCarrier, exchange: Exchange) -> None:
    carrier.fault = lambda operation: DiskFull("no space")
    with pytest.raises(DiskFull):
        ranges.upload(exchange, b"k", memoryview(b"new"), {})
    assert carrier.verbs == [b"upload"]


def test_a_range_that_fails_aborts_the_upload(carrier: ServiceCarrier, exchange: Exchange) -> None:
    def third(operation: Operation) -> StorekeeperError | None:
        return DiskFull("no space") if isinstance(operation, Write) and operation.offset == 2 * RANGE else None

    carrier.fault = third
    with pytest.raises(DiskFull, match="no space"):
        ranges.upload(exchange, b"k", memoryview(bytes(20 * RANGE)), {})
    assert carrier.verbs[-1] == b"abort"
    assert b"commit" not in carrier.verbs
    assert carrier.under_way == 0  # the carrier can serve another call
    carrier.rest()
    assert carrier.disk.open == {}
    assert carrier.disk.objects == {}
    assert carrier.peer.handles == {}


def test_an_upload_whose_daemon_is_silent_is_left_to_its_connection(
    carrier: ServiceCarrier, exchange: Exchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    receive = carrier.receive

    def silent_after_begin(deadline: float, *, copy: bool = True) -> list[Any]:
        if b"write" in carrier.verbs:
            raise TimedOut("in time")
        return receive(deadline, copy=copy)

    monkeypatch.setattr(carrier, "receive", silent_after_begin)
    with pytest.raises(TimedOut):
        ranges.upload(exchange, b"k", memoryview(b"new"), {})
    assert b"abort" not in carrier.verbs
    carrier.service.gone(carrier.peer)
    carrier.rest()
    assert carrier.disk.open == {}


# -- downloads


class Target:
    """Gathers the parts of an object."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.content = bytearray()
        self.parts: list[int] = []
        self.moved = 0

    def begin(self, size: int) -> ranges.Sink:
        self.begun.append(size)
        self.content = bytearray(size)
        return self.keep

    def keep(self, start: int, part: memoryview) -> None:
        self.parts.append(start)
        self.content[start : start + len(part)] = part

    def progress(self, size: int) -> None:
        self.moved += size


@pytest.mark.parametrize("size", SIZES)
def test_a_download_brings_every_byte(carrier: ServiceCarrier, exchange: Exchange, size: int) -> None:
    carrier.disk.objects[b"k"] = content(size)
    download = ranges.Download(exchange, b"k", {})
    assert download.size == size
    target = Target()
    download.fetch(target.begin, target.progress)
    assert target.begun == [size]
    assert target.content == content(size)
    assert target.moved == size
    assert sorted(target.parts) == list(range(0, size, RANGE))
    carrier.rest()
    assert carrier.disk.open == {}
    assert carrier.peer.handles == {}
    assert carrier.under_way == 0


def test_parts_may_come_in_any_order(carrier: ServiceCarrier, exchange: Exchange) -> None:
    carrier.disk.objects[b"k"] = content(100 * RANGE)
    target = Target()
    ranges.Download(exchange, b"k", {}).fetch(target.begin)
    assert target.parts != sorted(target.parts)
    assert target.content == content(100 * RANGE)
    assert carrier.most_under_way == ranges.WINDOW


def test_an_absent_object_has_no_size(carrier: ServiceCarrier, exchange: Exchange) -> None:
    assert ranges.Download(exchange, b"k", {}).size is None
    assert carrier.peer.handles == {}


def test_a_download_stays_the_same_object(carrier: ServiceCarrier, exchange: Exchange) -> None:
    carrier.disk.objects[b"k"] = content(30)
    download = ranges.Download(exchange, b"k", {})
    carrier.disk.objects[b"k"] = b"short"
    target = Target()
    download.fetch(target.begin)
    assert target.content == content(30)


def test_a_download_is_allowed_time_for_its_size(carrier: ServiceCarrier, exchange: Exchange) -> None:
    carrier.disk.objects[b"k"] = content(30)
    ranges.Download(exchange, b"k", {}).fetch(Target().begin)
    assert exchange.deadline == 100.0 + 30 / (16 * 1024 * 1024)


def test_an_object_that_cannot_be_opened_is_an_error(carrier: ServiceCarrier, exchange: Exchange) -> None:
    carrier.fault = lambda operation: DiskFailed("a fault")
    with pytest.raises(DiskFailed, match="a fault"):
        ranges.Download(exchange, b"k", {})


def test_a_range_that_fails_is_an_error(carrier: ServiceCarrier, exchange: Exchange) -> None:
    carrier.disk.objects[b"k"] = content(10 * RANGE)
    download = ranges.Download(exchange, b"k", {})
    carrier.fault = lambda operation: DiskFailed("a fault") if isinstance(operation, Read) else None
    with pytest.raises(DiskFailed, match="a fault"):
        download.fetch(Target().begin)
    assert carrier.under_way == 0  # nothing is left for the next call to stumble over
    assert not carrier.peer.handles
    carrier.rest()
    assert not carrier.disk.open


def test_an_object_that_became_shorter_is_an_error(carrier: ServiceCarrier, exchange: Exchange) -> None:
    carrier.disk.objects[b"k"] = content(3 * RANGE)
    download = ranges.Download(exchange, b"k", {})
    (descriptor,) = carrier.disk.open
    del carrier.disk.open[descriptor][2 * RANGE + 1 :]
    with pytest.raises(DiskFailed, match="became shorter"):
        download.fetch(Target().begin)


def test_a_caller_that_does_not_want_it_is_not_given_any(carrier: ServiceCarrier, exchange: Exchange) -> None:
    carrier.disk.objects[b"k"] = content(30)

    def refuse(size: int) -> ranges.Sink:
        raise ValueError(size)

    with pytest.raises(ValueError, match="30"):
        ranges.Download(exchange, b"k", {}).fetch(refuse)
    assert b"read" not in carrier.verbs


# -- items


def test_the_error_of_an_item_is_typed() -> None:
    reply = wire.Reply(b"1", {"errors": {"1": "no space"}}, ["ok", "disk_full"], [])
    assert ranges.item_error(reply, 0) is None
    assert isinstance(ranges.item_error(reply, 1), DiskFull)
    ranges.check_item(reply)
    with pytest.raises(DiskFull, match="no space"):
        ranges.check_item(reply, 1)
