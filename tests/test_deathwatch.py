"""deathwatch.py: which process a peer is, and when it ends. With real processes."""

from __future__ import annotations

import builtins
import errno
import io
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from storekeeper.errors import BadRequest, Busy
from storekeeperd import deathwatch as deathwatch_module
from storekeeperd.answers import Peer
from storekeeperd.deathwatch import Deathwatch
from storekeeperd.loop import Loop
from storekeeperd.processes import find
from storekeeperd.sight import PID_MAX

NO_PID = PID_MAX
"""A number that no process has: pid_max is at most one more."""


class Carrier:
    """Stands for a connection: knows the process that connected."""

    def __init__(self, pid: int, *, knows: bool = True) -> None:
        self._descriptor = os.pidfd_open(pid) if knows else -1
        self.asked = 0

    def process_descriptor(self) -> int:
        self.asked += 1
        return os.dup(self._descriptor) if self._descriptor >= 0 else -1

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)


class Bench:
    """Processes on a loop that turns when a test says so."""

    def __init__(self, at_most: int = 10) -> None:
        self.ended: list[int] = []
        self.loop = Loop(lambda: None)
        self.watch = Deathwatch(self.loop, at_most, self.ended.append)

    def wait(self, condition: Callable[[], bool], timeout_s: float = 5.0) -> None:
        deadline = time.monotonic() + timeout_s

        def stop() -> None:
            if condition() or time.monotonic() > deadline:
                self.loop.stop()
            else:
                self.loop.call_later(0.005, stop)

        self.loop.call_later(0.0, stop)
        self.loop.run()
        assert condition()


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.watch.close()
    bench.loop.close()


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE) as child:
        yield child
        child.kill()


@pytest.fixture
def connect() -> Iterator[Callable[..., Peer]]:
    made: list[Carrier] = []

    def connect(pid: int, *, knows: bool = True) -> Peer:
        made.append(Carrier(pid, knows=knows))
        return Peer(1000, 100, pid, carrier=made[-1])

    yield connect
    for carrier in made:
        carrier.close()


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


# -- who a peer is


def test_a_process_is_its_number_and_the_moment_it_was_started(child: subprocess.Popen[bytes]) -> None:
    process = find(child.pid)
    assert process & PID_MAX == child.pid
    started_s = (process >> 22) / os.sysconf("SC_CLK_TCK")
    assert abs(started_s - time.clock_gettime(time.CLOCK_BOOTTIME)) < 60
    assert find(child.pid) == process
    assert find(os.getpid()) != process


def test_what_is_no_process_is_none() -> None:
    assert find(NO_PID) == 0
    assert find(0) == 0


def test_a_zombie_has_ended(child: subprocess.Popen[bytes]) -> None:
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert Path(f"/proc/{child.pid}/stat").exists()
    assert find(child.pid) == 0


