"""Clients are interrupted, forked, forgotten, closed and called again in the middle of calls of their own and others'.

`--interruptions` says how often a timer strikes; `--seed` repeats the same choices.
"""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import workers
from conftest import Daemon, eventually
from crew import HANG_S
from storekeeper import Client
from storekeeper.errors import ClientClosed

LARGE = bytes(range(256)) * (workers.LARGE_BYTES // 256)


def worker(*arguments: object) -> dict[str, Any]:
    """Runs a worker to its end; returns what it has to say."""
    command = [sys.executable, workers.__file__, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr  # an interruption that a __del__ swallowed may be told there, too
    told: dict[str, Any] = json.loads(done.stdout)
    return told


@pytest.mark.timeout(3600)
def test_after_an_interruption_at_any_moment_the_client_answers_right_and_holds_no_more(
    daemon: Daemon, seed: int, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    told = worker("interrupted", daemon.address, seed, request.config.getoption("--interruptions"))
    struck, missed = Counter(told["struck"]), Counter(told["missed"])
    with capsys.disabled():
        print(f"\n{struck.total()} interruptions, {missed.total()} came too late: {dict(struck)}")
    assert set(struck) == set(workers.Interrupted.CALLS)
    first, now = told["first"], told["now"]
    assert now["descriptors"] <= first["descriptors"] + 1, (first, now)  # its shelf
    assert now["threads"] <= first["threads"], (first, now)
    assert now["memory"] <= first["memory"] + (48 << 20), (first, now)
    with daemon.client() as client:
        eventually(lambda: client.status()["connections"] == 1)  # what was interrupted is given back to the daemon too


COLD = """
import os, random, signal, sys, time
from storekeeper import Client
address, seed, count = sys.argv[1:]
chance = random.Random(seed)
interrupted = 0
for number in range(int(count)):
    child = os.fork()
    if not child:
        struck = False
        def strike(*_):
            if armed:
                raise KeyboardInterrupt
        signal.signal(signal.SIGALRM, strike)
        delay = chance.random() * 0.004 + 1e-6
        armed = True
        try:
            signal.setitimer(signal.ITIMER_REAL, delay)
            store = Client(address)
            store.get("k")
            armed = False
        except KeyboardInterrupt:
            struck = True
        armed = False
        with Client(address) as store:
            good = store.get("k") == b"bytes" and store.get("missing") is None
        time.sleep(0.05)
        held = len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))
        # The context has six descriptors and two threads; the listing has one, the idle carrier a few.
        os._exit(3 if not good else 4 if held[0] > 25 or held[1] > 3 else int(struck))
    chance.random()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, 1), status
    interrupted += status
print(interrupted)
"""


def test_the_first_call_of_a_process_may_be_interrupted_too(daemon: Daemon, client: Client, seed: int) -> None:
    client.put(b"bytes", key="k")
    command = [sys.executable, "-c", COLD, daemon.address, str(seed), "60"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANG_S)
    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout) > 5


def test_nothing_is_sent_by_way_of_a_thread_that_an_interruption_can_break(daemon: Daemon) -> None:
    """On CPython before 3.13 an interrupted Thread.is_alive() takes a living thread for dead, for good.

    pyzmq then starts another one at every send, forgets the buffers under way, and its I/O thread stands still: no call
    of the process is ever answered again.
    """
    script = (
        f"from storekeeper import Client; import threading; c = Client({daemon.address!r}); c.put(bytes(1 << 20)); "
        "print(threading.active_count())"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=HANG_S)
    assert done.stdout == "1\n"


BETWEEN = """
import sys
from storekeeper import Client, session
left, real = 30, session.Exchange
def interrupted(*arguments, **options):  # a signal that comes when a call has its carrier and has not begun yet
    global left
    left -= 1
    if left >= 0:
        raise KeyboardInterrupt
    return real(*arguments, **options)
session.Exchange = interrupted
for _ in range(30):
    try:
        Client(sys.argv[1]).exists("k")
    except KeyboardInterrupt:
        pass
print(Client(sys.argv[1], timeout=3).exists("k"))
"""


def test_an_interruption_before_a_call_begins_does_not_stop_all_others(daemon: Daemon, client: Client) -> None:
    client.put(b"bytes", key="k")
    done = subprocess.run([sys.executable, "-c", BETWEEN, daemon.address], capture_output=True, text=True)
    assert done.stdout == "True\n", done.stderr
    eventually(lambda: client.status()["connections"] == 1)


@contextmanager
def at_work(*actions: Callable[[], object]) -> Iterator[Counter[int]]:
    """Does things again and again in threads, during the block; counts how often each. A failure fails the test."""
    done: Counter[int] = Counter()
    stop = threading.Event()
    failures: list[BaseException] = []

    def repeat(number: int, action: Callable[[], object]) -> None:
        try:
            while not stop.is_set():
                action()
                done[number] += 1
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=repeat, args=pair) for pair in enumerate(actions)]
    for thread in threads:
        thread.start()
    try:
        yield done
        eventually(lambda: bool(failures) or len(done) == len(actions), HANG_S)
    finally:
        stop.set()
        for thread in threads:
            thread.join(HANG_S)
            assert not thread.is_alive()
    assert not failures, failures


