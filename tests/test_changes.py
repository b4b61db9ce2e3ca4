"""changes.py: which changes of others' objects are events."""

from __future__ import annotations

from typing import Any

import pytest

from lives import BLOCK, LivingBench
from storekeeper.errors import Denied, KeyExists
from storekeeperd import sight
from storekeeperd.access import Access, Rules, Who
from storekeeperd.answers import Peer
from storekeeperd.namespaces import Namespace

OWNER, OTHER, MANAGER = Peer(1000, 100, 1), Peer(1001, 101, 2), Peer(1002, 102, 3)


@pytest.fixture
def bench() -> LivingBench:
    bench = LivingBench(access=Access(()), shared=Namespace(owner_only=False))
    bench.service.set_space("default", Namespace(), Rules(manage=Who(uids=frozenset({MANAGER.uid}))))
    return bench


def events(bench: LivingBench, prefix: bytes = b"") -> list[tuple[Any, ...]]:
    """Key, what, why, owner, size and by whom, of each event."""
    book = bench.service.chronicle.book(prefix)
    return [
        (event.key, event.what, event.why, sight.owner_of(event.seen), sight.size_of(event.seen), event.by)
        for event in book.read(book.start)
    ]


def upload(bench: LivingBench, peer: Peer, key: bytes, payload: bytes) -> list[str]:
    """Puts in ranges, in place of what is there."""
    handle = str(bench.ask(b"upload", key, peer=peer, replace=True).details["handle"]).encode()
    bench.ask(b"write", handle, b"0", payload, peer=peer)
    return bench.ask(b"commit", handle, b"%d" % len(payload), peer=peer).words


def test_what_an_owner_does_himself_is_no_event(bench: LivingBench) -> None:
    for peer in (OWNER, MANAGER):
        for namespace in ("default", "shared"):
            for blocks in (1, 2):
                bench.ask(b"put", b"k", bytes(blocks * BLOCK), peer=peer, namespace=namespace, replace=True)
            assert bench.ask(b"evict", b"k", peer=peer, namespace=namespace).words == ["evicted"]
    assert upload(bench, MANAGER, b"k", b"1") == ["created"]
    assert upload(bench, MANAGER, b"k", b"22") == ["replaced"]
    assert events(bench) == []
    assert events(bench, b"shared/") == []


def test_what_a_manager_evicts_and_replaces_is_told_with_whose_it_was(bench: LivingBench) -> None:
    bench.put(b"a", 1, OWNER)
    bench.put(b"b", 2, OWNER)
    bench.put(b"c", 3, OWNER)
    bench.ask(b"evict", b"a", b"absent", peer=MANAGER)
    assert bench.put(b"b", 5, MANAGER, replace=True) == ["replaced"]
    assert upload(bench, MANAGER, b"c", b"new") == ["replaced"]
    assert events(bench) == [
        (b"a", "evicted", "asked", OWNER.uid, BLOCK, MANAGER.uid),
        (b"b", "replaced", "asked", OWNER.uid, 2 * BLOCK, MANAGER.uid),
        (b"c", "replaced", "asked", OWNER.uid, 3 * BLOCK, MANAGER.uid),
    ]


def test_what_anybody_does_where_anybody_may_is_told_too(bench: LivingBench) -> None:
    bench.ask(b"put", b"k", b"old", peer=OWNER, namespace="shared")
    bench.ask(b"put", b"k", b"newer", peer=OTHER, namespace="shared", replace=True)
    bench.ask(b"evict", b"k", peer=OWNER, namespace="shared")  # it is the other's by now
    assert events(bench, b"shared/") == [
        (b"k", "replaced", "asked", OWNER.uid, 3, OTHER.uid),
        (b"k", "evicted", "asked", OTHER.uid, 5, OWNER.uid),
    ]
    assert events(bench) == []


def test_what_was_refused_or_changed_nothing_is_no_event(bench: LivingBench) -> None:
    bench.put(b"k", 1, OWNER)
    with pytest.raises(Denied):
        bench.ask(b"evict", b"k", peer=OTHER)
    with pytest.raises(Denied):
        bench.put(b"k", 2, OTHER, replace=True)
    with pytest.raises(KeyExists):
        bench.put(b"k", 2, MANAGER)
    assert bench.put(b"k", 1, MANAGER) == ["same"]
    for verb in (b"pin", b"unpin"):
        bench.ask(verb, b"k", peer=MANAGER)
    assert events(bench) == []


def test_whose_it_was_is_what_stood_there_when_it_was_the_changes_turn(bench: LivingBench) -> None:
    bench.put(b"k", 1, OWNER)
    sent = [
        bench.send(b"put", b"k", b"his", peer=MANAGER, replace=True),
        bench.send(b"evict", b"k", peer=MANAGER),  # his own by then
        bench.send(b"put", b"k", b"again", peer=OTHER),
        bench.send(b"evict", b"k", peer=MANAGER),  # the other's
    ]
    bench.do_all()
    assert bench.replies().keys() == set(sent)
    assert events(bench) == [
        (b"k", "replaced", "asked", OWNER.uid, BLOCK, MANAGER.uid),
        (b"k", "evicted", "asked", OTHER.uid, 5, MANAGER.uid),
    ]


def test_a_look_that_sees_the_change_before_it_is_told_does_not_hide_whose_it_was(bench: LivingBench) -> None:
    bench.put(b"k", 1, OWNER)
    bench.send(b"evict", b"k", peer=MANAGER)
    job = bench.waiting.pop()
    job.outcomes = [bench.disk.perform(operation) for operation in job.operations]
    assert bench.reply(asked_afresh(bench)).words == ["no"]
    assert bench.index.seen(b"k") is None
    bench.service.finished(job)
    assert events(bench) == [(b"k", "evicted", "asked", OWNER.uid, BLOCK, MANAGER.uid)]


def asked_afresh(bench: LivingBench) -> bytes:
    request = bench.send(b"exists", b"k", fresh=True)
    bench.do_all()
    return request


def test_what_nobody_had_looked_at_is_an_event_without_an_owner(bench: LivingBench) -> None:
    bench.disk.objects[b"k"] = b"by hand"
    bench.coherence.begin_scan()
    bench.coherence.scanned([b"k"])
    bench.disk.objects[b"unknown"] = b"by hand"
    bench.ask(b"evict", b"k", b"unknown", peer=MANAGER)
    book = bench.service.chronicle.book(b"")
    assert [(event.key, event.seen < 0, event.by) for event in book.read(book.start)] == [
        (b"k", True, MANAGER.uid),
        (b"unknown", True, MANAGER.uid),
    ]


def test_nothing_is_looked_up_for_who_may_not_change_what_others_own(
    bench: LivingBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.put(b"k", 1, OWNER)
    monkeypatch.setattr(bench.service.changes, "witness", None)
    assert bench.put(b"k", 2, OWNER, replace=True) == ["replaced"]
    assert upload(bench, OWNER, b"k", b"1") == ["replaced"]
    assert bench.ask(b"evict", b"k", peer=OWNER).words == ["evicted"]
    assert bench.put(b"k", 2, MANAGER) == ["created"]  # nor where nothing is replaced
    assert bench.ask(b"pin", b"k", peer=MANAGER).words == ["ok"]
