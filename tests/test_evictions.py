"""evictions.py: what the daemon removes of its own accord, and who waits for room."""

from __future__ import annotations

import logging
import random
from typing import Any

import pytest

from lives import BLOCK, LivingBench
from storekeeper import wire
from storekeeper.errors import Busy, DiskFailed, NamespaceMissing, QuotaExceeded
from storekeeperd import sight
from storekeeperd.answers import Peer
from storekeeperd.config import Limits
from storekeeperd.ledger import Bounds
from storekeeperd.namespaces import EXPIRED_FIRST, LRU, Namespace
from storekeeperd.operations import Evict, Put
from storekeeperd.outside import Outside

LEASE_MS = 2000
LIMITS = Limits(lease_s=LEASE_MS / 1000)
PROCESS = 7 << 22 | 77


def filled(blocks_max: int = 10, eviction: str = LRU, **more: Any) -> LivingBench:
    space = Namespace(bytes_max=blocks_max * BLOCK, eviction=eviction, high_mark=0.9, low_mark=0.5, **more)
    bench = LivingBench(LIMITS, outside=Outside(identify=lambda _: PROCESS), default=space, free=Namespace())
    bench.turn()
    return bench


def there(bench: LivingBench) -> list[bytes]:
    return sorted(bench.disk.objects)


# -- objects that end


def test_what_expires_is_absent_at_once_and_removed_soon_after() -> None:
    bench = filled()
    bench.put(b"k", ttl=1)
    bench.turn(999)
    assert bench.ask(b"exists", b"k").words == ["yes"]
    bench.turn(1)
    (job,) = bench.waiting
    assert [type(operation) for operation in job.operations] == [Evict]
    assert b"k" in bench.disk.objects  # its file is there still
    for verb, word in ((b"exists", "no"), (b"get", "absent"), (b"stat", "absent"), (b"open", "absent")):
        request = bench.send(verb, b"k")
        assert bench.reply(request).words == [word]
    for verb in (b"verify", b"evict", b"touch", b"pin"):
        options = {"ttl": 5} if verb == b"touch" else {}
        assert bench.reply(bench.send(verb, b"k", **options)).words == ["absent"]
    assert bench.reply(bench.send(b"list")).payloads == [b""]
    assert not bench.service.is_hit(bench.peer, b"id", b"", b"k")
    bench.do_all()
    assert there(bench) == []
    assert bench.service.evictions.counts == {"expired": 1}
    assert bench.service.lifetimes.ended == {}
    bench.check_rest()


def test_what_is_tied_to_a_process_ends_with_it() -> None:
    bench = filled()
    bench.put(b"k", lifetime="process")
    bench.put(b"l")
    bench.service.lifetimes.end_process(PROCESS)
    assert bench.ask(b"exists", b"k", b"l").words == ["no", "yes"]
    bench.settle()
    assert there(bench) == [b"l"]
    assert bench.service.evictions.counts == {"process": 1}


def test_what_was_touched_while_its_removal_was_under_way_stays() -> None:
    bench = filled()
    bench.put(b"k", ttl=1)
    bench.turn(1000)
    bench.disk.kept[b"k"]["expires_ms"] = bench.now_ms + 100_000  # by somebody else
    bench.do_all()
    assert bench.ask(b"exists", b"k").words == ["yes"]
    assert bench.ask(b"get", b"k").words == ["ok"]
    assert bench.service.evictions.counts == {}
    bench.settle(99_999)
    assert there(bench) == [b"k"]
    bench.settle(1)
    assert there(bench) == []


def test_what_was_pinned_while_its_removal_was_under_way_stays() -> None:
    bench = filled()
    bench.put(b"k", ttl=1)
    bench.turn(1000)
    bench.disk.kept[b"k"]["pinned"] = True
    bench.do_all()
    bench.settle(5000)
    assert bench.ask(b"exists", b"k").words == ["yes"]