def right(client: Client, key: str, data: bytes | None) -> Callable[[], None]:
    """Returns what gets an object and sees that it is the right one."""

    def get() -> None:
        assert client.get(key) == data, key

    return get


def fill(client: Client) -> None:
    client.put(b"small" * 100, key="small")
    client.put(LARGE, key="large")


def readers(client: Client) -> list[Callable[[], None]]:
    return [right(client, "small", b"small" * 100), right(client, "large", LARGE), right(client, "missing", None)]


def writers(client: Client, name: str) -> list[Callable[[], None]]:
    def write(key: str, data: bytes) -> Callable[[], None]:
        def put_and_evict() -> None:
            client.put(data, key=key)
            assert client.exists(key)
            assert client.evict(key)

        return put_and_evict

    return [write(f"{name}-small", b"x"), write(f"{name}-large", LARGE[::-1])]


def child_is_well(client: Client, number: int) -> bool:
    """What a forked child does with the client that it has from its parent."""
    key = f"child-{number}"
    client.put(key.encode() * 10_000, key=key)
    good = client.get("small") == b"small" * 100 and client.get(key) == key.encode() * 10_000
    good = good and client.get("large") == LARGE and client.list("child-") == [key] and client.evict(key)
    client.close()
    return good


def test_a_child_forked_in_the_middle_of_calls_of_other_threads_uses_the_same_client(client: Client, seed: int) -> None:
    fill(client)
    chance = random.Random(seed)
    with at_work(*readers(client), *writers(client, "parent")) as done:
        for number in range(25):
            time.sleep(chance.random() * 0.02)
            child = os.fork()
            if not child:
                code = 2
                try:
                    signal.alarm(60)
                    code = 0 if child_is_well(client, number) else 1
                finally:
                    os._exit(code)
            assert client.get("small") == b"small" * 100
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        eventually(lambda: min(done[number] for number in range(5)) > 3, HANG_S)
    assert client.list() == ["large", "small"]


def test_what_a_client_held_is_given_back_though_a_child_of_it_lives_on(daemon: Daemon, client: Client) -> None:
    client.status()
    script = (
        "import os, sys, threading, time; from storekeeper import Client; store = Client(sys.argv[1]); store.status()\n"
        "if not os.fork(): os.close(1); time.sleep(60); os._exit(0)\n"
        "print(os.getpid(), flush=True); store.close(); time.sleep(0.2)"
    )
    process = subprocess.Popen([sys.executable, "-c", script, daemon.address], stdout=subprocess.PIPE, process_group=0)
    assert process.stdout is not None
    try:
        process.stdout.read()
        process.wait(HANG_S)
        eventually(lambda: client.status()["connections"] == 1, 3)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.stdout.close()


