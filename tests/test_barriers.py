"""barriers.py: requests that wait until the index is known to be true."""

from __future__ import annotations

import pytest

from storekeeper import wire
from storekeeper.errors import DiskFailed, StorekeeperError, StoreUnavailable
from storekeeperd.answers import Peer
from storekeeperd.barriers import Barriers
from storekeeperd.coherence import Coherence
from storekeeperd.index import Index
from storekeeperd.sight import ABSENT, UNSEEN


class Bench:
    """Barriers over an index of their own; notes who was answered, and with which names."""

    def __init__(self) -> None:
        self.index = Index()
        self.coherence = Coherence(self.index)
        self.barriers = Barriers(self.coherence, self.guarded)
        self.peer = Peer(1000, 100, 1)
        self.guards = 0
        self.answered: dict[bytes, list[bytes]] = {}
        self.refused: dict[bytes, str] = {}

    def guarded(self, peer: Peer, request: wire.Request, verb: object) -> None:
        assert callable(verb)
        self.guards += 1
        try:
            verb(peer, request)
        except StorekeeperError as error:
            self.refused[request.id] = error.code

    def answer(self, peer: Peer, request: wire.Request) -> None:
        assert not peer.gone
        assert request.id not in self.answered
        self.answered[request.id] = sorted(self.index.names())

    def hold(
        self,
        request_id: bytes,
        *,
        fresh: bool = False,
        sizes: bool = False,
        peer: Peer | None = None,
        space: bytes = b"",
    ) -> None:
        request = wire.Request(False, b"list", request_id, {"fresh": True} if fresh else {}, [])
        self.barriers.hold(peer or self.peer, request, self.answer, space=space, sizes=sizes)

    def look(self, name: bytes, seen: int) -> None:
        self.coherence.looked(name, self.coherence.start_look(name), seen)

    def answer_questions(self, seen: int) -> None:
        for name in self.coherence.take_questions(100):
            self.look(name, seen)

    def scan(self, *names: bytes, complete: bool = True) -> None:
        self.coherence.begin_scan()
        self.coherence.scanned(names)
        self.coherence.end_scan(complete=complete)
        self.coherence.sweep()
        self.barriers.proceed()


@pytest.fixture
def bench() -> Bench:
    bench = Bench()
    bench.scan()
    assert bench.coherence.coherent
    return bench


# -- who does not ask for a fresh answer


def test_while_the_index_is_believed_nobody_waits(bench: Bench) -> None:
    bench.look(b"k", 3)
    bench.coherence.ask(b"other")
    bench.hold(b"1")
    assert bench.answered == {b"1": [b"k"]}
    assert bench.peer.owed_requests == 0
    assert bench.guards == 0


@pytest.mark.parametrize("exact", [True, False])
def test_after_a_loss_one_waits_for_the_repair(bench: Bench, exact: bool) -> None:
    bench.barriers.exact = exact
    bench.coherence.lost("overflow")
    bench.hold(b"1")
    assert not bench.barriers.unheard
    bench.barriers.proceed()
    assert not bench.answered
    assert bench.peer.owed_requests == 1
    bench.scan(b"k")
    assert bench.answered == {b"1": [b"k"]}
    assert bench.peer.owed_requests == 0
    assert bench.guards == 1


def test_a_later_loss_does_not_put_off_who_waits_for_an_earlier_one(bench: Bench) -> None:
    bench.coherence.lost("overflow")
    bench.hold(b"1")
    bench.coherence.begin_scan()
    bench.coherence.lost("overflow")
    bench.hold(b"2")
    bench.coherence.end_scan(complete=True)
    bench.coherence.sweep()
    bench.barriers.proceed()
    assert list(bench.answered) == [b"1"]
    bench.scan()
    assert list(bench.answered) == [b"1", b"2"]


def test_a_failed_scan_repairs_nothing(bench: Bench) -> None:
    bench.coherence.lost("overflow")
    bench.hold(b"1")
    bench.scan(complete=False)
    assert not bench.answered
    bench.scan()
    assert b"1" in bench.answered


