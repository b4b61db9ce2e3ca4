"""A directory that ProxyStore's FileConnector filled, with foreign things in it: served as it is, and left as it is."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from proxystore.connectors.file import FileConnector as TheirConnector
from proxystore.connectors.file import FileKey as TheirKey

from conftest import Daemon, eventually, figures
from storekeeper import Client, directory
from storekeeper.connector import FileConnector, FileKey
from storekeeper.errors import BadKey, DiskFailed, KeyExists, NotAnObject, StorekeeperError
from storekeeper.lines import somebody_listens

OBJECTS = 2000
NOBODY = 65534
PROMPT_S = 10.0
"""What does not wait for anybody is done in that time, however busy the machine."""


@dataclass
class Filled:
    """A directory, and what is known to be in it.

    Attributes:
        store: where it is.
        objects: names and bytes.
        foreign: names that are keys, and names of no key, by kind as `doctor` calls it.
    """

    store: Path
    objects: dict[str, bytes] = field(default_factory=dict)
    foreign: dict[str, set[bytes]] = field(default_factory=dict)

    def path(self, name: bytes) -> bytes:
        return os.path.join(os.fsencode(self.store), name)

    def keys(self, *kinds: str) -> list[str]:
        return sorted(name.decode() for kind in kinds for name in self.foreign[kind])


def fill(store: Path, count: int) -> Filled:
    """Makes a store by means of ProxyStore, and things in it that are no objects."""
    filled = Filled(store)
    chance = random.Random(1)
    theirs = TheirConnector(str(store), clear=False)
    for number in range(count):
        data = chance.randbytes(number % 700)
        filled.objects[theirs.put(data).filename] = data
    special = {
        "x.ready": b"bytes in something named like a marker",
        "empty": b"",
        "with spaces and ünïcödé": b"named",
        "two\nlines": b"named",
        "large": chance.randbytes(9 << 20),
        "k" * 249: b"a name as long as ProxyStore can have it",
    }
    for name, data in special.items():
        theirs.set(TheirKey(name), data)
    filled.objects.update(special)
    theirs.close()
    (store / "lonely").write_bytes(b"written without a marker")
    filled.objects["lonely"] = b"written without a marker"
    add_foreign(filled)
    return filled


def add_foreign(filled: Filled) -> None:
    store = filled.store
    for folder in ("folder", "folder/deeper", "folder.ready"):
        (store / folder).mkdir()
    (store / "folder" / "file").write_bytes(b"in a folder")
    (store / "folder" / "deeper" / "file").write_bytes(b"in a deeper folder")
    (store / "dangling").symlink_to("nothing")
    (store / "to-file").symlink_to("lonely")
    (store / "to-folder").symlink_to("folder")
    (store / "to-outside").symlink_to("/etc/hostname")
    for name in ("fifo", "fifo.ready"):
        os.mkfifo(store / name)
    descriptor = os.open(store, os.O_PATH | os.O_DIRECTORY)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(f"/proc/self/fd/{descriptor}/sock")  # shorter than the path may be
    os.close(descriptor)
    for name in (b"not-utf8-\xff\xfe", b"\x80", b"cut-\xc3"):
        Path(os.fsdecode(filled.path(name))).write_bytes(b"no key")
    for name in (".hidden", ".hidden.ready", "...", "orphan.ready"):
        (store / name).touch()
    (store / ".folder").mkdir()
    filled.foreign = {
        "directory": {b"folder", b"folder.ready"},
        "link": {b"dangling", b"to-file", b"to-folder", b"to-outside"},
        "special": {b"fifo", b"fifo.ready", b"sock"},
        "name": {b"not-utf8-\xff\xfe", b"\x80", b"cut-\xc3"},
        "marker": {name.encode() + b".ready" for name in filled.objects if name != "lonely"} | {b"orphan.ready"},
    }


def snapshot(filled: Filled) -> dict[bytes, object]:
    """Returns all that can be seen of everything in the directory but the daemon's own folder."""
    seen: dict[bytes, object] = {}
    top = os.fsencode(filled.store)
    for folder, folders, files in os.walk(top):
        folders[:] = [name for name in folders if name != b".storekeeper"]
        for name in (*folders, *files):
            path = os.path.join(folder, name)
            found = os.lstat(path)
            content: object = None
            if stat.S_ISREG(found.st_mode):
                content = Path(os.fsdecode(path)).read_bytes()
            elif stat.S_ISLNK(found.st_mode):
                content = os.readlink(path)
            numbers = (found.st_mode, found.st_ino, found.st_nlink, found.st_uid, found.st_gid, found.st_size)
            seen[os.path.relpath(path, top)] = (*numbers, found.st_mtime_ns, found.st_ctime_ns, content)
    return seen


