"""`Client`: the store as a Python object.

Owns the meaning of the calls. Thread-safe, fork-safe and re-entrant: every call has a carrier of its own, so nothing is
locked while it waits (see session.py and carriers.py).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, NamedTuple, Self

from storekeeper import ranges, wire
from storekeeper.address import default_address, normal_address
from storekeeper.exchange import Exchange
from storekeeper.session import Session
from storekeeper.traffic import Bools, Keys, Objects, Traffic

TIMEOUT_S = 30.0


class ObjectInfo(NamedTuple):
    """What `Client.stat` tells of an object."""

    key: str
    size: int
    """Bytes."""
    owner: int
    """User id of who put it; the file's owner if the daemon did not make it."""
    created: float
    """Seconds since the epoch."""


class Client:
    """A store that a daemon of this node keeps.

    Nothing is connected before the first call. Every call ends by its deadline: with a result, or with a
    `StorekeeperError`. If the daemon is restarted meanwhile the call is made again by itself; all calls can be. A
    daemon that was never reached is waited for one second; one that a call has found dead is not waited for again.

    Args:
        address: where the daemon is, `ipc:///path`; None for $STOREKEEPER_ADDRESS, else the user's own daemon if
            it runs, else the node's.
        namespace: which part of the store.
        timeout: seconds a call may take; objects that travel in ranges get a second more for every 16 MiB.
        session: another way to the daemon, instead of address and timeout (see directory.py).
    """

    def __init__(
        self,
        address: str | None = None,
        namespace: str = "default",
        *,
        timeout: float = TIMEOUT_S,
        session: Session | None = None,
    ) -> None:
        self._session = session or Session(normal_address(address or default_address()), timeout)
        self.namespace = namespace
        self._options: dict[str, Any] = {} if namespace == "default" else {"namespace": namespace}
        self._traffic = Traffic(self._session, self._options)

    @property
    def address(self) -> str:
        """Where the daemon is."""
        return self._session.address

    @property
    def timeout(self) -> float:
        """Seconds a call may take."""
        return self._session.timeout_s

    # -- the four verbs, for one

    def put(self, data: Any, key: str | None = None, *, replace: bool = False, durability: str = "os") -> str:
        """Stores bytes; they are visible to every later request when this returns.

        Args:
            data: any bytes-like object.
            key: the name; a random UUID if None.
            replace: whether other bytes under that key are replaced, atomically.
            durability: "os" survives the daemon, "disk" also a power cut.

        Returns:
            The key.

        Raises:
            KeyExists: the key holds other bytes. The same bytes are no error: the put was made twice.
            BadKey, DiskFull, …: see storekeeper.errors.
        """
        return self._traffic.put_one(data, key, replace, durability)[0]

    def get(self, key: str, *, into: Any = None) -> Any:
        """Fetches an object.

        Args:
            key: its name.
            into: a writable buffer to put it into, instead of bytes of its own.

        Returns:
            The bytes, None if there are none; with `into` the number of bytes.

        Raises:
            ValueError: the buffer is too short; nothing was written into it.
        """
        if into is not None:
            return self._traffic.get_into(key, into)
        return self.get_batch([key])[0]

    def exists(self, key: str, *, fresh: bool = False) -> bool:
        """Returns whether there is an object of that name.

        Args:
            key: its name.
            fresh: whether to look at the directory in any case; else a removal behind the daemon's back may be
                seen a moment late.
        """
        return self.exists_batch([key], fresh=fresh)[0]

    def evict(self, key: str) -> bool:
        """Removes an object. Returns whether it was there."""
        return self.evict_batch([key])[0]

    # -- for many: one request as far as a message carries

    def put_batch(
        self,
        objs: Iterable[Any],
        keys: Sequence[str] | None = None,
        *,
        replace: bool = False,
        durability: str = "os",
    ) -> Keys:
        """Stores many objects; returns their keys, in order. Otherwise as `put`.

        Raises:
            BatchFailed: some were refused; its `results` has a key or an error for each.
        """
        return self._traffic.put_many(objs, keys, replace, durability)

    def get_batch(self, keys: Iterable[str]) -> Objects:
        """Fetches many objects; returns their bytes, None for those that are not there, in order.

        Raises:
            BatchFailed: some could not be read; its `results` has bytes, None or an error for each.
        """
        return self._traffic.get_many(keys)

    def exists_batch(self, keys: Iterable[str], *, fresh: bool = False) -> Bools:
        """Returns for every key whether there is an object, in order. `fresh` as in `exists`."""
        return self._traffic.ask_each(b"exists", keys, self._with(fresh=fresh), "yes")

    def evict_batch(self, keys: Iterable[str]) -> Bools:
        """Removes many objects; returns for every key whether it was there, in order."""
        return self._traffic.ask_each(b"evict", keys, self._options, "evicted")

    # -- about the store

    def stat(self, key: str) -> ObjectInfo | None:
        """Returns size, owner and age of an object; None if there is none."""
        reply = self._traffic.ask(b"stat", [wire.key_frame(key)], self._options)
        ranges.check_item(reply)
        if reply.words == ["absent"]:
            return None
        told = json.loads(reply.payloads[0])
        return ObjectInfo(key, told["size"], told["owner"], told["created"])

    def verify(self, key: str) -> bool | None:
        """Reads an object in the daemon and holds it against its checksum.

        Returns:
            True if its bytes are those that were put; None if there is none, or if no daemon put it.

        Raises:
            CorruptObject: they are not; it was moved into the quarantine.
        """
        reply = self._traffic.ask(b"verify", [wire.key_frame(key)], self._options)
        ranges.check_item(reply)
        return True if reply.words == ["ok"] else None

    def list(self, prefix: str = "", *, fresh: bool = False) -> Keys:
        """Returns the keys that begin with `prefix`, sorted. Takes about a second for a million keys.

        Args:
            prefix: what they begin with.
            fresh: whether all that was done to the directory before the call must be seen; else a change behind the
                daemon's back may be seen a moment late. Costs little, but on a file system that other nodes
                change, or without a watch, it takes a scan.
        """
        options = self._with(prefix=prefix, fresh=fresh)

        def pages(exchange: Exchange) -> Iterator[str]:
            reply = exchange.ask(b"list", [], options)
            while True:
                yield from bytes(reply.payloads[0]).decode("utf-8").split("\0")[:-1]
                handle = reply.details.get("handle")
                if handle is None:
                    return
                reply = exchange.ask(b"list", [handle.encode()])

        return sorted(self._session.call(lambda exchange: list(pages(exchange))))

    def usage(self, *, fresh: bool = False) -> dict[str, int]:
        """Returns `objects` and `bytes` of the namespace, and how many objects were not looked at for their size yet.

        Args:
            fresh: whether all that was done to the directory before the call must be seen, as in `list`; then every
                object is looked at, which takes some seconds for a million.
        """
        return self._traffic.ask(b"usage", [], self._with(fresh=fresh)).details

    def status(self) -> dict[str, Any]:
        """Returns what the daemon says of itself: objects, bytes, coherence, limits…"""
        return self._traffic.ask(b"status", []).details

    def _with(self, **options: Any) -> dict[str, Any]:
        """Returns the options of a request: the namespace, and those that are not as by default."""
        return {**self._options, **{name: value for name, value in options.items() if value}}

    # -- life

    def close(self) -> None:
        """Closes the connections. Calls under way in other threads end as they would; later ones are refused."""
        self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client({self.address!r}, {self.namespace!r})"
