"""Quotas: no bound is exceeded by a byte or an object, at any instant, whoever races for the room and however he ends.

`--race-seconds` says how long each race is; `--seed` repeats its choices.
"""

from __future__ import annotations

import json
import os
import pwd
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import racers
from conftest import Daemon, eventually
from crew import Member
from mounts import EXT4, NOBODY, TMPFS, Place, needs_mounts, needs_root, places
from puppets import Line, puppets
from storekeeper import Client
from storekeeper.errors import BatchFailed, KeyExists, QuotaExceeded
from truth import BLOCK, Truth, blocks, count, now

Hall = Callable[..., Daemon]

MIB = 1 << 20
ANNA, BEN = 2001, 2002
BYTES, OBJECTS = 24 * MIB, 40
RACERS = 8


class Racers(Member):
    """A process of racers.py."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments, program=racers.__file__)

    def told(self) -> Counter[str]:
        """Lets it stop; returns what it did."""
        self.say()
        return Counter(json.loads(self.line()))


# -- races

SCOPES: dict[str, tuple[str, list[tuple[int, list[str]]], tuple[object, ...]]] = {
    "the store": (
        f"[quota]\nbytes_max = {BYTES}\nobjects_max = {OBJECTS}",
        [(ANNA, ["default", "a"]), (BEN, ["a", "b"])],
        ("store",),
    ),
    "a user": (
        f"[quota]\nuser_bytes_max = {BYTES}\nuser_objects_max = {OBJECTS}",
        [(ANNA, ["default", "a"]), (ANNA, ["a", "b"])],
        ("user", ANNA),
    ),
    "a namespace": (
        f"[namespace.a]\nbytes_max = {BYTES}\nobjects_max = {OBJECTS}",
        [(ANNA, ["a"]), (BEN, ["a"])],
        ("namespace", "a"),
    ),
    "a user in a namespace": (
        f"[namespace.a]\nuser_bytes_max = {BYTES}\nuser_objects_max = {OBJECTS}",
        [(ANNA, ["a"]), (ANNA, ["a"])],
        ("user in", "a", ANNA),
    ),
}


@needs_root
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("scope", SCOPES)
def test_who_races_for_room_never_gets_more_than_there_is(
    hall: Hall, scope: str, seed: int, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    bounds, kinds, holder = SCOPES[scope]
    daemon = hall(f'namespaces = ["a", "b"]\n{bounds}\n')
    seconds = request.config.getoption("--race-seconds")
    members: list[Racers] = []
    watchers: list[Racers] = []
    most: Counter[str] = Counter()
    samples = 0
    try:
        for number in range(RACERS):
            uid, namespaces = kinds[number % 2]
            members.append(Racers("race", daemon.address, uid, f"r{number}", seed, *namespaces))
        watchers.extend(Racers("watch", daemon.address, uid, *namespaces) for uid, namespaces in kinds)
        with daemon.client(timeout=60) as client:
            eventually(lambda: client.usage(by="namespace")["namespaces"]["a"]["objects"] > 0, 60)
            ends = time.monotonic() + seconds
            while time.monotonic() < ends:
                so = now(daemon)
                assert so.charged[holder] <= BYTES, f"{so.charged[holder] - BYTES} bytes over the bound: {so.unnamed}"
                assert so.objects[holder] <= OBJECTS, (
                    f"{so.objects[holder] - OBJECTS} objects over the bound: {so.unnamed}"
                )
                most["bytes"] = max(most["bytes"], so.charged[holder])
                most["objects"] = max(most["objects"], so.objects[holder])
                samples += 1
                time.sleep(0.001)
            did: Counter[str] = Counter()
            for member in members:
                did += member.told()
            watched = [watcher.told() for watcher in watchers]
    finally:
        for member in [*members, *watchers]:
            member.end()
    assert did["refused"] + did["refused in a batch"]
    told = {name: max(each[name] for each in watched) for name in watched[0]}
    with capsys.disabled():
        print(
            f"\n{scope}: {samples} instants, at most {dict(most)} of {BYTES} and {OBJECTS}; usage {told}; {dict(did)}"
        )
    if seconds >= 1:  # the races were for something
        for what, bound in (("bytes", BYTES), ("objects", OBJECTS)):
            assert max(most[what], *(used for name, used in told.items() if what in name)) > bound * 3 // 4
    all_the_room_is_there(daemon, holder)
    assert "Traceback" not in daemon.log.read_text()


def all_the_room_is_there(daemon: Daemon, holder: tuple[object, ...]) -> None:
    """Sees that nothing but objects takes room, and that all of it can be had again, to the last block."""
    place = {"namespace": "a", "user in": "a"}.get(str(holder[0]), "default")
    with daemon.client() as root, puppets(daemon.address) as make:
        eventually(lambda: root.status()["reserved_bytes"] == 0)
        usage_is_true(daemon, root)
        for namespace in ("default", "a", "b"):
            with daemon.client(namespace=namespace) as client:
                client.evict_batch(client.list(fresh=True))
        anna = make(ANNA, place)
        assert anna.put_size(BYTES, key="all of it") == "all of it"
        with pytest.raises(QuotaExceeded):
            anna.put_size(1, key="one more")
        assert anna.evict("all of it") is True
        told = anna.put_sizes([1] * (OBJECTS + 5))
        assert told[OBJECTS:] == ["quota"] * 5
        assert "quota" not in told[:OBJECTS]
        assert root.status()["reserved_bytes"] == 0
        usage_is_true(daemon, root)


def usage_is_true(daemon: Daemon, root: Client) -> None:
    """Sees that `usage` says what the directory says."""
    so = count(daemon.store)
    users = root.usage(by="user", fresh=True)["users"]
    said = {int(uid): told for uid, told in users.items() if told["objects"]}
    holds(said, so, {uid: ("user", uid) for uid in {holder[1] for holder in so.named if holder[0] == "user"}})
    told = root.usage(by="namespace")["namespaces"]
    said = {name: each for name, each in told.items() if each["objects"]}
    holds(said, so, {name: ("namespace", name) for name in {who[1] for who in so.named if who[0] == "namespace"}})
    status = root.status()
    assert (status["objects"], status["bytes"]) == (so.named[("store",)], so.size[("store",)])


def holds(said: dict[Any, dict[str, Any]], so: Truth, holders: dict[Any, tuple[object, ...]]) -> None:
    assert set(said) == set(holders)
    for name, holder in holders.items():
        told = said[name]
        expected = (so.named[holder], so.size[holder], so.charged[holder], 0)
        assert (told["objects"], told["bytes"], told["charged_bytes"], told["objects_not_sized"]) == expected, name


# -- what counts


def test_what_is_removed_or_replaced_counts_until_nobody_reads_it(hall: Hall) -> None:
    daemon = hall(f"[quota]\nbytes_max = {64 * BLOCK}\nobjects_max = 4\n")
    with daemon.client() as client:
        client.put(bytes(40 * BLOCK), key="large")
        client.put(bytes(4 * BLOCK), key="small")
        line = Line(daemon.address)
        try:
            evicted, replaced = line.open("large"), line.open("small")
            assert client.evict("large")
            client.put(b"other", key="small", replace=True)
            # 40 and 4 blocks that are only read, and one that has a name
            used = client.usage()["bounds"]
            assert used["store_bytes_max"]["used"] == 45 * BLOCK
            assert used["store_objects_max"]["used"] == 3
            with pytest.raises(QuotaExceeded):
                client.put(bytes(20 * BLOCK), key="new")
            client.put(bytes(19 * BLOCK), key="new")
            with pytest.raises(QuotaExceeded):
                client.put(b"", key="a fifth object")
            assert line.ask("read", evicted, "0", "1")[2] == [b"\0"]
            line.ask("close", evicted)
            eventually(lambda: client.usage()["bounds"]["store_bytes_max"]["used"] == 24 * BLOCK)
            client.put(bytes(40 * BLOCK), key="large")
            with pytest.raises(QuotaExceeded):
                client.put(b"x", key="one too many")
            line.ask("close", replaced)
        finally:
            line.close()
        eventually(lambda: client.usage()["bounds"]["store_bytes_max"]["used"] == 60 * BLOCK)
        client.put(bytes(4 * BLOCK), key="the last")


def test_what_a_reader_held_is_free_when_his_connection_ends(hall: Hall) -> None:
    daemon = hall(f"[quota]\nbytes_max = {8 * BLOCK}\n")
    with daemon.client() as client:
        client.put(bytes(8 * BLOCK), key="k")
        line = Line(daemon.address)
        line.open("k")
        assert client.evict("k")
        with pytest.raises(QuotaExceeded):
            client.put(b"x", key="n")
        line.close()
        eventually(lambda: client.usage()["bounds"]["store_bytes_max"]["used"] == 0)
        client.put(bytes(8 * BLOCK), key="n")


def test_an_upload_takes_the_room_it_announces_at_once_else_as_ranges_come(hall: Hall) -> None:
    daemon = hall(f"[quota]\nbytes_max = {4 * MIB}\n")
    line = Line(daemon.address)
    try:
        with daemon.client() as client:
            client.evict(client.put(b""))  # waits until the store is measured
            announced = line.upload("announced", size=3 * MIB)
            assert client.status()["reserved_bytes"] == 3 * MIB
            with pytest.raises(QuotaExceeded):
                client.put(bytes(MIB + 1), key="k")
            with pytest.raises(QuotaExceeded):
                line.upload("too much", size=MIB + 1)
            refused = line.upload("refused")
            line.ask("write", refused, "0", bytes(MIB // 2))
            with pytest.raises(QuotaExceeded):
                line.ask("write", refused, str(MIB // 2), bytes(MIB // 2 + 1))
            with pytest.raises(QuotaExceeded):  # a range is missing
                line.ask("commit", refused, str(MIB + 1))
            growing = line.upload("growing")
            line.ask("write", growing, "0", bytes(MIB // 2))
            line.ask("write", growing, str(MIB // 2), bytes(MIB // 2))
            with pytest.raises(QuotaExceeded):
                client.put(b"x", key="k")
            line.ask("abort", announced)
            client.put(bytes(3 * MIB), key="k")
            assert line.ask("commit", growing, str(MIB))[0] == "created"
            assert client.status()["reserved_bytes"] == 0
            assert client.usage()["bounds"]["store_bytes_max"]["used"] == 4 * MIB
    finally:
        line.close()


def test_to_replace_takes_room_for_both(hall: Hall) -> None:
    daemon = hall(f"[quota]\nbytes_max = {10 * BLOCK}\n")
    with daemon.client() as client:
        client.put(bytes(5 * BLOCK), key="k")
        with pytest.raises(QuotaExceeded):
            client.put(b"1" * (5 * BLOCK + 1), key="k", replace=True)
        assert client.get("k") == bytes(5 * BLOCK)
        client.put(b"1" * 5 * BLOCK, key="k", replace=True)
        client.put(b"2" * 5 * BLOCK, key="k", replace=True)
        assert client.usage()["bounds"]["store_bytes_max"]["used"] == 5 * BLOCK


def test_a_put_that_changes_nothing_takes_no_room(hall: Hall) -> None:
    daemon = hall(f"[quota]\nbytes_max = {6 * MIB}\nobjects_max = 2\n")
    with daemon.client() as client:
        client.put(bytes(5 * MIB), key="large")
        client.put(b"small", key="small")
        for _ in range(5):
            with pytest.raises((KeyExists, QuotaExceeded)):
                client.put(b"other", key="small")
        assert client.status()["reserved_bytes"] == 0
        assert client.usage()["bounds"]["store_objects_max"]["used"] == 2


def test_over_a_quota_one_may_read_and_evict(hall: Hall) -> None:
    daemon = hall(f"[quota]\nbytes_max = {4 * BLOCK}\nobjects_max = 3\n")
    for number in range(8):
        private = daemon.store / f".new{number}"
        private.write_bytes(bytes(BLOCK))
        private.rename(daemon.store / f"by-hand-{number}")
    with daemon.client() as client:
        assert client.usage(fresh=True)["bounds"]["store_bytes_max"] == {"bound": 4 * BLOCK, "used": 8 * BLOCK}
        with pytest.raises(QuotaExceeded):
            client.put(b"", key="k")
        with pytest.raises(BatchFailed):
            client.put_batch([b"", b""])
        assert client.get("by-hand-3") == bytes(BLOCK)
        assert client.exists("by-hand-3")
        for number in range(5):
            with pytest.raises(QuotaExceeded):
                client.put(b"x", key="k")
            assert client.evict(f"by-hand-{number}")
        with pytest.raises(QuotaExceeded):  # three objects are all there may be
            client.put(b"x", key="k")
        assert client.evict("by-hand-5")
        client.put(bytes(2 * BLOCK), key="k")


@pytest.mark.parametrize("where", ["quota", "namespace.default"])
def test_no_object_is_larger_than_one_may_be(hall: Hall, where: str) -> None:
    daemon = hall(f"[{where}]\nobject_bytes_max = {5 * MIB}\n")
    with daemon.client() as client:
        client.put(bytes(5 * MIB), key="just so")
        with pytest.raises(QuotaExceeded):
            client.put(bytes(5 * MIB + 1), key="k")
        line = Line(daemon.address)
        try:
            handle = line.upload("unannounced")
            for part in range(5):
                line.ask("write", handle, str(part * MIB), bytes(MIB))
            with pytest.raises(QuotaExceeded):
                line.ask("write", handle, str(5 * MIB), b"x")
            line.ask("abort", handle)
        finally:
            line.close()
        assert client.list() == ["just so"]
        assert client.status()["reserved_bytes"] == 0


def test_one_item_too_large_fails_alone(hall: Hall) -> None:
    daemon = hall("[quota]\nobject_bytes_max = 100\n")
    with daemon.client() as client:
        with pytest.raises(BatchFailed) as failed:
            client.put_batch([bytes(100), bytes(101), b""], keys=["a", "b", "c"])
        assert [failed.value.results[0], failed.value.results[2]] == ["a", "c"]
        assert isinstance(failed.value.results[1], QuotaExceeded)
        assert client.list() == ["a", "c"]


# -- the file system's own bounds


@pytest.fixture(params=["tmpfs", "ext4"])
def small(request: pytest.FixtureRequest) -> Iterator[tuple[Place, str]]:
    """A place whose store is a small file system."""
    yield from ((place, request.param) for place in places(TMPFS if request.param == "tmpfs" else EXT4))


def free(place: Place) -> tuple[int, int]:
    """Returns how many bytes and inodes are free where the store lies."""
    told = os.statvfs(place.seen(place.store))
    return told.f_bavail * told.f_frsize, told.f_favail


@needs_mounts
@pytest.mark.parametrize("what", ["bytes", "inodes"])
def test_a_file_system_is_never_filled_further_than_it_may_be(small: tuple[Place, str], what: str) -> None:
    place, kind = small
    place.store.mkdir()
    if kind == "tmpfs":
        place.mounts.mount("tmpfs", place.store, "-o", "size=40m,nr_inodes=2000")
    else:
        place.mounts.mount("ext4", place.store, source=place.loop(40))
    keep = 8 * MIB if what == "bytes" else free(place)[1] - 300
    config = place.base / "c.toml"
    config.write_text(f"[quota]\nkeep_free_{what} = {keep}\n")
    daemon = place.start("--config", str(config))
    client = place.client(daemon)
    took = 0
    sizes = (100_000, 3 * MIB, 5 * MIB, 40_000) if what == "bytes" else (1, 1, 1, 1)
    refused = dict.fromkeys(range(len(sizes)), 0)
    for number in range(3000):
        if all(refused.values()):
            break
        which = number % len(sizes)
        try:
            if which == 1 and number % 8 < 4:
                client.put_batch([bytes(sizes[which] // 10 + 1)] * 10)
            else:
                client.put(bytes(sizes[which]))
            took += 1
        except QuotaExceeded:
            refused[which] += 1
        except BatchFailed as failed:
            assert all(isinstance(item, str | QuotaExceeded) for item in failed.results), failed.results
        assert free(place)[what == "inodes"] >= keep
    assert took > 10
    if what == "inodes":
        assert all(refused.values())
    else:
        assert refused[1] and refused[2]
    assert free(place)[what == "inodes"] >= keep
    # Nothing is left behind by those that were refused, and what is evicted can be had again.
    before = free(place)
    with pytest.raises(QuotaExceeded):
        client.put(bytes(36 * MIB)) if what == "bytes" else client.put(b"")
    assert free(place) == before
    assert client.status()["reserved_bytes"] == 0
    assert list((place.seen(place.store) / ".storekeeper" / "tmp").iterdir()) == []
    assert len(client.list(fresh=True)) == client.usage()["objects"]
    client.evict_batch(client.list())
    client.put(bytes(10 * MIB), key="again")
    assert client.get("again") == bytes(10 * MIB)


# -- for one user


@needs_root
def test_a_user_may_have_bounds_of_his_own_by_name_or_number(hall: Hall) -> None:
    name = pwd.getpwuid(NOBODY).pw_name
    daemon = hall(
        f"[quota]\nuser_objects_max = 2\nuser_bytes_max = {MIB}\n"
        f"[quota.users.{name}]\nobjects_max = 5\nbytes_max = {2 * BLOCK}\n"
        f'[quota.users."{ANNA}"]\nobjects_max = 0\nbytes_max = 0\n'
    )
    with puppets(daemon.address) as make:
        for uid, sizes, taken in (
            (NOBODY, [0] * 8, 5),
            (NOBODY + 0, [BLOCK] * 4, 2),
            (ANNA, [MIB] * 3 + [0] * 40, 43),
            (BEN, [0] * 5, 2),
            (BEN, [MIB // 2, MIB // 2, 0], 2),
        ):
            puppet = make(uid)
            told = puppet.put_sizes(sizes)
            assert [code == "quota" for code in told] == [place >= taken for place in range(len(sizes))], uid
            puppet.evict_batch([key for key in told if key != "quota"])


# -- words


@needs_root
def test_a_refusal_says_whose_bound_it_is_what_is_used_and_what_is_allowed(hall: Hall) -> None:
    for number, (bounds, whose, used, allowed) in enumerate(
        (
            (f"[quota]\nbytes_max = {4 * BLOCK}", r"\bstore\b", 3 * BLOCK, 4 * BLOCK),
            ("[quota]\nobjects_max = 1", r"\bstore\b", 1, 1),
            (f"[quota]\nuser_bytes_max = {4 * BLOCK}", rf"\b{ANNA}\b", 3 * BLOCK, 4 * BLOCK),
            ("[quota]\nuser_objects_max = 1", rf"\b{ANNA}\b", 1, 1),
            (f"[namespace.default]\nbytes_max = {4 * BLOCK}", r"\bnamespace\b.*default", 3 * BLOCK, 4 * BLOCK),
            ("[namespace.default]\nobjects_max = 1", r"\bnamespace\b.*default", 1, 1),
            (f"[namespace.default]\nuser_bytes_max = {4 * BLOCK}", rf"\b{ANNA}\b.*default", 3 * BLOCK, 4 * BLOCK),
            ("[namespace.default]\nuser_objects_max = 1", rf"\b{ANNA}\b.*default", 1, 1),
        )
    ):
        daemon = hall(bounds + "\n", name=f"s{number}")
        with puppets(daemon.address) as make:
            anna = make(ANNA)
            anna.put_size(3 * BLOCK, key="k")
            with pytest.raises(QuotaExceeded) as refused:
                anna.put_size(2 * BLOCK)
        message = str(refused.value)
        assert re.search(whose, message, re.DOTALL), message
        assert {str(used), str(allowed)} <= set(re.findall(r"\d+", message)), message
        eventually(lambda daemon=daemon, message=message: message in daemon.log.read_text())  # type: ignore[misc]
        daemon.stop()


# -- after a start


@needs_root
def test_bounds_hold_from_the_first_put_after_a_start(hall: Hall) -> None:
    full = 20_000
    daemon = hall(
        f"[quota]\nobjects_max = {full + 30}\n[namespace.default]\nuser_objects_max = {full + 10}\n"
        f"user_bytes_max = {(full + 5) * BLOCK}\n"
    )
    with daemon.client() as client:
        for start in range(0, full, 1000):
            client.put_batch([b"x"] * 1000, keys=[f"old-{number}" for number in range(start, start + 1000)])
    for restarted in range(2):
        if restarted:
            daemon.stop()
        else:
            daemon.kill()
        daemon.start()
        with daemon.client(timeout=60) as client, puppets(daemon.address) as make:
            client.put(b"y", key="new-first")  # its client waits until the bounds are known
            with pytest.raises(BatchFailed) as failed:
                client.put_batch([b"y"] * 100, keys=[f"new-{number}" for number in range(100)])
            refused = [item for item in failed.value.results if not isinstance(item, str)]
            assert all(isinstance(item, QuotaExceeded) for item in refused), refused[0]
            assert len(client.list("new-")) == 5, "this user's bytes"
            told = make(ANNA).put_sizes([0] * 100)
            assert told.count("quota") == 100 - 25, "the store's objects"
            assert count(daemon.store).named[("store",)] == full + 30
            make(ANNA).evict_batch([key for key in told if key != "quota"])
            client.evict_batch(client.list("new-"))


def test_bytes_that_are_put_as_a_daemon_starts_are_counted_before_its_first_put(hall: Hall) -> None:
    daemon = hall(f"[quota]\nbytes_max = {8 * MIB}\n")
    with daemon.client() as client:
        client.put(bytes(5 * MIB), key="large")
        client.put_batch([bytes(BLOCK)] * 500)
    for _ in range(4):
        daemon.kill()
        daemon.start()
        with daemon.client() as client:
            with pytest.raises(QuotaExceeded):
                client.put(bytes(3 * MIB))
            assert count(daemon.store).charged[("store",)] == 5 * MIB + 500 * BLOCK


@needs_root
def test_usage_says_what_the_directory_says(hall: Hall) -> None:
    daemon = hall('namespaces = ["a", "b"]\n[quota]\nuser_bytes_max = 1000000000\n')
    with puppets(daemon.address) as make, daemon.client() as root:
        for uid in (ANNA, BEN):
            for namespace in ("default", "a"):
                make(uid, namespace).put_sizes([0, 1, 4095, 4096, 4097, 70_000, uid])
        root.put(bytes(5 * MIB), key="large")
        hand = daemon.store / "b" / ".new"
        hand.write_bytes(b"by hand")
        os.chown(hand, BEN, BEN)
        hand.rename(hand.with_name("by-hand"))
        usage_is_true(daemon, root)
        daemon.kill()
        daemon.start()
        usage_is_true(daemon, root)
        mine = make(ANNA, "a").usage(by="user")
        assert mine["objects"] == 14
        assert mine["bounds"]["user_bytes_max"]["used"] == count(daemon.store).charged[("user", ANNA)]
        assert blocks(1) == BLOCK


def test_the_fixed_text_of_a_configuration_is_checked(tmp_path: Path) -> None:
    """A bound that is none is refused at the start, not at the first put."""
    daemon = Daemon(tmp_path / "store", f"ipc://{tmp_path}/s", "--config", str(tmp_path / "c.toml"))
    for wrong in ("bytes_max = -1", 'bytes_max = "1"', "bytes_max = 1.5", "byte_max = 1", "objects_max = true"):
        (tmp_path / "c.toml").write_text(f"[quota]\n{wrong}\n")
        daemon.launch()
        assert daemon.process is not None
        assert daemon.process.wait(20) == 78, wrong
