"""ProxyStore: a Store on our connectors - proxies, futures, streams, ownership, batches; the drop-in FileConnector."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from queue import Queue
from typing import Any

import pytest
from proxystore.connectors.file import FileConnector as TheirFileConnector
from proxystore.connectors.protocols import Connector, DeferrableConnector
from proxystore.proxy import Proxy
from proxystore.store import Store, get_store, unregister_store
from proxystore.store.config import StoreConfig
from proxystore.store.ref import into_owned
from proxystore.stream import StreamConsumer, StreamProducer
from proxystore.stream.shims.queue import QueuePublisher, QueueSubscriber

from conftest import Daemon, eventually
from storekeeper import Client, directory
from storekeeper.connector import FileConnector, FileKey, StorekeeperConnector, StorekeeperKey
from storekeeper.errors import BadKey, DaemonUnreachable

SPAWN = multiprocessing.get_context("spawn")


def end_daemon_of(folder: Path) -> None:
    """Ends the daemon that a FileConnector started for a directory, if there is one."""
    try:
        pid = int((folder / ".storekeeper" / "lock").read_text().split()[1])
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (OSError, IndexError):
        return
    if str(folder).encode() in command:
        os.kill(pid, signal.SIGTERM)
        eventually(lambda: directory.find_daemon(folder, time.monotonic() + 5) is None)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A directory for FileConnectors; a daemon that they start ends with the test."""
    yield tmp_path / "files"
    end_daemon_of(tmp_path / "files")


@pytest.fixture(params=["StorekeeperConnector", "FileConnector"])
def store(request: pytest.FixtureRequest) -> Iterator[Store[Any]]:
    if request.param == "StorekeeperConnector":
        daemon: Daemon = request.getfixturevalue("daemon")
        connector: Any = StorekeeperConnector(daemon.address)
    else:
        connector = FileConnector(request.getfixturevalue("folder"))
    with Store(f"store-{os.getpid()}", connector, register=True) as made:
        yield made


def resolve(proxy: Proxy[Any], answers: Any) -> None:
    answers.send(list(proxy))
    store = get_store(proxy)
    if store is not None:
        unregister_store(store)
        store.close()


def test_a_proxy_resolves_in_a_spawned_process(store: Store[Any]) -> None:
    proxy = store.proxy([1, 2, 3])
    ours, theirs = SPAWN.Pipe()
    process = SPAWN.Process(target=resolve, args=(proxy, theirs))
    process.start()
    assert ours.recv() == [1, 2, 3]
    process.join()
    assert process.exitcode == 0
    process.close()
    ours.close()
    theirs.close()
    assert proxy == [1, 2, 3]  # the other's close deleted nothing


def test_a_store_is_rebuilt_from_its_config(store: Store[Any], tmp_path: Path) -> None:
    store.config().write_toml(tmp_path / "store.toml")
    config = StoreConfig.from_toml(tmp_path / "store.toml")
    unregister_store(store)
    again = Store.from_config(config)
    assert again.config() == store.config()
    key = store.put("object")
    assert again.get(key) == "object"
    again.close()


def test_a_future_is_set_and_resolved(store: Store[Any]) -> None:
    future = store.future()
    assert not future.done()
    proxy = future.proxy()
    future.set_result({"answer": 42})
    assert future.done()
    assert proxy == {"answer": 42}
    assert future.result() == {"answer": 42}


def test_a_batch_of_proxies(store: Store[Any]) -> None:
    proxies = store.proxy_batch([[n] for n in range(50)])
    assert [list(proxy) for proxy in proxies] == [[n] for n in range(50)]


def test_an_owned_proxy_evicts_when_it_goes(store: Store[Any]) -> None:
    owned = into_owned(store.proxy("owned", populate_target=False))
    key = object.__getattribute__(owned, "__proxy_factory__").key
    assert owned == "owned"
    assert store.connector.exists(key)
    del owned
    assert not store.connector.exists(key)


def test_a_stream_of_objects(store: Store[Any]) -> None:
    queue: Queue[Any] = Queue()
    producer: StreamProducer[Any] = StreamProducer(QueuePublisher({"topic": queue}), stores={"topic": store})
    consumer: StreamConsumer[Any] = StreamConsumer(QueueSubscriber(queue))
    for number in range(5):
        producer.send("topic", [number])
    producer.close_topics("topic")
    assert [list(item) for item in consumer.iter_objects()] == [[number] for number in range(5)]