def test_a_scan_repairs_nothing_before_its_leftovers_are_looked_at(bench: Bench) -> None:
    bench.look(b"k", 3)
    bench.coherence.lost("overflow")
    bench.hold(b"1")
    bench.scan()
    assert not bench.answered
    bench.answer_questions(ABSENT)
    bench.barriers.proceed()
    assert bench.answered == {b"1": []}


def test_a_name_that_no_look_can_tell_of_holds_up_only_what_must_be_fresh(bench: Bench) -> None:
    bench.look(b"k", UNSEEN)
    assert not bench.coherence.coherent
    bench.hold(b"1")
    bench.hold(b"2", fresh=True)
    bench.barriers.heard()
    bench.barriers.proceed()
    assert set(bench.answered) == {b"1"}
    bench.look(b"k", 3)
    bench.barriers.proceed()
    assert set(bench.answered) == {b"1", b"2"}


def test_without_a_watch_one_waits_for_a_scan_that_begins_after_the_request(bench: Bench) -> None:
    bench.coherence.watched = False
    bench.coherence.want_scan()
    bench.coherence.begin_scan()
    bench.hold(b"1")
    bench.coherence.end_scan(complete=True)
    bench.coherence.sweep()
    bench.barriers.proceed()
    assert not bench.answered
    assert bench.coherence.wants_scan
    bench.scan(b"k")
    assert bench.answered == {b"1": [b"k"]}


# -- fresh, where the watch hears of everything


def test_a_fresh_answer_waits_for_what_the_kernel_has_queued(bench: Bench) -> None:
    bench.hold(b"1", fresh=True)
    assert bench.barriers.unheard
    bench.barriers.proceed()
    assert not bench.answered
    assert bench.peer.owed_requests == 1
    bench.barriers.heard()
    assert not bench.barriers.unheard
    bench.barriers.proceed()
    assert bench.answered == {b"1": []}
    assert bench.peer.owed_requests == 0


def test_a_fresh_answer_waits_until_what_was_heard_is_looked_at(bench: Bench) -> None:
    bench.hold(b"1", fresh=True)
    bench.coherence.hear(dict.fromkeys([b"a", b"b"]), {})
    bench.barriers.heard()
    (first, second) = bench.coherence.take_questions(10)
    bench.look(first, 3)
    bench.barriers.proceed()
    assert not bench.answered
    bench.look(second, 4)
    bench.barriers.proceed()
    assert bench.answered == {b"1": [b"a", b"b"]}


def test_a_fresh_answer_waits_for_a_second_look_at_what_was_asked_during_the_first(bench: Bench) -> None:
    bench.look(b"k", 3)
    number = bench.coherence.start_look(b"k")
    bench.hold(b"1", fresh=True)
    bench.coherence.hear({b"k": None}, {b"k": None})
    bench.barriers.heard()
    bench.coherence.looked(b"k", number, 3)  # older than the delete
    bench.barriers.proceed()
    assert not bench.answered
    bench.answer_questions(ABSENT)
    bench.barriers.proceed()
    assert bench.answered == {b"1": []}


def test_a_fresh_answer_does_not_wait_for_what_is_heard_later(bench: Bench) -> None:
    bench.hold(b"1", fresh=True)
    bench.coherence.ask(b"a")
    bench.barriers.heard()
    (name,) = bench.coherence.take_questions(10)
    bench.coherence.hear({b"later": None}, {})
    bench.look(name, 3)
    bench.barriers.proceed()
    assert bench.answered == {b"1": [b"a"]}