def test_a_removal_that_fails_is_tried_again_with_the_tick() -> None:
    bench = filled()
    bench.put(b"k", ttl=1)
    bench.disk.failing[b"k"] = DiskFailed("a fault")
    bench.settle(1000)
    for _ in range(3):
        assert bench.ask(b"exists", b"k").words == ["no"]  # it has ended, whatever the disk says
        ordered = len(bench.ordered)
        bench.settle(500)
        assert len(bench.ordered) == ordered
        bench.service.evictions.tick()
        bench.settle()
        assert len(bench.ordered) == ordered + 1
    bench.disk.failing.clear()
    bench.service.evictions.tick()
    bench.settle()
    assert there(bench) == []
    assert bench.service.evictions.counts == {"expired": 1}


@pytest.mark.parametrize("cause", ["expired", "process"])
def test_what_takes_the_place_of_an_object_that_ends_stays(cause: str) -> None:
    bench = filled()
    bench.put(b"k", ttl=1, lifetime="process")
    replacing = bench.send(b"put", b"k", b"new", replace=True)
    if cause == "process":
        bench.service.lifetimes.end_process(PROCESS)
    bench.turn(1000)
    assert [type(operation) for job in bench.waiting for operation in job.operations] == [Put]
    bench.do()
    assert bench.reply(replacing).words == ["replaced"]
    assert bench.reply(bench.send(b"exists", b"k")).words == ["yes"]  # as soon as it is acknowledged
    bench.do_all()
    bench.service.evictions.tick()
    bench.settle()
    assert bench.disk.objects == {b"k": b"new"}
    assert bench.service.evictions.counts == {}


def test_what_is_touched_at_the_very_moment_it_expires_lives_on() -> None:
    bench = filled()
    bench.put(b"k", ttl=1)
    touching = bench.send(b"touch", b"k", ttl=100)
    bench.turn(1000)
    bench.do()
    assert bench.reply(touching).words == ["ok"]
    assert bench.reply(bench.send(b"exists", b"k")).words == ["yes"]
    bench.settle(99_999)
    assert there(bench) == [b"k"]
    bench.settle(1)
    assert there(bench) == []


def test_bytes_of_an_object_that_has_ended_are_put_anew_though_it_is_being_changed() -> None:
    bench = filled()
    bench.put(b"k", lifetime="process")
    pinning = bench.send(b"unpin", b"k")
    bench.service.lifetimes.end_process(PROCESS)
    putting = bench.send(b"put", b"k", bytes(BLOCK))
    bench.do_all()
    replies = bench.replies()
    assert wire.decode_reply(replies[pinning]).words == ["ok"]
    assert wire.decode_reply(replies[putting]).words == ["created"]
    bench.settle()
    assert bench.disk.objects == {b"k": bytes(BLOCK)}


def test_a_name_can_be_put_anew_at_once_when_its_object_has_ended() -> None:
    bench = filled()
    bench.put(b"k", ttl=1)
    bench.service.lifetimes.expire(bench.now_ms + 1000, 100)  # chosen, and not ordered yet
    assert bench.ask(b"put", b"k", b"other bytes").words == ["created"]
    assert bench.ask(b"exists", b"k").words == ["yes"]
    bench.settle(5000)
    assert bench.disk.objects == {b"k": b"other bytes"}


def test_only_some_removals_are_under_way_at_a_time() -> None:
    bench = filled(1000)
    for number in range(200):
        bench.put(b"%d" % number, ttl=1)
    most = 0
    bench.disk.now_ms += 1000
    for _ in range(50):
        more = bench.turn()
        most = max(most, len(bench.waiting))
        if not more:
            break
    assert most == 64
    assert not more  # it goes on when something comes back
    bench.settle()
    assert there(bench) == []
    assert bench.service.evictions.counts == {"expired": 200}


# -- marks