def test_objects_of_all_sizes_and_durabilities(store: Store[Any]) -> None:
    for size in (0, 1, 100_000, 6_000_000):
        assert len(store.get(store.put(b"x" * size))) == size
    assert store.get(store.put("precious", durability="disk")) == "precious"
    with pytest.raises(TypeError):
        store.put("object", colour="blue")


def test_missing_objects_are_no_error(store: Store[Any]) -> None:
    connector = store.connector
    key = connector.new_key()
    assert connector.get(key) is None
    assert connector.exists(key) is False
    connector.evict(key)
    assert connector.get_batch([key, connector.put(b"x")]) == [None, b"x"]


def test_set_replaces_atomically(store: Store[Any]) -> None:
    connector = store.connector
    key = connector.new_key()
    for data in (b"first", bytearray(b"second"), memoryview(b"third")):
        connector.set(key, data)
        assert connector.get(key) == bytes(data)


@pytest.mark.parametrize("cls", [StorekeeperConnector, FileConnector])
def test_they_are_connectors(cls: type, tmp_path: Path) -> None:
    connector = cls(str(tmp_path / "x"))
    assert isinstance(connector, Connector)
    assert isinstance(connector, DeferrableConnector)
    again = cls.from_config(connector.config())
    assert again.config() == connector.config()
    assert type(again) is cls
    with pytest.raises(TypeError):
        cls(str(tmp_path / "x"), colour="blue")
    connector.close()
    connector.close()  # idempotent, and nothing was ever connected


def test_constructors_are_as_promised(tmp_path: Path) -> None:
    assert FileConnector(str(tmp_path)).config() == {"store_dir": str(tmp_path), "clear": False, "buffering": -1}
    theirs = TheirFileConnector(str(tmp_path / "theirs")).config()
    assert FileConnector(**theirs).config() == theirs
    assert FileConnector(tmp_path, clear=True, buffering=0).buffering == 0
    assert repr(FileConnector(str(tmp_path))) == f"FileConnector(directory={tmp_path})"
    assert FileKey("a").filename == StorekeeperKey("a").key == "a"
    assert StorekeeperConnector("ipc:///x").config() == {
        "address": "ipc:///x", "namespace": "default", "clear": False, "timeout": 30.0,
    }  # fmt: skip


def test_the_default_address_is_settled_when_a_connector_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOREKEEPER_ADDRESS", "ipc:///elsewhere")
    config = StorekeeperConnector().config()
    monkeypatch.delenv("STOREKEEPER_ADDRESS")
    assert config["address"] == "ipc:///elsewhere"
    assert StorekeeperConnector(**config).config() == config


def test_close_removes_only_what_this_connector_put(daemon: Daemon) -> None:
    with StorekeeperConnector(daemon.address) as other:
        theirs = other.put(b"theirs")
        connector = StorekeeperConnector(daemon.address, clear=True)
        keys = [connector.put(b"one"), *connector.put_batch([b"two", b"three"]), connector.new_key()]
        connector.set(keys[-1], b"four")
        connector.evict(keys[0])
        connector.close()
        assert [other.exists(key) for key in keys] == [False] * 4
        assert other.exists(theirs)
        kept = StorekeeperConnector(daemon.address)
        key = kept.put(b"kept")
        kept.close()
        assert other.exists(key)
        kept = StorekeeperConnector(daemon.address)
        key = kept.put(b"asked for")
        kept.close(clear=True)
        assert not other.exists(key)


def put_and_leave(connector: FileConnector) -> None:
    connector.put(b"the child's")
    connector.close()


def test_a_forked_child_does_not_evict_what_its_parent_put(folder: Path) -> None:
    connector = FileConnector(folder, clear=True)
    key = connector.put(b"the parent's")
    process = multiprocessing.get_context("fork").Process(target=put_and_leave, args=(connector,))
    process.start()
    process.join()
    assert process.exitcode == 0
    process.close()
    assert connector.get(key) == b"the parent's"
    connector.close()
    assert [p.name for p in folder.iterdir()] == [".storekeeper"]


# -- the drop-in


