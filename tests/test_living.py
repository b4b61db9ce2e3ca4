"""Many users and lives, with a real daemon and real processes: what clients and connectors see of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import Daemon, eventually
from storekeeper import Client
from storekeeper.connector import ProcessLifetime, StorekeeperConnector
from storekeeper.errors import BadRequest, KeyExists, NamespaceMissing, QuotaExceeded, WrongServer

TIES = """
import sys
from storekeeper import Client
store = Client(sys.argv[1])
store.put(b"x", key="tied", lifetime="process")
store.put(b"x", key="pinned", lifetime="process")
store.pin("pinned")
print("there", flush=True)
sys.stdin.read()
"""


def test_objects_expire_and_are_touched_and_pinned(client: Client, daemon: Daemon) -> None:
    for key in ("gone", "touched", "pinned"):
        client.put(b"x", key=key, ttl=0.3)
    assert client.touch("touched", 60)
    assert client.pin("pinned")
    assert not client.touch("missing", 60)
    assert not client.pin("missing")
    assert not client.unpin("missing")
    info = client.stat("touched")
    assert info is not None
    assert info.expires_in is not None
    assert 59 < info.expires_in <= 60
    time.sleep(0.45)
    assert client.exists_batch(["gone", "touched", "pinned"]) == [False, True, True]
    assert client.get("gone") is None
    eventually(lambda: not (daemon.store / "gone").exists())
    assert client.status()["evictions"] == {"expired": 1}
    assert client.unpin("pinned")
    eventually(lambda: not client.exists("pinned"), 1.0)
    with pytest.raises(BadRequest, match="ttl or lifetime"):
        client.touch("touched")
    assert client.touch("touched", 0)
    info = client.stat("touched")
    assert info is not None
    assert info.expires_in is None


@pytest.mark.parametrize("restart", [False, True])
def test_objects_end_with_their_process_also_across_a_restart(client: Client, daemon: Daemon, restart: bool) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", TIES, daemon.address], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        info = client.stat("tied")
        assert info is not None
        assert info.process == child.pid
        if restart:
            daemon.kill()
            daemon.start()
            assert client.exists("tied")
        child.kill()
        child.wait()
        eventually(lambda: not client.exists("tied"), 2.0)
    assert client.exists("pinned")
    client.unpin("pinned")
    eventually(lambda: not client.exists("pinned"), 2.0)


def test_a_listing_is_filtered_sorted_and_paged_as_a_sorted_list_would_be(client: Client) -> None:
    sizes = {f"k{number:02}": number * 7 % 10 for number in range(30)}
    for key, size in sizes.items():
        client.put(bytes(size), key=key)
    by_size = sorted(sizes, key=lambda key: (sizes[key], key))
    for limit in (None, 7):
        assert [info.key for info in client.list_info(sort="size", limit=limit)] == by_size[:limit]
        backwards = client.list_info(sort="size", reverse=True, limit=limit)
        assert [info.key for info in backwards] == by_size[::-1][:limit]
        large = [info.key for info in client.list_info(larger_than=4, limit=limit, fresh=True)]
        assert large == [key for key in sorted(sizes) if sizes[key] > 4][:limit]
    assert client.list_info(owner=os.geteuid() + 1) == []
    found: list[str] = []
    while page := client.list_info(after=found[-1] if found else "", limit=8):
        found += [info.key for info in page]
    assert found == sorted(sizes)
    assert client.list_info(limit=0) == []


def test_namespaces_are_made_and_dropped(client: Client, daemon: Daemon) -> None:
    client.create_namespace("lab", bytes_max=8192, read=["*"])
    with pytest.raises(KeyExists):
        client.create_namespace("lab")
    told = client.namespaces()
    assert told["lab"]["you_may"] == ["read", "write", "manage"]
    with daemon.client(namespace="lab") as lab:
        lab.put(bytes(5000), key="k")
        with pytest.raises(QuotaExceeded, match="namespace 'lab' may hold 8192 bytes in whole blocks and holds 8192"):
            lab.put(b"x", key="l")
        with pytest.raises(BadRequest, match="not empty"):
            client.drop_namespace("lab")
        daemon.kill()
        daemon.start()
        assert lab.get("k") == bytes(5000)
        assert lab.usage()["bounds"]["namespace_bytes_max"] == {"bound": 8192, "used": 8192}
        lab.evict("k")
        client.drop_namespace("lab")
        with pytest.raises(NamespaceMissing):
            lab.exists("k")
    assert not (daemon.store / "lab").exists()


@pytest.mark.parametrize("told", [1, [], {"read": ["no such user"]}, {"unknown": 1}])
def test_only_root_uses_a_namespace_whose_settings_are_damaged(
    start_daemon: Callable[..., Daemon], tmp_path: Path, told: object
) -> None:
    (tmp_path / "store" / ".storekeeper").mkdir(parents=True)
    (tmp_path / "store" / ".storekeeper" / "namespaces").write_text(json.dumps({"lab": told}))
    daemon = start_daemon()
    with daemon.client() as client:
        assert set(client.namespaces()) == {"default", "lab"}
    assert "namespace lab: " in daemon.log.read_text()
    assert "only root may use that namespace" in daemon.log.read_text()


def test_another_server_than_expected_is_sent_nothing(daemon: Daemon) -> None:
    with Client(daemon.address, server=os.geteuid()) as right:
        assert right.list() == []
    with Client(daemon.address, server=os.geteuid() + 1) as wrong, pytest.raises(WrongServer, match="nothing was sent"):
        wrong.put(b"secret", key="k")
    with pytest.raises(ValueError, match="no such user"):
        Client(daemon.address, server="no such user")


def test_a_connector_gives_objects_lives(daemon: Daemon, client: Client) -> None:
    connector = StorekeeperConnector(daemon.address)
    key = connector.put(b"x", ttl=60)
    info = client.stat(key.key)
    assert info is not None
    assert info.expires_in is not None
    tied = connector.put_batch([b"a", b"b"], lifetime=ProcessLifetime())
    for one in tied:
        info = client.stat(one.key)
        assert info is not None
        assert info.process == os.getpid()
    lifetime = ProcessLifetime()

    class Store:
        def __init__(self) -> None:
            self.connector = connector

    lifetime.add_key(key, store=Store())
    info = client.stat(key.key)
    assert info is not None
    assert info.process == os.getpid()
    assert not lifetime.done()
    lifetime.close()
    connector.close()
