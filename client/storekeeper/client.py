"""`Client`: the store as a Python object.

Owns the meaning of the calls. Thread-safe, fork-safe and re-entrant: every call has a carrier of its own, so nothing is
locked while it waits (see session.py and carriers.py).
"""

from __future__ import annotations

import builtins
import errno
import uuid
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any, BinaryIO, Self

from storekeeper import events, listing, ranges, wire
from storekeeper.address import default_address, expected_servers, normal_address
from storekeeper.events import News
from storekeeper.exchange import Exchange
from storekeeper.listing import ObjectInfo, Selection
from storekeeper.session import Session
from storekeeper.shortcut import Shortcut, is_wanted
from storekeeper.traffic import Bools, Keys, Objects, Terms, Traffic
from storekeeper.writer import Writer

TIMEOUT_S = 30.0
_SORTED_MAX = 10_000
"""Names that a daemon sorts at once, if it is not told otherwise."""


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
        server: who is expected to serve the address, by name or number: nothing is sent to anybody else. None: for an
            address that was given, whoever does; else root, the user `storekeeper` or this one.
        carrier: "unix" for a plain socket, "zmq" for one of ZeroMQ; None for $STOREKEEPER_CARRIER, else the faster one
            that goes to the address.
        shelf: whether `exists` and `get` look into memory that the daemon shares, where it does, before they ask; None
            for what $STOREKEEPER_SHELF says ("0": no), else yes.
        session: another way to the daemon, instead of address and timeout (see directory.py).
    """

    def __init__(
        self,
        address: str | None = None,
        namespace: str = "default",
        *,
        timeout: float = TIMEOUT_S,
        server: str | int | None = None,
        carrier: str | None = None,
        shelf: bool | None = None,
        session: Session | None = None,
    ) -> None:
        self._session = session or Session(
            normal_address(address or default_address()),
            timeout,
            expected_servers(server, given=address is not None),
            carrier,
        )
        self.namespace = namespace
        self._options: dict[str, Any] = {} if namespace == "default" else {"namespace": namespace}
        self._shortcut = Shortcut(self._options, wanted=is_wanted(shelf))
        self._traffic = Traffic(self._session, self._options, self._shortcut)

    @property
    def address(self) -> str:
        """Where the daemon is."""
        return self._session.address

    @property
    def timeout(self) -> float:
        """Seconds a call may take."""
        return self._session.timeout_s

    # -- the four verbs, for one

    def put(
        self,
        data: Any,
        key: str | None = None,
        *,
        replace: bool = False,
        durability: str | None = None,
        ttl: float | None = None,
        lifetime: str | None = None,
    ) -> str:
        """Stores bytes; they are visible to every later request when this returns.

        Args:
            data: any bytes-like object.
            key: the name; a random UUID if None.
            replace: whether other bytes under that key are replaced, atomically. Only its owner may do that, a manager
                of the namespace, or root.
            durability: "os" survives the daemon, "disk" also a power cut; None for what the namespace says.
            ttl: seconds until it expires, 0 for never; None for what the namespace says.
            lifetime: "process": it ends with this process, as the kernel sees it.

        Returns:
            The key.

        Raises:
            KeyExists: the key holds other bytes. The same bytes are no error: the put was made twice, and what was
                put first is left as it was.
            Denied: the namespace or the object's owner does not let you.
            QuotaExceeded: a limit of the store, the namespace or yours would be exceeded.
            BadKey, DiskFull, …: see storekeeper.errors.
        """
        return self._traffic.put_one(data, key, Terms(replace, durability, ttl, lifetime))[0]

    def get(self, key: str, *, into: Any = None) -> Any:
        """Fetches an object.

        One that was removed or replaced behind the daemon's back may be seen a moment longer, if it is on the shelf.

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
        found = self._shortcut.get(key)
        return self._traffic.get_many([key])[0] if found is None else found

    def view(self, key: str) -> memoryview | None:
        """Returns an object's bytes, read-only and without a copy: the file itself, mapped. None if there is none.

        They stay as they are, whatever becomes of the key. Release the view when you are done (`with store.view(key)
        as view:`, or let it go): until then it takes a handle, and space that counts as used though the object is
        removed. Where nothing can be mapped - over ZeroMQ, or an object that others can write to - it is a copy.
        """
        return self._traffic.view(key)

    def writer(
        self,
        key: str | None = None,
        *,
        size: int | None = None,
        replace: bool = False,
        durability: str | None = None,
        ttl: float | None = None,
        lifetime: str | None = None,
    ) -> Writer:
        """Opens an object for writing: a binary file that appears whole when it is closed, or not at all.

        Args:
            key: the name; a random UUID if None. The writer's `key` tells.
            size: its length in bytes, if you know it: room is reserved at once.
            replace, durability, ttl, lifetime: as in `put`.

        Returns:
            A writer, to be used with `with`: an exception in it gives the object up. What wraps it, as an
            `io.BufferedWriter`, closes it though, and so publishes what was written: let the writer's own `with` be
            the only one.
        """
        terms = Terms(replace, durability, ttl, lifetime)
        options = {**self._options, **terms.to_options()}
        return Writer(self._session, str(uuid.uuid4()) if key is None else key, options, size)

    def put_from(self, file: BinaryIO, key: str | None = None, **terms: Any) -> str:
        """Stores what is left to read of a binary file, a pipe or a socket's file; returns the key.

        Args:
            file: opened for reading.
            key: the name; a random UUID if None.
            terms: as in `writer`.

        Raises:
            As `writer`; nothing is stored then.
        """
        with self.writer(key, **terms) as writer:
            while block := file.read(wire.RANGE_BYTES):
                writer.write(block)
            if block is None:
                raise BlockingIOError(errno.EAGAIN, "the file has nothing to read now, and is not at its end")
        return writer.key

    def get_to(self, key: str, file: BinaryIO) -> int | None:
        """Writes an object into a binary file, in order; returns its size, None if there is none.

        Args:
            key: its name.
            file: opened for writing; it is flushed first, and its position is moved.

        Raises:
            DaemonUnreachable: the daemon went away in the middle; what was written is not all of it.
        """
        return self._traffic.get_to(key, file)

    def exists(self, key: str, *, fresh: bool = False) -> bool:
        """Returns whether there is an object of that name.

        Args:
            key: its name.
            fresh: whether to look at the directory in any case; else a removal behind the daemon's back may be
                seen a moment late.
        """
        return (not fresh and self._shortcut.has(key)) or self.exists_batch([key], fresh=fresh)[0]

    def evict(self, key: str) -> bool:
        """Removes an object. Returns whether it was there.

        Raises:
            Denied: it is another one's, and you do not manage the namespace.
        """
        return self.evict_batch([key])[0]

    # -- for many: one request as far as a message carries

    def put_batch(
        self,
        objs: Iterable[Any],
        keys: Sequence[str] | None = None,
        *,
        replace: bool = False,
        durability: str | None = None,
        ttl: float | None = None,
        lifetime: str | None = None,
    ) -> Keys:
        """Stores many objects; returns their keys, in order. Otherwise as `put`.

        Raises:
            BatchFailed: some were refused; its `results` has a key or an error for each.
        """
        return self._traffic.put_many(objs, keys, Terms(replace, durability, ttl, lifetime))

    def get_batch(self, keys: Iterable[str]) -> Objects:
        """Fetches many objects; returns their bytes, None for those that are not there, in order.

        Raises:
            BatchFailed: some could not be read; its `results` has bytes, None or an error for each.
        """
        return self._traffic.get_many(keys)

    def exists_batch(self, keys: Iterable[str], *, fresh: bool = False) -> Bools:
        """Returns for every key whether there is an object, in order. `fresh` as in `exists`."""
        if not fresh:
            return self._traffic.has_many(keys)
        return self._traffic.ask_each(b"exists", keys, self._with(fresh=True), "yes")

    def evict_batch(self, keys: Iterable[str]) -> Bools:
        """Removes many objects; returns for every key whether it was there, in order."""
        return self._traffic.ask_each(b"evict", keys, self._options, "evicted")

    def _evict_before(self, keys: Iterable[str], before_ns: int) -> Bools:
        """Removes objects as `evict_batch`, but leaves alone what was put after a moment of CLOCK_BOOTTIME."""
        return self._traffic.ask_each(b"evict", keys, {**self._options, "before": before_ns}, "evicted")

    # -- how long objects live

    def touch(self, key: str, ttl: float | None = None, *, lifetime: str | None = None) -> bool:
        """Lets an object expire so many seconds from now; returns whether it was there.

        Args:
            key: its name.
            ttl: seconds, 0 for never; None for what the namespace says.
            lifetime: "process": it ends with this process from now on.
        """
        options = {**self._options, **Terms(ttl=ttl, lifetime=lifetime).to_options()}
        return self._traffic.ask_each(b"touch", [key], options, "ok")[0]

    def pin(self, key: str) -> bool:
        """Keeps an object: it does not expire, and is not evicted to make room. Returns whether it was there.

        Whoever may evict it can still do so.
        """
        return self._traffic.ask_each(b"pin", [key], self._options, "ok")[0]

    def unpin(self, key: str) -> bool:
        """Takes a pin back. Returns whether the object was there."""
        return self._traffic.ask_each(b"unpin", [key], self._options, "ok")[0]

    # -- about the store

    def stat(self, key: str) -> ObjectInfo | None:
        """Returns size, owner, age and lifetime of an object; None if there is none."""
        return self._session.call(lambda exchange: next(listing.stat(exchange, self._options, [key])))

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
        return sorted(self._session.call(lambda exchange: listing.keys(exchange, options)))

    def list_info(
        self,
        prefix: str = "",
        *,
        owner: int | None = None,
        older_than: float | None = None,
        larger_than: int | None = None,
        sort: str = "name",
        reverse: bool = False,
        after: str = "",
        limit: int | None = None,
        fresh: bool = False,
    ) -> builtins.list[ObjectInfo]:
        """Returns what is known of objects: size, owner and age. Looks at none of them, and is quick for that.

        Args:
            prefix: what their keys begin with.
            owner: user id of their owner.
            older_than: seconds since they were put, at least.
            larger_than: bytes they have more than.
            sort: "name", "size" or "created".
            reverse: whether the last ones come first.
            after: keys that come after that one: the next page of a listing by name.
            limit: no more than so many; up to 10,000 are sorted by the daemon, which is cheap among a million.
            fresh: as in `list`.
        """
        selection = Selection(prefix, owner, older_than, larger_than, sort, reverse, after, limit)
        namespace = self._options

        def talk(exchange: Exchange) -> builtins.list[ObjectInfo]:
            if fresh:
                exchange.ask(b"list", [], {**namespace, "fresh": True, "sort": "name", "limit": 1, "prefix": "\x01"})
            return listing.infos(exchange, namespace, selection, _SORTED_MAX)

        return self._session.call(talk)

    def usage(self, *, fresh: bool = False, by: str | None = None) -> dict[str, Any]:
        """Returns `objects` and `bytes` of the namespace, the bounds that hold for you, and what is used of them.

        Args:
            fresh: whether all that was done to the directory before the call must be seen, as in `list`; then every
                object is looked at, which takes some seconds for a million.
            by: "user": also `users`, the same by user id, of this namespace - of all that you may read if it is the
                default one; "namespace": also `namespaces`, the same for each that you may read.
        """
        options = self._with(fresh=fresh)
        if by is not None:
            options = {**options, "by": by}
        return self._traffic.ask(b"usage", [], options).details

    def events(self, after: Sequence[str] = (), *, namespace: str | None = None) -> News:
        """Returns what became of objects at the hands of others than their owners: of the daemon, or another user.

        That is, of this namespace - of all that you may read if it is the default one. A limited number is kept, and
        none across a restart of the daemon.

        Args:
            after: the `marks` of an earlier answer: only what came after it.
            namespace: of that namespace alone.
        """
        options = self._options if namespace is None else {"namespace": namespace}
        return self._session.call(lambda exchange: events.news(exchange, options, after))

    # -- namespaces

    def namespaces(self) -> dict[str, dict[str, Any]]:
        """Returns the namespaces that you may read: what they are told, and what `you_may` do there."""
        found: dict[str, dict[str, Any]] = self._traffic.ask(b"namespaces", []).details["namespaces"]
        return found

    def create_namespace(self, name: str, **settings: Any) -> None:
        """Makes a namespace that you manage. Who may make one, the daemon's configuration says.

        Args:
            name: a key.
            settings: `read`, `write`, `manage` (lists of users, "@group"s, "*"), `owner_only`, `bytes_max`,
                `objects_max`, `user_bytes_max`, `user_objects_max`, `object_bytes_max`, `ttl_s`, `durability`,
                `eviction`, `high_mark`, `low_mark`; see the README. Only you may do anything unless they say so.

        Raises:
            Denied: you may not make any.
            KeyExists: there is one of that name.
        """
        options = {"settings": settings} if settings else {}
        ranges.check_item(self._traffic.ask(b"create", [wire.key_frame(name)], options))

    def drop_namespace(self, name: str) -> None:
        """Removes a namespace that is empty and that you manage.

        Raises:
            BadRequest: it is not empty.
        """
        ranges.check_item(self._traffic.ask(b"drop", [wire.key_frame(name)]))

    def status(self) -> dict[str, Any]:
        """Returns what the daemon says of itself: objects, bytes, coherence, limits…"""
        return self._traffic.ask(b"status", []).details

    def _with(self, **options: Any) -> dict[str, Any]:
        """Returns the options of a request: the namespace, and those that are not as by default."""
        return {**self._options, **{name: value for name, value in options.items() if value}}

    # -- life

    def close(self) -> None:
        """Closes the connections. Calls under way in other threads end as they would; later ones are refused."""
        self._shortcut.close()
        self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client({self.address!r}, {self.namespace!r})"
