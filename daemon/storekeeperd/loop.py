"""One epoll loop: descriptors, timers, wake-ups, signals. The only place of the daemon that waits.

Owns the waiting, not what happens after it: callbacks do that, and none of them may block.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import os
import select
import signal
import socket
import time
from collections.abc import Callable
from functools import partial

from storekeeper.spin import Spin

log = logging.getLogger(__name__)

READ = select.EPOLLIN
WRITE = select.EPOLLOUT
EXCEPTIONAL = select.EPOLLPRI | select.EPOLLERR
_WAIT_S_MAX = 3600.0  # epoll_wait(2) counts milliseconds in an int


class Timer:
    """A callback that is due at a moment; `cancel` takes it back."""

    __slots__ = ("callback", "cancelled", "due")

    def __init__(self, due: float, callback: Callable[[], None]) -> None:
        self.due = due
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        """Takes the callback back."""
        self.cancelled = True


class Loop:
    """Runs callbacks as descriptors become ready, timers due, or somebody calls `wake`.

    Args:
        on_wake: called in the loop after `wake`, and once per turn in which anything happened.
        spin_s: how long to look for more before it waits, if it is `expectant`.

    Attributes:
        longest_turn_s: the longest time between two waits since the last reset.
        turn_started: when the present turn began, or the last one; as time.monotonic().
        expectant: whether more is likely to come at once: then the loop looks for it for a moment before it waits.
    """

    def __init__(self, on_wake: Callable[[], None], spin_s: float = 0.0) -> None:
        self._epoll = select.epoll()
        self._look = partial(self._epoll.poll, 0, 256)
        self._spin = Spin(spin_s)
        self.expectant = False
        self._callbacks: dict[int, Callable[[int], None]] = {}
        self._timers: list[tuple[float, int, Timer]] = []
        self._serial = itertools.count()
        self._on_wake = on_wake
        self._running = False
        self.longest_turn_s = 0.0
        self.turn_started = 0.0
        self._wake_descriptor = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.watch(self._wake_descriptor, READ, self._drain_wake)
        self._signals: tuple[socket.socket, socket.socket] | None = None

    def watch(self, descriptor: int, events: int, callback: Callable[[int], None]) -> None:
        """Calls `callback(events)` whenever the descriptor is ready; level-triggered."""
        self._epoll.register(descriptor, events)
        self._callbacks[descriptor] = callback

    def change(self, descriptor: int, events: int) -> None:
        """Changes the events waited for; 0 leaves errors and hang-ups."""
        self._epoll.modify(descriptor, events)

    def unwatch(self, descriptor: int) -> None:
        """Forgets a descriptor, before it is closed."""
        del self._callbacks[descriptor]
        self._epoll.unregister(descriptor)

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        """Calls back once, `delay_s` seconds from now."""
        timer = Timer(time.monotonic() + delay_s, callback)
        heapq.heappush(self._timers, (timer.due, next(self._serial), timer))
        return timer

    def wake(self) -> None:
        """Makes the loop run `on_wake` soon. Thread-safe, quick, and legal in a signal handler."""
        os.eventfd_write(self._wake_descriptor, 1)

    def on_signals(self, numbers: tuple[int, ...], callback: Callable[[int], None]) -> None:
        """Calls back in the loop when one of the signals arrives. Main thread only."""
        ours, pythons = socket.socketpair()
        ours.setblocking(False)
        pythons.setblocking(False)
        self._signals = (ours, pythons)
        signal.set_wakeup_fd(pythons.fileno(), warn_on_full_buffer=False)
        for number in numbers:
            signal.signal(number, lambda *_: None)

        def arrived(_: int) -> None:
            for number in ours.recv(64):
                callback(number)

        self.watch(ours.fileno(), READ, arrived)

    def run(self) -> None:
        """Runs until `stop`."""
        self._running = True
        poll = self._epoll.poll
        callbacks = self._callbacks
        clock = time.monotonic
        while self._running:
            wait_s = self._wait_s()
            events = None
            if self.expectant and wait_s:
                self.expectant = False
                events = self._spin.until(self._look)
            events = events or poll(wait_s, 256)
            self.turn_started = started = clock()
            for descriptor, ready in events:
                callback = callbacks.get(descriptor)
                if callback is not None:  # else an earlier callback of this turn ended it
                    callback(ready)
            self._run_timers(started)
            self._on_wake()
            turn_s = clock() - started
            self.longest_turn_s = max(self.longest_turn_s, turn_s)

    def stop(self) -> None:
        """Ends `run` after the current turn."""
        self._running = False

    def close(self) -> None:
        """Releases the loop's own descriptors."""
        if self._signals is not None:
            signal.set_wakeup_fd(-1)
            for end in self._signals:
                end.close()
            self._signals = None
        os.close(self._wake_descriptor)
        self._epoll.close()

    def _wait_s(self) -> float:
        while self._timers and self._timers[0][2].cancelled:
            heapq.heappop(self._timers)
        if not self._timers:
            return -1
        return min(max(0.0, self._timers[0][0] - time.monotonic()), _WAIT_S_MAX)

    def _run_timers(self, now: float) -> None:
        while self._timers and self._timers[0][0] <= now:
            timer = heapq.heappop(self._timers)[2]
            if not timer.cancelled:
                timer.callback()

    def _drain_wake(self, _: int) -> None:
        try:
            os.eventfd_read(self._wake_descriptor)
        except BlockingIOError:
            pass
