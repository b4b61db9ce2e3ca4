"""Whatever happens to the store's directory: no wrong answer for good, and nothing written into another directory."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import mounts
from conftest import Daemon, eventually
from mounts import (
    EXT4,
    NOBODY,
    SETTLE_S,
    TMPFS,
    Place,
    Placed,
    away,
    contents,
    decoy,
    exchange,
    fill,
    lost,
    needs_mounts,
    needs_root,
    other_store,
    picture,
    right_or_refused,
    settle,
)
from storekeeper import Client
from storekeeper.errors import DiskFailed, StoreUnavailable
from storekeeperd.exits import EX_TEMPFAIL

NAMES = [f"a{number}" for number in range(12)]

pytestmark = pytest.mark.skipif(not os.path.isdir(TMPFS), reason="no tmpfs at /dev/shm")
both = pytest.mark.parametrize("place", [TMPFS, EXT4], indirect=True, ids=["tmpfs", "ext4"])
tmpfs = pytest.mark.parametrize("place", [TMPFS], indirect=True, ids=["tmpfs"])
ext4 = pytest.mark.parametrize("place", [EXT4], indirect=True, ids=["ext4"])


@pytest.fixture
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    yield from mounts.places(request.param)


def begin(place: Place, *options: str, uid: int = 0) -> tuple[Placed, Client]:
    """Starts a daemon on a store with some objects."""
    inside = place.seen(place.store)
    inside.mkdir(exist_ok=True)
    fill(inside, NAMES)
    if uid:
        for path in (inside, *inside.iterdir()):
            os.chown(path, uid, uid)
    daemon = place.start(*options, uid=uid)
    client = place.client(daemon)
    settle(client, inside)
    return daemon, client


def change_meanwhile(directory: Path) -> list[str]:
    """Changes a store that its daemon has lost; returns the names."""
    (directory / "a0").unlink()
    fill(directory, ["a1"], "other:")
    fill(directory, ["b0", "b1"])
    return [*NAMES, "b0", "b1", "intruder", "only-in-decoy"]


# -- renamed


_STANDINS: dict[str, Callable[[Path], object]] = {
    "nothing": lambda path: None,
    "empty": lambda path: path.mkdir(),
    "decoy": lambda path: decoy(path, NAMES),
    "other-store": lambda path: other_store(path, NAMES),
    "file": lambda path: path.write_bytes(b"no directory"),
}


@pytest.mark.parametrize("stand_in", _STANDINS)
@both
def test_renamed_away_and_back(place: Place, stand_in: str) -> None:
    daemon, client = begin(place)
    so = contents(place.store)
    moved, wrong = place.up / "moved", place.up / "wrong"
    _STANDINS[stand_in](wrong)
    place.store.rename(moved)
    if wrong.exists():
        wrong.rename(place.store)
    stands = place.store if place.store.is_dir() else None
    right_or_refused(client, {**so, "only-in-decoy": None})
    away(client, stands, "a3")
    names = change_meanwhile(moved)
    right_or_refused(client, {"a3": so["a3"], "only-in-decoy": None}, rounds=1)
    if place.store.exists():
        place.store.rename(wrong)
    moved.rename(place.store)
    settle(client, place.store, names)
    lost(client, "directory_moved", "store_away")
    assert client.evict("a3")
    assert client.put(b"new", key="a3") == "a3"
    settle(client, place.store, names)
    assert daemon.alive


@both
def test_a_copy_of_the_store_in_its_place_is_the_store(place: Place) -> None:
    _, client = begin(place)
    copy, moved = place.up / "copy", place.up / "moved"
    subprocess.run(["cp", "-a", place.store, copy], check=True)
    names = change_meanwhile(copy)
    before = picture(place.store)
    place.store.rename(moved)
    copy.rename(place.store)
    settle(client, place.store, names)
    assert client.put(b"new", key="new") == "new"
    assert (place.store / "new").read_bytes() == b"new"
    after = {path.replace("/moved", "/store", 1): seen for path, seen in picture(moved).items()}
    assert after == before  # the old one is nobody's now
    place.store.rename(copy)
    moved.rename(place.store)
    settle(client, place.store, [*names, "new"])
    lost(client, "directory_moved")


@ext4
def test_exchanged_with_another_directory_and_back(place: Place) -> None:
    _, client = begin(place)
    so = contents(place.store)
    wrong = place.up / "wrong"
    decoy(wrong, NAMES)
    exchange(place.store, wrong)
    right_or_refused(client, {**so, "only-in-decoy": None})
    away(client, place.store, "a3")
    names = change_meanwhile(wrong)
    exchange(place.store, wrong)
    settle(client, place.store, names)
    lost(client, "directory_moved", "store_away")


@pytest.mark.parametrize("namespaces", [(), ("--namespace", "ns")], ids=["plain", "ns"])
@pytest.mark.parametrize("stand_in", ["nothing", "empty", "decoy"])
@tmpfs
def test_an_ancestor_renamed_and_back(place: Place, stand_in: str, namespaces: tuple[str, ...]) -> None:
    daemon, client = begin(place, *namespaces)
    so = contents(place.store)
    moved, stands = place.base / "moved", None
    place.up.rename(moved)
    if stand_in != "nothing":
        stands = place.store
        place.up.mkdir()
        _STANDINS[stand_in](stands)
    right_or_refused(client, {**so, "only-in-decoy": None})
    away(client, stands, "a3")
    names = change_meanwhile(moved / "store")
    right_or_refused(client, {"a3": so["a3"], "only-in-decoy": None}, rounds=1)
    if stands is not None:
        place.up.rename(place.base / "wrong")
    moved.rename(place.up)
    settle(client, place.store, names)
    lost(client, "store_away")
    assert daemon.alive


@tmpfs
def test_an_ancestor_renamed_and_back_unnoticed(place: Place) -> None:
    """Nothing is heard of it, and at the next check everything is as it was: nothing may be missed."""
    _, client = begin(place)
    for number in range(20):
        place.up.rename(place.base / "moved")
        fill(place.base / "moved" / "store", [f"c{number}"])
        (place.base / "moved").rename(place.up)
    settle(client, place.store)


# -- removed


def remove(directory: Path) -> None:
    """Removes a directory as `rm -rf` does, again if something came into it meanwhile."""
    deadline = time.monotonic() + SETTLE_S
    while True:
        try:
            shutil.rmtree(directory)
            return
        except OSError:
            if not directory.exists():
                return
            assert time.monotonic() < deadline


@both
def test_removed_and_made_again_at_once(place: Place) -> None:
    daemon, client = begin(place)
    copy = place.base / "copy"
    subprocess.run(["cp", "-a", place.store, copy], check=True)
    daemon.process.send_signal(signal.SIGSTOP)  # at once: nothing is done in between
    shutil.rmtree(place.store)
    place.store.mkdir()
    daemon.process.send_signal(signal.SIGCONT)
    away(client, place.store, "a3")
    assert os.listdir(place.store) == []
    place.store.rmdir()
    names = change_meanwhile(copy)
    copy.rename(place.store)
    settle(client, place.store, names)
    lost(client, "directory_moved", "store_away")


@tmpfs
def test_removed_while_it_runs_then_restored(place: Place) -> None:
    daemon, client = begin(place)
    copy = place.base / "copy"
    subprocess.run(["cp", "-a", place.store, copy], check=True)
    remove(place.store)
    away(client, None, "a3")
    names = change_meanwhile(copy)
    subprocess.run(["cp", "-a", copy, place.store], check=True)
    settle(client, place.store, names)
    lost(client, "directory_moved", "store_away")
    assert daemon.alive


@both
def test_rm_rf_gets_through(place: Place) -> None:
    """What heals the store must not stand in the way of one `rm -rf`."""
    _, client = begin(place)
    fill(place.store, [f"x{number}" for number in range(300)])
    done = subprocess.run(["rm", "-rf", place.store], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    away(client, None, "a3")


@pytest.mark.parametrize("made_again", [False, True], ids=["gone", "made-again"])
@both
def test_removed_while_another_process_holds_it_open(place: Place, made_again: bool) -> None:
    """Then the kernel tells nobody that it was removed."""
    daemon, client = begin(place)
    copy = place.base / "copy"
    subprocess.run(["cp", "-a", place.store, copy], check=True)
    held = os.open(place.store, os.O_RDONLY | os.O_DIRECTORY)
    try:
        daemon.process.send_signal(signal.SIGSTOP)
        shutil.rmtree(place.store)
        if made_again:
            place.store.mkdir()
        daemon.process.send_signal(signal.SIGCONT)
        away(client, place.store if made_again else None, "a3")
        if made_again:
            assert os.listdir(place.store) == []
            place.store.rmdir()
        names = change_meanwhile(copy)
        copy.rename(place.store)
        settle(client, place.store, names)
    finally:
        os.close(held)
    lost(client, "directory_moved", "store_away")


# -- mounts


def mount_store(place: Place, kind: str) -> Callable[[], None]:
    """Mounts a file system of its own at the store; returns what mounts the same one again."""
    place.store.mkdir()
    if kind == "loop":
        device = place.loop()
        place.mounts.mount("ext4", place.store, source=device)
        return lambda: place.mounts.mount("ext4", place.store, source=device)
    spare = place.base / "spare"
    spare.mkdir()
    place.mounts.mount("tmpfs", spare)
    place.mounts.bind(spare, place.store)
    return lambda: place.mounts.bind(spare, place.store)


@needs_mounts
@pytest.mark.parametrize("namespaces", [(), ("--namespace", "ns")], ids=["plain", "ns"])
@pytest.mark.parametrize("kind", ["tmpfs", "loop"])
@ext4
def test_unmounted_lazily_and_mounted_again(place: Place, kind: str, namespaces: tuple[str, ...]) -> None:
    mount_again = mount_store(place, kind)
    daemon, client = begin(place, *namespaces)
    inside = place.seen(place.store)
    so = contents(inside)
    place.mounts.umount(place.store, lazy=True)
    assert os.listdir(inside) == []
    right_or_refused(client, so)
    away(client, inside, "a3")
    assert os.listdir(inside) == []
    if kind == "tmpfs":
        names = change_meanwhile(place.seen(place.base / "spare"))
    else:
        elsewhere = place.base / "elsewhere"
        elsewhere.mkdir()
        place.mounts.mount("ext4", elsewhere, source=place._loops[0])
        names = change_meanwhile(place.seen(elsewhere))
        place.mounts.umount(elsewhere)
    right_or_refused(client, {"a3": so["a3"]}, rounds=1)
    mount_again()
    settle(client, inside, names)
    lost(client, "store_away", "directory_moved")
    assert daemon.alive


@needs_mounts
@tmpfs
def test_unmounted_lazily_and_a_copy_mounted(place: Place) -> None:
    mount_store(place, "tmpfs")
    _, client = begin(place)
    inside, copy = place.seen(place.store), place.base / "copy"
    subprocess.run(["cp", "-a", inside, copy], check=True)
    place.mounts.umount(place.store, lazy=True)
    away(client, inside, "a3")
    names = change_meanwhile(copy)
    place.mounts.bind(copy, place.store)
    settle(client, inside, names)
    lost(client, "store_away", "directory_moved")


@needs_mounts
@ext4
def test_a_copy_on_another_file_system_mounted_over_it(place: Place) -> None:
    """What the file system can do is another thing then: here reads from the page cache alone."""
    manager, copy = place.mounts, place.base / "copy"
    _, client = begin(place)
    inside = place.seen(place.store)
    copy.mkdir()
    manager.mount("tmpfs", copy)
    subprocess.run(["cp", "-a", f"{inside}/.", place.seen(copy)], check=True)
    names = change_meanwhile(place.seen(copy))
    manager.bind(copy, place.store)
    settle(client, inside, names)
    assert client.put(b"new", key="new") == "new"
    assert client.get("new") == b"new"
    manager.umount(place.store, lazy=True)  # the daemon's lock is in it
    settle(client, inside, [*names, "new"])


@needs_mounts
@pytest.mark.parametrize("over", ["store", "ancestor"])
@pytest.mark.parametrize("stand_in", ["empty", "decoy"])
@tmpfs
def test_mounted_over(place: Place, stand_in: str, over: str) -> None:
    manager = place.mounts
    under = place.base / "under"
    under.mkdir()
    place.store.mkdir()
    manager.bind(place.up, under)  # what is mounted over remains in reach here
    daemon, client = begin(place)
    inside = place.seen(place.store)
    so = contents(inside)
    tree = place.base / "tree"
    tree.mkdir()
    manager.mount("tmpfs", tree)
    wrong = place.seen(tree) / ("store" if over == "ancestor" else "inner")
    if stand_in == "decoy":
        decoy(wrong, NAMES)
    elif over == "store":
        wrong.mkdir()
    where = place.up if over == "ancestor" else place.store
    manager.bind(tree if over == "ancestor" else tree / "inner", where)
    right_or_refused(client, {**so, "only-in-decoy": None})
    away(client, place.seen(where), "a3")
    names = change_meanwhile(place.seen(under) / "store")
    manager.umount(where)
    settle(client, inside, names)
    lost(client, "store_away")
    assert daemon.alive


@needs_mounts
@tmpfs
def test_read_only_and_writable_again(place: Place) -> None:
    place.store.mkdir()
    place.mounts.bind(place.store, place.store)
    _, client = begin(place)
    inside = place.seen(place.store)
    before = contents(inside)
    place.mounts.bind(place.store, place.store)
    place.mounts.run("mount", "-o", "remount,bind,ro", place.store)
    for durability in ("os", "disk"):
        with pytest.raises(DiskFailed, match=r"[Rr]ead-only"):
            client.put(b"new", key="new", durability=durability)
    with pytest.raises(DiskFailed, match=r"[Rr]ead-only"):
        client.evict("a3")
    time.sleep(1.2)  # a check by the clock, and it is still served
    assert not client.status()["store_away"]
    settle(client, inside, ["new"])
    assert contents(inside) == before
    fill(place.store, ["b0"])  # through the host's mount, which is writable
    eventually(lambda: client.exists("b0"), SETTLE_S)
    settle(client, inside, ["new"])
    place.mounts.umount(place.store)
    assert client.put(b"new", key="new") == "new"
    assert client.evict("a3")
    settle(client, inside, ["a3"])


@needs_mounts
@tmpfs
def test_remounted_read_only(place: Place) -> None:
    """An administrator can have it read-only while it is served: nothing but an object under way is open to writing."""
    mount_store(place, "loop")
    _, client = begin(place)
    place.mounts.run("mount", "-o", "remount,ro", place.store)
    with pytest.raises(DiskFailed):
        client.put(b"new", key="new")
    settle(client, place.seen(place.store), ["new"])
    place.mounts.run("mount", "-o", "remount,rw", place.store)
    assert client.put(b"new", key="new") == "new"
    settle(client, place.seen(place.store))


@needs_mounts
@ext4
def test_changes_through_another_bind_mount_are_seen(place: Place) -> None:
    served, other = place.base / "served", place.base / "other"
    for folder in (place.store, served, other):
        folder.mkdir()
    place.mounts.bind(place.store, served)
    place.mounts.bind(place.store, other)
    fill(place.store, NAMES)
    client = place.client(place.start(store=served))
    settle(client, place.seen(served))
    assert client.status()["watch"] == "inotify"
    losses = client.status()["losses"]
    for number, way in enumerate((place.seen(other), place.store, place.seen(served))):
        fill(way, [f"c{number}", f"d{number}"])
        (way / f"a{number}").unlink()
        eventually(lambda number=number: f"d{number}" in client.list(), SETTLE_S)  # by the watch alone
        eventually(lambda number=number: f"a{number}" not in client.list(), SETTLE_S)
    settle(client, place.store, NAMES)
    assert client.status()["losses"] == losses
    assert client.put(b"new", key="new") == "new"
    assert (place.seen(other) / "new").read_bytes() == b"new"


# -- permissions


@needs_root
@pytest.mark.parametrize("which", ["store", "ancestor"])
@ext4
def test_forbidden_and_allowed_again(place: Place, which: str) -> None:
    daemon, client = begin(place, uid=NOBODY)
    so = contents(place.store)
    closed = place.store if which == "store" else place.up
    mode = closed.stat().st_mode
    closed.chmod(0)
    right_or_refused(client, so)
    away(client, place.store, "a3")
    names = change_meanwhile(place.store)
    for path in place.store.glob("[ab]*"):
        os.chown(path, NOBODY, NOBODY)
    closed.chmod(mode)
    settle(client, place.store, names)
    lost(client, "store_away")
    assert daemon.alive


# -- our own folder


def whole(daemon: Daemon, store_id: str) -> bool:
    """Returns whether the store's own folder has all that belongs into it."""
    folder = daemon.store / ".storekeeper"
    with contextlib.suppress(OSError, ValueError):
        return (
            json.loads((folder / "store").read_text())["uuid"] == store_id
            and (folder / "address").read_text().strip() == daemon.address
            and (folder / "tmp").is_dir()
            and f"pid {daemon.pid} " in (folder / "lock").read_text()
        )
    return False


