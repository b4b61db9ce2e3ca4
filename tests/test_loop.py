"""loop.py: descriptors, timers, wake-ups and signals."""

from __future__ import annotations

import os
import select
import signal
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from storekeeperd.loop import READ, WRITE, Loop


class Turns:
    """What a loop calls after every turn; counts, and may do something."""

    def __init__(self) -> None:
        self.count = 0
        self.then: Callable[[], None] = lambda: None

    def __call__(self) -> None:
        self.count += 1
        self.then()


@pytest.fixture
def turns() -> Turns:
    return Turns()


@pytest.fixture
def loop(turns: Turns) -> Iterator[Loop]:
    loop = Loop(turns)
    loop.call_later(20, lambda: pytest.fail("the loop did not end"))
    yield loop
    loop.close()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, other = socket.socketpair()
    with one, other:
        yield one, other


def test_stop_ends_run_after_the_turn(loop: Loop, turns: Turns) -> None:
    loop.call_later(0, loop.stop)
    loop.run()
    assert turns.count >= 1


def test_a_loop_can_run_again(loop: Loop) -> None:
    for _ in range(2):
        loop.call_later(0, loop.stop)
        loop.run()


def test_a_ready_descriptor_is_called_until_it_is_read(loop: Loop, pair: tuple[socket.socket, socket.socket]) -> None:
    one, other = pair
    heard: list[int] = []

    def ready(events: int) -> None:
        heard.append(events)
        if len(heard) == 3:
            one.recv(10)
            loop.call_later(0, loop.stop)

    loop.watch(one.fileno(), READ, ready)
    other.send(b"x")
    loop.run()
    assert heard == [READ] * 3


def test_a_descriptor_can_be_waited_for_in_other_ways(loop: Loop, pair: tuple[socket.socket, socket.socket]) -> None:
    one, other = pair
    heard: list[int] = []

    def ready(events: int) -> None:
        heard.append(events)
        if events == WRITE:
            loop.change(one.fileno(), 0)
            other.close()
        else:
            loop.stop()

    loop.watch(one.fileno(), READ, ready)
    loop.change(one.fileno(), READ | WRITE)
    loop.run()
    assert heard[0] == WRITE
    assert heard[1] & select.EPOLLHUP
    assert len(heard) == 2


def test_a_forgotten_descriptor_is_not_called(loop: Loop, pair: tuple[socket.socket, socket.socket]) -> None:
    one, other = pair
    loop.watch(one.fileno(), READ, lambda events: pytest.fail("called"))
    other.send(b"x")
    loop.unwatch(one.fileno())
    loop.call_later(0.001, loop.stop)
    loop.run()
    loop.watch(one.fileno(), READ, lambda events: loop.stop())
    loop.run()


def test_a_descriptor_that_was_forgotten_in_the_same_turn_is_not_called(
    loop: Loop, pair: tuple[socket.socket, socket.socket]
) -> None:
    called: list[int] = []
    ends = [end.fileno() for end in pair]

    def ready(mine: int) -> None:
        called.append(mine)
        for end in ends:
            loop.unwatch(end)
        loop.stop()

    for end in ends:
        loop.watch(end, WRITE, lambda events, end=end: ready(end))  # type: ignore[misc]
    loop.run()
    assert len(called) == 1


def test_timers_run_in_the_order_they_are_due(loop: Loop) -> None:
    ran: list[str] = []
    loop.call_later(0.004, lambda: ran.append("late"))
    loop.call_later(0.005, loop.stop)
    loop.call_later(0.002, lambda: ran.append("middle"))
    loop.call_later(0, lambda: ran.append("now"))
    loop.call_later(0, lambda: ran.append("now too"))
    loop.call_later(-1, lambda: ran.append("overdue"))
    loop.run()
    assert ran == ["overdue", "now", "now too", "middle", "late"]