def test_what_was_used_least_recently_makes_room_from_the_high_mark_down_to_the_low_one() -> None:
    bench = filled()
    for number in range(8):
        bench.put(b"%d" % number)
        bench.settle(1)
    assert len(there(bench)) == 8
    bench.ask(b"get", b"0")
    bench.put(b"8")
    bench.settle(LEASE_MS + 1)
    assert there(bench) == [b"0", b"5", b"6", b"7", b"8"]
    assert bench.service.evictions.counts == {"room": 4}
    bench.check_rest()


def test_objects_are_counted_against_their_bound_too() -> None:
    bench = LivingBench(
        LIMITS, default=Namespace(objects_max=10, eviction=LRU, high_mark=0.9, low_mark=0.5), free=Namespace()
    )
    for number in range(9):
        bench.put(b"%d" % number)
        bench.settle(1)
    assert there(bench) == [b"4", b"5", b"6", b"7", b"8"]


def test_expired_first_evicts_what_would_expire_soonest_and_nothing_that_never_does() -> None:
    bench = filled(eviction=EXPIRED_FIRST)
    for number, ttl in enumerate((900, 0, 700, 800, 0, 100, 200, 300, 400)):
        bench.put(b"%d" % number, ttl=ttl)
        bench.settle(1)
    assert there(bench) == [b"0", b"1", b"2", b"3", b"4"]
    for key in (b"5", b"6", b"7", b"8"):
        bench.put(key, ttl=0)
        bench.settle(1)
    assert there(bench) == [b"1", b"4", b"5", b"6", b"7", b"8"]  # all others never expire
    for key in (b"10", b"11", b"12", b"13"):
        bench.put(key, ttl=0)
    request = bench.send(b"put", b"14", b"x")
    bench.settle()
    with pytest.raises(QuotaExceeded):
        bench.reply(request)


def test_refuse_evicts_nothing() -> None:
    bench = LivingBench(LIMITS, default=Namespace(bytes_max=2 * BLOCK))
    bench.put(b"0", 2)
    bench.settle(100_000)
    with pytest.raises(QuotaExceeded, match=r"namespace 'default' may hold 8192 .*holds 8192"):
        bench.ask(b"put", b"1", b"x")
    assert there(bench) == [b"0"]
    bench.check_rest()


def test_other_namespaces_are_left_alone() -> None:
    bench = filled()
    for number in range(20):
        bench.put(b"%d" % number, namespace="free")
    for number in range(9):
        bench.put(b"%d" % number)
    bench.settle(1)
    assert sum(name.startswith(b"free/") for name in there(bench)) == 20
    assert len(there(bench)) == 25


def test_what_was_found_at_the_start_goes_first_oldest_first() -> None:
    bench = filled()
    for number, age in enumerate((3, 1, 2)):
        bench.disk.add(b"found-%d" % number, bytes(BLOCK))
        bench.disk.kept[b"found-%d" % number]["created_s"] = age
    bench.look()
    for number in range(6):
        bench.put(b"%d" % number)
    bench.settle(1)
    assert there(bench) == [b"1", b"2", b"3", b"4", b"5"]


# -- what is not evicted


def test_pinned_objects_are_not_evicted_and_may_be_when_the_pin_is_taken_back() -> None:
    bench = filled()
    for number in range(6):
        bench.put(b"%d" % number)
        bench.settle(1)
    assert bench.ask(b"pin", b"0", b"1").words == ["ok", "ok"]
    for number in range(6, 9):
        bench.put(b"%d" % number)
        bench.settle(1)
    assert there(bench) == [b"0", b"1", b"6", b"7", b"8"]
    bench.ask(b"unpin", b"0", b"1")
    for number in range(10, 18):
        bench.put(b"%d" % number)
        bench.settle(1)
    assert not {b"0", b"1"} & set(there(bench))


