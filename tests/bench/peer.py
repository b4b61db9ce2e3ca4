"""What the benchmark sees of a store: a `Peer`, the access of one process; and a `Candidate`, how that is had.

Owns the split in two: what must run once is served, and any number of processes join it. Both take a folder, empty at
first, that is all they have in common.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4


class Missing(Exception):
    """Why a candidate takes no part."""


@dataclass(frozen=True)
class Peer:
    """A store, as one process has it: its operations; None for what it lacks."""

    put: Callable[[bytes], Any]
    """Takes bytes; returns their key."""
    get: Callable[[Any], Any]
    exists: Callable[[Any], Any] | None = None
    evict: Callable[[Any], Any] | None = None
    put_batch: Callable[[Sequence[bytes]], Sequence[Any]] | None = None
    get_batch: Callable[[Sequence[Any]], Sequence[Any]] | None = None
    view: Callable[[Any], Any] | None = None
    """Looks at an object's first and last byte without a copy of it, and lets it go; returns both."""
    proxy: Callable[[bytes], Any] | None = None
    """Puts bytes through a `Store` of ProxyStore, and returns their proxy's target, resolved."""
    bytes_max: float = math.inf
    """Larger objects it refuses."""


@contextmanager
def _nothing(_folder: str) -> Iterator[None]:
    yield None


@dataclass(frozen=True)
class Candidate:
    """How a store is had, in a folder; both raise `Missing` if it cannot be."""

    join: Callable[[str], AbstractContextManager[Peer]]
    """Gives the access of this process; for every process its own, made after it was forked."""
    serve: Callable[[str], AbstractContextManager[int | None]] = _nothing
    """Lets run what must run once, before anybody joins; gives its process, None if there is none."""

    @contextmanager
    def alone(self, folder: str) -> Iterator[Peer]:
        """Serves, and joins from this process."""
        with self.serve(folder), self.join(folder) as peer:
            yield peer


def module(name: str) -> Any:
    """Imports what not everybody has installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise Missing(f"{name.partition('.')[0]} cannot be imported ({error})") from error


def new_key() -> bytes:
    """Makes a key as FileConnector does."""
    return str(uuid4()).encode()


@contextmanager
def proxies(make_connector: Callable[[], Any]) -> Iterator[Callable[[bytes], bytes]]:
    """Gives a `Peer.proxy`; what it takes is made when it is called first, for most never do."""
    stores: list[Any] = []

    def proxy(data: bytes) -> bytes:
        if not stores:
            # Without its cache: what is resolved is fetched.
            make = module("proxystore.store").Store
            stores.append(make(f"bench-{uuid4()}", make_connector(), cache_size=0, register=True))
        made = stores[0].proxy(data, populate_target=False)
        resolved: bytes = made.__proxy_wrapped__
        return resolved

    try:
        yield proxy
    finally:
        for store in stores:
            store.close()
