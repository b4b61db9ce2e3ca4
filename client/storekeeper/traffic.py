"""Objects on their way between a caller and the daemon, whatever their size and number.

Owns what travels whole, what in ranges, and how many items one request takes; a daemon with other limits than ours is
asked for its own. What a call means to a user is `Client`'s.
"""

from __future__ import annotations

import io
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO, NamedTuple, TypeVar

from storekeeper import mappings, ranges, wire
from storekeeper.errors import BatchFailed, DaemonUnreachable, DiskFailed, StorekeeperError, TimedOut, TooLarge, TooMany
from storekeeper.exchange import Exchange
from storekeeper.session import Session
from storekeeper.shortcut import Shortcut

T = TypeVar("T")
Keys = list[str]
Bools = list[bool]
Objects = list[bytes | None]
_READS = (b"exists", b"get")
"""Verbs that a shelf may answer."""


class Terms(NamedTuple):
    """How objects are put; None leaves it to the namespace. See `Client.put`."""

    replace: bool = False
    durability: str | None = None
    ttl: float | None = None
    lifetime: str | None = None

    def to_options(self) -> dict[str, Any]:
        """Returns the options of the request."""
        return {name: value for name, value in self._asdict().items() if value is not None and value is not False}


class Traffic:
    """Requests of one client for one namespace.

    Args:
        session: the line to the daemon.
        options: options that every request of the namespace carries.
        shortcut: what need not be asked for.
    """

    def __init__(self, session: Session, options: Mapping[str, Any], shortcut: Shortcut) -> None:
        self._session = session
        self._shortcut = shortcut
        self._options = options
        self._message_bytes_max = wire.MESSAGE_BYTES_MAX
        self._batch_items_max = wire.BATCH_ITEMS_MAX

    def put_many(self, objs: Iterable[Any], keys: Sequence[str] | None, terms: Terms) -> Keys:
        """Stores objects; returns their keys."""
        views = [_view(data) for data in objs]
        names = [str(uuid.uuid4()) for _ in views] if keys is None else list(keys)
        if len(names) != len(views):
            raise ValueError(f"{len(views)} objects, {len(names)} keys")
        frames = [wire.key_frame(name) for name in names]
        return self._within_limits(lambda: self._put_groups(views, names, frames, terms))

    def get_many(self, keys: Iterable[str]) -> Objects:
        """Fetches objects; None for those that are not there."""
        names = list(keys)
        if self._shortcut.is_open:
            results: list[Any] = list(map(self._shortcut.get, names))
            left = [position for position, found in enumerate(results) if found is None]
        else:
            results, left = [None] * len(names), list(range(len(names)))
        frames = {position: wire.key_frame(names[position]) for position in left}
        return self._within_limits(lambda: self._get_groups(frames, results)) if left else results

    def has_many(self, keys: Iterable[str]) -> Bools:
        """Returns for every key whether there is an object."""
        names = list(keys)
        if not self._shortcut.is_open:
            return self.ask_each(b"exists", names, self._options, "yes")
        results: list[Any] = list(map(self._shortcut.has, names))
        left = [position for position, known in enumerate(results) if not known]
        if left:
            answers = self._results_of_each(b"exists", [names[position] for position in left], self._options, "yes")
            for position, answer in zip(left, answers, strict=True):
                results[position] = answer
        return _whole_batch(results)

    def _within_limits(self, call: Callable[[], T]) -> T:
        """Makes a call for many; once more if the daemon turns out to have other limits than ours."""
        try:
            return call()
        except (TooLarge, TooMany):
            limits = self.ask(b"status", []).details["limits"]
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
        terms: Terms,
    ) -> Keys:
        results: list[Any] = [None] * len(views)
        options = {**self._options, **terms.to_options()}
        for group in _groups([len(view) for view in views], self._message_bytes_max, self._batch_items_max):
            if len(views[group[0]]) > self._message_bytes_max:
                position = group[0]
                try:
                    self.put_one(views[position], names[position], terms)
                    results[position] = names[position]
                except StorekeeperError as error:
                    results[position] = error
                continue
            arguments: list[Any] = []
            for position in group:
                view = views[position]
                arguments += [frames[position], view.obj if _is_whole(view) else view]
            reply = self.ask(b"put", arguments, options)
            _check_durability(reply, terms.durability)
            for item, position in enumerate(group):
                results[position] = ranges.item_error(reply, item) or names[position]
        return _whole_batch(results)

    def put_one(
        self,
        data: Any,
        key: str | None,
        terms: Terms,
        progress: ranges.Progress = ranges.nothing,
    ) -> tuple[str, str, str]:
        """Returns the key, the result word and the durability of a put."""
        name = str(uuid.uuid4()) if key is None else key
        frame = wire.key_frame(name)
        view = _view(data)
        options = {**self._options, **terms.to_options()}
        reply = None
        if len(view) <= self._message_bytes_max:
            try:
                reply = self.ask(b"put", [frame, view.obj if _is_whole(view) else view], options)
            except TooLarge:  # a daemon with a lower limit than ours: in ranges then
                pass
            else:
                progress(len(view))
        if reply is None:
            reply = self._session.call(lambda exchange: ranges.upload(exchange, frame, view, options, progress))
        ranges.check_item(reply)
        _check_durability(reply, terms.durability)
        return name, reply.words[0], str(reply.details.get("durability", "os"))

    def fetch(self, key: str, begin: ranges.Begin, progress: ranges.Progress = ranges.nothing) -> int | None:
        """Fetches an object in ranges. Returns its size, None if there is none.

        After a restart of the daemon it begins anew, so that all parts are of one object.
        """
        frame = wire.key_frame(key)

        def fetch(exchange: Exchange) -> int | None:
            download = ranges.Download(exchange, frame, self._options)
            if download.size is not None:
                download.fetch(begin, progress)
            return download.size

        return self._session.call(fetch)

    def view(self, key: str) -> memoryview | None:
        """Returns an object's bytes as they lie in the page cache, where they can be mapped; None if there is none."""
        frame = wire.key_frame(key)
        found = self._session.call(lambda exchange: mappings.view(exchange, frame, self._options))
        if found is not mappings.NOT_MAPPED:
            return found
        data = self.get_many([key])[0]
        return None if data is None else memoryview(data)

    def _get_large(self, key: str) -> bytes | None:
        frame = wire.key_frame(key)
        read = self._session.call(lambda exchange: mappings.read(exchange, frame, self._options))
        return self._get_in_ranges(key) if read is mappings.NOT_MAPPED else read

    def _get_in_ranges(self, key: str) -> bytes | None:
        target = io.BytesIO()

        def begin(_: int) -> ranges.Sink:
            # BytesIO hands out its buffer as bytes without a copy; a bytearray would have to be copied once more.
            nonlocal target
            target = io.BytesIO()
            return keep

        def keep(start: int, part: memoryview) -> None:
            target.seek(start)
            target.write(part)

        size = self.fetch(key, begin)
        return None if size is None else target.getvalue()

    def get_into(self, key: str, into: Any) -> int | None:
        """Fetches an object into a buffer; returns its size, None if there is none."""
        target = memoryview(into).cast("B")
        if target.readonly:
            raise ValueError("into= needs a writable buffer")
        known = self._shortcut.get(key)
        if known is not None and len(known) <= len(target):
            target[: len(known)] = known
            return len(known)
        reply = self.ask(b"get", [wire.key_frame(key)], self._options)
        ranges.check_item(reply)
        if reply.words == ["absent"]:
            return None
        if reply.words == ["ok"]:
            found = reply.payloads[0]
            if len(found) > len(target):
                raise ValueError(f"the object has {len(found)} bytes, the buffer {len(target)}")
            target[: len(found)] = found
            return len(found)

        frame = wire.key_frame(key)
        read = self._session.call(lambda exchange: mappings.read_into(exchange, frame, self._options, target))
        if read is not mappings.NOT_MAPPED:
            return read

        def begin(size: int) -> ranges.Sink:
            if size > len(target):
                raise ValueError(f"the object has {size} bytes, the buffer {len(target)}")
            return keep

        def keep(start: int, part: memoryview) -> None:
            target[start : start + len(part)] = part

        return self.fetch(key, begin)

    def get_to(self, key: str, file: BinaryIO) -> int | None:
        """Writes an object into a file, in order; returns its size, None if there is none."""
        frame = wire.key_frame(key)
        file.flush()
        sent = self._session.call(lambda exchange: mappings.send_to(exchange, frame, self._options, file))
        if sent is not mappings.NOT_MAPPED:
            return sent
        return self.fetch_in_order(key, file)

    def fetch_in_order(self, key: str, file: BinaryIO, progress: ranges.Progress = ranges.nothing) -> int | None:
        """Fetches an object in ranges, and writes it into a file as it comes; as `get_to`."""
        try:
            return self.fetch(key, ranges.in_order(file), progress)
        except ranges.Torn:
            raise DaemonUnreachable(
                "the daemon went away in the middle of the object; what was written is not all of it"
            ) from None

    def ask_each(self, verb: bytes, keys: Iterable[str], options: Mapping[str, Any], true_word: str) -> Bools:
        """Returns for every key whether the verb answers it with `true_word`."""
        return _whole_batch(self._results_of_each(verb, keys, options, true_word))

    def _results_of_each(
        self, verb: bytes, keys: Iterable[str], options: Mapping[str, Any], true_word: str
    ) -> list[Any]:
        """Returns the same, or an error where there is one."""
        frames = [wire.key_frame(key) for key in keys]

        def ask() -> list[Any]:
            results: list[Any] = []
            for start in range(0, len(frames), self._batch_items_max):
                part = frames[start : start + self._batch_items_max]
                reply = self.ask(verb, part, options)
                for item in range(len(part)):
                    results.append(ranges.item_error(reply, item) or reply.words[item] == true_word)
            return results

        # A request with too many items is refused whole, so nothing of it was done before it is made again.
        return self._within_limits(ask)

    def ask(self, verb: bytes, arguments: Sequence[Any], options: Mapping[str, Any] = {}) -> wire.Reply:
        """Makes one request."""
        if verb not in _READS:
            return self._session.call(lambda exchange: exchange.ask(verb, arguments, options))

        def read(exchange: Exchange) -> wire.Reply:
            reply = exchange.ask(verb, arguments, options)
            self._shortcut.pass_by(exchange)
            return reply

        return self._session.call(read)

    def _get_groups(self, frames: Mapping[int, bytes], results: list[Any]) -> Objects:
        """Fetches objects, by position, into the results."""
        left = list(frames)
        give_up = time.monotonic() + self._session.timeout_s
        while left:
            now, left = left[: self._batch_items_max], left[self._batch_items_max :]
            reply = self.ask(b"get", [frames[position] for position in now], self._options)
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
                give_up = time.monotonic() + self._session.timeout_s
            elif time.monotonic() > give_up:
                raise TimedOut("the objects change faster than they can be fetched; try again")
            left = later + left
        return _whole_batch(results)


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


def _check_durability(reply: wire.Reply, asked: str | None) -> None:
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
