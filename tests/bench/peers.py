"""Our client, and what others would use instead of it, as one kind of thing: a `Peer`.

Owns how each peer is set up for the contest (in contest.py), in a directory of its own, and what its operations are
called there. Each is set up to be quick: LMDB does not sync, diskcache evicts nothing, Redis keeps nothing on a disk,
and goes by its Unix socket. Where a peer takes keys, it makes them as FileConnector does, within its `put`.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from conftest import Daemon

OURS, OURS_BY_ZMQ, FILE_CONNECTOR, LMDB, REDIS = "storekeeper", "storekeeper, zmq", "FileConnector", "LMDB", "Redis"
_MAP_BYTES = 64 << 30
"""How large LMDB's map may become: address space, no more."""


class Missing(Exception):
    """Why a peer takes no part."""


@dataclass(frozen=True)
class Peer:
    """A store, as the contest sees it: its operations; None for what it lacks."""

    put: Callable[[bytes], Any]
    """Takes bytes; returns their key."""
    get: Callable[[Any], Any]
    exists: Callable[[Any], Any] | None = None
    evict: Callable[[Any], Any] | None = None
    put_batch: Callable[[Sequence[bytes]], Sequence[Any]] | None = None
    get_batch: Callable[[Sequence[Any]], Sequence[Any]] | None = None
    view: Callable[[Any], Any] | None = None
    """Looks at an object's first and last byte without a copy of it, and lets it go; returns both."""


def _storekeeper(carrier: str | None) -> Callable[[str], AbstractContextManager[Peer]]:
    @contextmanager
    def start(folder: str) -> Iterator[Peer]:
        daemon = Daemon(Path(folder) / "store", f"ipc://{folder}/s", "--log-level", "error").start()
        try:
            with daemon.client(timeout=120, carrier=carrier) as client:

                def view(key: str) -> tuple[int, int]:
                    with client.view(key) as seen:  # type: ignore[union-attr]
                        return seen[0], seen[-1]

                yield Peer(
                    client.put,
                    client.get,
                    client.exists,
                    client.evict,
                    client.put_batch,
                    client.get_batch,
                    view,
                )
        finally:
            daemon.end()

    return start


@contextmanager
def _file_connector(folder: str) -> Iterator[Peer]:
    store = _module("proxystore.connectors.file").FileConnector(folder, clear=False)
    yield Peer(store.put, store.get, store.exists, store.evict, store.put_batch, store.get_batch)
    store.close()


@contextmanager
def _lmdb(folder: str) -> Iterator[Peer]:
    store = _module("lmdb").open(folder, map_size=_MAP_BYTES, sync=False)

    def put(data: bytes) -> bytes:
        key = _key()
        with store.begin(write=True) as transaction:
            transaction.put(key, data)
        return key

    def get(key: bytes) -> Any:
        with store.begin() as transaction:
            return transaction.get(key)

    def exists(key: bytes) -> bool:
        with store.begin(buffers=True) as transaction:
            return transaction.get(key) is not None

    def evict(key: bytes) -> Any:
        with store.begin(write=True) as transaction:
            return transaction.delete(key)

    def put_batch(objects: Sequence[bytes]) -> list[bytes]:
        keys = [_key() for _ in objects]
        with store.begin(write=True) as transaction:
            for key, data in zip(keys, objects, strict=True):
                transaction.put(key, data)
        return keys

    def get_batch(keys: Sequence[bytes]) -> list[Any]:
        with store.begin() as transaction:
            return [transaction.get(key) for key in keys]

    def view(key: bytes) -> tuple[int, int]:
        with store.begin(buffers=True) as transaction:
            seen = transaction.get(key)
            return seen[0], seen[-1]

    try:
        yield Peer(put, get, exists, evict, put_batch, get_batch, view)
    finally:
        store.close()


@contextmanager
def _diskcache(folder: str) -> Iterator[Peer]:
    store = _module("diskcache").Cache(folder, eviction_policy="none", size_limit=1 << 50)

    def put(data: bytes) -> bytes:
        key = _key()
        store.set(key, data)
        return key

    def put_batch(objects: Sequence[bytes]) -> list[bytes]:
        with store.transact():
            return [put(data) for data in objects]

    def get_batch(keys: Sequence[bytes]) -> list[Any]:
        with store.transact():
            return [store.get(key) for key in keys]

    try:
        yield Peer(put, store.get, store.__contains__, store.delete, put_batch, get_batch)
    finally:
        store.close()


@contextmanager
def _redis(folder: str) -> Iterator[Peer]:
    module, server = _module("redis"), shutil.which("redis-server")
    if not server:
        raise Missing("there is no redis-server on this machine")
    address = f"{folder}/s"
    command = [server, "--port", "0", "--unixsocket", address, "--save", "", "--appendonly", "no", "--dir", folder]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 10
        while not os.path.exists(address):
            if process.poll() is not None or time.monotonic() > deadline:
                raise Missing("redis-server did not start")
            time.sleep(0.01)
        with module.Redis(unix_socket_path=address) as store:
            store.ping()

            def put(data: bytes) -> bytes:
                key = _key()
                store.set(key, data)
                return key

            def put_batch(objects: Sequence[bytes]) -> list[bytes]:
                keys = [_key() for _ in objects]
                store.mset(dict(zip(keys, objects, strict=True)))
                return keys

            yield Peer(put, store.get, store.exists, store.delete, put_batch, store.mget)
    finally:
        process.kill()
        process.wait()


@contextmanager
def _files(folder: str) -> Iterator[Peer]:
    def put(data: bytes) -> str:
        path = f"{folder}/{uuid4()}"
        with open(path, "wb") as file:
            file.write(data)
        return path

    def get(path: str) -> bytes:
        with open(path, "rb") as file:
            return file.read()

    yield Peer(put, get, os.path.exists, os.unlink)


@contextmanager
def _memcpy(_folder: str) -> Iterator[Peer]:
    kept: dict[int, bytearray] = {}

    def put(data: bytes) -> int:
        source = kept.get(len(data))
        if source is None:
            source = kept[len(data)] = bytearray(data)
        bytes(source)
        return len(data)

    yield Peer(put, lambda size: bytes(kept[size]))


PEERS: dict[str, Callable[[str], AbstractContextManager[Peer]]] = {
    OURS: _storekeeper(None),
    OURS_BY_ZMQ: _storekeeper("zmq"),
    FILE_CONNECTOR: _file_connector,
    LMDB: _lmdb,
    "diskcache": _diskcache,
    REDIS: _redis,
    "files": _files,
    "memcpy": _memcpy,
}
"""What takes part, by name; each is given an empty directory, and raises `Missing` if it cannot be had."""


def versions() -> str:
    """Returns which versions of the peers there are, as far as they can be had."""
    found = []
    for package in ("proxystore", "lmdb", "diskcache", "redis"):
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            pass
    if server := shutil.which("redis-server"):
        told = subprocess.run([server, "--version"], capture_output=True, text=True, check=False).stdout
        found += [f"redis-server {word[2:]}" for word in told.split() if word.startswith("v=")]
    return ", ".join(found)


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise Missing(f"{name.partition('.')[0]} cannot be imported ({error})") from error


def _key() -> bytes:
    return str(uuid4()).encode()