def changes(before: dict[bytes, object], after: dict[bytes, object]) -> dict[bytes, tuple[object, object]]:
    """Returns what is different, with what it was and is."""
    names = before.keys() | after.keys()
    return {name: (before.get(name), after.get(name)) for name in names if before.get(name) != after.get(name)}


def examine(store: Path, *options: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "storekeeperd", "doctor", str(store), *options]
    return subprocess.run(command, capture_output=True, timeout=60)


@pytest.fixture
def filled(tmp_path: Path) -> Iterator[Filled]:
    """A filled directory; nobody has it yet."""
    yield fill(tmp_path / "store", OBJECTS)
    shutil.rmtree(tmp_path / "store")


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Filled]:
    """The same with few objects."""
    yield fill(tmp_path / "store", 20)
    shutil.rmtree(tmp_path / "store")


@pytest.fixture
def their(tmp_path: Path) -> TheirConnector:
    """ProxyStore's own connector to the store, unmodified."""
    return TheirConnector(str(tmp_path / "store"), clear=False)


# -- served


def test_every_object_is_served_under_its_old_name(filled: Filled, start_daemon: Callable[..., Daemon]) -> None:
    daemon = start_daemon()
    names = sorted(filled.objects)
    with daemon.client() as client:
        assert set(client.list()) ^ set(names) == set()
        assert client.list(fresh=True) == client.list()
        assert client.exists_batch(names) == [True] * len(names)
        for name, data in zip(names, client.get_batch(names), strict=True):
            assert data == filled.objects[name], name
        truth = {"objects": len(names), "bytes": sum(map(len, filled.objects.values())), "objects_not_sized": 0}
        assert figures(client.usage(fresh=True)) == truth
        info = client.stat("x.ready")
        assert info is not None
        assert info.size == len(filled.objects["x.ready"])
    connector = FileConnector(filled.store)
    try:
        keys = [FileKey(name) for name in names]
        assert connector.get_batch(keys) == [filled.objects[name] for name in names]
        assert all(connector.exists(key) for key in random.Random(2).sample(keys, 100))
        assert connector.get(TheirKey("large")) == filled.objects["large"]  # a key that ProxyStore made
    finally:
        connector.close()
    with daemon.client() as client:
        assert client.status()["pid"] == daemon.pid
    assert int((filled.store / ".storekeeper" / "lock").read_text().split()[1]) == daemon.pid  # no second daemon


def test_our_connector_alone_adopts_the_directory(small: Filled) -> None:
    with FileConnector(small.store) as connector:
        try:
            for name, data in small.objects.items():
                assert connector.get(FileKey(name)) == data, name
            assert not connector.exists(FileKey("empty.ready"))
        finally:
            address = directory.find_daemon(small.store, time.monotonic() + 5)
            assert address is not None
            with Client(address) as client:
                os.kill(client.status()["pid"], signal.SIGTERM)
            eventually(lambda: not somebody_listens(address))


def test_status_and_doctor_name_what_is_foreign(small: Filled, start_daemon: Callable[..., Daemon]) -> None:
    said_before = examine(small.store, "--json")  # before there is a daemon, and any folder of ours
    daemon = start_daemon()
    counts = {kind: len(names) for kind, names in small.foreign.items()}
    with daemon.client() as client:
        client.list(fresh=True)
        status = client.status()
        assert status["foreign_kinds"] == counts
        assert status["foreign"] == sum(counts.values())
        assert status["objects"] == len(small.objects)
    expected = Counter(
        (name.decode("utf-8", "backslashreplace"), kind) for kind, names in small.foreign.items() for name in names
    )
    for said in (said_before, examine(small.store, "--json")):
        assert said.returncode == 1
        assert not said.stderr
        findings = [json.loads(line) for line in said.stdout.splitlines()]
        assert Counter((one["name"], one["kind"]) for one in findings) == expected
        assert all(one["advice"] for one in findings)
    told = examine(small.store)
    assert told.returncode == 1
    lines = told.stdout.decode().splitlines()
    assert str(small.store) in lines[0]
    assert len(lines) == 1 + sum(counts.values())
    for name, _ in expected:
        assert sum(line.startswith(f"{name!r}: ") for line in lines) == 1, name