def test_what_was_read_or_said_to_be_there_is_not_evicted_for_a_while() -> None:
    bench = filled()
    for number in range(8):
        bench.put(b"%d" % number)
        bench.settle(1)
    bench.settle(LEASE_MS)
    assert bench.ask(b"exists", b"0").words == ["yes"]
    assert bench.ask(b"exists", b"1", fresh=True).words == ["yes"]
    bench.ask(b"get", b"2")
    bench.ask(b"close", bench.ask(b"open", b"3").details["handle"].encode())
    for key in (b"8", b"9"):
        bench.put(key)
        bench.settle(1)
    assert {b"0", b"1", b"2", b"3"} < set(there(bench))
    assert len(there(bench)) <= 6


def test_what_is_being_changed_is_not_evicted_and_has_its_turn_again() -> None:
    bench = filled()
    for number in range(8):
        bench.put(b"%d" % number)
        bench.settle(1)
    bench.send(b"touch", b"0", ttl=1000)
    (touching,) = bench.waiting
    bench.waiting.clear()
    bench.put(b"8")
    bench.settle(1)
    assert there(bench) == [b"0", b"5", b"6", b"7", b"8"]
    bench.waiting.append(touching)
    bench.do_all()
    bench.replies()
    bench.service.evictions.tick()
    for number in range(10, 18):
        bench.put(b"%d" % number)
        bench.settle(1)
    assert b"0" not in there(bench)


@pytest.mark.parametrize("how", ["kept", "failed"])
def test_what_could_not_be_evicted_is_there_and_has_its_turn_again(how: str) -> None:
    bench = filled()
    for number in range(8):
        bench.put(b"%d" % number)
        bench.settle(1)
    if how == "failed":
        bench.disk.failing[b"0"] = DiskFailed("a fault")
    bench.send(b"put", b"8", bytes(BLOCK))
    bench.do_all()
    bench.replies()
    bench.turn()
    assert bench.reply(bench.send(b"exists", b"0")).words == ["no"]  # chosen: gone to every reader
    if how == "kept":
        bench.disk.kept[b"0"]["created_s"] += 1  # it is another one
    bench.settle(1)
    assert bench.ask(b"exists", b"0").words == ["yes"]
    assert bench.ask(b"get", b"0").words == ["ok"]
    assert b"0" in there(bench)
    bench.disk.failing.clear()
    bench.settle(LEASE_MS)
    bench.service.evictions.tick()
    for number in range(10, 20):
        bench.put(b"%d" % number)
        bench.settle(1)
    assert b"0" not in there(bench)
    bench.check_rest()


# -- who waits for room


def test_a_put_that_finds_no_room_waits_for_it() -> None:
    bench = filled()
    bench.put(b"0", 4)
    bench.put(b"1", 4)
    request = bench.send(b"put", b"new", bytes(5 * BLOCK))
    assert bench.waiting == []
    assert bench.peer.owed_requests == 1
    assert bench.peer.owed_bytes == 5 * BLOCK
    assert not bench.service.replies
    bench.turn()
    bench.do_all()
    assert bench.reply(request).words == ["created"]
    assert there(bench) == [b"1", b"new"]
    bench.settle()
    bench.check_rest()


def test_those_who_wait_are_answered_in_their_order() -> None:
    bench = filled()
    for number in range(8):
        bench.put(b"%d" % number)
    requests = [bench.send(b"put", b"new-%d" % number, bytes(3 * BLOCK)) for number in range(3)]
    bench.settle()
    replies = bench.replies()
    assert list(replies) == requests
    assert [wire.decode_reply(replies[request]).words for request in requests] == [["created"]] * 3
    bench.check_rest()


def test_a_batch_waits_as_a_whole() -> None:
    bench = filled()
    for number in range(8):
        bench.put(b"%d" % number)
    payload = bytes(3 * BLOCK)
    request = bench.send(b"put", b"a", payload, b"b", payload, b"c", payload)
    assert bench.waiting == []
    assert bench.service.ledger.reserved().charged_bytes == 0
    bench.settle()
    assert bench.reply(request).words == ["created"] * 3
    bench.check_rest()