def test_names_that_change_without_end_do_not_hold_up_a_fresh_answer_for_ever(bench: Bench) -> None:
    bench.coherence.hear({b"k": None}, {})
    bench.hold(b"1", fresh=True)
    bench.barriers.heard()
    for size in range(3):
        for name in bench.coherence.take_questions(10):
            number = bench.coherence.start_look(name)
            if size:
                bench.coherence.hear({b"k": None}, {})
            bench.coherence.looked(name, number, size)
        bench.coherence.hear({b"k": None}, {})
        bench.barriers.proceed()
    assert bench.answered == {b"1": [b"k"]}


@pytest.mark.parametrize("when", ["before the request", "among what was queued"])
def test_a_fresh_answer_waits_for_the_repair_of_a_loss(bench: Bench, when: str) -> None:
    if when == "before the request":
        bench.coherence.lost("overflow")
    bench.hold(b"1", fresh=True)
    if when != "before the request":
        bench.coherence.lost("overflow")
    bench.barriers.heard()
    bench.barriers.proceed()
    assert not bench.answered
    bench.scan(b"k")
    assert bench.answered == {b"1": [b"k"]}


def test_a_loss_after_all_was_heard_does_not_put_off_a_fresh_answer(bench: Bench) -> None:
    bench.hold(b"1", fresh=True)
    bench.coherence.ask(b"a")
    bench.barriers.heard()
    bench.coherence.lost("overflow")
    bench.answer_questions(3)
    bench.barriers.proceed()
    assert bench.answered == {b"1": [b"a"]}


def test_what_was_heard_counts_for_all_who_asked_before_and_nobody_else(bench: Bench) -> None:
    bench.hold(b"1", fresh=True)
    bench.hold(b"2", fresh=True)
    bench.coherence.ask(b"a")
    bench.barriers.heard()
    bench.hold(b"3", fresh=True)
    assert bench.barriers.unheard
    bench.answer_questions(3)
    bench.barriers.proceed()
    assert list(bench.answered) == [b"1", b"2"]
    bench.barriers.heard()
    bench.barriers.proceed()
    assert list(bench.answered) == [b"1", b"2", b"3"]


def test_a_fresh_answer_needs_no_scan_where_the_watch_hears_of_everything(bench: Bench) -> None:
    bench.hold(b"1", fresh=True)
    assert not bench.coherence.wants_scan


# -- fresh, where changes can go unheard


@pytest.mark.parametrize("watched", [True, False])
def test_a_fresh_answer_takes_a_scan_where_changes_can_go_unheard(bench: Bench, watched: bool) -> None:
    bench.barriers.exact = False
    bench.coherence.watched = watched
    bench.hold(b"1", fresh=True)
    assert not bench.barriers.unheard
    assert bench.coherence.wants_scan
    bench.barriers.proceed()
    assert not bench.answered
    bench.scan(b"k")
    assert bench.answered == {b"1": [b"k"]}


def test_the_scan_of_a_fresh_answer_begins_after_the_request(bench: Bench) -> None:
    bench.barriers.exact = False
    bench.hold(b"1", fresh=True)
    bench.coherence.begin_scan()
    bench.hold(b"2", fresh=True)
    bench.coherence.end_scan(complete=True)
    bench.coherence.sweep()
    bench.barriers.proceed()
    assert list(bench.answered) == [b"1"]
    bench.scan(complete=False)
    assert list(bench.answered) == [b"1"]
    bench.scan(b"k")
    assert bench.answered[b"2"] == [b"k"]
    assert not bench.coherence.wants_scan


def test_a_stale_answer_is_given_at_once_where_changes_can_go_unheard_but_a_watch_is_there(bench: Bench) -> None:
    bench.barriers.exact = False
    bench.hold(b"1")
    assert b"1" in bench.answered
    assert not bench.coherence.wants_scan


# -- sizes