def test_a_healthy_store_leaves_doctor_nothing_to_say(daemon: Daemon, client: Client) -> None:
    client.put(b"bytes", key="k")
    said = examine(daemon.store, "--json")
    assert (said.returncode, said.stdout, said.stderr) == (0, b"", b"")


# -- left alone


def refused(error: type[StorekeeperError], call: Callable[[], object]) -> bool:
    try:
        call()
    except error:
        return True
    return False


@pytest.mark.parametrize("options", [(), ("--ready-markers",)], ids=["plain", "markers"])
def test_nothing_foreign_is_changed_by_a_session(
    filled: Filled, start_daemon: Callable[..., Daemon], options: tuple[str, ...]
) -> None:
    daemon = start_daemon(*options)
    before = snapshot(filled)
    keys = filled.keys("directory", "link", "special")
    markers = filled.keys("marker")[:50] + ["orphan.ready"]
    with daemon.client(timeout=PROMPT_S) as client:
        for _ in range(2):
            assert client.exists_batch(keys) == client.exists_batch(keys, fresh=True) == [False] * len(keys)
            assert client.get_batch([*keys, *markers]) == [None] * len([*keys, *markers])
            assert client.exists_batch(markers) == [False] * len(markers)
            assert client.evict_batch([*keys, *markers]) == [False] * len([*keys, *markers])
            for key in keys:
                assert client.stat(key) is None
                assert refused(NotAnObject, lambda key=key: client.put(b"mine", key=key)), key  # type: ignore[misc]
                assert refused(NotAnObject, lambda key=key: client.put(b"mine", key=key, replace=True)), key  # type: ignore[misc]
            mine = client.put_batch([b"one", b"two", bytes(5 << 20)])
            client.put(b"mine", key="mine", durability="disk")
            assert client.put(filled.objects["lonely"], key="empty-folder") == "empty-folder"
            assert refused(KeyExists, lambda: client.put(b"other", key="x.ready"))
            assert refused(BadKey, lambda: client.put(b"", key="new.ready"))
            assert len(client.list(fresh=True)) == len(filled.objects) + 5
            assert client.evict_batch([*mine, "mine", "empty-folder"]) == [True] * 5
            assert client.get("large") == filled.objects["large"]
            assert daemon.stop() == 0
            daemon.start()
            assert len(client.list()) == len(filled.objects)
        client.status()
    assert examine(filled.store).returncode == 1
    assert changes(before, snapshot(filled)) == {}
    with daemon.client() as client:  # objects are ours to remove and replace, their neighbours still are not
        evicted = [name for name in filled.objects if name not in ("x.ready", "empty")][:300]
        assert client.evict_batch(evicted) == [True] * len(evicted)
        client.put(b"other", key="empty", replace=True)
    gone = {os.fsencode(name) for name in evicted}
    if options:
        gone |= {name + b".ready" for name in gone if name != b"lonely"}
    changed = changes(before, snapshot(filled))
    assert changed.keys() ^ (gone | {b"empty"}) == set()
    assert all(changed[name][1] is None for name in gone)


def test_a_foreign_marker_is_not_replaced_by_an_object(small: Filled, start_daemon: Callable[..., Daemon]) -> None:
    daemon = start_daemon()
    before = snapshot(small)
    with daemon.client() as client:
        for key in ("orphan.ready", "empty.ready"):
            assert not client.exists(key)
            with contextlib.suppress(StorekeeperError):
                client.put(b"bytes", key=key)
            with contextlib.suppress(StorekeeperError):
                client.put(b"bytes", key=key, replace=True)
    assert changes(before, snapshot(small)) == {}


