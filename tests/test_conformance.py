"""The rules of conformance.py, over the service with a fake disk, the real daemon, and the connector."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

import conformance
from conftest import Daemon, daemons
from simulation import FakeDisk
from storekeeper import Client, wire
from storekeeper.connector import StorekeeperConnector, StorekeeperKey
from storekeeper.exchange import Exchange
from storekeeper.holds import Held
from storekeeper.session import Session
from storekeeperd.answers import Peer
from storekeeperd.coherence import Coherence
from storekeeperd.config import Limits
from storekeeperd.index import Index
from storekeeperd.service import Service


class ShortCarrier:
    """Carries frames straight to a service whose jobs are done at once on a fake disk."""

    passes_descriptors = False

    def descriptor(self) -> int:
        return -1

    def __init__(self) -> None:
        index = Index()
        self.disk = FakeDisk()
        self.coherence = Coherence(index)
        self.service = Service(Limits(), index, self.coherence)
        self.disk._changed = lambda name, _: self.coherence.ask(name)
        self.peer = Peer(1000, 1000, 1)
        self.coherence.begin_scan()
        self.coherence.end_scan(complete=True)
        self.coherence.sweep()
        assert self.coherence.coherent
        self.replies: list[list[Any]] = []
        self.held = Held()

    def send(self, frames: Sequence[Any], *, later: bool = False) -> None:
        self.service.request(self.peer, [bytes(frame) for frame in frames])
        while self.service.jobs or self.service.ask_disk(100):
            job = self.service.jobs.popleft()
            job.outcomes = [self.disk.perform(operation) for operation in job.operations]
            self.service.finished(job)
        while self.service.replies:
            self.replies.append(self.service.replies.popleft()[1])

    def receive(self, deadline: float, *, copy: bool = True) -> list[Any]:
        frames = self.replies.pop(0)
        return frames if copy else [Shared(frame) for frame in frames]


class Shared(bytes):
    """A frame as zmq.Frame shows it."""

    @property
    def buffer(self) -> memoryview:
        return memoryview(self)


class ShortSession(Session):
    """Calls over one such carrier."""

    def __init__(self) -> None:
        super().__init__("ipc:///nowhere", 30)
        self.carrier = ShortCarrier()

    def call(self, talk: Callable[[Exchange], Any]) -> Any:
        return talk(Exchange(self.carrier, 0.0))  # type: ignore[arg-type]


class ServiceClient(Client):
    """A `Client` whose carrier is the service itself."""

    def __init__(self) -> None:
        super().__init__(session=ShortSession())


class ConnectorStore:
    """A connector seen as a store; ProxyStore's verbs, with `set` for a put with `replace`."""

    def __init__(self, connector: StorekeeperConnector, client: Client) -> None:
        self.connector = connector
        self.client = client

    def put(self, data: Any, key: str | None = None, *, replace: bool = False) -> str:
        if replace:
            assert key is not None
            self.connector.set(StorekeeperKey(key), data)
            return key
        if key is not None:  # not in ProxyStore's contract
            return self.client.put(data, key)
        stored: str = self.connector.put(data).key
        return stored

    def put_batch(self, objs: list[Any], keys: list[str] | None = None, *, replace: bool = False) -> list[str]:
        if keys is not None:
            return self.client.put_batch(objs, keys, replace=replace)
        return [key.key for key in self.connector.put_batch(objs)]

    def get(self, key: str) -> bytes | None:
        return self.connector.get(StorekeeperKey(key))

    def get_batch(self, keys: list[str]) -> list[bytes | None]:
        return self.connector.get_batch([StorekeeperKey(key) for key in keys])

    def exists(self, key: str) -> bool:
        return self.connector.exists(StorekeeperKey(key))

    def exists_batch(self, keys: list[str]) -> list[bool]:
        if not all(map(wire.is_key, map(str.encode, keys))):
            return self.client.exists_batch(keys)
        return [self.exists(key) for key in keys]

    def evict(self, key: str) -> bool:
        there = self.exists(key)
        assert self.connector.evict(StorekeeperKey(key)) is None  # type: ignore[func-returns-value]
        return there

    def evict_batch(self, keys: list[str]) -> list[bool]:
        return [self.evict(key) for key in keys]


@pytest.fixture(scope="module")
def shared_daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with daemons(tmp_path_factory.mktemp("conformance")) as start:
        yield start("--namespace", "team")


@pytest.fixture(params=["service", "daemon", "namespace", "connector"])
def store(request: pytest.FixtureRequest, shared_daemon: Daemon) -> Iterator[Any]:
    if request.param == "service":
        with ServiceClient() as client:
            yield client
        return
    namespace = "team" if request.param == "namespace" else "default"
    with Client(shared_daemon.address, namespace) as client:
        if request.param != "connector":
            yield client
        else:
            with StorekeeperConnector(shared_daemon.address) as connector:
                yield ConnectorStore(connector, client)


@pytest.mark.parametrize("rule", conformance.RULES, ids=lambda rule: rule.__name__)
def test_every_store_keeps_the_rule(rule: Callable[[Any], None], store: Any) -> None:
    rule(store)
