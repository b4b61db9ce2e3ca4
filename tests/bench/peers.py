"""Our client, and what others would use instead of it, by name.

Owns who takes part, and those that run in the process that uses them: FileConnector, LMDB, diskcache, plain files and
copies in memory (servers.py has the others). Each is set up to be quick: LMDB does not sync, diskcache evicts nothing.
Where a peer takes keys, it makes them as FileConnector does, within its `put`.
"""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

from bench import servers
from bench.peer import Candidate, Peer, module, new_key, proxies

OURS, OURS_BY_ZMQ, OURS_NO_SHELF = "storekeeper", "storekeeper, zmq", "storekeeper, no shelf"
FILE_CONNECTOR, LMDB, REDIS = "FileConnector", "LMDB", "Redis"
_MAP_BYTES = 64 << 30
"""How large LMDB's map may become: address space, no more."""


@contextmanager
def _file_connector(folder: str) -> Iterator[Peer]:
    make = module("proxystore.connectors.file").FileConnector
    store = make(folder, clear=False)
    with proxies(lambda: make(folder, clear=False)) as proxy:
        yield Peer(store.put, store.get, store.exists, store.evict, store.put_batch, store.get_batch, proxy=proxy)


@contextmanager
def _lmdb(folder: str) -> Iterator[Peer]:
    store = module("lmdb").open(folder, map_size=_MAP_BYTES, sync=False)

    def put(data: bytes) -> bytes:
        key = new_key()
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
        keys = [new_key() for _ in objects]
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
    store = module("diskcache").Cache(folder, eviction_policy="none", size_limit=1 << 50)

    def put(data: bytes) -> bytes:
        key = new_key()
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


PEERS: dict[str, Candidate] = {
    OURS: servers.storekeeper(),
    OURS_BY_ZMQ: servers.storekeeper("zmq"),
    FILE_CONNECTOR: Candidate(_file_connector),
    LMDB: Candidate(_lmdb),
    "diskcache": Candidate(_diskcache),
    REDIS: servers.REDIS_SERVER,
    "memcached": servers.MEMCACHED_SERVER,
    "Vineyard": servers.VINEYARD_SERVER,
    "files": Candidate(_files),
    "memcpy": Candidate(_memcpy),
}
"""What takes part, by name."""


def versions() -> str:
    """Returns which versions of the peers there are, as far as they can be had."""
    found = []
    for package in ("proxystore", "lmdb", "diskcache", "redis", "pymemcache", "vineyard"):
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            pass
    return ", ".join(found + servers.versions())
