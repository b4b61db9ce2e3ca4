"""Room is made: what was least recently used goes first, what somebody was promised stays, and who puts waits for it.

`--pressure-seconds` says how long clients race in the pressure test; `--seed` repeats its choices.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable

import pytest

import pressers
from conftest import Daemon, eventually
from crew import Member
from mounts import needs_root
from puppets import Line, puppets
from storekeeper import Client
from storekeeper.errors import BatchFailed, Busy, QuotaExceeded, TimedOut
from truth import BLOCK, count, now

Hall = Callable[..., Daemon]

ANNA = 2001
MIB = 1 << 20


def policy(eviction: str, bounds: str, lease_s: float = 0.001, more: str = "") -> str:
    """Returns a configuration in which the namespace default makes room."""
    return f'[namespace.default]\neviction = "{eviction}"\n{bounds}\n{more}\n[limits]\nlease_s = {lease_s}\n'


def fill(client: Client, keys: list[str], size: int = 1, **terms: float) -> None:
    for key in keys:
        client.put(bytes(size), key=key, **terms)  # type: ignore[arg-type]
        time.sleep(0.002)  # uses are told apart by the millisecond


def names(numbers: range) -> list[str]:
    return [f"k{number:03}" for number in numbers]


def settled(client: Client, objects: int) -> None:
    """Waits until so many objects are left, and no more go."""
    eventually(lambda: len(client.list()) == objects)
    time.sleep(0.1)
    assert len(client.list()) == objects


# -- which


@pytest.mark.parametrize("how", ["get", "exists", "exists_batch", "get_batch", "open"])
def test_what_was_least_recently_used_goes_first(hall: Hall, how: str) -> None:
    daemon = hall(policy("lru", "objects_max = 20\nhigh_mark = 0.95\nlow_mark = 0.5"))
    line = Line(daemon.address)
    used = ["k000", "k003", "k007"]
    with daemon.client() as client:
        fill(client, names(range(18)))
        for key in used:
            time.sleep(0.002)
            if how == "open":
                line.ask("close", line.open(key))
            elif how.endswith("batch"):
                getattr(client, how)([key])
            else:
                assert getattr(client, how)(key)
        time.sleep(0.002)
        fill(client, ["new"])
        settled(client, 10)
        assert client.list() == sorted([*used, *names(range(12, 18)), "new"])
        assert client.status()["evictions"] == {"room": 9}
    line.close()


def test_a_put_is_a_use(hall: Hall) -> None:
    daemon = hall(policy("lru", "objects_max = 20\nlow_mark = 0.5"))
    with daemon.client() as client:
        fill(client, names(range(17)))
        client.put(b"\0", key="k001")  # the same
        time.sleep(0.002)
        client.put(b"other", key="k002", replace=True)
        time.sleep(0.002)
        fill(client, ["new1", "new2"])
        settled(client, 10)
        assert client.list() == sorted(["k001", "k002", *names(range(11, 17)), "new1", "new2"])


def test_marks_say_when_room_is_made_and_how_much(hall: Hall) -> None:
    daemon = hall(policy("lru", f"bytes_max = {100 * BLOCK}\nhigh_mark = 0.8\nlow_mark = 0.3"))
    with daemon.client() as client:
        fill(client, names(range(79)), BLOCK)
        time.sleep(0.2)
        assert len(client.list()) == 79, "the high mark is not reached"
        fill(client, names(range(79, 80)), BLOCK)
        settled(client, 30)
        assert client.list() == names(range(50, 80))
        assert client.usage()["charged_bytes"] == 30 * BLOCK


def test_what_expires_soonest_goes_first_and_what_never_does_stays(hall: Hall) -> None:
    daemon = hall(policy("expired-first", "objects_max = 20\nhigh_mark = 0.95\nlow_mark = 0.5"))
    with daemon.client() as client:
        fill(client, ["never1", "never2"], ttl=0)
        for number in (7, 3, 11, 0, 15, 9, 1, 13, 5, 2, 14, 8, 4, 12, 10, 6):
            fill(client, names(range(number, number + 1)), ttl=1000 + number)
        client.get("k000")
        time.sleep(0.01)
        fill(client, ["new"], ttl=5000)
        settled(client, 10)
        assert client.list() == sorted([*names(range(9, 16)), "never1", "never2", "new"])


def test_where_nothing_expires_nothing_is_evicted_and_a_put_is_refused(hall: Hall) -> None:
    daemon = hall(policy("expired-first", "objects_max = 10\nhigh_mark = 1.0\nlow_mark = 1.0"))
    with daemon.client() as client:
        fill(client, names(range(10)))
        with pytest.raises(QuotaExceeded):
            client.put(b"x")
        assert client.list() == names(range(10))


def test_a_pinned_object_is_never_evicted_to_make_room(hall: Hall) -> None:
    daemon = hall(policy("lru", "objects_max = 10\nhigh_mark = 1.0\nlow_mark = 1.0"))
    with daemon.client() as client:
        fill(client, ["pinned1", "pinned2"])
        assert client.pin("pinned1") and client.pin("pinned2")
        fill(client, names(range(200)))
        assert client.exists_batch(["pinned1", "pinned2"]) == [True, True]
        client.unpin("pinned1")
        fill(client, names(range(200, 230)))
        assert client.exists_batch(["pinned1", "pinned2"]) == [False, True]


def test_what_was_read_or_said_to_be_there_is_not_evicted_for_the_time_of_a_lease(hall: Hall) -> None:
    daemon = hall(policy("lru", "objects_max = 20", lease_s=1.5))
    with daemon.client() as client:
        fill(client, names(range(10)))
        began = time.monotonic()
        assert client.exists("k000")
        assert client.get("k001") is not None
        fill(client, [f"new{number}" for number in range(100)])
        there = client.exists_batch(["k000", "k001", "k009"]) if time.monotonic() < began + 1.2 else None
        if there is not None:
            assert there == [True, True, False]


def test_a_namespace_that_refuses_is_left_alone(hall: Hall) -> None:
    daemon = hall('namespaces = ["kept"]\n[namespace.kept]\nobjects_max = 5\n' + policy("lru", "objects_max = 10"))
    with daemon.client() as client, daemon.client(namespace="kept") as kept:
        fill(kept, names(range(5)))
        fill(client, names(range(100)))
        with pytest.raises(QuotaExceeded):
            kept.put(b"x")
        assert kept.list() == names(range(5))
        assert len(client.list()) <= 10


@needs_root
def test_a_user_over_his_own_quota_is_refused_and_nothing_is_evicted(hall: Hall) -> None:
    daemon = hall(policy("lru", "objects_max = 100\nuser_objects_max = 10"))
    with daemon.client() as client, puppets(daemon.address) as make:
        told = make(ANNA).put_sizes([1] * 12)
        assert told.count("quota") == 2
        fill(client, names(range(10)))
        with pytest.raises(QuotaExceeded):
            client.put(b"x")
        time.sleep(0.1)
        assert len(client.list()) == 20
        assert client.status()["evictions"] == {}


def test_a_full_store_is_no_reason_to_evict(hall: Hall) -> None:
    daemon = hall("[quota]\nobjects_max = 15\n" + policy("lru", "objects_max = 100"))
    with daemon.client() as client:
        fill(client, names(range(15)))
        with pytest.raises(QuotaExceeded):
            client.put(b"x")
        assert client.list() == names(range(15))


def test_files_that_come_by_hand_are_evicted_too_and_foreign_ones_stay(hall: Hall) -> None:
    daemon = hall(policy("lru", "objects_max = 20\nhigh_mark = 0.9\nlow_mark = 0.4"))
    foreign = [daemon.store / "folder", daemon.store / "link"]
    foreign[0].mkdir()
    (foreign[0] / "file").write_bytes(b"x")
    foreign[1].symlink_to("folder")
    with daemon.client() as client:
        for number in range(10):
            private = daemon.store / f".new{number}"
            private.write_bytes(b"by hand")
            private.rename(daemon.store / f"hand{number}")
        eventually(lambda: len(client.list()) == 10)
        client.usage(fresh=True)
        time.sleep(0.01)
        fill(client, names(range(8)))
        settled(client, 8)
        assert client.list() == names(range(8))
    assert [path for path in foreign if not path.exists()] == []
    assert (foreign[0] / "file").read_bytes() == b"x"


def test_files_that_come_by_hand_over_the_bound_are_evicted_by_the_next_put(hall: Hall) -> None:
    daemon = hall(policy("lru", "objects_max = 10"))
    with daemon.client() as client:
        for number in range(30):
            private = daemon.store / f".new{number}"
            private.write_bytes(b"by hand")
            private.rename(daemon.store / f"hand{number:02}")
        assert client.usage(fresh=True)["objects"] == 30
        client.put(b"x", key="k")
        eventually(lambda: len(client.list()) <= 10)
        assert client.exists("k")


# -- who waits


def test_a_put_waits_for_room_and_does_not_fail(hall: Hall) -> None:
    daemon = hall(policy("lru", f"bytes_max = {16 * MIB}"))
    with daemon.client() as client:
        for number in range(60):
            client.put(bytes((5 if number % 3 else 1) * MIB), key=f"k{number}")
            assert client.exists(f"k{number}")
            assert now(daemon).charged[("store",)] <= 16 * MIB
        client.put(bytes(16 * MIB), key="all of it")
        assert client.list() == ["all of it"]


def test_a_batch_that_fits_is_put_whole(hall: Hall) -> None:
    daemon = hall(policy("lru", "objects_max = 50"))
    with daemon.client() as client:
        for number in range(20):
            keys = [f"b{number}-{item}" for item in range(45)]
            assert client.put_batch([b"x"] * 45, keys=keys) == keys
            assert now(daemon).objects[("store",)] <= 50


def test_a_batch_larger_than_the_bound_fails_item_by_item(hall: Hall) -> None:
    daemon = hall(policy("lru", "objects_max = 50"))
    with daemon.client() as client:
        with pytest.raises(BatchFailed) as failed:
            client.put_batch([b"x"] * 60, keys=names(range(60)))
        results = failed.value.results
        errors = [item for item in results if not isinstance(item, str)]
        assert len(errors) == 10
        assert all(isinstance(item, QuotaExceeded) for item in errors)
        assert client.status()["reserved_bytes"] == 0
        client.put(b"x", key="next")
        assert count(daemon.store).objects[("store",)] <= 50


def test_an_object_larger_than_the_bound_is_refused_and_evicts_nothing(hall: Hall) -> None:
    daemon = hall(policy("lru", f"bytes_max = {8 * MIB}"))
    with daemon.client() as client:
        fill(client, names(range(10)))
        with pytest.raises(QuotaExceeded):
            client.put(bytes(8 * MIB + 1))
        assert client.list() == names(range(10))
        assert client.status()["evictions"] == {}


def test_if_all_is_pinned_the_answer_is_quota(hall: Hall) -> None:
    daemon = hall(policy("lru", "objects_max = 5\nhigh_mark = 1.0\nlow_mark = 1.0"))
    with daemon.client() as client:
        for key in names(range(5)):
            client.put(b"x", key=key)
            client.pin(key)
        with pytest.raises(QuotaExceeded):
            client.put(b"x")
        assert client.list() == names(range(5))
        client.unpin("k002")
        client.put(b"x", key="new")
        assert client.list() == ["k000", "k001", "k003", "k004", "new"]


def test_if_only_leased_ones_are_left_it_is_busy_and_a_client_waits_it_out(hall: Hall) -> None:
    lease_s = 1.0
    daemon = hall(policy("lru", "objects_max = 5\nhigh_mark = 1.0\nlow_mark = 1.0", lease_s=lease_s))
    with daemon.client() as client, daemon.client(timeout=0.3) as hasty:
        fill(client, names(range(5)))
        assert all(client.exists_batch(names(range(5))))
        leased = time.monotonic()
        with pytest.raises((Busy, TimedOut)):
            hasty.put(b"x", key="hasty")
        client.put(b"x", key="patient")
        assert time.monotonic() >= leased + lease_s - 0.1
        assert client.exists("patient")


# -- words


@needs_root
def test_the_log_says_what_was_evicted_whose_it_was_and_why(hall: Hall) -> None:
    daemon = hall(policy("lru", "objects_max = 5\nlow_mark = 0.5"))
    with daemon.client() as client, puppets(daemon.address) as make:
        anna = make(ANNA)
        anna.put_size(1, key="first-of-anna")
        time.sleep(0.01)
        client.put(b"x", key="expires", ttl=0.1)
        anna.put_size(1, key="of-the-process", lifetime="process")
        eventually(lambda: client.status()["evictions"].get("expired") == 1)
        anna.kill()
        eventually(lambda: client.status()["evictions"].get("process") == 1)
        fill(client, names(range(5)))
        eventually(lambda: not client.exists("first-of-anna"))
        eventually(lambda: client.status()["evictions"].get("room", 0) >= 1)
        lines = daemon.log.read_text().splitlines()
    for key, uid, cause in (
        ("first-of-anna", ANNA, "room"), ("expires", 0, "expired"), ("of-the-process", ANNA, "process"),
    ):  # fmt: skip
        (line,) = [line for line in lines if key in line and "evicted" in line]
        assert f"uid {uid}" in line and cause in line, line


# -- across restarts


def test_after_a_restart_the_oldest_go_first_and_bounds_hold(hall: Hall) -> None:
    daemon = hall(policy("lru", "objects_max = 200\nhigh_mark = 1.0\nlow_mark = 0.5"))
    with daemon.client() as client:
        fill(client, names(range(199)))
        client.get_batch(names(range(20)))  # not remembered
    for left, new in ((names(range(100, 199)), "new0"), ([f"z{number:03}" for number in range(99)], "new1")):
        daemon.kill()
        daemon.start()
        with daemon.client() as client:
            client.put(b"x", key=new)
            settled(client, 100)
            assert client.list() == sorted([*left, new])
            if new == "new0":
                fill(client, [f"z{number:03}" for number in range(99)])
                assert len(client.list()) == 199


# -- pressure


@pytest.mark.timeout(3600)
def test_who_was_told_that_an_object_is_there_can_fetch_it_whatever_the_pressure(
    hall: Hall, seed: int, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    bound, objects = 24 * MIB, 400
    daemon = hall(policy("lru", f"bytes_max = {bound}\nobjects_max = {objects}", lease_s=1.0))
    seconds = request.config.getoption("--pressure-seconds")
    members: list[Member] = []
    most = [0, 0]
    try:
        for number in range(8):
            members.append(Member("press", daemon.address, f"p{number}", seed, program=pressers.__file__))
        with daemon.client(timeout=60) as client:
            eventually(lambda: client.status()["evictions"].get("room", 0) > 0, 60)
            ends = time.monotonic() + seconds
            while time.monotonic() < ends:
                so = now(daemon)
                most = [max(most[0], so.charged[("store",)]), max(most[1], so.objects[("store",)])]
                assert most[0] <= bound, f"{most[0] - bound} bytes over the bound: {so.unnamed}"
                assert most[1] <= objects, f"{most[1] - objects} objects over the bound: {so.unnamed}"
                time.sleep(0.01)
            told = []
            for member in members:
                member.say()
                told.append(json.loads(member.line()))
            status = client.status()
            eventually(lambda: client.status()["reserved_bytes"] == 0)
    finally:
        for member in members:
            member.end()
    did = {what: sum(each[what] for each in told) for what in told[0]}
    with capsys.disabled():
        print(f"\nat most {most} of {[bound, objects]}; {did}; evictions {status['evictions']}")
    assert did["missed"] == 0
    assert did["fetched"] > 0
    assert "Traceback" not in daemon.log.read_text()


def percentiles(took: list[float]) -> tuple[float, float, float]:
    """Returns the median, the 99th and the longest, in milliseconds."""
    took = sorted(took)
    return tuple(round(took[min(len(took) - 1, int(len(took) * part))] * 1000, 2) for part in (0.5, 0.99, 1.0))  # type: ignore[return-value]


def test_ten_thousand_evictions_leave_others_be(hall: Hall, capsys: pytest.CaptureFixture[str]) -> None:
    """Prints figures; what is asserted is only that everybody is answered, and rightly."""
    evicted = 10_000
    daemon = hall(
        'namespaces = ["other"]\n'
        + policy("lru", f"objects_max = {evicted + 1000}\nhigh_mark = 1.0\nlow_mark = {1000 / (evicted + 1000)}")
    )
    took: dict[str, list[float]] = {"idle": [], "beside evictions": []}
    with daemon.client() as client, daemon.client(namespace="other") as other:
        other.put(b"x" * 1000, key="k")
        for start in range(0, evicted + 1000, 1000):
            keys = [f"k{number}" for number in range(start, start + 1000)]
            client.put_batch([b"x"] * len(keys[1:]), keys=keys[1:])
        client.put_batch([b"x"] * 10, keys=[f"k{start}" for start in range(0, evicted, 1000)])

        def ask(into: list[float]) -> None:
            for call in (lambda: other.get("k"), lambda: other.exists("k")):
                began = time.perf_counter()
                assert call()
                into.append(time.perf_counter() - began)

        ends = time.monotonic() + 1
        while time.monotonic() < ends:
            ask(took["idle"])
        started = threading.Event()

        def press() -> None:
            started.set()
            client.put(b"x", key="one more")

        thread = threading.Thread(target=press)
        thread.start()
        started.wait()
        began = time.monotonic()
        while time.monotonic() < began + 60:
            ask(took["beside evictions"])
            if len(took["beside evictions"]) % 200 == 0 and len(os.listdir(daemon.store)) < 1010:
                break
        lasted = time.monotonic() - began
        thread.join()
        eventually(lambda: client.status()["evictions"]["room"] >= evicted, 60)
    with capsys.disabled():
        for what, times in took.items():
            print(f"\n{what}: p50, p99, max {percentiles(times)} ms of {len(times)} calls", end="")
        print(f"; {evicted} evictions in {lasted:.2f} s")
    idle, beside = percentiles(took["idle"]), percentiles(took["beside evictions"])
    assert beside[1] <= max(50 * idle[1], 250.0), "others wait for evictions"
