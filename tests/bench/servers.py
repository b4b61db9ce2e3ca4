"""The candidates that have a process of their own: our daemon, Redis, memcached and Vineyard.

Owns how each is started, on a Unix socket in its folder, and what its operations are called there. Each is set up to be
quick: Redis and memcached keep nothing on a disk, Vineyard's metadata are its own. Only ProxyStore's RedisConnector
cannot go by a Unix socket: for that one Redis listens on 127.0.0.1, too.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.peer import Candidate, Missing, Peer, module, new_key, proxies
from conftest import Daemon
from storekeeper import Client
from storekeeper.connector import StorekeeperConnector
from storekeeper.lines import somebody_listens

_STARTS_S = 20.0
_ITEM_MIB_MAX = 128
"""What memcached is told to take: an object with its key and header."""


def storekeeper(carrier: str | None = None, shelf: bool | None = None) -> Candidate:
    """Our own client, by one carrier, with the shelf or without."""

    @contextmanager
    def join(folder: str) -> Iterator[Peer]:
        address = f"ipc://{folder}/s"
        with (
            Client(address, timeout=120, carrier=carrier, shelf=shelf) as client,
            proxies(lambda: StorekeeperConnector(address)) as proxy,
        ):

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
                None if carrier else proxy,
            )

    return Candidate(join, _daemon)


@contextmanager
def _daemon(folder: str) -> Iterator[int | None]:
    daemon = Daemon(Path(folder) / "store", f"ipc://{folder}/s", "--log-level", "error")
    try:
        yield daemon.start().pid
    finally:
        daemon.end()


@contextmanager
def _redis(folder: str) -> Iterator[int | None]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    Path(folder, "port").write_text(port)
    with _running(
        folder,
        lambda address: [
            *(_program("redis-server"), "--unixsocket", address, "--bind", "127.0.0.1", "--port", port),
            *("--save", "", "--appendonly", "no", "--dir", folder),
        ],
    ) as pid:
        yield pid


@contextmanager
def _join_redis(folder: str) -> Iterator[Peer]:
    port = int(Path(folder, "port").read_text())
    with (
        module("redis").Redis(unix_socket_path=f"{folder}/s") as store,
        proxies(lambda: module("proxystore.connectors.redis").RedisConnector("127.0.0.1", port)) as proxy,
    ):

        def put(data: bytes) -> bytes:
            key = new_key()
            store.set(key, data)
            return key

        def put_batch(objects: Sequence[bytes]) -> list[bytes]:
            keys = [new_key() for _ in objects]
            store.mset(dict(zip(keys, objects, strict=True)))
            return keys

        yield Peer(
            put, store.get, store.exists, store.delete, put_batch, store.mget, proxy=proxy, bytes_max=(512 << 20) - 1
        )


@contextmanager
def _memcached(folder: str) -> Iterator[int | None]:
    owner = ["-u", "root"] if os.geteuid() == 0 else []  # it does not run as root unless it is told to
    with _running(
        folder,
        # Rather than evict it refuses (-M), and that would be seen.
        lambda address: [
            *(_program("memcached"), "-s", address, "-M", "-m", "4096", "-I", f"{_ITEM_MIB_MAX}m", *owner),
        ],
    ) as pid:
        yield pid


@contextmanager
def _join_memcached(folder: str) -> Iterator[Peer]:
    store = module("pymemcache").Client(f"{folder}/s", default_noreply=False)

    def put(data: bytes) -> bytes:
        key = new_key()
        store.set(key, data)
        return key

    def put_batch(objects: Sequence[bytes]) -> list[bytes]:
        keys = [new_key() for _ in objects]
        store.set_many(dict(zip(keys, objects, strict=True)))
        return keys

    def exists(key: bytes) -> bool:
        found: bytes = store.raw_command(b"mg " + key)  # HD, and EN if there is none: no bytes of the object
        return found.startswith(b"HD")

    try:
        yield Peer(put, store.get, exists, store.delete, put_batch, store.get_many, bytes_max=(_ITEM_MIB_MAX - 1) << 20)
    finally:
        store.close()


@contextmanager
def _vineyard(folder: str) -> Iterator[int | None]:
    server = Path(module("vineyard").__file__).parent / "bdist" / "vineyardd"
    if not server.exists():
        raise Missing("the package vineyard came without its vineyardd")
    with _running(
        folder,
        lambda address: [
            *(str(server), "--socket", address, "--meta", "local", "--norpc", "--size", "8Gi", "--log_dir", folder),
        ],
    ) as pid:
        yield pid


@contextmanager
def _join_vineyard(folder: str) -> Iterator[Peer]:
    """Blobs, the quickest that it has; it makes the keys."""
    store = module("vineyard").connect(f"{folder}/s")

    def put(data: bytes) -> Any:
        made = store.create_blob(len(data))
        made.copy(0, data)
        return made.seal(store).id

    def view(key: Any) -> tuple[int, int]:
        with memoryview(store.get_blob(key)).cast("B") as seen:  # they are signed there
            return seen[0], seen[-1]

    try:
        yield Peer(
            put,
            lambda key: bytes(memoryview(store.get_blob(key))),
            store.exists,
            lambda key: store.delete([key]),
            view=view,
        )
    finally:
        store.close()


REDIS_SERVER = Candidate(_join_redis, _redis)
MEMCACHED_SERVER = Candidate(_join_memcached, _memcached)
VINEYARD_SERVER = Candidate(_join_vineyard, _vineyard)


def _program(name: str) -> str:
    found = shutil.which(name)
    if not found:
        raise Missing(f"there is no {name} on this machine")
    return found


@contextmanager
def _running(folder: str, command: Callable[[str], list[str]]) -> Iterator[int]:
    """Runs a server on the socket that clients of this folder take, until the block ends."""
    address = f"{folder}/s"
    told = command(address)
    process = subprocess.Popen(told, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + _STARTS_S
        while not somebody_listens(f"ipc://{address}"):
            if process.poll() is not None or time.monotonic() > deadline:
                raise Missing(f"{Path(told[0]).name} did not start")
            time.sleep(0.01)
        yield process.pid
    finally:
        process.kill()
        process.wait()


def versions() -> list[str]:
    """Returns which versions of the servers there are, as far as they tell."""
    found = []
    for name in ("redis-server", "memcached"):
        if server := shutil.which(name):
            told = subprocess.run([server, "--version"], capture_output=True, text=True, check=False).stdout.split()
            found += [f"{name} {word.removeprefix('v=')}" for word in told if word.lstrip("v=")[:1].isdigit()][:1]
    return found
