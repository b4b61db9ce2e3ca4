"""transfers.py: handles, uploads and downloads; no descriptor is closed twice, or too early, or never."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lives import BLOCK, LivingBench
from simulation import FakeDisk
from storekeeper import wire
from storekeeper.errors import (
    BadHandle,
    BadKey,
    BadRequest,
    Busy,
    DiskFull,
    IncompleteUpload,
    NamespaceMissing,
    QuotaExceeded,
    StorekeeperError,
    TooLarge,
    TooMany,
    from_wire,
)
from storekeeperd import transfers as transfers_module
from storekeeperd.answers import ITEM_BYTES, Peer, WithDescriptor
from storekeeperd.coherence import Coherence
from storekeeperd.config import Limits
from storekeeperd.index import Index
from storekeeperd.namespaces import Namespace
from storekeeperd.operations import SEALED, Begin, Close, Commit, Job, Open, Operation, Outcome, Read, Write, failed
from storekeeperd.service import Service
from storekeeperd.transfers import add_range

LIMITS = Limits(message_bytes_max=1 << 20, peer_handles_max=3, handles_max=5)


class CarefulDisk(FakeDisk):
    """Knows which descriptors ranges are using, and which were closed."""

    def __init__(self) -> None:
        super().__init__()
        self.busy: Counter[int] = Counter()
        self.closed: list[int] = []

    def ordered(self, operation: Operation) -> None:
        """An operation was handed out: from now on it may be carried out at any moment."""
        if isinstance(operation, (Write, Read)):
            assert operation.descriptor in self.open
            self.busy[operation.descriptor] += 1
        elif isinstance(operation, (Close, Commit)):
            assert not self.busy[operation.descriptor], "closed while a range is under way"
            assert operation.descriptor not in self.closed, "closed twice"
            self.closed.append(operation.descriptor)

    def perform(self, operation: Operation, *, wait: bool = True) -> Outcome:
        outcome = super().perform(operation, wait=wait)
        if isinstance(operation, (Write, Read)):
            self.busy[operation.descriptor] -= 1
        return outcome


class Bench:
    """A service whose jobs are carried out when a test says so."""

    def __init__(self, limits: Limits = LIMITS) -> None:
        index = Index()
        self.coherence = Coherence(index)
        self.service = Service(limits, index, self.coherence, namespaces=["team"])
        self.disk = CarefulDisk()
        self.peer = Peer(1000, 100, 1)
        self.last_id = 0
        self.waiting: list[Job] = []
        self.coherence.begin_scan()
        self.coherence.end_scan(complete=True)
        self.coherence.sweep()

    def send(self, verb: bytes, *arguments: bytes, peer: Peer | None = None, **options: Any) -> bytes:
        """Makes a request; what it orders waits."""
        self.last_id += 1
        request_id = b"%d" % self.last_id
        self.service.request(peer or self.peer, wire.encode_request(verb, request_id, options, arguments))
        self.take_out()
        return request_id

    def take_out(self) -> None:
        while self.service.jobs:
            job = self.service.jobs.popleft()
            for operation in job.operations:
                self.disk.ordered(operation)
            self.waiting.append(job)

    def waits(self) -> list[type]:
        return [type(operation) for job in self.waiting for operation in job.operations]

    def do(self, position: int = 0, *, error: StorekeeperError | None = None) -> None:
        """Carries out one job that waits, or lets it fail."""
        job = self.waiting.pop(position)
        job.outcomes = [self.disk.perform(operation) for operation in job.operations]
        if error is not None:
            job.outcomes = [failed(error) for _ in job.operations]
        self.service.finished(job)
        self.take_out()

    def do_all(self) -> None:
        while self.waiting:
            self.do()

    def replies(self) -> dict[bytes, list[Any]]:
        replies = {wire.reply_id(frames): frames for _, frames in self.service.replies}
        assert len(replies) == len(self.service.replies), "answered twice"
        self.service.replies.clear()
        return replies

    def ask(self, verb: bytes, *arguments: bytes, peer: Peer | None = None, **options: Any) -> wire.Reply:
        """Makes a request, carries everything out, returns its reply; raises what was refused."""
        request_id = self.send(verb, *arguments, peer=peer, **options)
        self.do_all()
        reply = wire.decode_reply(self.replies()[request_id])
        for position, message in reply.details.get("errors", {}).items():
            raise from_wire(reply.words[int(position)], message)
        return reply

    def begin(self, key: bytes = b"k", peer: Peer | None = None, **options: Any) -> bytes:
        handle: str = self.ask(b"upload", key, peer=peer, **options).details["handle"]
        return handle.encode()

    def open(self, key: bytes = b"k", peer: Peer | None = None) -> bytes:
        handle: str = self.ask(b"open", key, peer=peer).details["handle"]
        return handle.encode()

    def check_rest(self) -> None:
        """Nothing is open, owed or held any more."""
        assert not self.waiting
        assert self.disk.open == {}
        assert self.service.transfers.handles.taken == 0
        assert (self.peer.owed_requests, self.peer.owed_bytes, self.peer.opening) == (0, 0, 0)
        assert self.peer.handles == {}


@pytest.fixture
def bench() -> Bench:
    return Bench()


# -- ranges


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 12))))
def test_ranges_are_a_set_of_bytes(writes: list[tuple[int, int]]) -> None:
    ranges: list[tuple[int, int]] = []
    written: set[int] = set()
    for start, length in writes:
        add_range(ranges, start, start + length)
        written.update(range(start, start + length))
        assert {place for first, end in ranges for place in range(first, end)} == written
        assert all(first < end for first, end in ranges)
        assert all(one[1] < other[0] for one, other in itertools.pairwise(ranges))  # sorted, and joined


def test_ranges_that_touch_are_joined() -> None:
    ranges = [(0, 3), (6, 9)]
    add_range(ranges, 3, 6)
    assert ranges == [(0, 9)]


# -- uploads


def test_an_upload_is_published_by_its_commit(bench: Bench) -> None:
    handle = bench.begin()
    assert bench.ask(b"write", handle, b"0", b"hello ").words == ["ok"]
    bench.ask(b"write", handle, b"6", b"world")
    assert bench.disk.objects == {}
    reply = bench.ask(b"commit", handle, b"11")
    assert reply.words == ["created"]
    assert reply.details == {"durability": "os"}
    assert bench.disk.objects == {b"k": b"hello world"}
    bench.check_rest()


def test_the_commit_tells_which_durability_was_reached(bench: Bench) -> None:
    handle = bench.begin(durability="disk")
    bench.send(b"commit", handle, b"0")
    assert bench.waiting[0].operations[0].durable  # type: ignore[union-attr]
    bench.do_all()
    (frames,) = bench.replies().values()
    assert wire.decode_reply(frames).details == {"durability": "disk"}


def test_an_empty_object_needs_no_write(bench: Bench) -> None:
    assert bench.ask(b"commit", bench.begin(), b"0").words == ["created"]
    assert bench.disk.objects == {b"k": b""}


def test_an_upload_replaces_only_if_told_to(bench: Bench) -> None:
    bench.disk.objects[b"k"] = b"old"
    handle = bench.begin()
    bench.ask(b"write", handle, b"0", b"new")
    with pytest.raises(StorekeeperError, match="other bytes"):
        bench.ask(b"commit", handle, b"3")
    handle = bench.begin(replace=True)
    bench.ask(b"write", handle, b"0", b"new")
    assert bench.ask(b"commit", handle, b"3").words == ["replaced"]
    bench.check_rest()


def test_an_upload_goes_into_its_namespace(bench: Bench) -> None:
    bench.ask(b"commit", bench.begin(namespace="team"), b"0")
    assert list(bench.disk.objects) == [b"team/k"]


def test_a_commit_waits_for_the_ranges_under_way(bench: Bench) -> None:
    handle = bench.begin()
    bench.send(b"write", handle, b"0", b"ab")
    bench.send(b"write", handle, b"2", b"cd")
    bench.send(b"commit", handle, b"4")
    assert bench.waits() == [Write, Write]
    bench.do(1)
    assert bench.waits() == [Write]
    bench.do()
    assert bench.waits() == [Commit]
    bench.do()
    assert bench.disk.objects == {b"k": b"abcd"}
    bench.check_rest()


def test_no_range_is_taken_after_the_commit(bench: Bench) -> None:
    handle = bench.begin()
    bench.send(b"write", handle, b"0", b"ab")
    bench.send(b"commit", handle, b"2")
    for verb, *rest in ((b"write", b"2", b"cd"), (b"commit", b"2"), (b"abort",)):
        late = bench.send(verb, handle, *rest)
        with pytest.raises(BadHandle):
            wire.decode_reply(bench.replies()[late])
    bench.do_all()
    bench.check_rest()


@pytest.mark.parametrize("size", [b"0", b"2", b"4", b"7", b"8"])
def test_an_upload_whose_bytes_are_not_those_announced_is_not_stored(bench: Bench, size: bytes) -> None:
    handle = bench.begin()
    bench.ask(b"write", handle, b"0", b"ab")
    bench.ask(b"write", handle, b"4", b"cd")
    with pytest.raises(IncompleteUpload, match=f"{int(size)} bytes were announced, 4 were written"):
        bench.ask(b"commit", handle, size)
    assert bench.disk.objects == {}
    bench.check_rest()


def test_overlapping_ranges_are_written_as_often_as_they_come(bench: Bench) -> None:
    handle = bench.begin()
    for offset, part in ((b"2", b"cd"), (b"0", b"abc"), (b"0", b"xy")):
        bench.ask(b"write", handle, offset, part)
    bench.ask(b"commit", handle, b"4")
    assert bench.disk.objects == {b"k": b"xycd"}


def test_a_range_that_failed_fails_the_commit_with_the_first_error(bench: Bench) -> None:
    handle = bench.begin()
    bench.send(b"write", handle, b"0", b"ab")
    bench.send(b"write", handle, b"2", b"cd")
    bench.send(b"commit", handle, b"4")
    bench.do(error=DiskFull("first"))
    bench.do(error=DiskFull("second"))
    bench.do_all()
    replies = [wire.decode_reply(frames) for frames in bench.replies().values()]
    assert [reply.details["errors"]["0"] for reply in replies] == ["first", "second", "first"]
    assert replies[-1].words == ["disk_full"]
    assert bench.disk.objects == {}
    bench.check_rest()


def test_an_upload_that_cannot_begin_gives_its_place_back(bench: Bench) -> None:
    upload = bench.send(b"upload", b"k")
    job = bench.waiting.pop()
    job.outcomes = [failed(DiskFull("no space"))]
    bench.service.finished(job)
    reply = wire.decode_reply(bench.replies()[upload])
    assert reply.words == ["disk_full"]
    assert "handle" not in reply.details
    bench.check_rest()


def test_an_aborted_upload_leaves_nothing(bench: Bench) -> None:
    handle = bench.begin()
    bench.ask(b"write", handle, b"0", b"ab")
    assert bench.ask(b"abort", handle).words == ["ok"]
    assert bench.disk.objects == {}
    bench.check_rest()


def test_an_abort_waits_for_the_ranges_under_way(bench: Bench) -> None:
    handle = bench.begin()
    bench.send(b"write", handle, b"0", b"ab")
    bench.send(b"abort", handle)
    assert bench.waits() == [Write]
    bench.do()
    assert bench.waits() == [Close]
    bench.do()
    bench.check_rest()


def test_a_range_has_a_limit(bench: Bench) -> None:
    handle = bench.begin()
    bench.ask(b"write", handle, b"0", bytes(LIMITS.message_bytes_max))
    with pytest.raises(TooLarge):
        bench.ask(b"write", handle, b"0", bytes(LIMITS.message_bytes_max + 1))


def test_gaps_have_a_limit(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfers_module, "_GAPS_MAX", 3)
    handle = bench.begin()
    for number in range(4):
        bench.ask(b"write", handle, b"%d" % (2 * number), b"x")
    with pytest.raises(TooMany, match="gaps"):
        bench.ask(b"write", handle, b"100", b"x")
    bench.ask(b"write", handle, b"1", b"x")  # one that fills a gap is welcome
    bench.service.gone(bench.peer)
    bench.take_out()
    bench.do_all()
    bench.check_rest()


def test_bytes_that_a_range_brings_are_owed_until_it_is_written(bench: Bench) -> None:
    handle = bench.begin()
    bench.send(b"write", handle, b"0", b"abcd")
    assert (bench.peer.owed_requests, bench.peer.owed_bytes) == (1, 4 + ITEM_BYTES)
    bench.do()
    assert (bench.peer.owed_requests, bench.peer.owed_bytes) == (0, 0)


# -- downloads


def test_a_download_gives_size_and_ranges(bench: Bench) -> None:
    bench.disk.objects[b"k"] = b"hello world"
    reply = bench.ask(b"open", b"k")
    assert reply.words == ["ok"]
    assert reply.details["size"] == 11
    handle = reply.details["handle"].encode()
    assert bench.ask(b"read", handle, b"6", b"5").payloads == [b"world"]
    assert bench.ask(b"read", handle, b"0", b"5").payloads == [b"hello"]
    bench.ask(b"close", handle)
    bench.check_rest()


@pytest.mark.parametrize(("offset", "expected"), [(b"9", b"ld"), (b"11", b""), (b"999999", b"")])
def test_a_range_is_shorter_at_the_end_of_the_object(bench: Bench, offset: bytes, expected: bytes) -> None:
    bench.disk.objects[b"k"] = b"hello world"
    assert bench.ask(b"read", bench.open(), offset, b"100").payloads == [expected]


def test_a_download_stays_the_same_object(bench: Bench) -> None:
    bench.disk.objects[b"k"] = b"old"
    handle = bench.open()
    bench.disk.objects[b"k"] = b"something new"
    assert bench.ask(b"read", handle, b"0", b"100").payloads == [b"old"]
    del bench.disk.objects[b"k"]
    assert bench.ask(b"read", handle, b"0", b"100").payloads == [b"old"]


def test_an_absent_object_takes_no_handle(bench: Bench) -> None:
    reply = bench.ask(b"open", b"k")
    assert reply.words == ["absent"]
    assert reply.details == {}
    bench.check_rest()


def test_what_an_open_finds_is_a_question_to_the_index(bench: Bench) -> None:
    bench.disk.objects[b"k"] = b"old"
    bench.open()
    assert bench.coherence.take_questions(10) == [b"k"]


def test_a_close_waits_for_the_ranges_under_way(bench: Bench) -> None:
    bench.disk.objects[b"k"] = b"hello"
    handle = bench.open()
    bench.send(b"read", handle, b"0", b"2")
    bench.send(b"read", handle, b"2", b"3")
    bench.send(b"close", handle)
    assert bench.waits() == [Read, Read]
    bench.do()
    assert bench.waits() == [Read]
    bench.do()
    assert bench.waits() == [Close]
    bench.do()
    bench.check_rest()


def test_bytes_that_a_range_will_bring_are_owed_no_more_than_there_are(bench: Bench) -> None:
    bench.disk.objects[b"k"] = b"hello"
    handle = bench.open()
    bench.send(b"read", handle, b"3", b"1000")
    assert bench.peer.owed_bytes == 2 + ITEM_BYTES
    bench.do()
    assert bench.peer.owed_bytes == 0


def test_a_range_longer_than_a_message_is_refused(bench: Bench) -> None:
    bench.disk.objects[b"k"] = b"hello"
    handle = bench.open()
    with pytest.raises(TooLarge):
        bench.ask(b"read", handle, b"0", b"%d" % (LIMITS.message_bytes_max + 1))


def test_a_range_that_failed_says_so_and_the_download_goes_on(bench: Bench) -> None:
    bench.disk.objects[b"k"] = b"hello"
    handle = bench.open()
    read = bench.send(b"read", handle, b"0", b"5")
    bench.do(error=DiskFull("a fault"))
    assert wire.decode_reply(bench.replies()[read]).words == ["disk_full"]
    assert bench.ask(b"read", handle, b"0", b"5").payloads == [b"hello"]


# -- a peer that goes


def test_a_peer_gone_before_its_upload_began_leaves_nothing(bench: Bench) -> None:
    bench.send(b"upload", b"k")
    bench.service.gone(bench.peer)
    assert bench.waits() == [Begin]
    bench.do_all()
    assert bench.disk.closed == [1]
    bench.check_rest()
    assert bench.replies() == {}


def test_a_peer_gone_before_its_upload_failed_to_begin_leaves_nothing(bench: Bench) -> None:
    bench.send(b"upload", b"k")
    bench.service.gone(bench.peer)
    job = bench.waiting.pop()
    job.outcomes = [failed(DiskFull("no space"))]
    bench.service.finished(job)
    bench.take_out()
    bench.check_rest()


def test_a_peer_gone_with_an_idle_upload_leaves_nothing(bench: Bench) -> None:
    bench.begin()
    bench.service.gone(bench.peer)
    bench.take_out()
    assert bench.waits() == [Close]
    bench.do_all()
    bench.check_rest()


def test_a_peer_gone_with_ranges_under_way_is_waited_for(bench: Bench) -> None:
    handle = bench.begin()
    bench.send(b"write", handle, b"0", b"ab")
    bench.send(b"write", handle, b"2", b"cd")
    bench.service.gone(bench.peer)
    bench.take_out()
    assert bench.waits() == [Write, Write]
    bench.do(1)
    assert bench.waits() == [Write]
    bench.do()
    assert bench.waits() == [Close]
    bench.do()
    assert bench.disk.objects == {}
    bench.check_rest()


@pytest.mark.parametrize("size", [b"2", b"3"])
def test_a_peer_gone_with_its_commit_waiting_closes_once(bench: Bench, size: bytes) -> None:
    handle = bench.begin()
    bench.send(b"write", handle, b"0", b"ab")
    bench.send(b"commit", handle, size)
    bench.service.gone(bench.peer)
    bench.take_out()
    assert bench.waits() == [Write]
    bench.do_all()
    assert bench.disk.closed == [1]
    bench.check_rest()
    assert bench.replies() == {}


def test_a_peer_gone_with_its_commit_under_way_closes_once(bench: Bench) -> None:
    bench.send(b"commit", bench.begin(), b"0")
    bench.service.gone(bench.peer)
    bench.take_out()
    assert bench.waits() == [Commit]
    bench.do_all()
    assert bench.disk.closed == [1]
    bench.check_rest()


def test_a_peer_gone_while_its_commit_waits_for_its_turn_closes_once(bench: Bench) -> None:
    other = Peer(1, 1, 2)
    bench.send(b"commit", bench.begin(peer=other), b"0", peer=other)
    bench.send(b"upload", b"k")
    bench.do(1)
    (handle,) = bench.peer.handles
    bench.send(b"commit", handle, b"0")
    bench.service.gone(bench.peer)
    assert bench.waits() == [Commit]
    bench.do_all()
    assert sorted(bench.disk.closed) == [1, 2]
    bench.check_rest()


def test_a_peer_gone_after_its_abort_closes_once(bench: Bench) -> None:
    handle = bench.begin()
    bench.send(b"write", handle, b"0", b"ab")
    bench.send(b"abort", handle)
    bench.service.gone(bench.peer)
    bench.do_all()
    assert bench.disk.closed == [1]
    bench.check_rest()


@pytest.mark.parametrize("there", [True, False])
def test_a_peer_gone_before_its_download_began_leaves_nothing(bench: Bench, there: bool) -> None:
    if there:
        bench.disk.objects[b"k"] = b"hello"
    bench.send(b"open", b"k")
    bench.service.gone(bench.peer)
    assert bench.waits() == [Open]
    bench.do_all()
    assert bench.disk.closed == [1] * there
    bench.check_rest()


def test_a_peer_gone_during_a_download_is_waited_for(bench: Bench) -> None:
    bench.disk.objects[b"k"] = b"hello"
    handle = bench.open()
    bench.send(b"read", handle, b"0", b"2")
    bench.send(b"read", handle, b"2", b"2")
    bench.service.gone(bench.peer)
    bench.take_out()
    assert bench.waits() == [Read, Read]
    bench.do()
    assert bench.waits() == [Read]
    bench.do()
    assert bench.waits() == [Close]
    bench.do()
    bench.check_rest()


def test_a_peer_gone_after_its_close_closes_once(bench: Bench) -> None:
    bench.disk.objects[b"k"] = b"hello"
    handle = bench.open()
    bench.send(b"read", handle, b"0", b"2")
    bench.send(b"close", handle)
    bench.service.gone(bench.peer)
    bench.do_all()
    assert bench.disk.closed == [1]
    bench.check_rest()


def test_a_peer_gone_takes_all_its_handles_along_and_no_others(bench: Bench) -> None:
    other = Peer(1, 1, 2)
    bench.disk.objects[b"there"] = b"hello"
    kept = bench.begin(peer=other)
    bench.begin(b"a")
    bench.begin(b"b")
    bench.open(b"there")
    bench.service.gone(bench.peer)
    bench.take_out()
    bench.do_all()
    assert bench.peer.handles == {}
    assert bench.service.transfers.handles.taken == 1
    assert bench.ask(b"commit", kept, b"0", peer=other).words == ["created"]
    bench.check_rest()


# -- handles


def test_handles_are_never_used_twice(bench: Bench) -> None:
    seen = set()
    for _ in range(5):
        handle = bench.begin()
        assert handle not in seen
        seen.add(handle)
        bench.ask(b"abort", handle)


@pytest.mark.parametrize("verb", [b"write", b"commit", b"abort", b"read", b"close"])
@pytest.mark.parametrize("handle", [b"", b"0", b"99", b"x" * 1000, b"1 ", b"\xff"])
def test_a_handle_that_was_never_given_is_refused(bench: Bench, verb: bytes, handle: bytes) -> None:
    bench.begin()
    with pytest.raises(BadHandle):
        bench.ask(verb, handle, *rest_of(verb))


@pytest.mark.parametrize("verb", [b"write", b"commit", b"abort", b"read", b"close"])
def test_a_handle_of_another_connection_is_refused(bench: Bench, verb: bytes) -> None:
    bench.disk.objects[b"there"] = b"hello"
    other = Peer(1000, 100, 1)
    for handle in (bench.begin(), bench.open(b"there")):
        with pytest.raises(BadHandle):
            bench.ask(verb, handle, *rest_of(verb), peer=other)


def test_a_handle_is_good_for_its_own_verbs_alone(bench: Bench) -> None:
    bench.disk.objects[b"there"] = b"hello"
    upload, download = bench.begin(), bench.open(b"there")
    for verb, handle in (
        (b"read", upload),
        (b"close", upload),
        (b"list", upload),
        (b"write", download),
        (b"commit", download),
        (b"abort", download),
        (b"list", download),
    ):
        with pytest.raises(BadHandle):
            bench.ask(verb, handle, *rest_of(verb))
    assert set(bench.peer.handles) == {upload, download}


def rest_of(verb: bytes) -> list[bytes]:
    """Good arguments of a verb after its handle."""
    return {b"write": [b"0", b"x"], b"commit": [b"0"], b"read": [b"0", b"1"]}.get(verb, [])


def test_a_connection_has_so_many_handles(bench: Bench) -> None:
    handles = [bench.begin(b"%d" % number) for number in range(3)]
    for verb in (b"upload", b"open"):
        with pytest.raises(TooMany, match="a connection has at most 3"):
            bench.ask(verb, b"more")
    bench.ask(b"abort", handles[0])
    bench.begin(b"more")


def test_handles_about_to_be_given_count(bench: Bench) -> None:
    for _ in range(3):
        bench.send(b"upload", b"k")
    assert bench.peer.opening == 3
    more = bench.send(b"open", b"k")
    with pytest.raises(TooMany):
        wire.decode_reply(bench.replies()[more])
    bench.do_all()
    assert bench.peer.opening == 0
    assert len(bench.peer.handles) == 3


def test_all_connections_together_have_so_many_handles(bench: Bench) -> None:
    others = [Peer(1000, 100, pid) for pid in (2, 3)]
    for peer in others:
        bench.begin(b"a", peer=peer)
        bench.begin(b"b", peer=peer)
    bench.begin(b"c")
    with pytest.raises(Busy, match="all 5"):
        bench.begin(b"d")
    bench.service.gone(others[0])
    bench.take_out()
    bench.do_all()
    bench.begin(b"d")


def test_a_refused_handle_takes_no_place(bench: Bench) -> None:
    for _ in range(10):
        with pytest.raises(BadKey):
            bench.ask(b"upload", b".bad")
        with pytest.raises(NamespaceMissing):
            bench.ask(b"open", b"k", namespace="nowhere")
    bench.check_rest()


@pytest.mark.parametrize("verb", [b"upload", b"write", b"commit", b"abort", b"open", b"read", b"close"])
@pytest.mark.parametrize("change", [-1, 1])
def test_another_number_of_arguments_is_refused_with_the_rule(bench: Bench, verb: bytes, change: int) -> None:
    count = len(wire.ARGUMENTS[verb].split()) + change
    with pytest.raises(BadRequest, match=f"{verb.decode()} takes as arguments: {wire.ARGUMENTS[verb]}"):
        bench.ask(verb, *[b"1"] * count)


@pytest.mark.parametrize("number", [b"", b"-1", b"1.5", b"x", b"1" * 19, b" 1"])
def test_numbers_must_be_numbers(bench: Bench, number: bytes) -> None:
    bench.disk.objects[b"there"] = b"hello"
    upload, download = bench.begin(), bench.open(b"there")
    for verb, handle, *rest in (
        (b"write", upload, number, b"x"),
        (b"commit", upload, number),
        (b"read", download, number, b"1"),
        (b"read", download, b"1", number),
    ):
        with pytest.raises(BadRequest, match="decimal"):
            bench.ask(verb, handle, *rest)
    assert set(bench.peer.handles) == {upload, download}  # nothing was ended by it
    assert bench.peer.owed_requests == 0


# -- room


SPACE = Namespace(bytes_max=10 * BLOCK)


def reserved(bench: LivingBench) -> tuple[int, int]:
    totals = bench.service.ledger.reserved()
    return totals.objects, totals.charged_bytes


def upload(bench: LivingBench, **options: Any) -> bytes:
    handle: str = bench.ask(b"upload", b"k", **options).details["handle"]
    return handle.encode()


def test_room_for_an_upload_that_says_its_size_is_reserved_at_once() -> None:
    bench = LivingBench(default=SPACE)
    handle = upload(bench, size=5 * BLOCK - 1)
    assert reserved(bench) == (1, 5 * BLOCK)
    with pytest.raises(QuotaExceeded, match="holds 20480"):
        bench.ask(b"put", b"l", bytes(6 * BLOCK))
    bench.ask(b"write", handle, b"0", bytes(5 * BLOCK - 1))
    assert reserved(bench) == (1, 5 * BLOCK)
    assert bench.ask(b"commit", handle, b"%d" % (5 * BLOCK - 1)).words == ["created"]
    assert bench.service.ledger.used(b"")[0] == 5 * BLOCK
    bench.check_rest()


def test_no_range_lies_beyond_the_size_that_was_announced() -> None:
    bench = LivingBench()
    handle = upload(bench, size=10)
    bench.ask(b"write", handle, b"0", bytes(10))
    with pytest.raises(IncompleteUpload, match="10 bytes were announced; a range ends at 11"):
        bench.ask(b"write", handle, b"10", b"x")
    with pytest.raises(IncompleteUpload, match="a range ends at 11"):
        bench.ask(b"commit", handle, b"10")
    assert bench.disk.objects == {}
    assert bench.disk.open == {}
    bench.check_rest()


def test_an_upload_of_nothing_may_be_announced() -> None:
    bench = LivingBench(default=SPACE)
    handle = upload(bench, size=0)
    with pytest.raises(IncompleteUpload):
        bench.ask(b"write", handle, b"0", b"x")
    assert bench.ask(b"commit", upload(bench, size=0), b"0").words == ["created"]


def test_without_a_size_room_is_reserved_as_ranges_come_and_a_refused_one_fails_the_commit() -> None:
    bench = LivingBench(default=SPACE)
    handle = upload(bench)
    assert reserved(bench) == (1, 0)
    bench.ask(b"write", handle, b"%d" % (4 * BLOCK), bytes(BLOCK))  # gaps count: they will be filled
    assert reserved(bench) == (1, 5 * BLOCK)
    bench.ask(b"write", handle, b"0", bytes(4 * BLOCK))
    assert reserved(bench) == (1, 5 * BLOCK)
    with pytest.raises(QuotaExceeded, match="namespace 'default' may hold 40960"):
        bench.ask(b"write", handle, b"%d" % (5 * BLOCK), bytes(6 * BLOCK))
    assert reserved(bench) == (1, 5 * BLOCK)
    with pytest.raises(QuotaExceeded, match="namespace 'default' may hold 40960"):
        bench.ask(b"commit", handle, b"%d" % (5 * BLOCK))
    assert (bench.disk.objects, bench.disk.open) == ({}, {})
    bench.check_rest()


def test_a_refused_range_is_not_written_though_others_are_under_way() -> None:
    bench = LivingBench(default=SPACE)
    handle = upload(bench)
    first = bench.send(b"write", handle, b"0", bytes(BLOCK))
    second = bench.send(b"write", handle, b"%d" % BLOCK, bytes(10 * BLOCK))
    commit = bench.send(b"commit", handle, b"%d" % (11 * BLOCK))
    assert [type(operation) for job in bench.waiting for operation in job.operations] == [Write]
    bench.do_all()
    replies = bench.replies()
    assert wire.decode_reply(replies[first]).words == ["ok"]
    with pytest.raises(QuotaExceeded):
        wire.decode_reply(replies[second])
    assert wire.decode_reply(replies[commit]).words == ["quota"]
    bench.check_rest()


@pytest.mark.parametrize("end", ["abort", "gone", "idle", "incomplete", "failed write", "failed begin", "key exists"])
def test_however_an_upload_ends_its_room_is_given_back(end: str) -> None:
    bench = LivingBench(default=SPACE)
    bench.ask(b"put", b"there", b"x")
    if end == "failed begin":
        bench.send(b"upload", b"k", size=BLOCK)
        job = bench.waiting.pop()
        job.outcomes = [failed(DiskFull("no space"))]
        bench.service.finished(job)
        bench.replies()
        bench.check_rest()
        return
    handle = upload(bench, size=2 * BLOCK) if end != "key exists" else bench.ask(b"upload", b"there").details["handle"]
    handle = handle if isinstance(handle, bytes) else handle.encode()
    bench.ask(b"write", handle, b"0", bytes(BLOCK))
    if end == "abort":
        bench.send(b"abort", handle)
        assert reserved(bench) == (1, 2 * BLOCK)  # until its file is gone
    elif end == "gone":
        bench.service.gone(bench.peer)
        bench.take_out()
    elif end == "idle":
        for now in (1.0, 10_000.0, 20_000.0):
            bench.service.transfers.handles.expire(now)
        bench.take_out()
    elif end == "incomplete":
        bench.send(b"commit", handle, b"%d" % (2 * BLOCK))
    elif end == "failed write":
        bench.send(b"write", handle, b"0", b"x")
        job = bench.waiting.pop()
        job.outcomes = [failed(DiskFull("no space"))]
        bench.service.finished(job)
        bench.send(b"commit", handle, b"%d" % BLOCK)
    else:
        bench.send(b"commit", handle, b"%d" % BLOCK)
    bench.do_all()
    bench.replies()
    assert bench.disk.objects == {b"there": b"x"}
    assert bench.disk.open == {}
    bench.check_rest()


def test_a_peer_gone_before_its_upload_began_gives_its_room_back() -> None:
    bench = LivingBench(default=SPACE)
    bench.send(b"upload", b"k", size=BLOCK)
    bench.service.gone(bench.peer)
    bench.do_all()
    assert bench.disk.open == {}
    bench.check_rest()


@pytest.mark.parametrize("how", ["evict", "replace"])
def test_what_is_removed_or_replaced_counts_until_nobody_reads_it(how: str) -> None:
    bench = LivingBench(default=SPACE)
    bench.put(b"k", 4)
    others = [bench.ask(b"open", b"k").details["handle"].encode() for _ in range(2)]
    if how == "evict":
        bench.ask(b"evict", b"k")
        used = 4
    else:
        bench.put(b"k", 1, replace=True)
        used = 5
    assert bench.service.ledger.used(b"")[0] == used * BLOCK
    newer = bench.ask(b"open", b"k").details.get("handle") if how == "replace" else None
    with pytest.raises(QuotaExceeded):
        bench.ask(b"put", b"l", bytes((11 - used) * BLOCK))
    bench.ask(b"close", others[0])
    assert bench.service.ledger.used(b"")[0] == used * BLOCK
    bench.send(b"close", others[1])
    assert bench.service.ledger.used(b"")[0] == used * BLOCK  # until its file is gone
    bench.do_all()
    bench.replies()
    assert bench.service.ledger.used(b"")[0] == (used - 4) * BLOCK
    if newer is not None:
        bench.ask(b"close", newer.encode())
    bench.check_rest()


def test_what_a_reader_that_went_held_is_free() -> None:
    bench = LivingBench(default=SPACE)
    bench.put(b"k", 4)
    bench.ask(b"open", b"k")
    bench.ask(b"evict", b"k")
    bench.service.gone(bench.peer)
    bench.take_out()
    bench.do_all()
    assert bench.service.ledger.used(b"")[0] == 0
    bench.check_rest()


# -- descriptors that are handed out


def seal(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets what is opened be what never changes."""
    real = bench.disk._open
    monkeypatch.setattr(bench.disk, "_open", lambda operation: dataclasses.replace(real(operation), payload=SEALED))