def test_threads_go_on_while_others_close_their_clients(daemon: Daemon, client: Client) -> None:
    fill(client)

    def come_and_go() -> None:
        with daemon.client() as other:
            assert other.get("small") == b"small" * 100

    with at_work(*readers(client), *writers(client, "parent"), come_and_go, come_and_go) as done:
        eventually(lambda: done[5] > 100 and done[6] > 100, HANG_S)
    eventually(lambda: client.status()["connections"] <= 6)


def test_a_client_closed_in_the_middle_of_calls_refuses_the_next_ones(daemon: Daemon, client: Client) -> None:
    fill(client)
    for _ in range(20):
        other = daemon.client()
        outcomes: list[object] = []

        def call(other: Client = other, outcomes: list[object] = outcomes) -> None:
            try:
                while True:
                    assert other.get("small") == b"small" * 100
                    assert other.get("large") == LARGE
            except BaseException as error:
                outcomes.append(error)

        threads = [threading.Thread(target=call) for _ in range(3)]
        for thread in threads:
            thread.start()
        time.sleep(0.01)
        other.close()
        for thread in threads:
            thread.join(HANG_S)
        assert [type(outcome) for outcome in outcomes] == [ClientClosed] * 3
    eventually(lambda: client.status()["connections"] == 1)


def test_clients_are_collected_in_the_middle_of_calls_of_others(daemon: Daemon, client: Client) -> None:
    fill(client)
    before = gc.get_threshold()

    def forget() -> None:
        other: Any = daemon.client()
        assert other.exists("small")

    def forget_in_a_cycle() -> None:
        other: Any = daemon.client()
        other.me = [other]
        assert other.get("small") == b"small" * 100

    gc.set_threshold(50)
    try:
        with at_work(*readers(client), *writers(client, "parent"), forget, forget_in_a_cycle) as done:
            eventually(lambda: done[5] > 100 and done[6] > 100, HANG_S)
    finally:
        gc.set_threshold(*before)
    gc.collect()
    eventually(lambda: client.status()["connections"] <= 6)


def test_a_client_is_used_in_a_signal_handler_in_the_middle_of_its_own_calls(client: Client) -> None:
    fill(client)
    answers: list[bool] = []

    def handle(*_: object) -> None:
        answers.append(client.exists("small") and client.get("small") == b"small" * 100)
        key = client.put(b"in the handler" * 10_000)
        answers.append(client.evict(key))

    before = signal.signal(signal.SIGUSR1, handle)
    stop = threading.Event()

    struck = 0

    def strike() -> None:
        """Strikes in the middle of a handler too, but never in more than one of them."""
        nonlocal struck
        while not stop.wait(0.003):
            if struck <= len(answers) // 2 + 1:
                struck += 1
                os.kill(os.getpid(), signal.SIGUSR1)

    thread = threading.Thread(target=strike)
    try:
        thread.start()
        deadline = time.monotonic() + HANG_S
        while len(answers) < 300:
            assert time.monotonic() < deadline
            for check in readers(client):
                check()
            client.put(LARGE, key="large", replace=True)
    finally:
        stop.set()
        thread.join()
        signal.signal(signal.SIGUSR1, before)
    assert all(answers)
    assert client.list() == ["large", "small"]


def in_a_pool(address: str, number: int) -> bool:
    with Client(address) as client:
        return child_is_well_alone(client, number)


def child_is_well_alone(client: Client, number: int) -> bool:
    key = f"pool-{number}"
    client.put(key.encode() * 10_000, key=key)
    return bool(client.get(key) == key.encode() * 10_000 and client.get("large") == LARGE and client.evict(key))


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_pool_of_processes_works_while_the_parent_goes_on(daemon: Daemon, client: Client, method: str) -> None:
    fill(client)
    pool = multiprocessing.get_context(method).Pool(3)
    try:
        waiting = pool.starmap_async(in_a_pool, [(daemon.address, number) for number in range(40)])
        while not waiting.ready():
            for check in readers(client):
                check()
        assert waiting.get(HANG_S) == [True] * 40
    finally:
        pool.close()
        pool.join()
        if method == "forkserver":
            multiprocessing.forkserver._forkserver._stop()  # type: ignore[attr-defined]
    assert client.list() == ["large", "small"]


