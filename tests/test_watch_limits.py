"""A kernel that refuses to watch, or does not hear of everything: the daemon serves on, and every answer is right."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import mounts
from conftest import eventually
from mounts import EXT4, NOBODY, SETTLE_S, TMPFS, Place, Placed, fill, needs_mounts, needs_root, settle
from storekeeper import Client
from storekeeper.errors import DiskFailed

NAMES = [f"a{number}" for number in range(8)]

pytestmark = pytest.mark.skipif(not os.path.isdir(TMPFS), reason="no tmpfs at /dev/shm")
tmpfs = pytest.mark.parametrize("place", [TMPFS], indirect=True, ids=["tmpfs"])
ext4 = pytest.mark.parametrize("place", [EXT4], indirect=True, ids=["ext4"])


@pytest.fixture
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    yield from mounts.places(request.param)


def furnish(place: Place, uid: int = 0) -> Path:
    inside = place.seen(place.store)
    inside.mkdir(exist_ok=True)
    fill(inside, NAMES)
    if uid:
        for path in (inside, *inside.iterdir()):
            os.chown(path, uid, uid)
    return inside


def serves_unwatched(daemon: Placed, client: Client, directory: Path) -> None:
    """Sees that a daemon without a watch says so, and that every answer is right."""
    settle(client, directory, coherent=False)
    status = client.status()
    assert "watch" in status["lacks"]
    assert not status["coherent"]
    fill(directory, ["outside"])
    assert client.exists("outside")  # at once: it is looked up
    assert client.get("outside") == b"outside" * 3
    (directory / "a0").unlink()
    assert not client.exists("a0")
    assert client.get("a0") is None
    assert client.put(b"new", key="new") == "new"
    assert client.evict("a1")
    settle(client, directory, [*NAMES, "new", "outside"], coherent=False)
    fill(directory, ["by-the-clock"])
    assert "by-the-clock" in client.list()
    assert daemon.alive


def said_once(daemon: Placed, *words: str) -> None:
    """Sees that exactly one line of the log says why there is no watch."""
    lines = [line for line in daemon.log.read_text().splitlines() if "not watching" in line]
    assert len(lines) == 1, lines
    assert all(word in lines[0] for word in words), lines


def watches_again(client: Client, place: Place, directory: Path) -> None:
    """A store that comes back is watched anew at once: the cheap way to try again."""
    place.store.rename(place.up / "moved")
    eventually(lambda: client.status()["store_away"], SETTLE_S)
    (place.up / "moved").rename(place.store)
    eventually(lambda: client.status()["watch"] == "inotify", SETTLE_S)
    settle(client, directory, [*NAMES, "new", "outside"])
    assert "watch" not in client.status()["lacks"]
    fill(directory, ["heard"])
    eventually(lambda: "heard" in client.list(), SETTLE_S)


# -- limits of the kernel

_USE_UP = """
import ctypes, sys
libc = ctypes.CDLL(None)
while libc.inotify_init1(0o2000000) >= 0:
    pass
