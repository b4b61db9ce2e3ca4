"""accounts.py: who is told which events, page by page. `usage` and `status` are in test_service.py."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from lives import LivingBench
from storekeeper import wire
from storekeeper.errors import BadRequest, Denied, NamespaceMissing
from storekeeperd import accounts
from storekeeperd.access import NOBODY, Access, Rules, Who
from storekeeperd.answers import Peer
from storekeeperd.config import Limits
from storekeeperd.namespaces import Namespace
from storekeeperd.outside import Outside

ROOT, OWNER, STRANGER = Peer(0, 0, 1), Peer(1000, 100, 2), Peer(1001, 101, 3)


class Bench(LivingBench):
    """A service of three namespaces: the stranger may not read the closed one."""

    def __init__(self, limits: Limits | None = None, started_s: float = 1000.0) -> None:
        self.now_s = started_s
        super().__init__(limits, access=Access({0}), outside=Outside(now_s=lambda: self.now_s), team=Namespace())
        owner = Who(uids=frozenset({OWNER.uid}))
        self.service.set_space("closed", Namespace(), Rules(owner, owner, NOBODY))

    def lose(self, key: bytes, namespace: str = "default") -> None:
        """Lets an object be put by the owner, and evicted by root, a second later."""
        self.ask(b"put", key, b"bytes", peer=OWNER, namespace=namespace)
        self.now_s += 1
        assert self.ask(b"evict", key, peer=ROOT, namespace=namespace).words == ["evicted"]

    def events(
        self, peer: Peer = OWNER, marks: Sequence[str] = (), **options: Any
    ) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        reply = self.ask(b"events", *(mark.encode() for mark in marks), peer=peer, **options)
        assert reply.words == ["ok"]
        (payload,) = reply.payloads
        return json.loads(payload), reply.details

    def keys(self, peer: Peer = OWNER, marks: Sequence[str] = (), **options: Any) -> list[str]:
        return [event["key"] for event in self.events(peer, marks, **options)[0]]


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_an_event_is_told_whole(bench: Bench) -> None:
    bench.lose(b"k")
    told, details = bench.events()
    assert told == [
        {
            "namespace": "default",
            "number": 1,
            "when": 1001.0,
            "key": "k",
            "what": "evicted",
            "why": "asked",
            "size": 5,
            "owner": OWNER.uid,
            "by": ROOT.uid,
        }
    ]
    assert details == {"marks": ["1000000000.1 default", "1000000000.0 team", "1000000000.0 closed"]}


def test_what_nobody_did_and_what_nobody_knows_is_left_out(bench: Bench) -> None:
    bench.ask(b"put", b"k", b"x", peer=OWNER, ttl=1)
    bench.turn()
    bench.settle(1000)
    bench.disk.objects[b"l"] = b"by hand"
    bench.ask(b"evict", b"l", peer=ROOT)
    expired, unknown = bench.events()[0]
    assert (expired["why"], "by" in expired) == ("expired", False)
    assert (unknown["by"], "owner" in unknown, "size" in unknown) == (ROOT.uid, False, False)


def test_events_of_all_namespaces_are_told_by_time_and_one_may_be_chosen(bench: Bench) -> None:
    for key, namespace in ((b"a", "team"), (b"b", "default"), (b"c", "closed"), (b"d", "team")):
        bench.lose(key, namespace)
    assert bench.keys() == ["a", "b", "c", "d"]
    assert bench.keys(namespace="team") == ["a", "d"]
    assert bench.keys(namespace="default") == ["b"]


def test_nothing_is_told_of_what_one_may_not_read(bench: Bench) -> None:
    bench.lose(b"a")
    before = bench.events(STRANGER)
    marks = before[1]["marks"]
    for number in range(20):
        bench.lose(b"secret-%d" % number, "closed")
    assert bench.events(STRANGER) == before
    bench.lose(b"b")
    (event,), details = bench.events(STRANGER, marks)
    assert (event["key"], event["number"]) == ("b", 2)
    assert "closed" not in json.dumps([event, details])
    with pytest.raises(Denied):
        bench.events(STRANGER, namespace="closed")


def test_who_may_not_read_the_default_namespace_is_told_of_the_others(bench: Bench) -> None:
    bench.service.set_space("default", Namespace(), Rules(NOBODY, NOBODY, NOBODY))
    bench.lose(b"t", "team")
    assert bench.keys(STRANGER) == ["t"]
    with pytest.raises(Denied):
        bench.events(STRANGER, namespace="default")


def test_a_right_that_was_taken_since_counts(bench: Bench) -> None:
    bench.lose(b"t", "team")
    marks = bench.events(STRANGER)[1]["marks"]
    bench.lose(b"u", "team")
    bench.service.set_space("team", Namespace(), Rules(NOBODY, NOBODY, NOBODY))
    assert bench.events(STRANGER, marks) == ([], {"marks": [marks[0]]})


def test_marks_of_what_is_not_there_and_of_what_may_not_be_read_are_passed_over_alike(bench: Bench) -> None:
    bench.lose(b"c", "closed")
    there, not_there = (bench.events(STRANGER, [f"7.7 {name}"]) for name in ("closed", "nowhere"))
    assert there == not_there


def test_a_reader_goes_on_from_the_marks_until_he_has_all(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounts, "_EVENTS_MAX", 3)
    expected = []
    for number in range(10):
        bench.lose(b"%d" % number, ("default", "team")[number % 2])
        expected.append(str(number))
    found: list[str] = []
    marks: list[str] = []
    sizes = []
    while True:
        told, details = bench.events(marks=marks)
        assert "missed" not in details
        found += [event["key"] for event in told]
        sizes.append(len(told))
        marks = details["marks"]
        if "more" not in details:
            break
    assert (found, sizes) == (expected, [3, 3, 3, 1])
    assert bench.keys(marks=marks) == []
    bench.lose(b"next", "closed")
    assert bench.keys(marks=marks) == ["next"]
    assert bench.keys(marks=marks, namespace="default") == []


def test_an_answer_is_no_longer_than_a_message_may_be() -> None:
    bench = Bench(Limits(message_bytes_max=1000))
    for _ in range(3):
        bench.lose(b"\x01" * 255)
    reply = bench.ask(b"events", peer=OWNER)
    assert reply.details["more"] is True
    assert len(json.loads(reply.payloads[0])) == 1  # one in any case


def test_who_comes_too_late_and_who_comes_from_another_daemon_is_told_so() -> None:
    bench = Bench(Limits(events_max=9))
    marks = bench.events()[1]["marks"]
    for number in range(4):
        bench.lose(b"%d" % number)
    told, details = bench.events(marks=marks)
    assert [event["number"] for event in told] == [2, 3, 4]
    assert details["missed"] == ["default"]
    anew = Bench(started_s=2000.0)
    for number in range(10):
        anew.lose(b"%d" % number)
    told, details = anew.events(marks=details["marks"])
    assert [event["number"] for event in told] == list(range(1, 11))
    assert details["missed"] == ["default", "team", "closed"]


@pytest.mark.parametrize("argument", ["", "x", "7", "1.x default"])
def test_what_is_no_mark_is_refused(bench: Bench, argument: str) -> None:
    with pytest.raises(BadRequest, match="mark"):
        bench.events(marks=[argument])


def test_a_namespace_that_is_not_served_is_refused(bench: Bench) -> None:
    with pytest.raises(NamespaceMissing):
        bench.events(namespace="nowhere")


def test_an_answer_is_weighed_before_it_is_made(bench: Bench) -> None:
    message = wire.encode_request(b"events", b"id", {}, [])
    assert bench.service.weigh(message) == Limits().message_bytes_max