def test_an_upload_waits_too() -> None:
    bench = filled()
    for number in range(8):
        bench.put(b"%d" % number)
    request = bench.send(b"upload", b"new", size=6 * BLOCK)
    assert (bench.peer.owed_requests, bench.peer.opening) == (1, 0)
    bench.settle()
    handle = bench.reply(request).details["handle"].encode()
    bench.ask(b"abort", handle)
    bench.check_rest()


def test_what_never_fits_is_refused_at_once() -> None:
    bench = filled()
    bench.put(b"0")
    with pytest.raises(QuotaExceeded, match=r"may hold 40960 .*holds 4096: 45056 more"):
        bench.ask(b"put", b"new", bytes(11 * BLOCK))
    assert there(bench) == [b"0"]
    bench.check_rest()


@pytest.mark.parametrize("eviction", [LRU, EXPIRED_FIRST])
def test_it_is_busy_if_only_leased_objects_are_left(eviction: str) -> None:
    bench = filled(eviction=eviction)
    for number in range(8):
        bench.put(b"%d" % number, ttl=1000)
    bench.ask(b"get", *[b"%d" % number for number in range(8)])
    request = bench.send(b"put", b"new", bytes(5 * BLOCK))
    bench.settle()
    with pytest.raises(Busy, match="try again"):
        bench.reply(request)
    bench.settle(LEASE_MS)
    request = bench.send(b"put", b"new", bytes(5 * BLOCK))
    bench.settle()
    assert bench.reply(request).words == ["created"]
    bench.check_rest()


def test_it_is_the_quota_if_only_pinned_objects_are_left() -> None:
    bench = filled()
    for number in range(8):
        bench.put(b"%d" % number)
    bench.ask(b"pin", *[b"%d" % number for number in range(8)])
    request = bench.send(b"put", b"new", bytes(5 * BLOCK))
    bench.settle()
    with pytest.raises(QuotaExceeded, match="namespace 'default' may hold 40960"):
        bench.reply(request)
    assert len(there(bench)) == 8
    bench.check_rest()


def test_a_put_behind_a_lease_finds_room() -> None:
    bench = filled()
    bench.put(b"read")
    bench.ask(b"get", b"read")
    for number in range(7):
        bench.put(b"%d" % number)
    request = bench.send(b"put", b"new", bytes(5 * BLOCK))
    bench.settle()
    assert bench.reply(request).words == ["created"]
    assert b"read" in there(bench)


def test_another_bound_in_the_way_is_told_at_once() -> None:
    space = Namespace(bytes_max=10 * BLOCK, eviction=LRU)
    from storekeeperd.namespaces import Quota

    bench = LivingBench(LIMITS, bounds=Bounds(user_quota=Quota(5 * BLOCK)), default=space)
    bench.put(b"0", 5)
    with pytest.raises(QuotaExceeded, match="uid 1000 may hold 20480"):
        bench.ask(b"put", b"1", b"x")
    assert there(bench) == [b"0"]
    bench.check_rest()


def test_a_peer_that_went_is_not_answered_and_holds_up_nobody() -> None:
    bench = filled()
    for number in range(8):
        bench.put(b"%d" % number)
    other = Peer(1001, 100, 2)
    bench.send(b"put", b"his", bytes(9 * BLOCK), peer=other)
    request = bench.send(b"put", b"ours", bytes(3 * BLOCK))
    bench.service.gone(other)
    bench.settle()
    replies = bench.replies()
    assert list(replies) == [request]
    assert b"ours" in there(bench)
    assert b"his" not in there(bench)
    assert (other.owed_requests, other.owed_bytes) == (0, 0)
    bench.check_rest()


def test_a_request_that_waits_is_answered_if_nothing_is_evicted_any_more() -> None:
    bench = filled()
    for number in range(8):
        bench.put(b"%d" % number)
    request = bench.send(b"put", b"new", bytes(5 * BLOCK))
    bench.service.set_space("default", Namespace(bytes_max=10 * BLOCK))
    with pytest.raises(QuotaExceeded):
        bench.reply(request)
    bench.check_rest()


