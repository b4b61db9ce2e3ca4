"""listings.py: names page by page, once they can be believed."""

from __future__ import annotations

from typing import Any

import pytest

from simulation import FakeDisk
from storekeeper import wire
from storekeeper.errors import BadHandle, BadRequest, NamespaceMissing, TooMany
from storekeeperd import selection
from storekeeperd.answers import Peer
from storekeeperd.coherence import Coherence
from storekeeperd.config import Limits
from storekeeperd.index import Index
from storekeeperd.service import Service

PAGE = 3


class Bench:
    """A service with pages of three names; scans are made when a test says so."""

    def __init__(self) -> None:
        index = Index()
        self.coherence = Coherence(index)
        limits = Limits(list_names=PAGE, peer_handles_max=2)
        self.service = Service(limits, index, self.coherence, namespaces=["team"])
        self.disk = FakeDisk(lambda name, _: self.coherence.ask(name))
        self.peer = Peer(1000, 100, 1)
        self.last_id = 0

    def scan(self) -> None:
        self.begin_scan()
        self.end_scan()

    def begin_scan(self) -> None:
        self.coherence.begin_scan()

    def end_scan(self, *, complete: bool = True) -> None:
        self.coherence.scanned([name for name in self.disk.objects if b"/" not in name])
        self.coherence.scanned([name for name in self.disk.objects if b"/" in name])
        self.coherence.end_scan(complete=complete)
        self.coherence.sweep()
        self.turn()

    def turn(self) -> None:
        """What the loop does again and again."""
        if self.service.barriers.unheard:  # there is nothing in between the fake disk and the questions
            self.service.barriers.heard()
        while self.service.ask_disk(100) or self.service.jobs:
            while self.service.jobs:
                job = self.service.jobs.popleft()
                job.outcomes = [self.disk.perform(operation) for operation in job.operations]
                self.service.finished(job)

    def send(self, *arguments: bytes, verb: bytes = b"list", peer: Peer | None = None, **options: Any) -> bytes:
        self.last_id += 1
        request_id = b"%d" % self.last_id
        self.service.request(peer or self.peer, wire.encode_request(verb, request_id, options, arguments))
        self.turn()
        return request_id

    def reply(self) -> wire.Reply:
        _, frames = self.service.replies.popleft()
        assert not self.service.replies
        return wire.decode_reply(frames)

    def list(self, *arguments: bytes, verb: bytes = b"list", peer: Peer | None = None, **options: Any) -> wire.Reply:
        request_id = self.send(*arguments, verb=verb, peer=peer, **options)
        reply = self.reply()
        assert reply.id == request_id
        return reply

    def fill(self, count: int, prefix: bytes = b"key-") -> set[bytes]:
        """Puts objects there by hand; returns their names."""
        names = {b"%s%d" % (prefix, number) for number in range(count)}
        for name in names:
            self.disk.set(name, b"x")
        self.turn()
        return names


def names_of(reply: wire.Reply) -> list[bytes]:
    (payload,) = reply.payloads
    assert payload == b"" or payload.endswith(b"\0")
    names: list[bytes] = payload.split(b"\0")[:-1]
    return names


@pytest.fixture
def bench() -> Bench:
    bench = Bench()
    bench.scan()
    assert bench.coherence.coherent
    return bench


# -- pages


def test_an_empty_store_has_no_names(bench: Bench) -> None:
    reply = bench.list()
    assert reply.words == ["ok"]
    assert reply.payloads == [b""]
    assert reply.details == {}