@pytest.mark.parametrize("name", ["plain", "with ) and ( in it", ") Z 1 2 3"])
def test_the_name_of_a_program_does_not_matter(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    fields = ["S", *map(str, range(4, 22)), "777", *map(str, range(23, 53))]
    line = f"11 ({name}) {' '.join(fields)}\n".encode()
    monkeypatch.setattr(builtins, "open", lambda *_: io.BytesIO(line))
    assert find(11) == 777 << 22 | 11


@pytest.mark.parametrize("line", [b"", b"11 (x)", b"11 (x) S 1 2", b"garbage"])
def test_a_line_that_says_nothing_is_no_process(monkeypatch: pytest.MonkeyPatch, line: bytes) -> None:
    monkeypatch.setattr(builtins, "open", lambda *_: io.BytesIO(line))
    assert find(11) == 0


@pytest.mark.parametrize("knows", [True, False])
def test_a_peer_is_the_process_that_connected(
    bench: Bench, child: subprocess.Popen[bytes], connect: Callable[..., Peer], knows: bool
) -> None:
    before = descriptors() + knows
    peer = connect(child.pid, knows=knows)
    assert bench.watch.identify(peer) == find(child.pid) == peer.process
    child.kill()
    child.wait()
    assert bench.watch.identify(peer) == peer.process  # it is still the one that connected
    assert peer.carrier.asked == 1
    assert descriptors() == before


@pytest.mark.parametrize("knows", [True, False])
def test_a_peer_that_has_ended_is_refused(
    bench: Bench, child: subprocess.Popen[bytes], connect: Callable[..., Peer], knows: bool
) -> None:
    peer = connect(child.pid, knows=knows)
    child.kill()
    child.wait()
    before = descriptors()
    with pytest.raises(BadRequest, match="cannot be told or has ended"):
        bench.watch.identify(peer)
    assert peer.process == 0
    assert descriptors() == before


def test_a_peer_whose_number_is_anothers_by_now_is_refused(
    bench: Bench, child: subprocess.Popen[bytes], connect: Callable[..., Peer]
) -> None:
    peer = connect(child.pid)
    child.kill()
    child.wait()
    peer.pid = os.getpid()  # given to another one
    with pytest.raises(BadRequest):
        bench.watch.identify(peer)


def test_only_so_many_processes_are_waited_for(child: subprocess.Popen[bytes], connect: Callable[..., Peer]) -> None:
    bench = Bench(1)
    early = connect(child.pid)
    bench.watch.identify(early)  # known, but nothing is tied to it
    ours = bench.watch.identify(connect(os.getpid()))
    bench.watch.watch(ours)
    for peer in (early, connect(child.pid)):
        with pytest.raises(Busy, match="1 processes"):
            bench.watch.identify(peer)
    assert bench.watch.identify(connect(os.getpid())) == ours  # another connection of it
    bench.watch.forget(ours)
    assert bench.watch.identify(early) == find(child.pid)
    bench.watch.close()
    bench.loop.close()


# -- when it ends


def test_the_end_of_a_process_is_heard_of_at_once(bench: Bench, child: subprocess.Popen[bytes]) -> None:
    process = find(child.pid)
    before = descriptors()
    bench.watch.watch(process)
    bench.watch.watch(process)
    assert len(bench.watch) == 1
    assert descriptors() == before + 1
    started = time.monotonic()
    child.send_signal(signal.SIGKILL)
    bench.wait(lambda: bool(bench.ended))
    assert time.monotonic() - started < 1
    assert bench.ended == [process]  # though nobody has waited for it: a zombie
    assert len(bench.watch) == 0
    assert descriptors() == before


def test_one_that_has_ended_by_now_has_ended(bench: Bench, child: subprocess.Popen[bytes]) -> None:
    process = find(child.pid)
    child.kill()
    child.wait()
    before = descriptors()
    bench.watch.watch(process)
    assert bench.ended == [process]
    assert (len(bench.watch), descriptors()) == (0, before)


def test_a_zombie_is_heard_of_too(bench: Bench, child: subprocess.Popen[bytes]) -> None:
    process = find(child.pid)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    bench.watch.watch(process)
    bench.wait(lambda: bench.ended == [process])
    assert len(bench.watch) == 0


def test_one_whose_number_is_anothers_by_now_has_ended(bench: Bench, child: subprocess.Popen[bytes]) -> None:
    another = find(child.pid) - (1 << 22)  # started a tick before
    before = descriptors()
    bench.watch.watch(another)
    assert bench.ended == [another]
    assert (len(bench.watch), descriptors()) == (0, before)


def test_one_that_nothing_is_tied_to_is_given_up_with_the_tick(bench: Bench, child: subprocess.Popen[bytes]) -> None:
    process = find(child.pid)
    before = descriptors()
    bench.watch.watch(process)
    bench.watch.tick(lambda _: True)
    assert len(bench.watch) == 1
    bench.watch.tick(lambda _: False)
    assert (len(bench.watch), descriptors(), bench.ended) == (0, before, [])
    bench.watch.forget(process)


def test_all_are_given_up_at_the_end(bench: Bench, child: subprocess.Popen[bytes]) -> None:
    before = descriptors()
    for pid in (child.pid, os.getpid()):
        bench.watch.watch(find(pid))
    bench.watch.close()
    assert (len(bench.watch), descriptors(), bench.ended) == (0, before, [])


# -- without descriptors


def test_while_no_descriptor_can_be_had_the_tick_tries_again(
    bench: Bench, child: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    process = find(child.pid)
    before = descriptors()
    with monkeypatch.context() as broken:
        broken.setattr(deathwatch_module.os, "pidfd_open", refuse)
        bench.watch.watch(process)
        bench.watch.tick(lambda _: True)
        assert (len(bench.watch), descriptors(), bench.ended) == (1, before, [])
    bench.watch.tick(lambda _: True)
    assert (len(bench.watch), descriptors()) == (1, before + 1)
    child.kill()
    bench.wait(lambda: bench.ended == [process])


def test_the_tick_finds_the_end_of_one_that_could_not_be_watched(
    bench: Bench, child: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(deathwatch_module.os, "pidfd_open", refuse)
    process = find(child.pid)
    bench.watch.watch(process)
    child.kill()
    child.wait()
    bench.watch.tick(lambda _: True)
    assert bench.ended == [process]
    assert len(bench.watch) == 0


def test_a_living_process_has_not_ended_though_the_daemon_is_out_of_descriptors(
    bench: Bench, child: subprocess.Popen[bytes], connect: Callable[..., Peer]
) -> None:
    process = find(child.pid)
    peer = connect(child.pid)
    bench.watch.watch(find(os.getpid()))
    before = descriptors()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        bench.watch.watch(process)
        bench.watch.tick(lambda _: True)
        with pytest.raises(OSError, match="Too many open files"):
            find(child.pid)
        peer.carrier.process_descriptor = lambda: -1
        with pytest.raises(Busy, match="descriptors"):
            bench.watch.identify(peer)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert bench.ended == []
    assert len(bench.watch) == 2
    bench.watch.tick(lambda _: True)
    assert descriptors() == before + 1
    assert bench.watch.identify(peer) == process
    child.kill()
    bench.wait(lambda: bench.ended == [process])


def test_processes_that_come_and_go_leave_no_descriptors(bench: Bench) -> None:
    before = descriptors()
    for _ in range(20):
        children = [subprocess.Popen(["sleep", "30"]) for _ in range(3)]
        known = [find(child.pid) for child in children]
        for process in known:
            bench.watch.watch(process)
        for child in children:
            child.kill()
            child.wait()
        bench.wait(lambda known=known: set(known) <= set(bench.ended))  # type: ignore[misc]
    assert descriptors() == before
    assert len(bench.ended) == len(set(bench.ended)) == 60
