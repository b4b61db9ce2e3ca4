"""Connectors for ProxyStore: a `Store` that keeps its objects with a storekeeper daemon.

    from proxystore.store import Store
    from storekeeper.connector import StorekeeperConnector

    store = Store("mine", StorekeeperConnector())

`FileConnector` is a drop-in for ProxyStore's own: the same constructor, keys and `config()`, one import changed.
Objects are still the files of a directory, but a daemon owns it: no torn reads, no marker files, and `close()`
deletes nobody's data. The daemon is found by the directory, or started (see directory.py).

Owns ProxyStore's contract (Connector and DeferrableConnector) on top of `Client`; imports nothing of ProxyStore.
"""

from __future__ import annotations

import os
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any, ClassVar, NamedTuple, Self

from storekeeper.address import default_address, normal_address
from storekeeper.client import TIMEOUT_S, Client
from storekeeper.directory import directory_client

__all__ = ["FileConnector", "FileKey", "ProcessLifetime", "StorekeeperConnector", "StorekeeperKey"]

Objects = list[bytes | None]


class ProcessLifetime(str):
    """The lifetime of what ends with this process, however it ends: the daemon sees to it.

    `Store.put(obj, lifetime=ProcessLifetime())`, as any lifetime of ProxyStore; and `connector.put` takes it, too.
    """

    __slots__ = ()

    def __new__(cls) -> Self:
        """Makes one; all are alike."""
        return super().__new__(cls, "process")

    def add_key(self, *keys: Any, store: Any = None) -> None:
        """Ties the objects of keys to this process."""
        for key in keys:
            store.connector.touch(key, lifetime="process")

    def add_proxy(self, *proxies: Any) -> None:
        """Ties the objects of proxies of keys to this process."""
        for proxy in proxies:
            factory = proxy.__proxy_factory__
            self.add_key(factory.key, store=factory.get_store())

    def close(self, *, close_stores: bool = False) -> None:
        """Does nothing: it ends with the process."""

    def done(self) -> bool:
        """Returns False: the process is alive."""
        return False


class StorekeeperKey(NamedTuple):
    """Key of an object kept by `StorekeeperConnector`."""

    key: str