@pytest.mark.parametrize("count", range(1, 9))
def test_every_name_is_told_once_in_as_many_pages_as_needed(bench: Bench, count: int) -> None:
    expected = bench.fill(count)
    reply = bench.list()
    pages = [names_of(reply)]
    while "handle" in reply.details:
        reply = bench.list(reply.details["handle"].encode())
        pages.append(names_of(reply))
    assert sorted(name for page in pages for name in page) == sorted(expected)
    assert len(pages) == -(-count // PAGE)
    assert all(len(page) <= PAGE for page in pages)
    assert bench.peer.handles == {}
    assert bench.peer.opening == 0


def test_a_page_looks_through_so_many_names_only(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "_SKIM_NAMES", 2 * PAGE)
    bench.fill(100)
    expected = bench.fill(10, b"team/a-") | bench.fill(1, b"team/b-")
    for options, told in (({}, expected), ({"prefix": "b"}, {b"team/b-0"})):
        reply = bench.list(namespace="team", **options)
        pages = [names_of(reply)]
        while "handle" in reply.details:
            reply = bench.list(reply.details["handle"].encode())
            pages.append(names_of(reply))
        assert {b"team/" + name for page in pages for name in page} == told
        assert 111 // (2 * PAGE) <= len(pages) <= 111 // PAGE
        assert all(len(page) <= PAGE for page in pages)
        assert bench.peer.handles == {}


def test_the_names_are_those_of_the_beginning(bench: Bench) -> None:
    expected = bench.fill(5)
    reply = bench.list()
    bench.disk.set(b"key-0", None)
    bench.disk.set(b"key-new", b"x")
    bench.turn()
    rest = bench.list(reply.details["handle"].encode())
    assert set(names_of(reply) + names_of(rest)) == expected


def test_a_prefix_chooses_names(bench: Bench) -> None:
    bench.fill(2, b"a-")
    bench.fill(1, b"b-")
    assert names_of(bench.list(prefix="b-")) == [b"b-0"]
    assert sorted(names_of(bench.list(prefix=""))) == [b"a-0", b"a-1", b"b-0"]
    assert names_of(bench.list(prefix="c")) == []


def test_a_prefix_holds_for_every_page(bench: Bench) -> None:
    bench.fill(4, b"a-")
    expected = bench.fill(4, b"b-")
    reply = bench.list(prefix="b-")
    names = names_of(reply)
    while "handle" in reply.details:
        reply = bench.list(reply.details["handle"].encode())
        names += names_of(reply)
    assert set(names) == expected


def test_a_prefix_that_no_key_can_have_finds_nothing(bench: Bench) -> None:
    bench.fill(2)
    for prefix in ("team/", "\ud800", "\0", "." * 1000):
        assert names_of(bench.list(prefix=prefix)) == []


def test_every_namespace_lists_its_own_names(bench: Bench) -> None:
    bench.fill(1)
    bench.fill(2, b"team/k")
    assert names_of(bench.list()) == [b"key-0"]
    assert sorted(names_of(bench.list(namespace="team"))) == [b"k0", b"k1"]
    assert names_of(bench.list(namespace="team", prefix="k1")) == [b"k1"]


def test_a_namespace_that_is_not_served_is_refused_before_anything_waits() -> None:
    bench = Bench()
    assert not bench.coherence.coherent
    with pytest.raises(NamespaceMissing):
        bench.list(namespace="nowhere")
    assert bench.peer.owed_requests == 0


# -- handles


def test_a_connection_has_one_listing_at_a_time(bench: Bench) -> None:
    bench.fill(5)
    handle = bench.list().details["handle"].encode()
    with pytest.raises(TooMany, match="one listing at a time"):
        bench.list()
    bench.list(handle)
    assert "handle" in bench.list().details


def test_another_connection_has_a_listing_of_its_own(bench: Bench) -> None:
    bench.fill(5)
    bench.list()
    assert "handle" in bench.list(peer=Peer(1, 1, 2)).details


def test_a_listing_may_be_closed(bench: Bench) -> None:
    bench.fill(5)
    handle = bench.list().details["handle"].encode()
    bench.list(handle, verb=b"close")
    assert bench.peer.handles == {}
    assert "handle" in bench.list().details
    with pytest.raises(BadHandle):
        bench.list(handle)


def test_a_listing_ends_with_its_last_page(bench: Bench) -> None:
    bench.fill(4)
    handle = bench.list().details["handle"].encode()
    assert "handle" not in bench.list(handle).details
    with pytest.raises(BadHandle):
        bench.list(handle)


def test_a_listing_ends_with_its_connection(bench: Bench) -> None:
    bench.fill(5)
    handle = bench.list().details["handle"].encode()
    bench.service.gone(bench.peer)
    assert bench.service.transfers.handles.taken == 0
    with pytest.raises(BadHandle):
        bench.list(handle, peer=Peer(1000, 100, 1))


def test_a_listing_takes_one_of_the_connections_handles(bench: Bench) -> None:
    bench.fill(5)
    for _ in range(2):
        bench.list(b"new", verb=b"upload")
    with pytest.raises(TooMany, match="at most 2"):
        bench.list()


def test_options_belong_to_the_first_page(bench: Bench) -> None:
    bench.fill(5)
    handle = bench.list().details["handle"].encode()
    with pytest.raises(BadRequest, match="only without a handle"):
        bench.list(handle, prefix="key")
    with pytest.raises(BadRequest, match="takes as arguments"):
        bench.list(handle, b"more")
    assert len(names_of(bench.list(handle))) == 2


# -- until the index can be believed


def test_a_listing_waits_for_the_scan(bench: Bench) -> None:
    expected = bench.fill(2)
    bench.coherence.lost("overflow")
    bench.send()
    assert not bench.service.replies
    assert bench.peer.owed_requests == 1
    bench.begin_scan()
    bench.turn()
    assert not bench.service.replies
    bench.end_scan()
    assert set(names_of(bench.reply())) == expected
    assert bench.peer.owed_requests == 0


def test_a_failed_scan_is_not_the_one_waited_for(bench: Bench) -> None:
    bench.coherence.lost("overflow")
    bench.send()
    bench.begin_scan()
    bench.end_scan(complete=False)
    assert not bench.service.replies
    bench.scan()
    bench.reply()


def test_a_scan_that_began_before_the_last_loss_is_not_the_one_waited_for() -> None:
    bench = Bench()
    bench.begin_scan()
    bench.coherence.lost("overflow")
    bench.send()
    bench.end_scan()
    assert not bench.service.replies
    bench.scan()
    bench.reply()


def test_a_loss_while_it_waits_does_not_put_it_off() -> None:
    bench = Bench()
    bench.send()
    bench.begin_scan()
    bench.coherence.lost("overflow")
    bench.end_scan()
    assert not bench.coherence.coherent
    bench.reply()


def test_all_who_wait_are_answered() -> None:
    bench = Bench()
    asked = {bench.send() for _ in range(3)}
    bench.scan()
    assert {wire.reply_id(frames) for _, frames in bench.service.replies} == asked
    assert bench.peer.owed_requests == 0


def test_who_went_while_waiting_is_forgotten() -> None:
    bench = Bench()
    bench.send()
    bench.service.gone(bench.peer)
    bench.turn()
    assert bench.peer.owed_requests == 0
    bench.scan()
    assert not bench.service.replies
    assert bench.service.transfers.handles.taken == 0


def test_one_who_waited_may_be_refused_in_the_end(bench: Bench) -> None:
    bench.fill(5)
    bench.coherence.lost("overflow")
    bench.send()
    bench.send()
    bench.scan()
    first, second = (frames for _, frames in bench.service.replies)
    assert "handle" in wire.decode_reply(first).details
    with pytest.raises(TooMany):
        wire.decode_reply(second)
    assert bench.peer.owed_requests == 0


def test_further_pages_do_not_wait(bench: Bench) -> None:
    bench.fill(5)
    handle = bench.list().details["handle"].encode()
    bench.coherence.lost("overflow")
    assert len(names_of(bench.list(handle))) == 2


def test_without_a_watch_every_listing_asks_for_a_scan_of_its_own() -> None:
    bench = Bench()
    bench.coherence.watched = False
    bench.scan()
    for number in range(3):
        bench.disk.objects[b"key-%d" % number] = b"x"  # nobody hears of it
        assert not bench.coherence.wants_scan
        bench.send()
        assert not bench.service.replies
        assert bench.coherence.wants_scan
        bench.scan()
        assert len(names_of(bench.reply())) == number + 1


def test_without_a_watch_a_list_is_not_answered_by_a_scan_that_began_before_it() -> None:
    bench = Bench()
    bench.coherence.watched = False
    bench.scan()
    bench.coherence.lost("something")
    bench.begin_scan()
    bench.coherence.scanned([])
    bench.disk.objects[b"new"] = b"x"
    bench.send()
    bench.coherence.end_scan(complete=True)
    bench.coherence.sweep()
    bench.turn()
    assert not bench.service.replies
    bench.scan()
    [(_, frames)] = bench.service.replies
    assert wire.decode_reply(frames).payloads == [b"new\0"]


def test_a_fresh_listing_is_made_after_the_questions_are_answered(bench: Bench) -> None:
    bench.fill(1)
    bench.disk.set(b"late", b"x")  # heard of, not looked at
    bench.service.request(bench.peer, wire.encode_request(b"list", b"stale", {}, []))
    assert names_of(bench.reply()) == [b"key-0"]
    assert sorted(names_of(bench.list(fresh=True))) == [b"key-0", b"late"]
    assert bench.peer.owed_requests == 0


def test_a_fresh_listing_has_pages_too(bench: Bench) -> None:
    expected = bench.fill(5)
    reply = bench.list(fresh=True)
    rest = bench.list(reply.details["handle"].encode())
    assert set(names_of(reply) + names_of(rest)) == expected


def test_a_fresh_listing_where_changes_go_unheard_asks_for_a_scan(bench: Bench) -> None:
    bench.service.barriers.exact = False
    bench.disk.objects[b"unheard"] = b"x"
    assert names_of(bench.list()) == []
    bench.send(fresh=True)
    assert not bench.service.replies
    assert bench.coherence.wants_scan
    bench.scan()
    assert names_of(bench.reply()) == [b"unheard"]


def test_fresh_belongs_to_the_first_page(bench: Bench) -> None:
    bench.fill(5)
    handle = bench.list(fresh=True).details["handle"].encode()
    with pytest.raises(BadRequest, match="only without a handle"):
        bench.list(handle, fresh=True)