def test_who_waits_at_a_fifo_is_not_disturbed(small: Filled, start_daemon: Callable[..., Daemon]) -> None:
    daemon = start_daemon()
    script = "import os, sys; print('waits', flush=True); os.open(sys.argv[1], os.O_WRONLY); print('came', flush=True)"
    command = [sys.executable, "-I", "-S", "-c", script, str(small.store / "fifo")]
    with daemon.client(timeout=PROMPT_S) as client, subprocess.Popen(command, stdout=subprocess.PIPE) as waits:
        try:
            assert waits.stdout is not None
            assert waits.stdout.readline() == b"waits\n"
            time.sleep(0.3)
            for verb, call in (
                ("exists", lambda: not client.exists("fifo", fresh=True)),
                ("stat", lambda: client.stat("fifo") is None),
                ("evict", lambda: not client.evict("fifo")),
                ("put", lambda: refused(NotAnObject, lambda: client.put(b"mine", key="fifo", replace=True))),
                ("get", lambda: client.get("fifo") is None),
                ("large get", lambda: client.get_batch(["large", "fifo"])[1] is None),
            ):
                assert waits.poll() is None
                assert call()
                time.sleep(0.1)
                assert waits.poll() is None, f"{verb} opened the fifo: its writer went on, with nobody to read"
        finally:
            waits.kill()


# -- what may not be read

AS_NOBODY = """
import ctypes, encodings.ascii, encodings.idna, faulthandler, os
import storekeeperd.cli, storekeeperd.__main__
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE, as after exec: /proc/self is root's otherwise
storekeeperd.__main__.main()
"""
"""As setpriv does it, but after the imports: that user may be unable to reach this Python."""


class NobodysDaemon(Daemon):
    def start(self) -> Daemon:
        command = [sys.executable, "-c", AS_NOBODY, "serve", str(self.store), "--address", self.address]
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen([*command, *self.options], stderr=log)
        eventually(lambda: somebody_listens(self.address), 20)
        return self


def test_files_that_may_not_be_read_are_named_and_left_alone() -> None:
    with tempfile.TemporaryDirectory(prefix="storekeeper-test-") as name:
        base = Path(name)
        filled = fill(base / "store", 50)
        unreadable = {f"unreadable-{number}" for number in range(3)}
        for key in unreadable:
            (filled.store / key).write_bytes(b"secret")
            (filled.store / key).chmod(0)
        (filled.store / "closed").mkdir(mode=0)
        if os.geteuid() == 0:
            for path in (base, filled.store):
                os.chown(path, NOBODY, NOBODY)
        before = snapshot(filled) if os.geteuid() == 0 else {}
        daemon = NobodysDaemon(filled.store, f"ipc://{base}/socket")
        try:
            daemon.start()
            if os.geteuid() == 0:
                assert f"Uid:\t{NOBODY}" in Path(f"/proc/{daemon.pid}/status").read_text()
            with daemon.client(timeout=PROMPT_S) as client:
                assert client.status()["watch"] == "inotify"
                assert set(client.list(fresh=True)) == filled.objects.keys() | unreadable
                for key in unreadable:
                    assert client.exists(key)
                    assert client.exists(key, fresh=True)
                    for call in (
                        lambda key=key: client.get(key),  # type: ignore[misc]
                        lambda key=key: client.put(b"sesame", key=key),  # type: ignore[misc]
                    ):
                        with pytest.raises(DiskFailed, match="Permission denied"):
                            call()
                for key, data in filled.objects.items():
                    assert client.get(key) == data, key
                sizes = [*map(len, filled.objects.values()), *[len(b"secret")] * 3]
                assert figures(client.usage(fresh=True)) == {
                    "objects": len(sizes),
                    "bytes": sum(sizes),
                    "objects_not_sized": 0,
                }
            command = [sys.executable, "-c", AS_NOBODY, "doctor", str(filled.store), "--json"]
            said = subprocess.run(command, capture_output=True, timeout=60)
            found = [json.loads(line) for line in said.stdout.splitlines()]
            assert said.returncode == 1, said.stderr
            assert {one["name"] for one in found if one["kind"] == "unreadable"} == unreadable
            with daemon.client(timeout=PROMPT_S) as client:
                assert client.status()["foreign_kinds"]["directory"] == len(filled.foreign["directory"]) + 1
                assert not client.exists("closed")
                assert client.get("closed") is None  # absent, as every directory is
            assert daemon.stop() == 0
        finally:
            daemon.end()
        if os.geteuid() == 0:
            assert changes(before, snapshot(filled)) == {}
        (filled.store / "closed").chmod(0o700)


# -- side by side with unmodified FileConnectors


@pytest.fixture
def marking(start_daemon: Callable[..., Daemon]) -> Daemon:
    return start_daemon("--ready-markers")


@pytest.fixture
def ours(marking: Daemon) -> Iterator[Client]:
    with marking.client() as client:
        yield client


