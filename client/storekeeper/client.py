"""`Client`: the store as a Python object.

Owns the meaning of the calls, their deadlines and their retries. Thread-safe, fork-safe and re-entrant: every call
has a carrier of its own, so nothing is locked while it waits (see carriers.py).
"""

from __future__ import annotations

import io
import json
import math
import time
import uuid
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar

from storekeeper import ranges, wire
from storekeeper.address import default_address, normal_address
from storekeeper.carriers import Carrier, Carriers, somebody_listens, unreachable
from storekeeper.errors import (
    BatchFailed,
    ClientClosed,
    DaemonStopping,
    DaemonUnreachable,
    DiskFailed,
    ProtocolError,
    StorekeeperError,
    TimedOut,
    TooLarge,
    TooMany,
)
from storekeeper.exchange import Exchange

T = TypeVar("T")
Keys = list[str]
Bools = list[bool]
Objects = list[bytes | None]

TIMEOUT_S = 30.0
_TIMEOUT_S_MAX = 1_000_000
_FIRST_GRACE_S = 1.0
_RETRY_PAUSE_S = 0.02


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
    """

    def __init__(self, address: str | None = None, namespace: str = "default", *, timeout: float = TIMEOUT_S) -> None:
        self.address = normal_address(address or default_address())
        self.namespace = namespace
        if not 0 < timeout < _TIMEOUT_S_MAX:
            raise ValueError(f"timeout= must lie between 0 and {_TIMEOUT_S_MAX} seconds")
        self.timeout = timeout
        self._message_bytes_max = wire.MESSAGE_BYTES_MAX
        self._batch_items_max = wire.BATCH_ITEMS_MAX
        self._options: dict[str, Any] = {} if namespace == "default" else {"namespace": namespace}
        self._grace_s = min(_FIRST_GRACE_S, timeout)
        self._closed = False
        self._carriers = Carriers(self.address)
        self._finalizer: weakref.finalize[Any, Any] = self._finalize()

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
        return self._put_one(data, key, replace, durability)[0]

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
            return self._get_into(key, into)
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
        views = [_view(data) for data in objs]
        names = [str(uuid.uuid4()) for _ in views] if keys is None else list(keys)
        if len(names) != len(views):
            raise ValueError(f"{len(views)} objects, {len(names)} keys")
        frames = [wire.key_frame(name) for name in names]
        return self._within_limits(lambda: self._put_groups(views, names, frames, replace, durability))

    def get_batch(self, keys: Iterable[str]) -> Objects:
        """Fetches many objects; returns their bytes, None for those that are not there, in order.

        Raises:
            BatchFailed: some could not be read; its `results` has bytes, None or an error for each.
        """
        frames = [wire.key_frame(key) for key in keys]
        return self._within_limits(lambda: self._get_groups(frames))

    def _get_groups(self, frames: Sequence[bytes]) -> Objects:
        results: list[Any] = [None] * len(frames)
        left = list(range(len(frames)))
        give_up = time.monotonic() + self.timeout
        while left:
            now, left = left[: self._batch_items_max], left[self._batch_items_max :]
            reply = self._ask(b"get", [frames[position] for position in now], self._options)
            later = []
            for item, position in enumerate(now):
                word = reply.words[item]
                if word == "ok":
                    results[position] = reply.payloads[item]
                elif word == "later":
                    later.append(position)
                elif word == "large":
                    results[position] = self._get_large(frames[position].decode())
                elif word != "absent":
                    results[position] = ranges.item_error(reply, item)
            if len(later) < len(now):
                give_up = time.monotonic() + self.timeout
            elif time.monotonic() > give_up:
                raise TimedOut("the objects change faster than they can be fetched; try again")
            left = later + left
        return _whole_batch(results)

    def exists_batch(self, keys: Iterable[str], *, fresh: bool = False) -> Bools:
        """Returns for every key whether there is an object, in order. `fresh` as in `exists`."""
        options = {**self._options, "fresh": True} if fresh else self._options
        return self._ask_each(b"exists", keys, options, "yes")

    def evict_batch(self, keys: Iterable[str]) -> Bools:
        """Removes many objects; returns for every key whether it was there, in order."""
        return self._ask_each(b"evict", keys, self._options, "evicted")

    # -- about the store

    def stat(self, key: str) -> ObjectInfo | None:
        """Returns size, owner and age of an object; None if there is none."""
        reply = self._ask(b"stat", [wire.key_frame(key)], self._options)
        ranges.check_item(reply)
        if reply.words == ["absent"]:
            return None
        told = json.loads(reply.payloads[0])
        return ObjectInfo(key, told["size"], told["owner"], told["created"])

    def list(self, prefix: str = "") -> Keys:
        """Returns the keys that begin with `prefix`, sorted. Takes about a second for a million keys."""
        options = {**self._options, "prefix": prefix} if prefix else self._options

        def pages(exchange: Exchange) -> Iterator[str]:
            reply = exchange.ask(b"list", [], options)
            while True:
                yield from bytes(reply.payloads[0]).decode("utf-8").split("\0")[:-1]
                handle = reply.details.get("handle")
                if handle is None:
                    return
                reply = exchange.ask(b"list", [handle.encode()])

        return sorted(self._exchange(lambda exchange: list(pages(exchange))))

    def status(self) -> dict[str, Any]:
        """Returns what the daemon says of itself: objects, bytes, coherence, limits…"""
        return self._ask(b"status", []).details

    # -- life

    def close(self) -> None:
        """Closes the connections. Calls under way in other threads end as they would; later ones are refused."""
        self._closed = True
        self._carriers.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client({self.address!r}, {self.namespace!r})"

    # -- parts

    def _finalize(self) -> weakref.finalize[Any, Any]:
        return weakref.finalize(self, self._carriers.close)

    def _put_options(self, replace: bool, durability: str) -> dict[str, Any]:
        options = dict(self._options)
        if replace:
            options["replace"] = True
        if durability != "os":
            options["durability"] = durability
        return options

    def _within_limits(self, call: Callable[[], T]) -> T:
        """Makes a call for many; once more if the daemon turns out to have other limits than ours."""
        try:
            return call()
        except (TooLarge, TooMany):
            limits = self.status()["limits"]
            known = (self._message_bytes_max, self._batch_items_max)
            self._message_bytes_max, self._batch_items_max = limits["message_bytes_max"], limits["batch_items_max"]
            if known == (self._message_bytes_max, self._batch_items_max):
                raise
        return call()

    def _put_groups(
        self,
        views: Sequence[memoryview],
        names: Sequence[str],
        frames: Sequence[bytes],
        replace: bool,
        durability: str,
    ) -> Keys:
        results: list[Any] = [None] * len(views)
        options = self._put_options(replace, durability)
        for group in _groups([len(view) for view in views], self._message_bytes_max, self._batch_items_max):
            if len(views[group[0]]) > self._message_bytes_max:
                position = group[0]
                try:
                    self._put_one(views[position], names[position], replace, durability)
                    results[position] = names[position]
                except StorekeeperError as error:
                    results[position] = error
                continue
            arguments: list[Any] = []
            for position in group:
                view = views[position]
                arguments += [frames[position], view.obj if _is_whole(view) else view]
            reply = self._ask(b"put", arguments, options)
            _check_durability(reply, durability)
            for item, position in enumerate(group):
                results[position] = ranges.item_error(reply, item) or names[position]
        return _whole_batch(results)

    def _put_one(
        self,
        data: Any,
        key: str | None,
        replace: bool,
        durability: str,
        progress: ranges.Progress = ranges.nothing,
    ) -> tuple[str, str]:
        """Returns the key and the result word of a put."""
        name = str(uuid.uuid4()) if key is None else key
        frame = wire.key_frame(name)
        view = _view(data)
        options = self._put_options(replace, durability)
        reply = None
        if len(view) <= self._message_bytes_max:
            try:
                reply = self._ask(b"put", [frame, view.obj if _is_whole(view) else view], options)
            except TooLarge:  # a daemon with a lower limit than ours: in ranges then
                pass
            else:
                progress(len(view))
        if reply is None:
            reply = self._exchange(lambda exchange: ranges.upload(exchange, frame, view, options, progress))
        ranges.check_item(reply)
        _check_durability(reply, durability)
        return name, reply.words[0]

    def _fetch(self, key: str, begin: ranges.Begin, progress: ranges.Progress = ranges.nothing) -> int | None:
        """Fetches an object in ranges. Returns its size, None if there is none.

        After a restart of the daemon it begins anew, so that all parts are of one object.
        """
        frame = wire.key_frame(key)

        def fetch(exchange: Exchange) -> int | None:
            download = ranges.Download(exchange, frame, self._options)
            if download.size is not None:
                download.fetch(begin, progress)
            return download.size

        return self._exchange(fetch)

    def _get_large(self, key: str) -> bytes | None:
        target = io.BytesIO()

        def begin(_: int) -> ranges.Sink:
            # BytesIO hands out its buffer as bytes without a copy; a bytearray would have to be copied once more.
            nonlocal target
            target = io.BytesIO()
            return keep

        def keep(start: int, part: memoryview) -> None:
            target.seek(start)
            target.write(part)

        size = self._fetch(key, begin)
        return None if size is None else target.getvalue()

    def _get_into(self, key: str, into: Any) -> int | None:
        target = memoryview(into).cast("B")
        if target.readonly:
            raise ValueError("into= needs a writable buffer")
        reply = self._ask(b"get", [wire.key_frame(key)], self._options)
        ranges.check_item(reply)
        if reply.words == ["absent"]:
            return None
        if reply.words == ["ok"]:
            found = reply.payloads[0]
            if len(found) > len(target):
                raise ValueError(f"the object has {len(found)} bytes, the buffer {len(target)}")
            target[: len(found)] = found
            return len(found)

        def begin(size: int) -> ranges.Sink:
            if size > len(target):
                raise ValueError(f"the object has {size} bytes, the buffer {len(target)}")
            return keep

        def keep(start: int, part: memoryview) -> None:
            target[start : start + len(part)] = part

        return self._fetch(key, begin)

    def _ask_each(self, verb: bytes, keys: Iterable[str], options: Mapping[str, Any], true_word: str) -> Bools:
        frames = [wire.key_frame(key) for key in keys]

        def ask() -> Bools:
            results: list[Any] = []
            for start in range(0, len(frames), self._batch_items_max):
                part = frames[start : start + self._batch_items_max]
                reply = self._ask(verb, part, options)
                for item in range(len(part)):
                    results.append(ranges.item_error(reply, item) or reply.words[item] == true_word)
            return _whole_batch(results)

        # A request with too many items is refused whole, so nothing of it was done before it is made again.
        return self._within_limits(ask)

    def _ask(self, verb: bytes, arguments: Sequence[Any], options: Mapping[str, Any] = {}) -> wire.Reply:
        return self._exchange(lambda exchange: exchange.ask(verb, arguments, options))

    def _exchange(self, talk: Callable[[Exchange], T]) -> T:
        """Talks to the daemon, again from the start if it went away meanwhile, until the deadline."""
        started = time.monotonic()
        deadline = started + self.timeout
        ranged = False
        self._expect_daemon(deadline)
        while True:
            if self._closed:
                raise ClientClosed("this client was closed; make a new one")
            carriers = self._carriers
            carrier = carriers.take()
            exchange = Exchange(carrier, deadline, ranged=ranged)
            try:
                result = talk(exchange)
            except (DaemonUnreachable, DaemonStopping) as error:
                carrier.close()
                deadline, ranged = exchange.deadline, exchange.ranged
                if exchange.answered:
                    self._grace_s = math.inf
                self._await_daemon(error, started, deadline)
            except (TimedOut, ProtocolError):
                carrier.close()
                raise
            except StorekeeperError:
                self._keep(carriers, carrier)  # a refusal is an answer: nothing is outstanding
                raise
            except BaseException:
                carrier.close()
                raise
            else:
                self._grace_s = math.inf
                self._keep(carriers, carrier)
                return result

    def _expect_daemon(self, deadline: float) -> None:
        """Raises at once if the last call found the daemon dead and it still is: many calls then fail fast."""
        if not self._grace_s and not somebody_listens(self.address):
            raise unreachable(self.address)

    def _await_daemon(self, error: StorekeeperError, started: float, deadline: float) -> None:
        """Waits a moment for the next daemon; raises the error if it is time to give up."""
        if time.monotonic() + _RETRY_PAUSE_S >= min(deadline, started + self._grace_s):
            self._grace_s = 0.0
            raise error
        time.sleep(_RETRY_PAUSE_S)

    def _keep(self, carriers: Carriers, carrier: Carrier) -> None:
        carriers.give_back(carrier)
        if self._closed or carriers is not self._carriers:
            carriers.close()


def _view(data: Any) -> memoryview:
    """Returns the bytes of any bytes-like object, uncopied if they lie in one piece."""
    view = memoryview(data)
    if not view.nbytes:
        return memoryview(b"")
    try:
        return view.cast("B")
    except (TypeError, ValueError):  # not in one piece, or of a structured format
        return memoryview(view.tobytes())


def _is_whole(view: memoryview) -> bool:
    """Whether a view is all of a bytes object, which may then travel itself, uncopied."""
    return type(view.obj) is bytes and len(view.obj) == len(view)


def _groups(sizes: Sequence[int], bytes_max: int, items_max: int) -> Iterator[list[int]]:
    """Yields positions that fit into one message together; one over the limit stands alone."""
    group: list[int] = []
    total = 0
    for position, size in enumerate(sizes):
        if group and (total + size > bytes_max or len(group) >= items_max):
            yield group
            group, total = [], 0
        group.append(position)
        total += size
    if group:
        yield group


def _check_durability(reply: wire.Reply, asked: str) -> None:
    reached = reply.details.get("durability")
    if asked == "disk" and reached != "disk":
        raise DiskFailed(f"durability 'disk' was asked for, {reached!r} was reached")


def _whole_batch(results: list[Any]) -> list[Any]:
    """Returns the results, unless some are errors: a single one is raised itself, else `BatchFailed` tells all."""
    errors = [result for result in results if isinstance(result, StorekeeperError)]
    if not errors:
        return results
    if len(results) == 1:
        raise errors[0]
    raise BatchFailed(f"{len(errors)} of {len(results)} items failed, first: {errors[0]}", results) from errors[0]