def test_a_request_that_waits_is_answered_if_its_namespace_is_dropped() -> None:
    bench = filled()
    bench.service.set_space("lab", Namespace(bytes_max=10 * BLOCK, eviction=LRU))
    for number in range(8):
        bench.put(b"%d" % number, namespace="lab")
    request = bench.send(b"put", b"new", bytes(5 * BLOCK), namespace="lab")
    bench.service.drop_space("lab")
    with pytest.raises(NamespaceMissing):
        bench.reply(request)
    bench.check_rest()


# -- the log


def test_the_log_says_what_was_evicted_whose_it_was_and_why(caplog: pytest.LogCaptureFixture) -> None:
    bench = filled()
    bench.put(b"k", ttl=1)
    with caplog.at_level(logging.INFO):
        bench.settle(1000)
    assert caplog.messages == [f"evicted 'k' of uid 1000, {BLOCK} bytes: expired"]


def test_the_log_is_not_flooded(caplog: pytest.LogCaptureFixture) -> None:
    bench = filled(1000)
    for number in range(50):
        bench.put(b"%d" % number, ttl=1)
    with caplog.at_level(logging.INFO):
        bench.settle(1000)
        assert len(caplog.messages) == 20
        bench.service.evictions.tick()
    assert caplog.messages[-1] == "30 objects more were evicted, or could not be"


def test_the_log_says_for_whom_room_was_made(caplog: pytest.LogCaptureFixture) -> None:
    bench = filled(2)
    bench.put(b"k")
    bench.settle(LEASE_MS)
    with caplog.at_level(logging.INFO):
        bench.put(b"l", peer=Peer(1001, 1001, 2))
        bench.settle(1)
    assert caplog.messages == [f"evicted 'k' of uid 1000, {BLOCK} bytes: room for uid 1001"]


# -- the chronicle


def events(bench: LivingBench, prefix: bytes = b"") -> list[tuple[Any, ...]]:
    """Key, cause, owner and by whom, of each event."""
    book = bench.service.chronicle.book(prefix)
    told = list(book.read(book.start))
    assert {event.what for event in told} <= {"evicted"}
    return [(event.key, event.why, sight.owner_of(event.seen), event.by) for event in told]


def test_what_ends_of_itself_is_an_event_by_nobody() -> None:
    bench = filled()
    bench.put(b"k", ttl=1)
    bench.put(b"p", lifetime="process")
    bench.ask(b"put", b"f", b"x", namespace="free", ttl=1)
    bench.settle(1000)
    bench.service.lifetimes.end_process(PROCESS)
    bench.settle()
    assert events(bench) == [(b"k", "expired", 1000, None), (b"p", "process", 1000, None)]
    assert events(bench, b"free/") == [(b"f", "expired", 1000, None)]


@pytest.mark.parametrize("eviction", [LRU, EXPIRED_FIRST])
def test_room_is_made_by_whose_put_has_reached_the_mark(eviction: str) -> None:
    bench = filled(10, eviction)
    for number in range(8):
        bench.put(b"%d" % number, ttl=1000 + number)
    bench.settle(LEASE_MS)
    bench.put(b"last", peer=Peer(1001, 1001, 2))  # reaches the mark
    bench.put(b"more", peer=Peer(1002, 1002, 3))  # comes while room is made
    bench.settle(1)
    assert len(events(bench)) == 5
    assert {event[1:] for event in events(bench)} == {("room", 1000, 1001)}


