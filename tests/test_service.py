"""service.py: what the verbs mean."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

import pytest

from simulation import FakeDisk
from storekeeper import wire
from storekeeper.errors import (
    BadRequest,
    DaemonStopping,
    DiskFailed,
    InternalError,
    NamespaceMissing,
    StoreUnavailable,
    TooLarge,
    TooMany,
    UnknownVerb,
    VersionMismatch,
)
from storekeeperd.access import NOBODY, Rules
from storekeeperd.answers import ITEM_BYTES, Peer
from storekeeperd.coherence import Coherence
from storekeeperd.config import Limits
from storekeeperd.index import Index
from storekeeperd.namespaces import Namespace
from storekeeperd.operations import Evict, Get, Job, Look, Operation, Put, failed
from storekeeperd.outside import Outside
from storekeeperd.service import HIT_AFTER, HIT_BEFORE, Service
from storekeeperd.sight import UNSEEN

LIMITS = Limits(message_bytes_max=1000, batch_items_max=5, inline_bytes_max=100)


class Bench:
    """A service with small limits; jobs are carried out when a test says so."""

    def __init__(self, limits: Limits | None = None, outside: Outside | None = None) -> None:
        self.index = Index()
        self.coherence = Coherence(self.index)
        self.service = Service(
            limits or LIMITS,
            self.index,
            self.coherence,
            namespaces=["team"],
            status=lambda: {**self.status()},
            outside=outside,
        )
        self.status: Callable[[], dict[str, Any]] = lambda: {"store_id": "the store"}
        self.disk = FakeDisk(lambda name, _: self.coherence.ask(name))
        self.peer = Peer(1000, 100, 1)
        self.ordered: list[Operation] = []

    def scan(self) -> None:
        self.coherence.begin_scan()
        self.coherence.scanned([name for name in self.disk.objects if b"/" not in name])
        self.coherence.scanned([name for name in self.disk.objects if b"/" in name])
        self.coherence.end_scan(complete=True)
        self.coherence.sweep()

    def send(self, verb: bytes, *arguments: Any, **options: Any) -> None:
        self.service.request(self.peer, wire.encode_request(verb, b"id", options, arguments))

    def take(self) -> Job:
        job = self.service.jobs.popleft()
        self.ordered += job.operations
        return job

    def do(self, job: Job) -> None:
        job.outcomes = [self.disk.perform(operation) for operation in job.operations]
        self.service.finished(job)

    def do_all(self) -> None:
        while self.service.jobs:
            self.do(self.take())

    def turn(self) -> None:
        while self.service.ask_disk(100) or self.service.jobs:
            self.do_all()

    def reply(self) -> wire.Reply:
        ((peer, frames),) = self.service.replies
        self.service.replies.clear()
        assert peer is self.peer
        assert wire.reply_id(frames) == b"id"
        return wire.decode_reply(frames)

    def ask(self, verb: bytes, *arguments: Any, **options: Any) -> wire.Reply:
        """Makes a request and carries out what it orders, but answers no questions yet."""
        reply = self.ask_while_owed(verb, *arguments, **options)
        assert (self.peer.owed_requests, self.peer.owed_bytes) == (0, 0)
        return reply

    def ask_while_owed(self, verb: bytes, *arguments: Any, **options: Any) -> wire.Reply:
        """The same, while another answer is owed."""
        self.ordered = []
        self.send(verb, *arguments, **options)
        self.do_all()
        return self.reply()


@pytest.fixture
def bench() -> Bench:
    bench = Bench()
    bench.disk.objects[b"k"] = b"hello"
    bench.disk.objects[b"team/t"] = b"team's"
    bench.scan()
    assert bench.coherence.coherent
    return bench


# -- exists


def test_a_hit_is_answered_from_memory(bench: Bench) -> None:
    assert bench.ask(b"exists", b"k").words == ["yes"]
    assert bench.ordered == []


def test_a_miss_is_looked_at(bench: Bench) -> None:
    assert bench.ask(b"exists", b"new").words == ["no"]
    assert bench.ordered == [Look(b"new")]
    bench.disk.objects[b"new"] = b"x"  # nobody heard of it
    assert bench.ask(b"exists", b"new").words == ["yes"]
    assert bench.ask(b"exists", b"new").words == ["yes"]
    assert bench.ordered == []


def test_a_fresh_hit_is_looked_at(bench: Bench) -> None:
    assert bench.ask(b"exists", b"k", fresh=True).words == ["yes"]
    assert bench.ordered == [Look(b"k")]
    del bench.disk.objects[b"k"]
    assert bench.ask(b"exists", b"k", fresh=False).words == ["yes"]
    assert bench.ask(b"exists", b"k", fresh=True).words == ["no"]
    assert bench.ask(b"exists", b"k").words == ["no"]


def test_a_hit_is_looked_at_while_the_index_is_not_coherent(bench: Bench) -> None:
    bench.coherence.lost("overflow")
    assert bench.ask(b"exists", b"k").words == ["yes"]
    assert bench.ordered == [Look(b"k")]
    bench.scan()
    assert bench.ask(b"exists", b"k").words == ["yes"]
    assert bench.ordered == []


def test_many_are_answered_in_order(bench: Bench) -> None:
    bench.disk.objects[b"unheard"] = b"x"
    assert bench.ask(b"exists", b"new", b"k", b"unheard", b"k").words == ["no", "yes", "yes", "yes"]
    assert bench.ordered == [Look(b"new"), Look(b"unheard")]


def test_a_look_that_fails_is_the_items_error(bench: Bench) -> None:
    bench.send(b"exists", b"k", b"new")
    job = bench.take()
    job.outcomes = [failed(DiskFailed("a fault"), UNSEEN)]
    bench.service.finished(job)
    reply = bench.reply()
    assert reply.words == ["yes", "disk_failed"]
    assert reply.details == {"errors": {"1": "a fault"}}


def known(bench: Bench) -> Peer:
    """The peer, as one whose rights have been looked up."""
    assert bench.service.access.rights(bench.peer, b"")
    return bench.peer


def test_a_hit_of_somebody_whose_rights_are_not_known_is_no_such_hit(bench: Bench) -> None:
    assert not bench.service.is_hit(bench.peer, b"id", b"", b"k")
    assert bench.service.is_hit(known(bench), b"id", b"", b"k")
    bench.service.set_space("default", Namespace(), Rules(read=NOBODY, write=NOBODY))
    assert not bench.service.is_hit(bench.peer, b"id", b"", b"k")


def test_a_hit_is_known_before_the_request_is_made_of_it(bench: Bench) -> None:
    assert bench.service.is_hit(known(bench), b"id", b"", b"k")
    bench.service.request(bench.peer, wire.encode_request(b"exists", b"id", {}, [b"k"]))
    assert [[*HIT_BEFORE, b"id", *HIT_AFTER]] == [frames for _, frames in bench.service.replies]


@pytest.mark.parametrize(
    ("request_id", "options", "key"),
    [
        (b"id", b"", b"new"),
        (b"id", b"", b"team/t"),
        (b"id", b"", b""),
        (b"id", b'{"fresh":true}', b"k"),
        (b"id", b'{"namespace":"team"}', b"t"),
        (b"i" * 33, b"", b"k"),
    ],
)
def test_all_else_is_no_such_hit(bench: Bench, request_id: bytes, options: bytes, key: bytes) -> None:
    assert not bench.service.is_hit(known(bench), request_id, options, key)


@pytest.mark.parametrize("state", ["not coherent", "stopping", "store away"])
def test_nothing_is_such_a_hit_when_it_may_not_be_answered_from_memory(bench: Bench, state: str) -> None:
    if state == "not coherent":
        bench.coherence.lost("overflow")
    elif state == "stopping":
        bench.service.stop()
    else:
        bench.service.store_away = True
    assert not bench.service.is_hit(known(bench), b"id", b"", b"k")


# -- get


def test_get_brings_bytes_in_order(bench: Bench) -> None:
    bench.disk.objects[b"a"] = b"A"
    reply = bench.ask(b"get", b"k", b"new", b"a", b"k")
    assert reply.words == ["ok", "absent", "ok", "ok"]
    assert reply.payloads == [b"hello", b"", b"A", b"hello"]


def test_get_of_many_is_one_job_with_one_budget(bench: Bench) -> None:
    bench.send(b"get", b"k", b"a", b"b")
    job = bench.take()
    assert not bench.service.jobs
    budgets = {id(operation.budget) for operation in job.operations if isinstance(operation, Get)}
    assert len(budgets) == 1


def test_an_object_over_a_message_is_large(bench: Bench) -> None:
    bench.disk.set(b"large", bytes(1001))
    bench.turn()
    reply = bench.ask(b"get", b"large", b"k")
    assert reply.words == ["large", "ok"]
    assert reply.payloads == [b"", b"hello"]


def test_what_does_not_fit_into_the_reply_comes_later(bench: Bench) -> None:
    for name in (b"a", b"b", b"c"):
        bench.disk.set(name, bytes(400))
    bench.turn()
    assert bench.ask(b"get", b"a", b"b", b"c").words == ["ok", "ok", "later"]
    assert bench.ask(b"get", b"c").words == ["ok"]


def test_an_unknown_object_that_turns_out_long_comes_later(bench: Bench) -> None:
    bench.disk.objects[b"unheard"] = bytes(900)
    assert bench.ask(b"get", b"unheard").words == ["later"]
    bench.turn()
    assert bench.ask(b"get", b"unheard").words == ["ok"]


@pytest.mark.parametrize(
    ("keys", "cost"),
    [([b"known"], 7), ([b"known", b"known"], 14), ([b"new"], 100), ([b"k"], 1000), ([b"k", b"known"], 1000)],
)
def test_what_a_get_may_bring_is_owed(bench: Bench, keys: list[bytes], cost: int) -> None:
    bench.disk.set(b"known", b"7 bytes")
    bench.turn()
    assert bench.index.size(b"k") == -1  # a scan knows names only
    bench.send(b"get", *keys)
    assert bench.peer.owed_bytes == cost + len(keys) * ITEM_BYTES


def test_what_a_read_finds_in_passing_is_a_question(bench: Bench) -> None:
    del bench.disk.objects[b"k"]
    assert bench.ask(b"get", b"k").words == ["absent"]
    assert bench.index.has(b"k")
    assert not bench.service.is_hit(known(bench), b"id", b"", b"k")
    assert bench.ask(b"exists", b"k").words == ["no"]
    bench.turn()
    assert not bench.index.has(b"k")
    assert bench.coherence.coherent


def test_a_read_that_is_older_than_a_put_does_not_hide_the_object(bench: Bench) -> None:
    bench.send(b"get", b"new")
    read = bench.take()
    read.outcomes = [bench.disk.perform(operation) for operation in read.operations]  # it is not there yet
    assert bench.ask_while_owed(b"put", b"new", b"x").words == ["created"]
    bench.service.finished(read)
    assert bench.reply().words == ["absent"]
    assert bench.index.has(b"new")  # acknowledged: every later request sees it
    assert bench.ask(b"exists", b"new").words == ["yes"]
    bench.turn()
    assert bench.ask(b"exists", b"new").words == ["yes"]
    assert bench.ordered == []


# -- put and evict


def test_put_creates_repeats_and_replaces(bench: Bench) -> None:
    assert bench.ask(b"put", b"n", b"one").words == ["created"]
    assert bench.ask(b"put", b"n", b"one").words == ["same"]
    assert bench.ask(b"put", b"n", b"two").words == ["key_exists"]
    assert bench.disk.objects[b"n"] == b"one"
    assert bench.ask(b"put", b"n", b"two", replace=True).words == ["replaced"]
    assert bench.disk.objects[b"n"] == b"two"


def test_an_acknowledged_change_is_in_the_index(bench: Bench) -> None:
    bench.ask(b"put", b"n", b"one")
    assert bench.index.size(b"n") == 3
    assert bench.ask(b"exists", b"n").words == ["yes"]
    assert bench.ordered == []
    assert bench.ask(b"evict", b"n").words == ["evicted"]
    assert not bench.index.has(b"n")


def test_put_says_who_and_how_durably(bench: Bench) -> None:
    assert bench.ask(b"put", b"a", b"x").details == {"durability": "os"}
    assert bench.ask(b"put", b"b", b"x", durability="disk").details == {"durability": "disk"}
    puts = [operation for operation in bench.ordered if isinstance(operation, Put)]
    assert [(put.durable, put.origin.uid) for put in puts] == [(True, 1000)]


def test_one_bad_item_does_not_spoil_the_others(bench: Bench) -> None:
    reply = bench.ask(b"put", b"a", b"A", b".hidden", b"x", b"b", b"B")
    assert reply.words == ["created", "bad_key", "created"]
    assert list(reply.details["errors"]) == ["1"]
    assert bench.disk.objects[b"b"] == b"B"


def test_bytes_that_a_put_brings_are_owed_until_it_is_answered(bench: Bench) -> None:
    bench.send(b"put", b"a", b"12345", b"b", b"678")
    assert (bench.peer.owed_requests, bench.peer.owed_bytes) == (1, 8 + 2 * ITEM_BYTES)
    bench.do_all()
    assert (bench.peer.owed_requests, bench.peer.owed_bytes) == (0, 0)


def test_puts_over_a_message_are_refused_whole(bench: Bench) -> None:
    bench.ask(b"put", b"fits", bytes(1000))
    with pytest.raises(TooLarge, match="1000"):
        bench.ask(b"put", b"a", bytes(500), b"b", bytes(501))
    assert b"a" not in bench.disk.objects


def test_evict_says_whether_it_was_there(bench: Bench) -> None:
    assert bench.ask(b"evict", b"k", b"k", b"new").words == ["evicted", "absent", "absent"]
    assert b"k" not in bench.disk.objects


def test_put_knows_whether_what_it_may_replace_is_small(bench: Bench) -> None:
    bench.disk.set(b"long", bytes(100_000))
    bench.turn()
    for replace in (False, True):
        bench.ask(b"put", b"long", b"x", b"k", b"x", b"absent", b"x", replace=replace)
        small = [operation.small for operation in bench.ordered if isinstance(operation, Put)]
        assert small == [not replace, True, True]  # without replace nothing is freed


def test_evict_knows_which_objects_are_small(bench: Bench) -> None:
    bench.disk.set(b"small", bytes(100))
    bench.disk.set(b"long", bytes(101))
    bench.turn()
    bench.disk.objects[b"scanned"] = b""
    bench.coherence.lost("overflow")
    bench.scan()
    assert bench.index.size(b"scanned") == -1
    bench.ask(b"evict", b"small", b"long", b"scanned", b"absent")
    small = {operation.name: operation.small for operation in bench.ordered if isinstance(operation, Evict)}
    assert small == {b"small": True, b"long": False, b"scanned": False, b"absent": True}


# -- stat and status


def test_stat_tells_each_item(bench: Bench) -> None:
    reply = bench.ask(b"stat", b"k", b"new")
    assert reply.words == ["ok", "absent"]
    assert json.loads(reply.payloads[0])["size"] == 5
    assert reply.payloads[1] == b""


def test_what_stat_finds_is_a_question(bench: Bench) -> None:
    bench.disk.objects[b"unheard"] = b"x"
    bench.ask(b"stat", b"unheard")
    bench.turn()
    assert bench.index.size(b"unheard") == 1


def test_status_tells_what_the_service_knows_and_more(bench: Bench) -> None:
    bench.disk.set(b"new", b"123")
    bench.turn()
    bench.coherence.ask(b"question")
    bench.send(b"get", b"k")
    bench.send(b"status")
    told = bench.reply().details
    assert told == {
        "objects": 3,
        "bytes": 3,
        "objects_not_sized": 2,
        "coherent": True,
        "epoch": 1,
        "clean": 1,
        "scans": 1,
        "losses": {},
        "names_in_doubt": 1,
        "namespaces": ["default", "team"],
        "evictions": {},
        "reserved_bytes": 0,
        "jobs": 1,
        "shelves": 0,
        "shelves_bytes": 0,
        "limits": {"message_bytes_max": 1000, "batch_items_max": 5},
        "store_id": "the store",
    }


def test_status_takes_no_arguments(bench: Bench) -> None:
    with pytest.raises(BadRequest, match="nothing"):
        bench.ask(b"status", b"k")


# -- usage


def test_usage_tells_the_totals_of_a_namespace(bench: Bench) -> None:
    bench.disk.set(b"new", b"123")
    bench.disk.set(b"team/new", b"12345678")
    bench.turn()
    usage = bench.ask(b"usage")
    assert usage.words == ["ok"]
    assert usage.details == {
        "objects": 2,
        "bytes": 3,
        "charged_bytes": 4096,
        "objects_not_sized": 1,
    }  # a scan knows names only
    assert bench.ask(b"usage", namespace="team").details == {
        "objects": 2,
        "bytes": 8,
        "charged_bytes": 4096,
        "objects_not_sized": 1,
    }
    assert bench.ask(b"usage", namespace="default").details == usage.details
    assert bench.ordered == []


def test_usage_takes_no_arguments(bench: Bench) -> None:
    with pytest.raises(BadRequest, match="usage takes as arguments: nothing"):
        bench.ask(b"usage", b"k")


def test_usage_follows_puts_and_evicts(bench: Bench) -> None:
    bench.ask(b"put", b"n", b"123")
    assert bench.ask(b"usage").details == {"objects": 2, "bytes": 3, "charged_bytes": 4096, "objects_not_sized": 1}
    bench.ask(b"put", b"n", b"12345", replace=True)
    assert bench.ask(b"usage").details["bytes"] == 5
    bench.ask(b"evict", b"n")
    assert bench.ask(b"usage").details == {"objects": 1, "bytes": 0, "charged_bytes": 0, "objects_not_sized": 1}


def test_usage_waits_until_the_index_may_be_believed(bench: Bench) -> None:
    bench.coherence.lost("overflow")
    bench.send(b"usage")
    bench.turn()
    assert not bench.service.replies
    assert bench.peer.owed_requests == 1
    bench.scan()
    bench.turn()
    assert bench.reply().details["objects"] == 1
    assert bench.peer.owed_requests == 0


def test_fresh_usage_waits_until_every_object_was_looked_at(bench: Bench) -> None:
    bench.send(b"usage", fresh=True)
    assert bench.service.barriers.unheard
    bench.service.barriers.heard()
    bench.turn()
    assert not bench.service.replies
    number = bench.coherence.begin_measure()
    bench.coherence.ask_unless_gone(bench.index.names())
    bench.coherence.measures.complete(number)
    bench.service.barriers.proceed()
    assert not bench.service.replies  # all are asked about, and yet to be looked at
    bench.turn()
    assert bench.reply().details == {"objects": 1, "bytes": 5, "charged_bytes": 4096, "objects_not_sized": 0}


def test_a_namespace_that_is_not_served_is_refused_before_anything_waits(bench: Bench) -> None:
    bench.coherence.lost("overflow")
    for verb in (b"usage", b"list"):
        with pytest.raises(NamespaceMissing):
            bench.ask(verb, namespace="nowhere")
    assert not bench.service.barriers._waiting


# -- namespaces


def test_a_namespace_has_keys_of_its_own(bench: Bench) -> None:
    assert bench.ask(b"exists", b"t", b"k", namespace="team").words == ["yes", "no"]
    assert bench.ask(b"exists", b"t").words == ["no"]
    assert bench.ask(b"get", b"t", namespace="team").payloads == [b"team's"]
    bench.ask(b"put", b"k", b"other", namespace="team")
    assert bench.disk.objects[b"team/k"] == b"other"
    assert bench.disk.objects[b"k"] == b"hello"
    assert bench.ask(b"stat", b"k", namespace="default").words == ["ok"]
    assert bench.ask(b"evict", b"t", namespace="team").words == ["evicted"]


def test_no_key_reaches_into_a_namespace(bench: Bench) -> None:
    for verb in (b"exists", b"get", b"evict", b"stat"):
        assert bench.ask(verb, b"team/t").words == ["bad_key"]
    assert bench.ask(b"put", b"team/t", b"x").words == ["bad_key"]
    assert bench.ordered == []


@pytest.mark.parametrize("verb", [b"exists", b"get", b"put", b"evict", b"stat", b"list", b"usage", b"upload", b"open"])
def test_a_namespace_that_is_not_served_is_refused(bench: Bench, verb: bytes) -> None:
    arguments = {b"put": [b"k", b"x"], b"list": [], b"usage": []}.get(verb, [b"k"])
    with pytest.raises(NamespaceMissing, match="serves you default, team"):
        bench.ask(verb, *arguments, namespace="nowhere")


# -- what is refused


@pytest.mark.parametrize("verb", [b"exists", b"get", b"put", b"evict", b"stat"])
def test_a_request_needs_items_but_not_too_many(bench: Bench, verb: bytes) -> None:
    item = [b"k", b"hello"] if verb == b"put" else [b"k"]
    with pytest.raises(BadRequest, match=f"{verb.decode()} takes as arguments: {wire.ARGUMENTS[verb]}"):
        bench.ask(verb)
    assert len(bench.ask(verb, *item * 5).words) == 5
    with pytest.raises(TooMany, match="at most 5 items, this one has 6"):
        bench.ask(verb, *item * 6)


def test_a_key_without_a_payload_is_refused(bench: Bench) -> None:
    with pytest.raises(BadRequest, match="key payload"):
        bench.ask(b"put", b"a", b"A", b"b")
    assert b"a" not in bench.disk.objects


@pytest.mark.parametrize("verb", [b"exists", b"get", b"put", b"evict", b"stat"])
def test_a_request_of_bad_keys_alone_is_answered_at_once(bench: Bench, verb: bytes) -> None:
    bad = [b"", b".hidden", b"a/b", b"nul\0", b"\xff"]
    arguments = [part for key in bad for part in ([key, b"x"] if verb == b"put" else [key])]
    reply = bench.ask(verb, *arguments)
    assert reply.words == ["bad_key"] * 5
    assert set(reply.details["errors"]) == {"0", "1", "2", "3", "4"}
    assert bench.ordered == []


def test_what_is_no_request_is_answered_too(bench: Bench) -> None:
    for frames, error in (
        ([b"SK01", b"exists"], BadRequest),
        ([b"SK01", b"nothing", b"id", b""], UnknownVerb),
        ([b"SK99", b"exists", b"id", b"", b"k"], VersionMismatch),
        ([b"SK01", b"exists", b"id", b"{", b"k"], BadRequest),
    ):
        bench.service.request(bench.peer, frames)
        ((_, answer),) = bench.service.replies
        bench.service.replies.clear()
        with pytest.raises(error):
            wire.decode_reply(answer)
    assert bench.peer.owed_requests == 0


def test_an_empty_delimiter_is_answered_with_one(bench: Bench) -> None:
    for request in ([b"exists", b"id", b"", b"k"], [b"nothing", b"id", b""], [b"status", b"id", b"", b"k"]):
        bench.service.request(bench.peer, [b"", b"SK01", *request])
        ((_, answer),) = bench.service.replies
        bench.service.replies.clear()
        assert answer[:3] == [b"", b"SK01", b"id"]


@pytest.mark.parametrize(
    ("frames", "start"),
    [
        ([b"SK01", b"put", b"id", b""], [b"SK01", b"id"]),
        ([b"", b"SK01", b"put", b"id"], [b"", b"SK01", b"id"]),
        ([b"SK01", b"put"], [b"SK01", b""]),
        ([b"SK01", b"put", b"x" * 50], [b"SK01", b"x" * 32]),
    ],
)
def test_a_message_that_was_too_long_is_answered(bench: Bench, frames: list[bytes], start: list[bytes]) -> None:
    bench.service.refuse_long(bench.peer, frames)
    ((_, answer),) = bench.service.replies
    assert answer[: len(start)] == start
    with pytest.raises(TooLarge):
        wire.decode_reply(answer[1:] if not answer[0] else answer)


def test_a_fault_of_the_daemon_is_an_answer(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    def fault() -> dict[str, Any]:
        raise RuntimeError("a secret")

    bench.status = fault
    with caplog.at_level(logging.CRITICAL), pytest.raises(InternalError) as caught:
        bench.ask(b"status")
    assert "secret" not in str(caught.value)


def test_a_store_that_is_away_refuses_all_but_status(bench: Bench) -> None:
    bench.service.store_away = True
    for verb, known in wire.ARGUMENTS.items():
        if verb != b"status":
            with pytest.raises(StoreUnavailable):
                bench.ask(verb, *[b"1"] * len(known.split()))
    assert bench.ask(b"status").words == ["ok"]
    bench.service.store_away = False
    assert bench.ask(b"exists", b"k").words == ["yes"]


def test_a_daemon_that_stops_refuses_requests_and_finishes_what_is_under_way(bench: Bench) -> None:
    bench.send(b"put", b"n", b"x")
    bench.service.stop()
    for verb in wire.OPTIONS:
        bench.service.request(bench.peer, wire.encode_request(verb, b"late", {}, [b"k"]))
    late = list(bench.service.replies)
    bench.service.replies.clear()
    assert len(late) == len(wire.OPTIONS)
    for _, frames in late:
        with pytest.raises(DaemonStopping):
            wire.decode_reply(frames)
    bench.do_all()
    assert bench.reply().words == ["created"]


def test_a_peer_that_went_is_not_answered(bench: Bench) -> None:
    bench.send(b"get", b"k")
    bench.send(b"put", b"n", b"x")
    bench.service.gone(bench.peer)
    bench.do_all()
    bench.send(b"exists", b"k")
    assert not bench.service.replies
    assert (bench.peer.owed_requests, bench.peer.owed_bytes) == (0, 0)
    assert bench.disk.objects[b"n"] == b"x"


# -- what comes from outside


def test_what_is_heard_is_a_question(bench: Bench) -> None:
    bench.disk.objects[b"unheard"] = b"x"
    bench.coherence.hear(dict.fromkeys([b"unheard", b"team/u"]), {})
    assert not bench.index.has(b"unheard")
    assert bench.service.ask_disk(1) == 1
    assert bench.service.ask_disk(100) == 1
    bench.do_all()
    assert bench.index.size(b"unheard") == 1
    assert bench.service.ask_disk(100) == 0