def test_a_fresh_answer_about_sizes_waits_until_every_object_was_looked_at(bench: Bench) -> None:
    bench.look(b"a", 1)
    bench.look(b"b", 2)
    bench.hold(b"sizes", fresh=True, sizes=True)
    bench.hold(b"names", fresh=True)
    bench.barriers.heard()
    bench.barriers.proceed()
    assert list(bench.answered) == [b"names"]
    assert bench.coherence.measures.due
    number = bench.coherence.begin_measure()
    bench.coherence.ask_unless_gone([b"a", b"b"])
    bench.coherence.measures.complete(number)
    bench.look(b"a", 3)
    bench.barriers.proceed()
    assert b"sizes" not in bench.answered
    bench.answer_questions(ABSENT)
    bench.barriers.proceed()
    assert bench.answered[b"sizes"] == []


def test_a_measure_that_was_under_way_is_no_use_to_who_comes_later(bench: Bench) -> None:
    for request_id in (b"1", b"2"):
        bench.hold(request_id, fresh=True, sizes=True)
        bench.barriers.heard()
        bench.barriers.proceed()
        if request_id == b"1":
            first = bench.coherence.begin_measure()
    bench.coherence.measures.complete(first)
    bench.barriers.proceed()
    assert list(bench.answered) == [b"1"]
    assert bench.coherence.measures.due
    bench.coherence.measures.complete(bench.coherence.begin_measure())
    bench.barriers.proceed()
    assert list(bench.answered) == [b"1", b"2"]


def test_a_measure_begins_after_the_scan_of_the_same_request(bench: Bench) -> None:
    bench.barriers.exact = False
    bench.hold(b"1", fresh=True, sizes=True)
    bench.barriers.proceed()
    assert not bench.coherence.measures.due
    bench.scan(b"k")
    assert not bench.answered
    assert bench.coherence.measures.due


@pytest.mark.parametrize("loss", [False, True])
def test_a_stale_answer_about_sizes_does_not_wait_for_them(bench: Bench, loss: bool) -> None:
    bench.coherence.want_scan()
    bench.scan(b"k")
    if loss:
        bench.coherence.lost("overflow")
    bench.hold(b"1", sizes=True)
    if loss:
        assert not bench.answered
        bench.scan(b"k")
    assert bench.answered == {b"1": [b"k"]}
    assert bench.index.whole.unsized == 1


# -- what cannot be looked at


def seconds(bench: Bench, count: int) -> None:
    for _ in range(count):
        if bench.barriers.unheard:
            bench.barriers.heard()
        bench.coherence.retry_unanswered()
        bench.answer_questions(UNSEEN)
        bench.barriers.tick()


def test_who_waits_for_a_name_that_no_look_can_tell_of_is_refused(bench: Bench) -> None:
    bench.look(b"k", UNSEEN)
    for number in range(10):
        bench.hold(b"%d" % number, fresh=True)
        if bench.barriers.unheard:
            bench.barriers.heard()
    seconds(bench, 2)
    assert not bench.refused
    seconds(bench, 20)
    assert bench.refused == {b"%d" % number: "disk_failed" for number in range(10)}
    assert bench.peer.owed_requests == 0
    assert not bench.coherence.doubts.sets


def test_a_name_of_another_namespace_is_no_reason_to_refuse(bench: Bench) -> None:
    bench.look(b"team/k", UNSEEN)
    bench.hold(b"1", fresh=True)
    bench.hold(b"2", fresh=True, space=b"team/")
    bench.barriers.heard()
    seconds(bench, 10)
    assert list(bench.answered) == [b"1"]
    assert bench.refused == {b"2": "disk_failed"}


def test_a_look_that_fails_once_refuses_nobody(bench: Bench) -> None:
    bench.look(b"k", UNSEEN)
    bench.hold(b"1", fresh=True)
    bench.barriers.heard()
    seconds(bench, 2)
    bench.look(b"k", 3)
    bench.barriers.tick()
    assert bench.answered == {b"1": [b"k"]}