def last_reply(bench: Bench) -> Any:
    return bench.service.replies[-1][1]


def test_a_descriptor_comes_only_to_who_asks_and_of_what_never_changes(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.disk.objects[b"k"] = b"bytes"
    for sealed, asked, brings in ((False, True, False), (True, False, False), (True, True, True)):
        if sealed:
            seal(bench, monkeypatch)
        bench.send(b"open", b"k", descriptor=asked)
        bench.do_all()
        assert (type(last_reply(bench)) is WithDescriptor) == brings
        monkeypatch.undo()


@pytest.mark.parametrize("verb", [b"open", b"upload"])
def test_what_is_closed_before_its_answer_is_sent_is_not_handed_over(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, verb: bytes
) -> None:
    # Its number may be somebody else's file by then.
    seal(bench, monkeypatch)
    bench.service.lends = True
    bench.disk.objects[b"k"] = b"bytes"
    bench.send(verb, b"k", descriptor=True)
    bench.do_all()
    frames = last_reply(bench)
    assert frames.transfer.descriptor > 0
    handle = wire.decode_reply(frames).details["handle"].encode()  # or guessed: handles are numbers
    bench.send(b"close" if verb == b"open" else b"abort", handle)
    assert frames.transfer.descriptor == -1


def test_nothing_is_lent_where_that_cannot_be_proven_or_anything_is_bounded(bench: Bench) -> None:
    for lends, bounded, admin, brings in (
        (False, False, True, False),
        (True, False, False, True),
        (True, True, False, False),
        (True, True, True, True),
    ):
        bench.service.lends = lends
        bench.service.ledger.bounds_anything = bounded
        bench.service.access._admins = frozenset({bench.peer.uid} if admin else ())
        bench.send(b"upload", b"k", descriptor=True)
        bench.do_all()
        assert (type(last_reply(bench)) is WithDescriptor) == brings
        bench.ask(b"abort", wire.decode_reply(last_reply(bench)).details["handle"].encode())