print(flush=True)
sys.stdin.read()
"""


@needs_root
@tmpfs
def test_no_inotify_instances_left(place: Place) -> None:
    if int(Path("/proc/sys/fs/inotify/max_user_instances").read_text()) > 900:
        pytest.skip("too many inotify instances to use up")
    uid = 61_000 + os.getpid() % 4_000  # nobody's: a limit of its own
    directory = furnish(place, uid)
    command = ["setpriv", "--reuid", str(uid), "--regid", str(uid), "--clear-groups", sys.executable, "-c", _USE_UP]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as helper:
        assert helper.stdin is not None
        assert helper.stdout is not None
        assert helper.stdout.readline() == b"\n"
        daemon = place.start(uid=uid)
        client = place.client(daemon)
        serves_unwatched(daemon, client, directory)
        said_once(daemon, "fs.inotify.max_user_instances", f"uid {uid}")
        assert "max_user_instances" in client.status()["watch"]
        helper.stdin.close()
        helper.wait(20)
    watches_again(client, place, directory)


@needs_mounts
@tmpfs
def test_no_inotify_watches_left(place: Place) -> None:
    limit = "/proc/sys/user/max_inotify_watches"
    within = ["unshare", "-Ur", "sh", "-c", f'echo 1 > {limit} && exec "$@"', "sh"]
    if subprocess.run([*within, "true"], capture_output=True).returncode:
        pytest.skip("user namespaces are not allowed here")
    directory = furnish(place)
    daemon = place.start(prefix=within)
    client = place.client(daemon)
    serves_unwatched(daemon, client, directory)
    said_once(daemon, "fs.inotify.max_user_watches")
    assert "max_user_watches" in client.status()["watch"]
    raised = ["nsenter", "-U", "-t", str(daemon.pid), "--preserve-credentials", "sh", "-c", f"echo 1000 > {limit}"]
    subprocess.run(raised, check=True)
    watches_again(client, place, directory)


def start_unreadable(place: Place) -> Placed:
    config = place.base / "config.toml"
    config.write_text(f'store = "{place.store}"\n')
    place.store.chmod(0o733)
    return place.start("--config", str(config), uid=NOBODY, named=False)


@needs_root
@ext4
def test_a_directory_that_may_not_be_read_on_the_command_line(place: Place) -> None:
    directory = furnish(place)
    directory.chmod(0o733)
    assert place.client(place.start(uid=NOBODY)).exists("a3")


@needs_root
@ext4
def test_a_directory_that_may_not_be_read(place: Place) -> None:
    """It may be entered and written, so objects are served; nobody can list them."""
    directory = furnish(place)
    for name in NAMES:
        (directory / name).chmod(0o444)
    daemon = start_unreadable(place)
    client = place.client(daemon)
    eventually(lambda: "watch" in client.status()["lacks"], SETTLE_S)
    for name in NAMES:
        assert client.exists(name)
        assert client.get(name) == name.encode() * 3
    assert client.put(b"new", key="new") == "new"
    assert client.put(bytes(5 << 20), key="long") == "long"
    assert client.evict("a1")
    (directory / "a0").unlink()
    fill(directory, ["outside"])
    (directory / "outside").chmod(0o444)
    so = mounts.contents(directory)
    asked = [*NAMES, "new", "long", "outside"]
    assert list(client.exists_batch(asked)) == [name in so for name in asked]
    assert list(client.get_batch(asked)) == [so.get(name) for name in asked]
    time.sleep(3.2)
    said_once(daemon, "read permission", f"uid {NOBODY}", str(place.store))
    lines = [line for line in daemon.log.read_text().splitlines() if "scan failed" in line]
    assert len(lines) <= 2, f"{len(lines)} lines in three seconds: {lines[0]}"
    directory.chmod(0o777)
    watches_again(client, place, directory)


@needs_root
@ext4
@pytest.mark.parametrize("options", [("--watch", "scan"), ()], ids=["scan", "auto"])
def test_a_namespace_that_may_not_be_read_does_not_concern_the_others(place: Place, options: tuple[str, ...]) -> None:
    directory = furnish(place, uid=NOBODY)
    daemon = place.start("--namespace", "team", *options, uid=NOBODY)
    client, team = place.client(daemon), place.client(daemon, namespace="team")
    team.put(b"bytes", key="k")
    (directory / "team").chmod(0)
    scans = client.status()["scans"]
    fill(directory, ["more"])
    client.list(fresh=True)
    if options:
        eventually(lambda: client.status()["scans"] > scans + 1, SETTLE_S)
        for ask in (team.list, team.usage):
            with pytest.raises(DiskFailed, match="Permission denied"):
                ask(fresh=True)
    with pytest.raises(DiskFailed):
        team.exists("unknown")
    assert client.list(fresh=True) == sorted([*NAMES, "more"])
    assert client.usage(fresh=True)["objects"] == len(NAMES) + 1
    assert client.get("a3") is not None
    (directory / "team").chmod(0o700)
    eventually(lambda: _answers(team) == ["k"], SETTLE_S)
    assert team.get("k") == b"bytes"


def _answers(client: Client) -> object:
    try:
        return client.list(fresh=True)
    except DiskFailed as refused:
        return refused


@needs_root
@ext4
def test_a_list_of_a_directory_that_may_not_be_read(place: Place) -> None:
    """It cannot be answered; so it is refused, and does not hang until the deadline."""
    furnish(place)
    client = start_unreadable(place).client(timeout=6)
    try:
        began = time.monotonic()
        with pytest.raises(mounts.Refusals):
            client.list()
        assert time.monotonic() - began < 5
    finally:
        client.close()


@pytest.mark.parametrize("options", [("--watch", "scan"), ("--watch", "scan", "--namespace", "ns")], ids=["", "ns"])
@tmpfs
def test_scan_alone(place: Place, options: tuple[str, ...]) -> None:
    directory = furnish(place)
    daemon = place.start(*options)
    client = place.client(daemon)
    serves_unwatched(daemon, client, directory)
    assert client.status()["watch"] == "scan"
    assert "not watching" not in daemon.log.read_text()
    if "ns" in options:
        folder, in_ns = place.store / "ns", place.client(daemon, namespace="ns")
        fill(folder, NAMES)
        settle(in_ns, folder, coherent=False)
    place.store.rename(place.up / "moved")
    eventually(lambda: client.status()["store_away"], SETTLE_S)
    fill(place.up / "moved", ["meanwhile"])
    (place.up / "moved").rename(place.store)
    settle(client, directory, coherent=False)
    assert client.status()["watch"] == "scan"


# -- changes that nobody hears of


def overlay(place: Place) -> tuple[Path, Path]:
    """Makes the store an overlay mount; returns the directories below, as seen from here."""
    layers = place.base / "layers"
    layers.mkdir()
    place.store.mkdir()
    place.mounts.mount("tmpfs", layers)
    for name in ("lower", "upper", "work"):
        place.seen(layers / name).mkdir()
    fill(place.seen(layers / "lower"), ["from-below"])
    options = f"lowerdir={layers}/lower,upperdir={layers}/upper,workdir={layers}/work"
    try:
        place.mounts.mount("overlay", place.store, "-o", options)
    except AssertionError as error:
        pytest.skip(f"no overlay here: {error}")
    return place.seen(layers / "upper"), place.seen(layers / "lower")


@needs_mounts
@ext4
def test_changes_below_an_overlay_are_found_by_the_clock(place: Place) -> None:
    upper, lower = overlay(place)
    directory = furnish(place)
    daemon = place.start()
    client = place.client(daemon)
    settle(client, directory)
    status = client.status()
    assert (status["watch"], status["file_system"], status["lacks"]) == ("inotify and scan", "overlay", [])
    assert "from-below" in client.list()
    fill(directory, ["through"])  # heard of
    eventually(lambda: "through" in client.list(), SETTLE_S)
    fill(upper, ["in-upper"])
    fill(lower, ["in-lower"])
    eventually(lambda: {"in-upper", "in-lower"} <= set(client.list()), SETTLE_S)
    fill(upper, ["in-upper-too"])
    assert "in-upper-too" in client.list(fresh=True)  # a scan that begins after the question
    assert client.exists("in-upper-too")
    settle(client, directory)


@needs_mounts
@ext4
def test_watch_inotify_believes_the_watch_alone(place: Place) -> None:
    upper, _ = overlay(place)
    directory = furnish(place)
    client = place.client(place.start("--watch", "inotify"))
    settle(client, directory)
    status = client.status()
    assert (status["watch"], status["file_system"]) == ("inotify", "overlay")
    assert status["scan_every_s"] > 60
    fill(upper, ["in-upper"])
    fill(directory, ["through"])
    eventually(lambda: "through" in client.list(), SETTLE_S)
    assert "in-upper" not in client.list()  # as it was told: nothing is heard of it
    assert client.exists("in-upper")  # but "it is not there" is always looked up
