"""session.py: deadlines, retries, and which carriers are kept."""

from __future__ import annotations

import gc
import math
from typing import Any

import pytest

from storekeeper import session as session_module
from storekeeper.errors import (
    ClientClosed,
    DaemonStopping,
    DaemonUnreachable,
    KeyExists,
    ProtocolError,
    StorekeeperError,
    TimedOut,
)
from storekeeper.exchange import Exchange
from storekeeper.holds import Held
from storekeeper.session import TIMEOUT_S_MAX, Session


class FakeCarriers:
    """Gives out strings; notes what became of them."""

    made: list[FakeCarriers]

    def __init__(self, address: str, servers: frozenset[int], carrier: str | None) -> None:
        assert not servers
        assert carrier is None
        self.address = address
        self.taken = 0
        self.kept: list[Any] = []
        self.ended: list[Any] = []
        self.closes = 0
        FakeCarriers.made.append(self)

    def take(self, *, alone: bool = False) -> Any:
        self.taken += 1
        return FakeCarrier(self)

    def discard(self, carrier: Any) -> None:
        self.ended.append(carrier)

    set_aside = discard

    def settle(self, carrier: Any) -> None:
        raise AssertionError("nothing is held")

    def give_back(self, carrier: Any) -> None:
        self.kept.append(carrier)

    def close(self) -> None:
        self.closes += 1


class FakeCarrier:
    """Nobody sends anything by it."""

    def __init__(self, home: FakeCarriers) -> None:
        self.home = home
        self.held = Held()


