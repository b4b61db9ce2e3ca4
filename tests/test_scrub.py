"""scrub.py: every object held against its checksum, damaged ones found, moved away, and never served."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import Daemon, eventually
from storekeeper import Client
from storekeeper.errors import CorruptObject
from storekeeperd.scrub import Scrub

MIB = 1024 * 1024


def damage(path: Path) -> None:
    """Turns one bit in the middle, as a bad disk does: neither size nor attribute change."""
    path.chmod(0o640)
    with open(path, "r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))
    path.chmod(0o440)


def quarantined(store: Path) -> list[str]:
    folder = store / ".storekeeper/quarantine"
    return sorted(path.name.split("-", 1)[1] for path in folder.iterdir()) if folder.exists() else []


@pytest.fixture(autouse=True)
def _attributes(tmp_path: Path) -> None:
    try:
        os.setxattr(tmp_path, "user.storekeeper", b"")
    except OSError:
        pytest.skip("the file system of tmp_path has no user attributes: there are no checksums")


def command(store: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "storekeeperd", "scrub", str(store), *options],
        capture_output=True,
        text=True,
        timeout=60,
    )


# -- what the daemon serves


@pytest.mark.parametrize("size", [1, 5000, 100_000, 3 * MIB])
def test_a_damaged_object_is_never_served_and_moved_away(daemon: Daemon, client: Client, size: int) -> None:
    key = client.put(os.urandom(size))
    damage(daemon.store / key)
    with pytest.raises(CorruptObject, match="put it again"):
        client.get(key)
    eventually(lambda: client.get(key) is None)
    assert not client.exists(key)
    assert quarantined(daemon.store) == [key]
    assert client.put(b"again", key=key) == key
    assert client.get(key) == b"again"
    eventually(lambda: "is corrupt; moved to" in daemon.log.read_text())  # a thread of its own writes the log


def test_the_rest_of_a_batch_is_served(daemon: Daemon, client: Client) -> None:
    keys = client.put_batch([b"one", b"two", b"three"])
    damage(daemon.store / keys[1])
    with pytest.raises(Exception) as failure:
        client.get_batch(keys)
    results = failure.value.results  # type: ignore[attr-defined]
    assert (results[0], results[2]) == (b"one", b"three")
    assert isinstance(results[1], CorruptObject)


def test_a_large_object_is_verified_when_asked_for(daemon: Daemon, client: Client) -> None:
    key = client.put(os.urandom(9 * MIB))
    assert client.verify(key) is True
    damage(daemon.store / key)
    with pytest.raises(CorruptObject):
        client.verify(key)
    assert client.verify(key) is None
    assert quarantined(daemon.store) == [key]


def test_of_what_no_daemon_put_nothing_can_be_told(daemon: Daemon, client: Client) -> None:
    (daemon.store / "theirs").write_bytes(b"bytes")
    assert client.verify("theirs") is None
    assert client.get("theirs") == b"bytes"
    assert client.verify("nothing") is None


def test_an_object_of_a_namespace_is_moved_away_too(start_daemon: Callable[..., Daemon]) -> None:
    daemon = start_daemon("--namespace", "team")
    with daemon.client(namespace="team") as client:
        client.put(b"bytes", key="k")
        damage(daemon.store / "team" / "k")
        with pytest.raises(CorruptObject):
            client.get("k")
        eventually(lambda: client.get("k") is None)
    assert quarantined(daemon.store) == ["team+k"]


def test_the_marker_of_a_damaged_object_goes_with_it(start_daemon: Callable[..., Daemon]) -> None:
    daemon = start_daemon("--ready-markers")
    with daemon.client() as client:
        client.put(b"bytes", key="k")
        damage(daemon.store / "k")
        with pytest.raises(CorruptObject):
            client.verify("k")
        assert not (daemon.store / "k.ready").exists()


# -- the command


def test_a_scrub_finds_exactly_what_is_damaged_while_the_daemon_runs(daemon: Daemon, client: Client) -> None:
    keys = client.put_batch([os.urandom(2000) for _ in range(100)])
    large = client.put(os.urandom(9 * MIB))
    (daemon.store / "theirs").write_bytes(b"bytes")
    assert command(daemon.store).returncode == 0
    bad = sorted([keys[7], keys[70], large])
    for key in bad:
        damage(daemon.store / key)
    found = command(daemon.store, "--json")
    assert found.returncode == 1
    told = json.loads(found.stdout)
    assert sorted(told["damaged"]) == bad
    assert (told["objects"], told["unknown"]) == (102, 1)
    assert client.exists_batch(bad) == [True] * 3
    repaired = command(daemon.store, "--repair")
    assert repaired.returncode == 1
    assert repaired.stdout.count("moved to .storekeeper/quarantine") == 3
    assert client.exists_batch(bad) == [False] * 3
    assert quarantined(daemon.store) == bad
    assert command(daemon.store).returncode == 0


def test_a_store_without_a_daemon_is_scrubbed_and_repaired(daemon: Daemon, client: Client) -> None:
    keys = client.put_batch([b"one", b"two"])
    assert daemon.stop() == 0
    damage(daemon.store / keys[0])
    told = json.loads(command(daemon.store, "--repair", "--json").stdout)
    assert told["damaged"] == {keys[0]: "moved to .storekeeper/quarantine"}
    daemon.start()
    assert client.get_batch(keys) == [None, b"two"]


def test_a_scrub_that_is_interrupted_goes_on_where_it_stopped(daemon: Daemon, client: Client) -> None:
    client.put_batch([os.urandom(MIB) for _ in range(20)])
    arguments = [sys.executable, "-m", "storekeeperd", "scrub", str(daemon.store), "--rate", "10"]
    process = subprocess.Popen(arguments, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    time.sleep(1.0)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "the same command goes on from here" in said
    halfway = Scrub(daemon.store, (), 0.0, restart=False)
    assert halfway.resumed
    assert 0 < halfway.tally.objects < 20
    assert len(halfway) == 20 - halfway.tally.objects
    rest = command(daemon.store, "--json")
    assert json.loads(rest.stdout)["objects"] == 20
    again = command(daemon.store, "--json")
    assert json.loads(again.stdout)["objects"] == 20


def test_a_restart_looks_at_everything_again(daemon: Daemon, client: Client) -> None:
    client.put_batch([b"one", b"two", b"three"])
    work = Scrub(daemon.store, (), 0.0, restart=False)
    next(work.walk())
    assert work.save()
    assert len(Scrub(daemon.store, (), 0.0, restart=False)) == 2
    assert len(Scrub(daemon.store, (), 0.0, restart=True)) == 3


def test_a_scrub_reads_no_faster_than_asked_for(daemon: Daemon, client: Client) -> None:
    client.put_batch([os.urandom(MIB) for _ in range(4)])
    work = Scrub(daemon.store, (), 8 * MIB, restart=True)
    began = time.monotonic()
    assert len(list(work.walk())) == 4
    assert time.monotonic() - began > 0.3


def test_what_cannot_be_read_is_told(daemon: Daemon, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    key = client.put(b"bytes")
    work = Scrub(daemon.store, (), 0.0, restart=True)

    def refuse(*_: object) -> tuple[str, int, bool]:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(work, "_prove", refuse)
    list(work.walk())
    assert work.tally.unreadable == {key: "Permission denied"}


def test_a_store_that_is_none_is_refused(tmp_path: Path) -> None:
    refused = command(tmp_path / "nothing")
    assert refused.returncode == 66
    assert refused.stderr.count("\n") == 1