def test_what_is_put_here_is_read_there(marking: Daemon, ours: Client, their: TheirConnector) -> None:
    chance = random.Random(3)
    objects: dict[str, bytes] = {"k": b"bytes", "nothing": b"", "large": chance.randbytes(6 << 20)}
    for key, data in objects.items():
        ours.put(data, key=key)
    ours.put(b"precious", key="precious", durability="disk")
    objects["precious"] = b"precious"
    batch = [chance.randbytes(number) for number in range(1500)]  # more than one request carries
    objects.update(zip(ours.put_batch(batch), batch, strict=True))
    with FileConnector(marking.store) as connector:
        objects[connector.put(b"by our connector").filename] = b"by our connector"
        objects[connector.new_key().filename] = b"set"
        connector.set(FileKey(list(objects)[-1]), b"set")
    for key, data in objects.items():
        assert their.exists(TheirKey(key)), key
        assert their.get(TheirKey(key)) == data, key
        marker = os.lstat(marking.store / f"{key}.ready")
        assert stat.S_ISREG(marker.st_mode)
        assert not marker.st_size
    ours.put(b"new", key="k", replace=True)
    assert their.get(TheirKey("k")) == b"new"
    objects["k"] = b"new"
    assert ours.list(fresh=True) == sorted(objects)
    assert ours.usage(fresh=True)["objects"] == len(objects)
    assert ours.evict_batch(objects) == [True] * len(objects)
    assert not any(their.exists(TheirKey(key)) for key in objects)
    assert [name for name in os.listdir(marking.store) if name[0] != "."] == []


def test_what_is_put_there_is_read_here(marking: Daemon, ours: Client, their: TheirConnector) -> None:
    objects = {their.put(data).filename: data for data in (b"", b"one", bytes(6 << 20))}
    for key, data in objects.items():
        assert ours.exists(key)
        assert ours.get(key) == data
    assert ours.list(fresh=True) == sorted(objects)
    first, second, third = objects
    their.evict(TheirKey(first))
    assert not ours.exists(first, fresh=True)
    assert ours.get(first) is None
    assert ours.evict(second)
    assert not their.exists(TheirKey(second))
    assert their.get(TheirKey(second)) is None
    assert ours.put(objects[third], key=third) == third  # the same bytes
    assert ours.list(fresh=True) == [third]
    assert marking.stop() == 0
    marking.start()
    assert ours.list() == [third]
    assert their.exists(TheirKey(third))


def test_an_object_named_like_a_marker_is_not_harmed(marking: Daemon, ours: Client, their: TheirConnector) -> None:
    ours.put(b"an object", key="k.ready")
    ours.put(b"bytes", key="k")
    assert their.get(TheirKey("k")) == b"bytes"
    assert ours.evict("k")
    assert ours.get("k.ready") == b"an object"
    assert their.get(TheirKey("k.ready")) == b"an object"
    assert ours.list(fresh=True) == ["k.ready"]
    (marking.store / "folder.ready").mkdir()
    (marking.store / "link.ready").symlink_to("k.ready")
    for key in ("folder", "link"):
        ours.put(b"bytes", key=key)
        assert ours.evict(key)
    assert (marking.store / "folder.ready").is_dir()
    assert (marking.store / "link.ready").is_symlink()


def test_an_upload_given_up_leaves_no_marker(marking: Daemon, ours: Client) -> None:
    ours.put(b"bytes", key="k")
    with pytest.raises(KeyExists):
        ours.put(bytes(6 << 20), key="k")
    with pytest.raises(BadKey):
        ours.put(b"", key="new.ready")
    assert sorted(name for name in os.listdir(marking.store) if name[0] != ".") == ["k", "k.ready"]


@pytest.mark.parametrize("length", [249, 250, 255])
def test_a_name_too_long_for_a_marker_is_taken_whole_or_not_at_all(
    marking: Daemon, ours: Client, their: TheirConnector, length: int
) -> None:
    key = "n" * length
    for data in (b"bytes", bytes(5 << 20)):
        error: Any = None
        try:
            ours.put(data, key=key)
        except StorekeeperError as refusal:
            error = refusal
        stored = ours.get(key)
        assert stored == (None if error else data), f"{error!r}, and yet it is there"
        assert ours.evict(key) == (error is None)
        assert not their.exists(TheirKey(key))
        assert [name for name in os.listdir(marking.store) if name[0] != "."] == []