@pytest.mark.parametrize("exact", [True, False])
def test_what_a_scan_did_not_see_and_no_look_could_tell_of_is_looked_at_first(bench: Bench, exact: bool) -> None:
    bench.look(b"k", 3)
    bench.barriers.exact = exact
    bench.coherence.lost("overflow")
    bench.hold(b"1", fresh=True)
    bench.barriers.heard()
    bench.scan()
    bench.answer_questions(UNSEEN)  # its only look fails: the scan is complete all the same
    assert not bench.coherence.scanning
    bench.barriers.proceed()
    assert not bench.answered
    bench.coherence.retry_unanswered()
    bench.answer_questions(ABSENT)
    bench.barriers.proceed()
    assert bench.answered == {b"1": []}


def test_who_asks_about_a_namespace_that_cannot_be_read_is_refused_and_nobody_else(bench: Bench) -> None:
    bench.coherence.lost("overflow")
    bench.hold(b"1", space=b"team/")
    bench.hold(b"2")
    bench.barriers.take_unread({b"team/": "Permission denied"})
    assert bench.refused == {b"1": "disk_failed"}
    bench.scan()
    assert list(bench.answered) == [b"2"]
    with pytest.raises(DiskFailed, match="Permission denied"):
        bench.hold(b"3", space=b"team/")
    bench.barriers.take_unread({})
    bench.hold(b"4", space=b"team/")
    assert b"4" in bench.answered
    assert bench.peer.owed_requests == 0


def test_when_the_store_goes_away_all_who_wait_are_refused(bench: Bench) -> None:
    bench.coherence.ask(b"k")
    bench.hold(b"heard", fresh=True)
    bench.barriers.heard()
    bench.hold(b"not heard", fresh=True, sizes=True)
    bench.coherence.lost("store_away")
    bench.hold(b"stale")
    bench.barriers.refuse_all(StoreUnavailable("away"))
    assert bench.refused == dict.fromkeys([b"heard", b"not heard", b"stale"], "store_away")
    assert bench.peer.owed_requests == 0
    assert not bench.coherence.doubts.sets


# -- peers


@pytest.mark.parametrize("fresh", [False, True])
def test_who_went_is_not_answered_and_owed_nothing(bench: Bench, fresh: bool) -> None:
    other = Peer(1, 1, 2)
    bench.coherence.lost("overflow")
    bench.coherence.ask(b"k")
    bench.hold(b"1", fresh=fresh)
    bench.hold(b"2", fresh=fresh, peer=other)
    bench.barriers.heard()
    bench.peer.gone = True
    bench.barriers.proceed()
    assert (bench.peer.owed_requests, other.owed_requests) == (0, 1)
    bench.answer_questions(ABSENT)
    bench.scan()
    assert list(bench.answered) == [b"2"]
    assert other.owed_requests == 0
    assert not bench.coherence.doubts.sets


def test_who_waits_is_answered_in_the_order_of_asking(bench: Bench) -> None:
    bench.coherence.lost("overflow")
    for number in range(5):
        bench.hold(b"%d" % number)
    assert bench.peer.owed_requests == 5
    bench.scan()
    assert list(bench.answered) == [b"%d" % number for number in range(5)]
    assert bench.peer.owed_requests == 0


def test_who_asks_again_while_being_answered_waits_again(bench: Bench) -> None:
    def ask_again(peer: Peer, request: wire.Request) -> None:
        bench.hold(b"again", fresh=True)

    request = wire.Request(False, b"list", b"1", {"fresh": True}, [])
    bench.barriers.hold(bench.peer, request, ask_again)
    bench.barriers.heard()
    bench.barriers.proceed()
    assert not bench.answered
    assert bench.peer.owed_requests == 1
    bench.barriers.heard()
    bench.barriers.proceed()
    assert b"again" in bench.answered


def test_nothing_is_kept_of_those_who_were_answered(bench: Bench) -> None:
    for number in range(3):
        bench.coherence.ask(b"k")
        bench.hold(b"%d" % number, fresh=True)
        bench.barriers.heard()
        bench.answer_questions(number)
        bench.barriers.proceed()
    assert len(bench.answered) == 3
    assert not bench.coherence.doubts.sets
    assert not bench.barriers._waiting
