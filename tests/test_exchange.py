"""exchange.py: one call's conversation."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import pytest

from storekeeper import wire
from storekeeper.errors import BadHandle, KeyExists, ProtocolError, StorekeeperError, TimedOut
from storekeeper.exchange import Exchange
from storekeeper.holds import Held


class FakeCarrier:
    """Notes what is sent; receives what a test puts into `incoming`."""

    def __init__(self) -> None:
        self.sent: list[list[Any]] = []
        self.incoming: deque[list[bytes] | StorekeeperError] = deque()
        self.deadlines: list[float] = []
        self.copies: list[bool] = []
        self.held = Held()

    def send(self, frames: Sequence[Any], *, later: bool = False) -> None:
        self.sent.append(list(frames))

    def receive(self, deadline: float, *, copy: bool = True) -> list[bytes]:
        self.deadlines.append(deadline)
        self.copies.append(copy)
        message = self.incoming.popleft()
        if isinstance(message, StorekeeperError):
            raise message
        return message

    def answer(self, position: int = -1, words: bytes = b"ok", *payloads: bytes) -> None:
        """Puts an answer to a sent request where it will be received."""
        self.incoming.append(wire.encode_reply(False, self.sent[position][2], words, payloads))

    def refuse(self, position: int, error: StorekeeperError) -> None:
        self.incoming.append(wire.encode_refusal(False, self.sent[position][2], error))


@pytest.fixture
def carrier() -> FakeCarrier:
    return FakeCarrier()


@pytest.fixture
def exchange(carrier: FakeCarrier) -> Exchange:
    return Exchange(carrier, 100.0)  # type: ignore[arg-type]


def test_a_request_travels_as_the_wire_says(carrier: FakeCarrier, exchange: Exchange) -> None:
    request_id = exchange.send(b"put", [b"k", b"payload"], {"replace": True})
    assert carrier.sent == [[b"SK01", b"put", request_id, b'{"replace":true}', b"k", b"payload"]]
    assert not exchange.answered


def test_every_request_has_an_id_of_its_own(carrier: FakeCarrier, exchange: Exchange) -> None:
    other = Exchange(carrier, 100.0)  # type: ignore[arg-type]
    ids = [talk.send(b"exists", [b"k"]) for talk in (exchange, other) * 50]
    assert len(set(ids)) == 100
    assert all(1 <= len(request_id) <= wire.ID_BYTES_MAX for request_id in ids)


def test_a_reply_is_received_by_the_deadline(carrier: FakeCarrier, exchange: Exchange) -> None:
    request_id = exchange.send(b"exists", [b"k"])
    carrier.answer(-1, b"yes")
    reply = exchange.receive()
    assert (reply.id, reply.words) == (request_id, ["yes"])
    assert carrier.deadlines == [100.0]
    assert exchange.answered


def test_asking_is_sending_and_receiving(
    carrier: FakeCarrier, exchange: Exchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    def send_and_answer(frames: Sequence[Any]) -> None:
        carrier.sent.append(list(frames))
        carrier.answer(-1, b"ok", b"bytes")

    monkeypatch.setattr(carrier, "send", send_and_answer)
    assert exchange.ask(b"get", [b"k"], {"namespace": "team"}).payloads == [b"bytes"]
    assert carrier.sent[0][3:] == [b'{"namespace":"team"}', b"k"]


def test_replies_may_come_in_any_order(carrier: FakeCarrier, exchange: Exchange) -> None:
    ids = [exchange.send(b"read", [b"1", b"0", b"1"]) for _ in range(3)]
    for position in (2, 0, 1):
        carrier.answer(position)
    assert [exchange.receive().id for _ in range(3)] == [ids[2], ids[0], ids[1]]


def test_an_answer_to_nothing_is_an_error(carrier: FakeCarrier, exchange: Exchange) -> None:
    exchange.send(b"exists", [b"k"])
    carrier.incoming.append(wire.encode_reply(False, b"other", b"yes"))
    with pytest.raises(ProtocolError):
        exchange.receive()


def test_a_second_answer_is_an_error(carrier: FakeCarrier, exchange: Exchange) -> None:
    exchange.send(b"exists", [b"k"])
    carrier.answer()
    carrier.answer()
    exchange.receive()
    with pytest.raises(ProtocolError):
        exchange.receive()


@pytest.mark.parametrize("frames", [[], [b"SK01"], [b"", b""], [b"SK99", b"7", b"ok", b""]])
def test_what_is_no_reply_is_an_error(carrier: FakeCarrier, exchange: Exchange, frames: list[bytes]) -> None:
    exchange.send(b"exists", [b"k"])
    carrier.incoming.append(frames)
    with pytest.raises(ProtocolError):
        exchange.receive()


def test_a_refusal_is_raised_and_is_an_answer(carrier: FakeCarrier, exchange: Exchange) -> None:
    exchange.send(b"put", [b"k", b"x"])
    carrier.refuse(-1, KeyExists("other bytes"))
    with pytest.raises(KeyExists, match="other bytes"):
        exchange.receive()
    assert exchange.answered
    exchange.drain()  # nothing is left to wait for


def test_no_answer_is_none(carrier: FakeCarrier, exchange: Exchange) -> None:
    exchange.send(b"exists", [b"k"])
    carrier.incoming.append(TimedOut("in time"))
    with pytest.raises(TimedOut):
        exchange.receive()
    assert not exchange.answered


@pytest.mark.parametrize("copy", [True, False])
def test_payloads_come_copied_or_not(carrier: FakeCarrier, exchange: Exchange, copy: bool) -> None:
    exchange.send(b"get", [b"k"])
    carrier.answer()
    exchange.receive(copy=copy)
    assert carrier.copies == [copy]


# -- time


def test_a_ranged_object_is_allowed_a_second_for_every_16_mib(exchange: Exchange) -> None:
    exchange.allow(32 * 1024 * 1024)
    assert exchange.deadline == 102.0
    assert exchange.ranged


def test_time_is_allowed_once(carrier: FakeCarrier, exchange: Exchange) -> None:
    exchange.allow(16 * 1024 * 1024)
    exchange.allow(16 * 1024 * 1024)
    assert exchange.deadline == 101.0
    again = Exchange(carrier, exchange.deadline, ranged=exchange.ranged)  # type: ignore[arg-type]
    again.allow(16 * 1024 * 1024)
    assert again.deadline == 101.0


def test_what_is_allowed_counts_for_the_next_reply(carrier: FakeCarrier, exchange: Exchange) -> None:
    exchange.allow(16 * 1024 * 1024)
    exchange.send(b"exists", [b"k"])
    carrier.answer()
    exchange.receive()
    assert carrier.deadlines == [101.0]


# -- draining


def test_draining_takes_in_all_that_is_under_way(carrier: FakeCarrier, exchange: Exchange) -> None:
    for _ in range(3):
        exchange.send(b"write", [b"1", b"0", b"x"])
    carrier.refuse(1, KeyExists("whatever"))
    carrier.answer(2)
    carrier.answer(0)
    exchange.drain()
    assert not carrier.incoming
    exchange.drain()
    assert len(carrier.deadlines) == 3


def test_draining_ends_by_the_deadline(carrier: FakeCarrier, exchange: Exchange) -> None:
    exchange.send(b"write", [b"1", b"0", b"x"])
    carrier.incoming.append(TimedOut("in time"))
    with pytest.raises(TimedOut):
        exchange.drain()


# -- closes that nobody waits for


def test_what_is_over_is_closed_with_the_next_request(carrier: FakeCarrier, exchange: Exchange) -> None:
    exchange.close_later(b"7")
    assert not carrier.sent
    exchange.send(b"exists", [b"k"])
    assert [(frames[1], frames[4]) for frames in carrier.sent] == [(b"close", b"7"), (b"exists", b"k")]


@pytest.mark.parametrize("refused", [False, True])
@pytest.mark.parametrize("first", [0, 1])
def test_answers_to_closes_are_passed_over(carrier: FakeCarrier, exchange: Exchange, first: int, refused: bool) -> None:
    exchange.close_later(b"7")
    asked = exchange.send(b"exists", [b"k"])
    for position in (first, 1 - first):
        if position == 0 and refused:
            carrier.refuse(0, BadHandle("no such handle"))
        else:
            carrier.answer(position)
    assert exchange.receive().id == asked
    later = Exchange(carrier, 100.0)  # type: ignore[arg-type]
    asked = later.send(b"exists", [b"k"])
    carrier.answer()
    assert later.receive().id == asked
    assert not carrier.held.closing


def test_the_answer_to_a_close_says_nothing_of_a_request(carrier: FakeCarrier, exchange: Exchange) -> None:
    exchange.close_later(b"7")
    exchange.send(b"exists", [b"k"])
    carrier.answer(0)
    carrier.incoming.append(TimedOut("in time"))
    with pytest.raises(TimedOut):
        exchange.receive()
    assert not exchange.answered


def test_draining_passes_over_answers_to_closes(carrier: FakeCarrier, exchange: Exchange) -> None:
    exchange.close_later(b"7")
    exchange.send(b"write", [b"1", b"0", b"x"])
    carrier.answer(0)
    carrier.answer(1)
    exchange.drain()
    assert not carrier.incoming