_inherited: Client | None = None


def in_a_forked_pool(number: int) -> bool:
    assert _inherited is not None
    return child_is_well_alone(_inherited, number)


def test_a_forked_pool_uses_the_client_of_its_parent(client: Client) -> None:
    global _inherited  # noqa: PLW0603 - how the children come to it
    fill(client)
    _inherited = client
    try:
        with multiprocessing.get_context("fork").Pool(3) as pool:
            assert pool.map(in_a_forked_pool, range(40), 1) == [True] * 40
            pool.close()
            pool.join()
    finally:
        _inherited = None
    assert client.list() == ["large", "small"]


OWNED = "an object evicts at its end"
ENDINGS = {
    "nobody closed it": "",
    "it is in a cycle": "c.me = [c]",
    "it was interrupted": "import os, signal; os.kill(os.getpid(), signal.SIGINT)",
    "a thread is in the middle of a call": "import threading; threading.Thread(target=c.get, args=('large',)).start()",
    "daemon threads call without end": """
import threading, time
def forever():
    while True:
        c.get("large"); c.put(b"x" * 100_000, key="other", replace=True)
for _ in range(3):
    threading.Thread(target=forever, daemon=True).start()
time.sleep(0.1)""",
    "an atexit handler calls": "import atexit; atexit.register(lambda: print(c.exists('small')))",
    "an early atexit handler calls": "import atexit; atexit.register(lambda: print(c.exists('small'))); d = Client(a)",
    OWNED: """
class Owned:
    def __init__(self): self.store, self.key = c, c.put(b"owned")
    def __del__(self): print(self.store.evict(self.key))
owned = Owned()""",
    "an object in a cycle evicts at its end": """
class Owned:
    def __init__(self): self.store, self.key, self.me = c, c.put(b"owned"), self
    def __del__(self): print(self.store.evict(self.key))
Owned()""",
    "a forked child ends first": """
import os, sys
if not os.fork():
    assert c.get("small")
    sys.exit(0)
os.wait(); assert c.get("small")""",
    "a forked child ends by itself": """
import os, sys
if not os.fork():
    sys.exit(0)
os.wait(); assert c.get("small")""",
    "it failed": "raise SystemExit(0)",
    "its frames are kept": """
import sys
try:
    c.put(b"other", key="small")
except Exception as error:
    kept = error""",
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_an_interpreter_ends_in_good_order_though(ending: str, daemon: Daemon, client: Client) -> None:
    fill(client)
    script = f"a = {daemon.address!r}\nfrom storekeeper import Client\nc = Client(a)\nc.get('large')\n{ENDINGS[ending]}"
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=HANG_S)
        if ending == "it was interrupted":
            assert done.returncode == -signal.SIGINT
            assert done.stderr.splitlines()[-1] == "KeyboardInterrupt"
        else:
            assert (done.returncode, done.stderr) == (0, ""), done
            assert done.stdout in ("", "True\n")
    eventually(lambda: client.status()["connections"] == 1)
    assert set(client.list()) <= {"large", "small", "other"}


def test_a_hundred_threads_make_their_first_call_at_once(daemon: Daemon, client: Client) -> None:
    client.put(b"x", key="k")
    left = 3 if os.environ.get("STOREKEEPER_CARRIER") == "zmq" else 1  # the main thread, and two of ZeroMQ's
    script = f"""
import os, sys, threading, time
sys.setswitchinterval(1e-6)
from storekeeper import Client
good = []
gate = threading.Barrier(50)
def first():
    with Client({daemon.address!r}) as store:
        gate.wait(); good.append(store.get("k") == b"x")
threads = [threading.Thread(target=first) for _ in range(50)]
for t in threads: t.start()
for t in threads: t.join()
for _ in range(200):
    left = len(os.listdir("/proc/self/task"))
    if left > {left}: time.sleep(0.01)  # threads that have just ended
print(good == [True] * 50, left)
"""
    for _ in range(5):
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=HANG_S)
        assert (done.stdout, done.stderr) == (f"True {left}\n", "")