def test_a_cancelled_timer_does_not_run(loop: Loop) -> None:
    timer = loop.call_later(0, lambda: pytest.fail("ran"))
    later = loop.call_later(0.003, lambda: pytest.fail("ran"))
    timer.cancel()
    loop.call_later(0.001, later.cancel)
    loop.call_later(0.005, loop.stop)
    loop.run()
    later.cancel()


def test_a_timer_may_take_back_another_that_is_due_at_once(loop: Loop) -> None:
    other = loop.call_later(0, lambda: pytest.fail("ran"))
    loop.call_later(-1, other.cancel)
    loop.call_later(0.001, loop.stop)
    loop.run()


def test_a_timer_runs_once(loop: Loop) -> None:
    ran: list[None] = []
    loop.call_later(0, lambda: ran.append(None))
    loop.call_later(0.003, loop.stop)
    loop.run()
    assert len(ran) == 1


def test_timers_that_order_themselves_anew_do_not_keep_others_waiting(
    loop: Loop, pair: tuple[socket.socket, socket.socket]
) -> None:
    def again() -> None:
        loop.call_later(0, again)

    again()
    loop.watch(pair[0].fileno(), WRITE, lambda events: loop.stop())
    loop.run()


def test_wake_runs_a_turn(loop: Loop, turns: Turns) -> None:
    turns.then = loop.stop
    loop.wake()
    loop.run()
    assert turns.count == 1


def test_many_wakes_are_one_turn(loop: Loop, turns: Turns) -> None:
    for _ in range(1000):
        loop.wake()
    loop.call_later(0.002, loop.stop)
    loop.run()
    assert turns.count <= 3


def test_another_thread_wakes_a_waiting_loop(loop: Loop, turns: Turns) -> None:
    turns.then = loop.stop
    thread = threading.Timer(0.005, loop.wake)
    thread.start()
    loop.run()
    thread.join()


def test_a_loop_without_timers_waits_for_what_may_come(turns: Turns) -> None:
    loop = Loop(turns)
    turns.then = loop.stop
    thread = threading.Timer(0.005, loop.wake)
    thread.start()
    loop.run()
    thread.join()
    loop.close()
    assert turns.count == 1


def test_a_turn_may_wake_the_next(loop: Loop, turns: Turns) -> None:
    turns.then = lambda: loop.stop() if turns.count == 5 else loop.wake()
    loop.wake()
    loop.run()
    assert turns.count == 5


def test_the_longest_turn_is_kept_until_it_is_reset(loop: Loop) -> None:
    def run() -> float:
        loop.call_later(0, loop.stop)
        loop.run()
        return loop.longest_turn_s

    assert run() > 0
    loop.longest_turn_s = 1000.0
    assert run() == 1000
    loop.longest_turn_s = 0.0
    assert 0 < run() < 1000


def test_what_a_callback_raises_is_not_swallowed(loop: Loop) -> None:
    def fail() -> None:
        raise IndexError("oh")

    loop.call_later(0, fail)
    with pytest.raises(IndexError, match="oh"):
        loop.run()


@pytest.fixture
def _handlers() -> Iterator[None]:
    """Puts the signal handlers back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGUSR2)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("_handlers")
def test_signals_are_heard_in_the_loop(loop: Loop) -> None:
    heard: list[int] = []

    def arrived(number: int) -> None:
        heard.append(number)
        if len(heard) == 2:
            loop.stop()

    loop.on_signals((signal.SIGUSR1, signal.SIGUSR2), arrived)
    loop.call_later(0, lambda: os.kill(os.getpid(), signal.SIGUSR1))
    loop.call_later(0.001, lambda: os.kill(os.getpid(), signal.SIGUSR2))
    loop.run()
    assert heard == [signal.SIGUSR1, signal.SIGUSR2]


@pytest.mark.usefixtures("_handlers")
def test_a_closed_loop_lets_go_of_the_signals() -> None:
    loop = Loop(lambda: None)
    loop.on_signals((signal.SIGUSR1,), lambda number: None)
    loop.close()
    os.kill(os.getpid(), signal.SIGUSR1)
    assert signal.set_wakeup_fd(-1) == -1