@pytest.mark.parametrize("part", ["", "lock", "store", "address", "tmp"])
@tmpfs
def test_own_folder_removed_and_made_again(place: Place, part: str) -> None:
    daemon, client = begin(place)
    so = contents(place.store)
    store_id = client.status()["store_id"]
    folder = place.store / ".storekeeper"
    for _ in range(2):
        if part in ("lock", "store", "address"):
            (folder / part).unlink()
        else:
            remove(folder / part)
        right_or_refused(client, so, rounds=1)
        eventually(lambda: whole(daemon, store_id), SETTLE_S)
    settle(client, place.store)
    assert contents(place.store) == so
    assert client.put(b"new", key="new") == "new"
    assert client.put(bytes(5 << 20), key="long") == "long"
    fill(place.store, ["b0"])
    settle(client, place.store)
    second = subprocess.run(
        [sys.executable, "-m", "storekeeperd", "serve", str(place.store), "--address", f"ipc://{place.base}/second"],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert second.returncode == EX_TEMPFAIL, second.stderr  # the lock is held
    assert f"pid {daemon.pid}" in second.stderr
    if not part:
        lost(client, "own_folder_gone")


@tmpfs
def test_a_store_that_another_daemon_took_over_is_left_to_it(place: Place) -> None:
    """The lock file was removed, and a second daemon came before the first could see it: one of them serves."""
    daemon, client = begin(place)
    daemon.process.send_signal(signal.SIGSTOP)
    (place.store / ".storekeeper" / "lock").unlink()
    second = place.start()
    other = place.client(second)
    settle(other, place.store)
    daemon.process.send_signal(signal.SIGCONT)
    away(client, place.store, "a3")
    assert other.put(b"new", key="new") == "new"
    time.sleep(1.2)  # a check of each
    settle(other, place.store)
    assert client.status()["store_away"]
    assert second.stop() == 0
    settle(client, place.store, ["new"])
    assert whole(daemon, client.status()["store_id"])


# -- namespaces


@ext4
def test_a_namespaces_folder_removed_replaced_and_mounted_over(place: Place) -> None:
    reason = mounts.cannot_mount()
    if not reason:
        place.mounts  # noqa: B018 - daemons run in it from now on
    daemon, _ = begin(place, "--namespace", "ns", "--namespace", "still")
    client, still = place.client(daemon, namespace="ns"), place.client(daemon, namespace="still")
    plain = place.client(daemon)
    store = place.seen(place.store)
    folder, away_folder = store / "ns", store / "ns-away"
    fill(folder, NAMES)
    fill(store / "still", NAMES)
    settle(client, folder)
    names = [*NAMES, "only-in-decoy"]

    remove(folder)
    eventually(folder.is_dir, SETTLE_S)  # made again
    settle(client, folder, names)
    assert client.put(b"new", key="a3") == "a3"
    fill(folder, ["a4", "a5"])
    settle(client, folder, names)
    lost(client, "directory_moved")

    folder.rename(away_folder)
    decoy(folder, NAMES) if not folder.exists() else fill(folder, ["b7"])  # the daemon may be quicker
    settle(client, folder, names)
    settle(plain, store, names)

    folder.rename(store / "ns-other")
    with contextlib.suppress(OSError):
        folder.rmdir()  # what the daemon made
    with contextlib.suppress(FileExistsError, OSError):
        away_folder.rename(folder)
    settle(client, folder, names)

    if not reason:
        # A namespace lies on the store's own file system: this is another one, which empties nothing.
        place.mounts.mount("tmpfs", place.store / "ns")
        fill(folder, ["m0", "a3"], "mounted:")
        away(client, folder, "a3")
        away(plain, store, "a3")
        place.mounts.umount(place.store / "ns", lazy=True)
        settle(client, folder, [*names, "m0"])
    settle(still, store / "still", names)
    settle(plain, store, names)
    assert daemon.alive


# -- storms


@both
def test_overflow_while_stopped(place: Place) -> None:
    daemon, client = begin(place)
    daemon.process.send_signal(signal.SIGSTOP)
    try:
        for number in range(20_000):
            os.close(os.open(place.store / f"o{number}", os.O_CREAT | os.O_WRONLY, 0o600))
        for number in range(0, 20_000, 3):
            os.unlink(place.store / f"o{number}")
        os.unlink(place.store / "a0")
    finally:
        daemon.process.send_signal(signal.SIGCONT)
    settle(client, place.store, [*NAMES, *(f"o{number}" for number in range(0, 20_000, 7))])
    lost(client, "overflow")


class Hammer:
    """Clients that ask all the time; `wrong` has the answers that were wrong."""

    def __init__(self, place: Place, daemon: Daemon, so: dict[str, bytes]) -> None:
        self.wrong: list[str] = []
        self.put: dict[str, bytes] = {}
        self.refused = self.answered = 0
        self._so = so
        self._over = threading.Event()
        jobs = (self._ask_exists, self._ask_get, self._do_put)
        self._threads = [threading.Thread(target=self._run, args=(job, place.client(daemon))) for job in jobs]

    def __enter__(self) -> Hammer:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _run(self, job: Callable[[Client, int], None], client: Client) -> None:
        number = 0
        while not self._over.is_set():
            number += 1
            try:
                job(client, number)
                self.answered += 1
            except StoreUnavailable:
                self.refused += 1
            except Exception as error:
                self.wrong.append(f"{job.__name__}: {error!r}")
                return

    def _ask_exists(self, client: Client, number: int) -> None:
        name = NAMES[number % len(NAMES)]
        if not client.exists(name, fresh=number % 4 == 0):
            self.wrong.append(f"{name} is absent")
        if client.exists("only-in-decoy"):
            self.wrong.append("the decoy's object is there")

    def _ask_get(self, client: Client, number: int) -> None:
        name = NAMES[number % len(NAMES)]
        got = client.get(name)
        if got != self._so[name]:
            self.wrong.append(f"{name} is {got!r}")

    def _do_put(self, client: Client, number: int) -> None:
        name, content = f"p{number}", f"put {number}".encode()
        client.put(content, key=name)
        self.put[name] = content


@pytest.mark.parametrize("how", ["away", "exchange", "ancestor"])
@ext4
def test_hammered_while_renamed(place: Place, how: str) -> None:
    daemon, client = begin(place, "--namespace", "ns")
    so = contents(place.store)
    wrong = place.up / "wrong"
    decoy(wrong, NAMES)
    before = picture(wrong)
    with Hammer(place, daemon, so) as hammer:
        until = time.monotonic() + 2.5
        turn = 0
        while time.monotonic() < until:
            turn += 1
            if how == "exchange":
                exchange(place.store, wrong)
                time.sleep(0.002 * (turn % 4))
                exchange(place.store, wrong)
            elif how == "away":
                place.store.rename(place.up / "moved")
                time.sleep(0.002 * (turn % 4))
                (place.up / "moved").rename(place.store)
            else:
                place.up.rename(place.base / "moved")
                time.sleep(0.002 * (turn % 4))
                (place.base / "moved").rename(place.up)
            time.sleep(0.001 * (turn % 7))
    assert daemon.alive, daemon.log.read_text()[-3000:]
    assert hammer.wrong[:3] == []
    assert hammer.answered + hammer.refused > 10
    assert picture(wrong) == before
    settle(client, place.store)
    now = contents(place.store)
    assert {name: now.get(name) for name in hammer.put} == hammer.put
    assert "Traceback" not in daemon.log.read_text()


@tmpfs
def test_hammered_while_own_folder_is_removed(place: Place) -> None:
    daemon, client = begin(place)
    so = contents(place.store)
    with Hammer(place, daemon, so) as hammer:
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            shutil.rmtree(place.store / ".storekeeper", ignore_errors=True)
            time.sleep(0.01)
    assert daemon.alive, daemon.log.read_text()[-3000:]
    assert hammer.wrong[:3] == []
    settle(client, place.store)
    now = contents(place.store)
    assert {name: now.get(name) for name in hammer.put} == hammer.put
    eventually(lambda: whole(daemon, client.status()["store_id"]), SETTLE_S)