def test_room_is_made_by_who_waits_for_it_first() -> None:
    bench = filled(10)
    for number in range(8):
        bench.put(b"%d" % number)
    bench.settle(LEASE_MS)
    bench.send(b"put", b"last", bytes(2 * BLOCK), peer=Peer(1001, 1001, 2))  # reaches the mark
    bench.send(b"put", b"large", bytes(9 * BLOCK), peer=Peer(1002, 1002, 3))  # waits
    bench.settle(1)
    assert [event[1:] for event in events(bench)] == [("room", 1000, 1002)] * 8 + [
        ("room", 1001, 1002),
        ("room", 1002, 1002),  # it fills more than the mark allows itself: the daemon evicts it, too
    ]


def test_an_upload_has_room_made_too() -> None:
    bench = filled(10)
    for number in range(8):
        bench.put(b"%d" % number)
    bench.settle(LEASE_MS)
    bench.ask(b"upload", b"large", peer=Peer(1001, 1001, 2), size=BLOCK)
    bench.settle(1)
    assert {event[1:] for event in events(bench)} == {("room", 1000, 1001)}


def test_what_stays_is_no_event() -> None:
    bench = filled()
    bench.put(b"k", ttl=1)
    bench.turn(1000)
    bench.disk.kept[b"k"]["expires_ms"] = bench.now_ms + 100_000  # touched by somebody else
    bench.do_all()
    assert events(bench) == []


# -- whatever happens


@pytest.mark.parametrize("eviction", [LRU, EXPIRED_FIRST])
@pytest.mark.parametrize("round_", range(10))
def test_everybody_is_answered_once_and_nothing_stays_reserved_whatever_happens(
    seed: int, round_: int, eviction: str
) -> None:
    chance = random.Random(seed + round_)
    bench = filled(20, eviction)
    asked: set[bytes] = set()
    peers = [Peer(1000 + number, 100, number) for number in range(3)]
    gone: set[bytes] = set()
    owner: dict[bytes, Peer] = {}

    def take_replies() -> None:
        for request, frames in bench.replies().items():
            assert request in asked
            asked.discard(request)
            try:
                reply = wire.decode_reply(frames)
            except (Busy, QuotaExceeded):
                continue
            assert all(reply.words)

    for _ in range(400):
        key = b"%d" % chance.randrange(15)
        what = chance.random()
        place = chance.randrange(3)
        peer = peers[place]
        request = b""
        if what < 0.35:
            options = {"replace": True} if chance.random() < 0.5 else {}
            ttl = chance.choice((0, 1, 5, 100))
            request = bench.send(b"put", key, bytes(chance.randint(0, 6) * BLOCK), peer=peer, ttl=ttl, **options)
        elif what < 0.45:
            request = bench.send(chance.choice((b"get", b"exists")), key, peer=peer)
        elif what < 0.55:
            request = bench.send(chance.choice((b"pin", b"unpin", b"evict")), key, peer=peer)
        elif what < 0.6:
            request = bench.send(b"touch", key, peer=peer, ttl=chance.randint(0, 9))
        elif what < 0.62:
            bench.service.gone(peer)
            gone |= {other for other in asked if owner[other] is peer}
            asked -= gone
            peers[place] = Peer(1000 + place, 100, place)
        elif what < 0.65:
            bench.service.evictions.tick()
        elif what < 0.8:
            bench.turn(chance.randint(0, 1500))
        elif bench.waiting:
            bench.do(chance.randrange(len(bench.waiting)))
        if request:
            asked.add(request)
            owner[request] = peer
        bench.disk.failing = {key: DiskFailed("a fault")} if chance.random() < 0.1 else {}
        take_replies()
        assert bench.service.ledger.used(b"")[0] <= 20 * BLOCK
    bench.disk.failing.clear()
    for _ in range(5):
        bench.settle(LEASE_MS)
        bench.service.evictions.tick()
        take_replies()
    assert asked == set()
    for peer in peers:
        assert (peer.owed_requests, peer.owed_bytes) == (0, 0)
    bench.check_rest()
    held = {name: bench.index.size(name) for name in bench.index.names()}
    assert held == {name: len(payload) for name, payload in bench.disk.objects.items()}
    assert not bench.service.lifetimes.ended