class Clock:
    """Time passes by sleeping alone."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.sleeps = 0

    def monotonic(self) -> float:
        return self.now

    CLOCK_BOOTTIME = 7

    def clock_gettime_ns(self, clock: int) -> int:
        assert clock == self.CLOCK_BOOTTIME
        return int(self.now * 1e9)

    def sleep(self, seconds: float) -> None:
        self.sleeps += 1
        self.now += seconds


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    FakeCarriers.made = []
    clock = Clock()
    monkeypatch.setattr(session_module, "Carriers", FakeCarriers)
    monkeypatch.setattr(session_module, "time", clock)
    monkeypatch.setattr(session_module, "somebody_listens", lambda address: False)
    return clock


@pytest.fixture
def session() -> Session:
    return Session("ipc:///here", 30.0)


def carriers() -> FakeCarriers:
    return FakeCarriers.made[-1]


def fails(session: Session, error: BaseException, *, times: int = 10**9, answered: bool = False) -> int:
    """Makes a call that fails so many times; returns how often it was made."""
    made = 0

    def talk(exchange: Exchange) -> None:
        nonlocal made
        made += 1
        exchange.answered = answered
        if made <= times:
            raise error

    try:
        session.call(talk)
    except type(error):
        assert made <= times
    return made


@pytest.mark.parametrize("timeout", [0, -1, TIMEOUT_S_MAX, math.inf, math.nan])
def test_a_timeout_is_a_time(timeout: float) -> None:
    with pytest.raises(ValueError, match="timeout="):
        Session("ipc:///here", timeout)


def test_a_call_returns_its_result_and_keeps_its_carrier(session: Session) -> None:
    assert session.call(lambda exchange: exchange.deadline) == 1030.0
    assert len(carriers().kept) == 1
    assert not carriers().ended


def test_nothing_is_taken_before_the_first_call(session: Session) -> None:
    assert carriers().address == "ipc:///here"
    assert carriers().taken == 0


def test_a_refusal_keeps_the_carrier_and_is_not_repeated(session: Session) -> None:
    assert fails(session, KeyExists("other bytes")) == 1
    assert len(carriers().kept) == 1


@pytest.mark.parametrize(
    "error", [TimedOut("in time"), ProtocolError("no reply"), ValueError("a bug"), KeyboardInterrupt()]
)
def test_after_any_other_failure_the_carrier_is_closed(session: Session, error: BaseException) -> None:
    assert fails(session, error) == 1
    assert not carriers().kept
    assert len(carriers().ended) == 1


@pytest.mark.parametrize("error", [DaemonUnreachable("gone"), DaemonStopping("stopping")])
def test_a_call_is_made_again_on_a_new_carrier(session: Session, error: StorekeeperError) -> None:
    assert fails(session, error, times=2) == 3
    assert carriers().taken == 3
    assert len(carriers().ended) == 2
    assert len(carriers().kept) == 1


def test_a_daemon_never_reached_is_waited_for_a_second(session: Session, clock: Clock) -> None:
    started = clock.now
    assert fails(session, DaemonUnreachable("gone")) > 1
    assert 0.9 < clock.now - started <= 1.0


def test_no_longer_than_the_timeout_is_waited(clock: Clock) -> None:
    started = clock.now
    fails(Session("ipc:///here", 0.5), DaemonUnreachable("gone"))
    assert clock.now - started <= 0.5


def test_a_daemon_once_reached_is_waited_for_until_the_deadline(session: Session, clock: Clock) -> None:
    session.call(lambda exchange: None)
    started = clock.now
    fails(session, DaemonUnreachable("gone"))
    assert 29.9 < clock.now - started <= 30.0


def test_an_answer_in_the_middle_of_a_call_is_being_reached(session: Session, clock: Clock) -> None:
    started = clock.now
    fails(session, DaemonUnreachable("gone"), answered=True)
    assert clock.now - started > 29.9


def test_a_daemon_found_dead_is_not_waited_for_again(session: Session, clock: Clock) -> None:
    fails(session, DaemonUnreachable("gone"))
    started, taken = clock.now, carriers().taken
    assert fails(session, DaemonUnreachable("gone")) == 0
    assert clock.now == started
    assert carriers().taken == taken


def test_a_daemon_found_dead_is_used_again_once_it_listens(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    fails(session, DaemonUnreachable("gone"))
    monkeypatch.setattr(session_module, "somebody_listens", lambda address: True)
    assert session.call(lambda exchange: "back") == "back"
    assert session.grace_s == math.inf


def test_the_time_allowed_for_ranges_survives_a_retry(session: Session) -> None:
    deadlines: list[float] = []

    def talk(exchange: Exchange) -> None:
        exchange.allow(16 * 1024 * 1024)
        deadlines.append(exchange.deadline)
        if len(deadlines) < 3:
            raise DaemonUnreachable("gone")

    session.call(talk)
    assert deadlines == [1031.0] * 3


def test_a_closed_client_refuses_calls(session: Session) -> None:
    session.close()
    assert carriers().closes == 1
    with pytest.raises(ClientClosed):
        session.call(lambda exchange: None)
    assert carriers().taken == 0
    session.close()


def test_a_call_is_not_made_again_once_the_client_is_closed(session: Session) -> None:
    def talk(exchange: Exchange) -> None:
        session.close()
        raise DaemonUnreachable("gone")

    with pytest.raises(ClientClosed):
        session.call(talk)


def test_a_session_that_moved_goes_on_elsewhere(session: Session) -> None:
    session.move("ipc:///here")
    assert len(FakeCarriers.made) == 1
    session.move("ipc:///there")
    old, new = FakeCarriers.made
    assert (old.closes, new.address, session.address) == (1, "ipc:///there", "ipc:///there")
    session.call(lambda exchange: None)
    assert (old.taken, new.taken) == (0, 1)


def test_a_carrier_of_the_old_address_goes_back_to_the_old_ones(session: Session) -> None:
    session.call(lambda exchange: session.move("ipc:///there"))
    old, new = FakeCarriers.made
    assert (old.closes, len(old.kept)) == (1, 1)  # those that are closed keep nothing: test_carriers.py
    assert not new.kept


def test_a_forgotten_session_closes_its_carriers(session: Session) -> None:
    forgotten = Session("ipc:///there", 1.0)
    last = carriers()
    del forgotten
    gc.collect()
    assert last.closes == 1