def test_a_directory_that_their_connector_filled_keeps_resolving(folder: Path) -> None:
    theirs = TheirFileConnector(str(folder), clear=False)
    keys = [theirs.put(b"object %d" % n) for n in range(20)]
    ours = FileConnector(folder)
    assert ours.get_batch([FileKey(*key) for key in keys]) == [b"object %d" % n for n in range(20)]
    assert all(ours.exists(key) for key in keys)  # type: ignore[arg-type]
    ours.close()


def test_a_key_cannot_leave_the_directory(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").write_bytes(b"bytes")
    connector = FileConnector(folder)
    for name in ("../precious", str(tmp_path / "precious"), ".storekeeper"):
        for call in (connector.get, connector.exists, connector.evict):
            with pytest.raises(BadKey):
                call(FileKey(name))
        with pytest.raises(BadKey):
            connector.set(FileKey(name), b"x")
    assert (tmp_path / "precious").read_bytes() == b"bytes"
    connector.close()


def test_a_daemon_that_owns_the_directory_is_found(daemon: Daemon) -> None:
    with FileConnector(daemon.store) as connector, Client(daemon.address) as client:
        key = connector.put(b"bytes")
        assert client.get(key.filename) == b"bytes"
        assert client.status()["pid"] == daemon.pid


def put_through(folder: str, answers: Any) -> None:
    with FileConnector(folder) as connector:
        key = connector.put(b"from %d" % os.getpid())
        answers.send((key, connector._store.status()["pid"]))


def test_of_many_that_start_a_daemon_at_once_one_daemon_comes_of_it(folder: Path) -> None:
    ours, theirs = SPAWN.Pipe(duplex=False)
    processes = [SPAWN.Process(target=put_through, args=(str(folder), theirs)) for _ in range(6)]
    for process in processes:
        process.start()
    told = [ours.recv() for _ in processes]
    for process in processes:
        process.join()
        assert process.exitcode == 0
        process.close()
    ours.close()
    theirs.close()
    assert len({pid for _, pid in told}) == 1
    with FileConnector(folder) as connector:
        assert all(connector.exists(key) for key, _ in told)


def test_a_daemon_that_was_killed_is_started_again(folder: Path) -> None:
    with FileConnector(folder) as connector:
        key = connector.put(b"bytes")
        pid = connector._store.status()["pid"]
        os.kill(pid, signal.SIGKILL)
        assert connector.get(key) == b"bytes"
        assert connector._store.status()["pid"] != pid


def test_another_daemon_at_the_old_address_is_not_taken_for_the_right_one(folder: Path, daemon: Daemon) -> None:
    (folder / ".storekeeper").mkdir(parents=True)
    (folder / ".storekeeper" / "address").write_text(daemon.address)
    (folder / ".storekeeper" / "store").write_text('{"format": 1, "uuid": "12345678-1234-1234-1234-123456789abc"}')
    with FileConnector(folder) as connector:
        key = connector.put(b"bytes")
        assert (folder / key.filename).read_bytes() == b"bytes"
        assert connector._store.status()["pid"] != daemon.pid


def test_a_daemon_started_here_leaves_when_nobody_needs_it(tmp_path: Path) -> None:
    address = f"ipc://{tmp_path}/s"
    command = [sys.executable, "-m", "storekeeperd", "serve", str(tmp_path / "store"), "--address", address]
    process = subprocess.Popen([*command, "--idle-exit", "0.3", "--log-level", "error"])
    with Client(address) as client:
        client._session.grace_s = 10
        client.put(b"bytes", key="k")
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1)  # a client is there: it stays
    assert process.wait(10) == 0
    assert (tmp_path / "store" / "k").read_bytes() == b"bytes"


def test_without_the_daemon_s_extra_the_connector_says_what_to_install(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directory.importlib.util, "find_spec", lambda name: None)
    with (
        FileConnector(folder) as connector,
        pytest.raises(DaemonUnreachable, match=r"pip install 'storekeeper\[daemon\]'"),
    ):
        connector.put(b"bytes")


def test_a_path_too_long_for_a_socket_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tempfile.mkdtemp()  # short: tmp_path is half of what a socket's path may have
    monkeypatch.setenv("XDG_RUNTIME_DIR", run)
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    try:
        with FileConnector(deep) as connector:
            key = connector.put(b"bytes")
            assert (deep / key.filename).read_bytes() == b"bytes"
    finally:
        end_daemon_of(deep)
        shutil.rmtree(run)
