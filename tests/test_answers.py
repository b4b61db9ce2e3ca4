"""answers.py: what a peer is owed, and how an answer grows."""

from __future__ import annotations

import itertools

import pytest

from storekeeper import wire
from storekeeper.errors import BadKey, DiskFull, InternalError
from storekeeperd.answers import ITEM_BYTES, Answer, Peer


@pytest.fixture
def peer() -> Peer:
    return Peer(1000, 100, 7)


def request(envelope: bool = False) -> wire.Request:
    return wire.Request(envelope, b"get", b"id-1", {}, [])


def test_a_new_peer_owes_and_holds_nothing(peer: Peer) -> None:
    assert (peer.uid, peer.gid, peer.pid) == (1000, 100, 7)
    assert (peer.owed_requests, peer.owed_bytes, peer.opening) == (0, 0, 0)
    assert peer.handles == {}
    assert not peer.gone
    assert peer.carrier is None


def test_peers_are_told_apart_whoever_they_are(peer: Peer) -> None:
    other = Peer(1000, 100, 7)
    assert peer != other
    assert len({peer, other}) == 2
    other.handles[b"1"] = "something"
    assert peer.handles == {}


def test_an_answer_is_owed_until_it_is_closed(peer: Peer) -> None:
    first = Answer(peer, request(), 1, cost_bytes=10)
    second = Answer(peer, request(), 1, cost_bytes=5)
    assert (peer.owed_requests, peer.owed_bytes) == (2, 15 + 2 * ITEM_BYTES)
    first.settle(0, b"ok")
    assert (peer.owed_requests, peer.owed_bytes) == (2, 15 + 2 * ITEM_BYTES)
    first.close()
    assert (peer.owed_requests, peer.owed_bytes) == (1, 5 + ITEM_BYTES)
    second.close()
    assert (peer.owed_requests, peer.owed_bytes) == (0, 0)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_results_may_come_in_any_order(peer: Peer, order: tuple[int, ...]) -> None:
    answer = Answer(peer, request(), 3, payloads=True)
    last = [answer.settle(position, b"word%d" % position, b"payload %d" % position) for position in order]
    assert last == [False, False, True]
    reply = wire.decode_reply(answer.close())
    assert reply.words == ["word0", "word1", "word2"]
    assert reply.payloads == [b"payload 0", b"payload 1", b"payload 2"]


def test_a_reply_answers_the_request_it_belongs_to(peer: Peer) -> None:
    answer = Answer(peer, request(), 1)
    answer.settle(0, b"yes")
    frames = answer.close()
    assert frames == [wire.VERSION, b"id-1", b"ok", b"", b"yes"]


def test_a_reply_has_the_empty_frame_if_the_request_had_one(peer: Peer) -> None:
    answer = Answer(peer, request(envelope=True), 1)
    answer.settle(0, b"yes")
    assert answer.close()[0] == b""


def test_an_answer_without_payloads_has_no_payload_frames(peer: Peer) -> None:
    answer = Answer(peer, request(), 2)
    answer.settle(0, b"yes", b"ignored")
    answer.settle(1, b"no")
    assert wire.decode_reply(answer.close()).payloads == []


def test_an_item_without_a_payload_has_an_empty_one(peer: Peer) -> None:
    answer = Answer(peer, request(), 2, payloads=True)
    answer.settle(0, b"ok", b"bytes")
    answer.settle(1, b"absent")
    assert wire.decode_reply(answer.close()).payloads == [b"bytes", b""]


def test_a_failed_item_has_its_code_as_word_and_a_sentence_at_its_place(peer: Peer) -> None:
    answer = Answer(peer, request(), 3, payloads=True)
    assert not answer.fail(2, DiskFull("no space"))
    assert not answer.settle(0, b"ok", b"bytes")
    assert answer.fail(1, BadKey("no key"))
    reply = wire.decode_reply(answer.close())
    assert reply.words == ["ok", "bad_key", "disk_full"]
    assert reply.details == {"errors": {"1": "no key", "2": "no space"}}
    assert reply.payloads == [b"bytes", b"", b""]


def test_details_travel_with_the_answer(peer: Peer) -> None:
    answer = Answer(peer, request(), 1)
    answer.details["handle"] = "5"
    answer.settle(0, b"ok")
    assert wire.decode_reply(answer.close()).details == {"handle": "5"}


def test_work_of_a_connection_that_ended_is_owed_by_its_user_until_it_is_done(peer: Peer) -> None:
    answer = Answer(peer, request(), 3, cost_bytes=10)
    peer.gone = True
    assert peer.user.held_bytes == 10 + 3 * ITEM_BYTES
    answer.close()
    assert peer.user.held_bytes == 0


def test_an_answer_that_was_abandoned_is_not_given_again(peer: Peer) -> None:
    answer = Answer(peer, request(), 2)
    assert peer.begun is answer
    frames = answer.abandon(InternalError("a fault"))
    assert bytes(frames[2]) == b"internal"
    assert (peer.owed_requests, peer.owed_bytes, peer.begun) == (0, 0, None)
    assert not answer.settle(0, b"ok")
    assert not answer.settle(1, b"ok")