class _Connector(ABC):
    """What both connectors do alike: the verbs, with keys of their own type."""

    _key_type: ClassVar[type[Any]]

    def __init__(self, clear: bool) -> None:
        self.clear = clear
        self._client: Client | None = None
        self._mine: set[str] = set()  # what this connector put, in this process
        self._pid = os.getpid()

    @abstractmethod
    def _make_client(self) -> Client: ...

    @property
    def _store(self) -> Client:
        """The client, made at first use: a connector is rebuilt in every process that resolves a proxy."""
        if self._client is None:
            self._client = self._make_client()
        return self._client

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Makes a connector from what `config` returned."""
        return cls(**config)

    def put(self, obj: Any, **terms: Any) -> Any:
        """Stores a serialized object.

        Args:
            obj: any bytes-like object.
            terms: `durability`, `ttl` and `lifetime`, as in Client.put: they pass through `Store.put`.

        Returns:
            Its key.
        """
        return self.put_batch([obj], **terms)[0]

    def put_batch(
        self,
        objs: Sequence[Any],
        *,
        durability: str | None = None,
        ttl: float | None = None,
        lifetime: str | None = None,
    ) -> Any:
        """Stores many serialized objects in few requests; returns their keys, in order. Keywords as of Client.put."""
        names = self._store.put_batch(objs, durability=durability, ttl=ttl, lifetime=lifetime)
        self._remember(names)
        return [self._key_type(name) for name in names]

    def get(self, key: Any) -> bytes | None:
        """Returns the serialized object of a key, None if there is none."""
        found: bytes | None = self._store.get(key[0])
        return found

    def get_batch(self, keys: Sequence[Any]) -> Objects:
        """Returns the serialized objects of many keys, None where there is none, in order."""
        return self._store.get_batch([key[0] for key in keys])

    def exists(self, key: Any) -> bool:
        """Returns whether a key has an object."""
        return self._store.exists(key[0])

    def evict(self, key: Any) -> None:
        """Removes the object of a key; a missing one is no error."""
        self._store.evict(key[0])
        self._mine.discard(key[0])

    def touch(self, key: Any, ttl: float | None = None, *, lifetime: str | None = None) -> bool:
        """Lets the object of a key expire, or end with this process; as Client.touch."""
        return self._store.touch(key[0], ttl, lifetime=lifetime)

    def new_key(self, obj: Any = None) -> Any:
        """Returns a key for an object that `set` will store later."""
        return self._key_type(str(uuid.uuid4()))

    def set(self, key: Any, obj: Any) -> None:
        """Stores the object of a key; whatever it held is replaced atomically."""
        self._store.put(obj, key[0], replace=True)
        self._remember([key[0]])

    def close(self, clear: bool | None = None) -> None:
        """Ends the use of the connector. Never removes what others put.

        Args:
            clear: whether the objects that this connector put are evicted; None for what the constructor was told.
        """
        self._remember([])
        if (self.clear if clear is None else clear) and self._mine:
            self._store.evict_batch(list(self._mine))
            self._mine.clear()
        if self._client is not None:
            self._client.close()
            self._client = None

    def _remember(self, names: Iterable[str]) -> None:
        if self._pid != os.getpid():  # forked: what the parent put is the parent's
            self._mine.clear()
            self._pid = os.getpid()
        self._mine.update(names)


class StorekeeperConnector(_Connector):
    """Connector to a storekeeper daemon of this node.

    Args:
        address: where the daemon is; None for the default, which is settled now, so that a proxy made here finds
            the same daemon wherever it is resolved.
        namespace: which part of the store.
        clear: whether `close` evicts the objects that this connector put. Never anybody else's.
        timeout: seconds a call may take.
    """

    _key_type = StorekeeperKey

    def __init__(
        self,
        address: str | None = None,
        namespace: str = "default",
        *,
        clear: bool = False,
        timeout: float = TIMEOUT_S,
    ) -> None:
        super().__init__(clear)
        self.address = normal_address(address or default_address())
        self.namespace = namespace
        self.timeout = timeout

    def __repr__(self) -> str:
        return f"StorekeeperConnector(address={self.address!r}, namespace={self.namespace!r})"

    def config(self) -> dict[str, Any]:
        """Returns the keywords that make an equal connector."""
        return {
            "address": self.address,
            "namespace": self.namespace,
            "clear": self.clear,
            "timeout": self.timeout,
        }

    def _make_client(self) -> Client:
        return Client(self.address, self.namespace, timeout=self.timeout)


class FileKey(NamedTuple):
    """Key of an object: the name of its file in the directory."""

    filename: str


class FileConnector(_Connector):
    """Connector to a directory that a daemon of this node owns.

    Args:
        store_dir: the directory; made if it is missing. One that ProxyStore's FileConnector filled will do.
        clear: whether `close` evicts the objects that this connector put. Unlike ProxyStore's, off unless asked
            for, and never the directory.
        buffering: kept for `config()`; the daemon reads and writes whole objects.
    """

    _key_type = FileKey

    def __init__(self, store_dir: str | os.PathLike[str], *, clear: bool = False, buffering: int = -1) -> None:
        super().__init__(clear)
        self.store_dir = os.path.abspath(store_dir)
        self.buffering = buffering
        os.makedirs(self.store_dir, exist_ok=True)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(directory={self.store_dir})"

    def config(self) -> dict[str, Any]:
        """Returns the keywords that make an equal connector."""
        return {"store_dir": self.store_dir, "clear": self.clear, "buffering": self.buffering}

    def _make_client(self) -> Client:
        return directory_client(self.store_dir)
