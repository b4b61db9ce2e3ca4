"""listener.py, service.py and keeper.py through a raw socket: refusals, credentials, bounds, roots that go away."""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from conftest import Daemon, daemons, eventually
from storekeeper import Client, framing, wire, zmtp
from storekeeper.errors import StoreUnavailable
from storekeeperd.metadata import Metadata


class Raw:
    """A peer without libzmq: our own engine on a plain socket."""

    def __init__(self, address: str, greet: bool = True) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(20)
        self.socket.connect(address.removeprefix("ipc://"))
        self.engine = zmtp.Engine(socket_type=b"DEALER", as_server=False, message_bytes_max=1 << 30, frames_max=1 << 20)
        if greet:
            self._flush()
            while not self.engine.ready:
                self._receive()
                self.engine.next_message()
                self._flush()

    def send(self, *frames: bytes) -> None:
        for buffer in framing.encode_message(list(frames)):
            self.socket.sendall(buffer)

    def receive(self) -> list[bytes]:
        while (message := self.engine.next_message()) is None:
            self._receive()
        return [bytes(frame) for frame in message]

    def ask(self, *frames: bytes) -> list[bytes]:
        self.send(*frames)
        return self.receive()

    def is_dropped(self) -> bool:
        try:
            while self.socket.recv(100_000):
                pass
        except ConnectionError:
            pass
        return True

    def _receive(self) -> None:
        data = self.socket.recv(100_000)
        if not data:
            raise ConnectionResetError
        self.engine.receive(data)

    def _flush(self) -> None:
        for buffer in self.engine.outgoing:
            self.socket.sendall(buffer)
        self.engine.outgoing.clear()

    def close(self) -> None:
        self.socket.close()


@pytest.fixture
def connect(daemon: Daemon) -> Iterator[Callable[..., Raw]]:
    made: list[Raw] = []

    def connect(greet: bool = True) -> Raw:
        made.append(Raw(daemon.address, greet))
        return made[-1]

    yield connect
    for raw in made:
        raw.close()


@pytest.fixture
def raw(connect: Callable[..., Raw]) -> Raw:
    return connect()


@pytest.fixture(scope="module")
def shared_daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One daemon for the tests that only ask and leave nothing in it."""
    with daemons(tmp_path_factory.mktemp("listener")) as start:
        yield start()


@pytest.fixture
def asking(shared_daemon: Daemon) -> Iterator[Raw]:
    """A connection to it."""
    raw = Raw(shared_daemon.address)
    yield raw
    raw.close()


BAD_KEYS = {
    b"": "1 to 255",
    b"../x": "dot",
    b".x": "dot",
    b"a/b": "/",
    b"x" * 300: "1 to 255",
    b"x" * 20_000: "1 to 255",
    b"a\0b": "NUL",
    b"\xff\xfe": "UTF-8",
}


@pytest.mark.parametrize("verb", [b"exists", b"get", b"evict", b"stat", b"put"])
def test_a_bad_key_is_an_error_of_its_item_and_the_connection_goes_on(asking: Raw, verb: bytes) -> None:
    raw = asking
    for key, rule in BAD_KEYS.items():
        arguments = [key, b"payload"] if verb == b"put" else [key]
        version, request_id, outcome, details, results, *_ = raw.ask(b"SK01", verb, b"1", b"", *arguments)
        assert (version, request_id, outcome, results) == (b"SK01", b"1", b"ok", b"bad_key")
        assert rule in json.loads(details)["errors"]["0"]
    assert raw.ask(b"SK01", b"exists", b"2", b"", b"k")[4] == b"no"


@pytest.mark.parametrize("verb", [b"upload", b"open"])
def test_a_bad_key_of_a_transfer_refuses_it(asking: Raw, verb: bytes) -> None:
    raw = asking
    for key, rule in BAD_KEYS.items():
        _, _, outcome, details = raw.ask(b"SK01", verb, b"1", b"", key)
        assert outcome == b"bad_key"
        assert rule in json.loads(details)["message"]


REFUSED = [
    ([b"SK01", b"destroy", b"1", b""], b"unknown_verb", "exists"),
    ([b"SK01", b"x" * 10_000, b"1", b""], b"unknown_verb", "exists"),
    ([b"SK01", b"\xff", b"1", b""], b"unknown_verb", "exists"),
    ([b"SK02", b"exists", b"1", b"", b"k"], b"bad_version", "SK01"),
    ([b"HTTP", b"", b"1"], b"bad_request", "4 frames"),
    ([b"SK01"], b"bad_request", "4 frames"),
    ([b"SK01", b"exists", b"1"], b"bad_request", "4 frames"),
    ([b"SK01", b"exists", b"1" * 33, b"", b"k"], b"bad_request", "32"),
    ([b"SK01", b"exists", b"1", b""], b"bad_request", "key"),
    ([b"SK01", b"put", b"1", b"", b"k"], b"bad_request", "key payload"),
    ([b"SK01", b"put", b"1", b"", b"k", b"v", b"l"], b"bad_request", "key payload"),
    ([b"SK01", b"status", b"1", b"", b"k"], b"bad_request", "nothing"),
    ([b"SK01", b"write", b"1", b"", b"1"], b"bad_request", "handle offset bytes"),
    ([b"SK01", b"write", b"1", b"", b"1", b"0", b"x"], b"bad_handle", "handle"),
    ([b"SK01", b"write", b"1", b"", b"x" * 10_000, b"0", b"x"], b"bad_handle", "handle"),
    ([b"SK01", b"commit", b"1", b"", b"1", b"-1"], b"bad_request", "size"),
    ([b"SK01", b"commit", b"1", b"", b"1", b"9" * 19], b"bad_request", "size"),
    ([b"SK01", b"list", b"1", b"", b"1"], b"bad_handle", "handle"),
    ([b"SK01", b"exists", b"1", b"{", b"k"], b"bad_request", "JSON"),
    ([b"SK01", b"exists", b"1", b"[" * 8000, b"k"], b"bad_request", "JSON"),
    ([b"SK01", b"exists", b"1", b" " * 9000, b"k"], b"bad_request", "8192"),
    ([b"SK01", b"exists", b"1", b"[]", b"k"], b"bad_request", "object"),
    ([b"SK01", b"exists", b"1", b"null", b"k"], b"bad_request", "object"),
    ([b"SK01", b"exists", b"1", b"\xff", b"k"], b"bad_request", "JSON"),
    ([b"SK01", b"exists", b"1", b'{"fresh":1}', b"k"], b"bad_request", "fresh"),
    ([b"SK01", b"exists", b"1", b'{"fresh":"yes"}', b"k"], b"bad_request", "fresh"),
    ([b"SK01", b"exists", b"1", b'{"colour":"red"}', b"k"], b"bad_request", "colour"),
    ([b"SK01", b"put", b"1", b'{"replace":null}', b"k", b"v"], b"bad_request", "replace"),
    ([b"SK01", b"put", b"1", b'{"durability":"tape"}', b"k", b"v"], b"bad_request", "durability"),
    ([b"SK01", b"put", b"1", b'{"durability":1}', b"k", b"v"], b"bad_request", "durability"),
    ([b"SK01", b"get", b"1", b'{"namespace":"x"}', b"k"], b"no_namespace", "default"),
    ([b"SK01", b"get", b"1", b'{"namespace":["default"]}', b"k"], b"bad_request", "namespace"),
    ([b"SK01", b"get", b"1", b"", *[b"k"] * 1025], b"too_many", "1024"),
    ([b"SK01", b"put", b"1", b"", b"k", b"v" * (4 * 1024 * 1024 + 1)], b"too_large", "ranges"),
    ([b"SK01", b"put", b"1", b"", b"k", b"v" * (9 * 1024 * 1024)], b"too_large", "ranges"),
]  # fmt: skip


@pytest.mark.parametrize("envelope", [False, True])
@pytest.mark.parametrize(("frames", "code", "word"), REFUSED)
def test_a_request_that_breaks_a_rule_is_refused_by_its_name(
    asking: Raw, frames: list[bytes], code: bytes, word: str, envelope: bool
) -> None:
    raw = asking
    if envelope:
        frames = [b"", *frames]
    answer = raw.ask(*frames)
    if envelope or not frames[0]:
        assert answer.pop(0) == b""
    version, request_id, outcome, details = answer
    assert (version, outcome) == (b"SK01", code)
    told = json.loads(details)
    assert word in told["message"]
    assert told["retry"] is False
    if len(frames) > 3 + envelope and frames[0] == b"SK01":
        assert request_id == frames[2][:32]
    assert raw.ask(b"SK01", b"exists", b"2", b"", b"k")[4] == b"no"


def test_mutated_requests_are_answered_or_the_connection_ends_and_the_daemon_lives(
    daemon: Daemon, connect: Callable[..., Raw], request: pytest.FixtureRequest
) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    raw = connect()
    for number in range(min(3000, request.config.getoption("--cases"))):
        verb = chance.choice(list(wire.OPTIONS))
        frames = [b"SK01", verb, b"%d" % number, b"", *chance.choices([b"k", b"0", b"1", b"x" * 9000], k=3)]
        for _ in range(chance.randrange(3)):
            frames[chance.randrange(len(frames))] = chance.randbytes(chance.choice((0, 1, 3, 40)))
        if chance.random() < 0.2:
            del frames[chance.randrange(len(frames)) :]
        if not frames:
            continue
        answer = raw.ask(*frames)
        assert b"SK01" in answer[:2]
        assert b"internal" not in answer
    with daemon.client() as client:
        assert client.status()["pid"] == daemon.pid


def test_pipelined_requests_are_each_answered_once(raw: Raw) -> None:
    raw.ask(b"SK01", b"put", b"0", b"", b"k", b"bytes")
    for number in range(2000):
        raw.send(b"SK01", chance_verb(number), b"%d" % number, b"", b"k")
    seen = {raw.receive()[1] for _ in range(2000)}
    assert seen == {b"%d" % number for number in range(2000)}


def chance_verb(number: int) -> bytes:
    return (b"exists", b"get", b"stat", b"exists")[number % 4]


def test_changes_of_one_key_are_made_in_the_order_asked(raw: Raw) -> None:
    for round_ in range(50):
        raw.send(b"SK01", b"put", b"a", b'{"replace":true,"durability":"disk"}', b"k", b"%d" % round_)
        raw.send(b"SK01", b"evict", b"b", b"", b"k")
        raw.send(b"SK01", b"put", b"c", b"", b"k", b"last")
        answers = {}
        for _ in range(3):
            answer = raw.receive()
            answers[answer[1]] = answer[4]
        assert answers[b"b"] == b"evicted"
        assert answers[b"c"] == b"created"
        assert raw.ask(b"SK01", b"get", b"d", b"", b"k")[5] == b"last"


@pytest.mark.parametrize("kind", [zmq.REQ, zmq.DEALER])
def test_stock_sockets_are_clients(daemon: Daemon, kind: int) -> None:
    with zmq.Context() as context, context.socket(kind) as stock:
        stock.linger = 0
        stock.rcvtimeo = 20_000
        stock.connect(daemon.address)
        for verb, arguments, results in (
            (b"put", [b"k", b"bytes", b"l", b""], b"created created"),
            (b"get", [b"k", b"m", b"l"], b"ok absent ok"),
            (b"exists", [b"k", b"m"], b"yes no"),
            (b"evict", [b"k", b"m"], b"evicted absent"),
        ):
            stock.send_multipart([b"SK01", verb, b"id", b"", *arguments])
            answer = stock.recv_multipart()
            assert answer[:3] == [b"SK01", b"id", b"ok"]
            assert answer[4] == results
        if kind == zmq.DEALER:  # a DEALER may send the empty frame too
            stock.send_multipart([b"", b"SK01", b"exists", b"id", b"", b"l"])
            assert stock.recv_multipart() == [b"", b"SK01", b"id", b"ok", b"", b"yes"]


def test_an_upload_in_ranges_is_published_whole_or_not_at_all(raw: Raw, daemon: Daemon) -> None:
    def begin(options: bytes = b"") -> bytes:
        handle: str = json.loads(raw.ask(b"SK01", b"upload", b"1", options, b"k")[3])["handle"]
        return handle.encode()

    handle = begin()
    raw.send(b"SK01", b"write", b"2", b"", handle, b"3", b"def")
    raw.send(b"SK01", b"write", b"3", b"", handle, b"0", b"abc")
    raw.send(b"SK01", b"commit", b"4", b"", handle, b"6")
    answers = {}
    for _ in range(3):
        answer = raw.receive()
        answers[answer[1]] = answer[4]
    assert answers == {b"2": b"ok", b"3": b"ok", b"4": b"created"}
    assert raw.ask(b"SK01", b"get", b"5", b"", b"k")[5] == b"abcdef"
    assert raw.ask(b"SK01", b"write", b"6", b"", handle, b"0", b"x")[2] == b"bad_handle"

    handle = begin()
    raw.ask(b"SK01", b"write", b"2", b"", handle, b"0", b"abc")
    answer = raw.ask(b"SK01", b"commit", b"4", b"", handle, b"6")
    assert answer[4] == b"incomplete"
    assert "3 were written" in json.loads(answer[3])["errors"]["0"]
    assert raw.ask(b"SK01", b"get", b"5", b"", b"k")[5] == b"abcdef"

    handle = begin()
    raw.ask(b"SK01", b"write", b"2", b"", handle, b"0", b"abc")
    assert raw.ask(b"SK01", b"commit", b"4", b"", handle, b"3")[4] == b"key_exists"
    handle = begin(b'{"replace":true}')
    raw.ask(b"SK01", b"write", b"2", b"", handle, b"0", b"abc")
    assert raw.ask(b"SK01", b"abort", b"3", b"", handle)[4] == b"ok"
    assert raw.ask(b"SK01", b"get", b"5", b"", b"k")[5] == b"abcdef"
    assert sorted(p.name for p in daemon.store.iterdir()) == [".storekeeper", "k"]


def test_a_download_stays_the_object_it_was(raw: Raw) -> None:
    raw.ask(b"SK01", b"put", b"1", b"", b"k", b"0123456789")
    details = json.loads(raw.ask(b"SK01", b"open", b"2", b"", b"k")[3])
    assert details["size"] == 10
    handle = details["handle"].encode()
    raw.ask(b"SK01", b"put", b"3", b'{"replace":true}', b"k", b"other")
    raw.ask(b"SK01", b"evict", b"3", b"", b"k")
    assert raw.ask(b"SK01", b"read", b"4", b"", handle, b"2", b"3")[5] == b"234"
    assert raw.ask(b"SK01", b"read", b"4", b"", handle, b"8", b"100")[5] == b"89"
    assert raw.ask(b"SK01", b"read", b"4", b"", handle, b"100", b"1")[5] == b""
    assert raw.ask(b"SK01", b"close", b"5", b"", handle)[4] == b"ok"
    assert raw.ask(b"SK01", b"read", b"4", b"", handle, b"0", b"1")[2] == b"bad_handle"
    assert raw.ask(b"SK01", b"open", b"2", b"", b"k")[4] == b"absent"


def test_handles_are_limited_and_end_with_their_connection(
    raw: Raw, connect: Callable[..., Raw], daemon: Daemon
) -> None:
    raw.ask(b"SK01", b"put", b"1", b"", b"k", b"x")
    before = daemon.descriptors
    for number in range(16):
        assert raw.ask(b"SK01", (b"upload", b"open")[number % 2], b"1", b"", b"k")[2] == b"ok"
    assert raw.ask(b"SK01", b"upload", b"1", b"", b"k")[2] == b"too_many"
    assert raw.ask(b"SK01", b"open", b"1", b"", b"k")[2] == b"too_many"
    other = connect()
    assert other.ask(b"SK01", b"read", b"1", b"", b"2", b"0", b"1")[2] == b"bad_handle"
    other.close()
    raw.close()
    eventually(lambda: daemon.descriptors == before - 1)


def test_the_owner_is_who_the_kernel_says(raw: Raw) -> None:
    raw.ask(b"SK01", b"put", b"1", b"", b"k", b"x")
    told = json.loads(raw.ask(b"SK01", b"stat", b"2", b"", b"k")[5])
    assert told["owner"] == os.geteuid()


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user: needs root")
def test_another_user_s_object_has_its_owner(tmp_path: Path) -> None:
    """The child asks as uid 1234; no field of its messages says so, and a forged property changes nothing."""
    with tempfile.TemporaryDirectory() as reachable:
        os.chmod(reachable, 0o755)
        daemon = Daemon(tmp_path / "store", f"ipc://{reachable}/s", "--socket-mode", "0666").start()
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.setuid(1234)
                stranger = socket.socket(socket.AF_UNIX)
                stranger.connect(f"{reachable}/s")
                forged = framing.encode_ready(b"DEALER", [(b"Peer-Address", b"localhost:0:0:1"), (b"User-Id", b"root")])
                stranger.sendall(framing.greeting(as_server=False) + forged)
                stranger.sendall(b"".join(framing.encode_message([b"SK01", b"put", b"1", b"", b"theirs", b"x"])))
                while b"created" not in stranger.recv(1000):
                    pass
                os.write(writer, b"!")
            finally:
                os._exit(0)
        os.close(writer)
        answer = os.read(reader, 1)
        os.waitpid(child, 0)
        os.close(reader)
        try:
            assert answer == b"!"
            with daemon.client() as client:
                info = client.stat("theirs")
            assert info is not None
            assert info.owner == 1234
            kept = Metadata.unpack(os.getxattr(daemon.store / "theirs", "user.storekeeper"))
            assert kept is not None
            assert kept.owner == 1234
            assert (daemon.store / "theirs").stat().st_uid == os.geteuid()
        finally:
            daemon.end()


# -- bounds


def test_a_peer_that_does_not_read_is_not_read_from_and_harms_nobody(
    daemon: Daemon, raw: Raw, connect: Callable[..., Raw]
) -> None:
    raw.ask(b"SK01", b"put", b"1", b"", b"large", bytes(4_000_000))
    greedy = connect()
    greedy.socket.setblocking(False)
    request = b"".join(framing.encode_message([b"SK01", b"get", b"1", b"", b"large"]))
    sent = 0
    with pytest.raises(BlockingIOError):
        for _ in range(100_000):  # 400 GB of answers, if they were all made
            sent += greedy.socket.send(request)
    for _ in range(20):
        assert raw.ask(b"SK01", b"exists", b"1", b"", b"large")[4] == b"yes"
    assert resident_bytes(daemon.pid) < 150_000_000


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_bytes_that_are_announced_and_never_sent_cost_nothing(daemon: Daemon, connect: Callable[..., Raw]) -> None:
    before = resident_bytes(daemon.pid)
    for size in (4_000_000, 4_400_000, 1 << 40):
        for _ in range(30):
            connect().socket.sendall(b"\x01\x04SK01" + b"\x02" + size.to_bytes(8, "big") + b"xxx")
    assert connect().ask(b"SK01", b"exists", b"1", b"", b"k")[4] == b"no"
    assert resident_bytes(daemon.pid) < before + 30_000_000


def test_a_flood_of_pings_is_answered_or_stalls_and_harms_nobody(daemon: Daemon, connect: Callable[..., Raw]) -> None:
    flood = connect()
    flood.socket.setblocking(False)
    pings = framing.encode_command(b"PING", b"\0\0" + b"c" * 16) * 2000
    with pytest.raises(BlockingIOError):
        for _ in range(10_000):
            flood.socket.send(pings)
    assert connect().ask(b"SK01", b"exists", b"1", b"", b"k")[4] == b"no"
    flood.close()
    assert resident_bytes(daemon.pid) < 100_000_000


@pytest.mark.parametrize("step", [1, 5])
def test_bytes_may_come_one_by_one(connect: Callable[..., Raw], step: int) -> None:
    raw = connect()
    data = b"".join(framing.encode_message([b"SK01", b"put", b"1", b"", b"k", b"x" * 600]))
    for start in range(0, len(data), step):
        raw.socket.sendall(data[start : start + step])
    assert raw.receive()[4] == b"created"


@pytest.mark.parametrize("garbage", [b"GET / HTTP/1.1\r\n\r\n", b"\0" * 100, b"\xff" * 100])
def test_garbage_ends_its_connection_only(connect: Callable[..., Raw], raw: Raw, garbage: bytes) -> None:
    other = connect(False)
    other.socket.sendall(garbage)
    assert other.is_dropped()
    assert raw.ask(b"SK01", b"exists", b"1", b"", b"k")[4] == b"no"


def test_who_never_greets_is_dropped(start_daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("[limits]\nhandshake_timeout_s = 0.2\n")
    daemon = start_daemon("--config", str(tmp_path / "c.toml"))
    mute, slow, good = Raw(daemon.address, False), Raw(daemon.address, False), Raw(daemon.address)
    slow.socket.sendall(framing.greeting(as_server=False))
    assert mute.is_dropped()
    assert slow.is_dropped()
    assert good.ask(b"SK01", b"exists", b"1", b"", b"k")[4] == b"no"
    for raw in (mute, slow, good):
        raw.close()


def test_connections_are_limited_and_places_become_free(start_daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("[limits]\nconnections_max = 5\n")
    daemon = start_daemon("--config", str(tmp_path / "c.toml"))
    eventually(lambda: _connections(daemon) == 1)
    held = [Raw(daemon.address) for _ in range(5)]
    refused = Raw(daemon.address)
    reply = refused.ask(b"SK01", b"exists", b"7", b"", b"k")
    assert reply[1:3] == [b"7", b"busy"]
    assert json.loads(reply[3])["retry"]
    assert refused.is_dropped()
    held.pop().close()
    eventually(lambda: _connections(daemon) == 5)
    for raw in (*held, refused):
        raw.close()


def _connections(daemon: Daemon) -> int:
    try:
        raw = Raw(daemon.address)
    except (ConnectionError, OSError):
        return 0
    told: int = json.loads(raw.ask(b"SK01", b"status", b"1", b"")[3]).get("connections", 0)
    raw.close()
    return told


def test_a_daemon_out_of_descriptors_serves_on(tmp_path: Path) -> None:
    address = f"ipc://{tmp_path}/s"
    limit = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))"
    script = f"{limit}; from storekeeperd.__main__ import main; main()"
    command = [sys.executable, "-c", script, "serve", str(tmp_path / "store"), "--address", address]
    process = subprocess.Popen([*command, "--log-level", "error"], stderr=subprocess.DEVNULL)
    try:
        eventually(lambda: Path(tmp_path / "s").exists())
        time.sleep(0.1)
        first = Raw(address)
        crowd = []
        for _ in range(100):
            try:
                crowd.append(Raw(address, False))
            except OSError:
                break
        assert first.ask(b"SK01", b"exists", b"1", b"", b"k")[4] == b"no"
        assert process.poll() is None
        for raw in crowd:
            raw.close()
        eventually(lambda: first.ask(b"SK01", b"put", b"1", b"", b"k", b"x")[4] in (b"created", b"same"))
        late = Raw(address)
        assert late.ask(b"SK01", b"get", b"1", b"", b"k")[5] == b"x"
        first.close()
        late.close()
    finally:
        process.kill()
        process.wait()


def test_a_peer_that_resets_in_the_middle_harms_nobody(connect: Callable[..., Raw], raw: Raw, daemon: Daemon) -> None:
    data = b"".join(framing.encode_message([b"SK01", b"put", b"1", b"", b"never", bytes(100_000)]))
    for cut in (1, 70, 5000, 99_000):
        other = connect()
        other.socket.sendall(data[:cut])
        other.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        other.close()
    assert raw.ask(b"SK01", b"exists", b"1", b"", b"never")[4] == b"no"
    eventually(lambda: _connections(daemon) == 2)


# -- the store's directory


def test_a_store_that_goes_away_is_refused_and_served_again_when_it_is_back(daemon: Daemon, tmp_path: Path) -> None:
    with daemon.client(timeout=10) as client:
        client.put(b"bytes", key="k")
        daemon.store.rename(tmp_path / "elsewhere")
        eventually(lambda: client.status()["store_away"])
        for call in (lambda: client.get("k"), lambda: client.put(b"x"), lambda: client.exists("k")):
            with pytest.raises(StoreUnavailable):
                call()
        daemon.store.mkdir()  # another directory at the same path is not the store
        time.sleep(0.1)
        with pytest.raises(StoreUnavailable):
            client.put(b"x")
        assert list(daemon.store.iterdir()) == []
        daemon.store.rmdir()
        (tmp_path / "elsewhere" / "added").write_bytes(b"meanwhile")
        (tmp_path / "elsewhere").rename(daemon.store)
        eventually(lambda: not client.status()["store_away"])
        eventually(lambda: client.status()["coherent"])
        assert client.list() == ["added", "k"]
        client.put(b"x", key="l")
        (daemon.store / "k").unlink()
        eventually(lambda: not client.exists("k"))  # it is watched again


def test_a_store_that_is_removed_is_refused_for_good(daemon: Daemon) -> None:
    with daemon.client(timeout=10) as client:
        client.put(b"bytes", key="k")
        shutil.rmtree(daemon.store)
        eventually(lambda: client.status()["store_away"])
        with pytest.raises(StoreUnavailable):
            client.put(b"x")
        assert not daemon.store.exists()
    assert daemon.stop() == 0


def test_foreign_entries_are_counted_and_left_alone(start_daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    (store / "object").write_bytes(b"bytes")
    (store / "folder").mkdir()
    (store / "folder" / "inside").write_bytes(b"x")
    os.mkfifo(store / "fifo")
    (store / "link").symlink_to("object")
    (store / ".hidden").write_bytes(b"x")
    (tmp_path / "store" / os.fsdecode(b"\xff\xfe")).write_bytes(b"x")
    before = sorted(os.listdir(store))
    daemon = start_daemon()
    with daemon.client() as client:
        eventually(lambda: client.status()["coherent"])
        assert client.list() == ["object"]
        assert client.status()["foreign"] == 4
        for name in ("folder", "fifo", "link"):
            assert client.get(name) is None
            assert client.exists(name) is False
            assert client.evict(name) is False
        assert sorted(os.listdir(store)) == sorted([*before, ".storekeeper"])
    assert daemon.stop() == 0


def status_of(raw: Raw) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(raw.ask(b"SK01", b"status", b"1", b"")[3])
    return told


def test_status_tells_what_an_operator_wants_to_know(raw: Raw, daemon: Daemon) -> None:
    raw.ask(b"SK01", b"put", b"1", b"", b"k", b"12345")
    told = status_of(raw)
    assert (told["objects"], told["bytes"], told["pid"]) == (1, 5, daemon.pid)
    assert told["address"] == daemon.address
    assert told["store"] == str(daemon.store)
    assert told["lacks"] == []


# -- what an attack found, and must not come back


def test_a_list_before_the_first_scan_is_complete_waits_for_it(
    start_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    (tmp_path / "store").mkdir()
    for number in range(20_000):
        os.close(os.open(tmp_path / "store" / f"k{number}", os.O_CREAT | os.O_WRONLY))
    with start_daemon().client() as client:
        assert len(client.list()) == 20_000


def test_without_a_watch_every_answer_is_looked_up_and_right(tmp_path: Path) -> None:
    script = (
        "import storekeeperd.watcher as w\n"
        "def refuse(): raise OSError(24, 'inotify instance limit reached')\n"
        "w.InotifyFD = refuse\n"
        "from storekeeperd.__main__ import main; main()"
    )
    command = [sys.executable, "-c", script, "serve", str(tmp_path / "store"), "--address", f"ipc://{tmp_path}/s"]
    with open(tmp_path / "log", "wb") as log:
        process = subprocess.Popen(command, stderr=log)
    try:
        with Client(f"ipc://{tmp_path}/s", timeout=20) as client:
            client._session.grace_s = 20
            keys = client.put_batch([b"x"] * 3, keys=["a", "b", "c"])
            assert client.list() == keys
            (tmp_path / "store" / "a").unlink()
            assert client.exists_batch(keys) == [False, True, True]
            assert client.list() == ["b", "c"]
            status = client.status()
            assert (status["lacks"], status["coherent"]) == (["watch"], False)
    finally:
        process.kill()
        process.wait()
    assert "fs.inotify.max_user_instances" in (tmp_path / "log").read_text()


def test_a_name_of_another_namespace_is_no_key(start_daemon: Callable[..., Daemon]) -> None:
    daemon = start_daemon("--namespace", "team")
    with daemon.client(namespace="team") as team:
        team.put(b"x", key="secret")
    raw = Raw(daemon.address)
    assert raw.ask(b"SK01", b"exists", b"1", b"", b"team/secret")[4] == b"bad_key"
    raw.close()


def test_objects_not_known_yet_are_charged_before_they_are_read(
    start_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "large").write_bytes(bytes(4 << 20))
    daemon = start_daemon()
    greedy = Raw(daemon.address)
    request = b"".join(framing.encode_message([b"SK01", b"get", b"1", b"", b"large"]))
    greedy.socket.sendall(request * 255)
    with daemon.client() as client:
        for _ in range(20):
            assert client.exists("large")
        assert resident_bytes(daemon.pid) < 150_000_000
        assert client.get("large") == bytes(4 << 20)
    greedy.close()


def test_a_hole_in_an_upload_is_incomplete(raw: Raw) -> None:
    handle = json.loads(raw.ask(b"SK01", b"upload", b"1", b"", b"k")[3])["handle"].encode()
    for start in (b"0", b"0", b"20"):
        assert raw.ask(b"SK01", b"write", b"2", b"", handle, start, b"x" * 10)[4] == b"ok"
    assert raw.ask(b"SK01", b"commit", b"3", b"", handle, b"30")[4] == b"incomplete"
    assert raw.ask(b"SK01", b"exists", b"4", b"", b"k")[4] == b"no"


def test_a_flood_of_lists_keeps_nobody_waiting_long(daemon: Daemon, connect: Callable[..., Raw]) -> None:
    with daemon.client() as client:
        client.put_batch([b""] * 3000)
        flood = connect()
        flood.socket.sendall(b"".join(framing.encode_message([b"SK01", b"list", b"1", b'{"prefix":"z"}'])) * 300)
        started = time.monotonic()
        assert client.exists("k") is False
        assert time.monotonic() - started < 5
        told = client.status()
    assert told["longest_turn_ms"] < 1000


def test_a_removed_namespace_folder_is_made_again(start_daemon: Callable[..., Daemon]) -> None:
    daemon = start_daemon("--namespace", "team")
    with daemon.client(namespace="team") as team, daemon.client() as client:
        team.put(b"x", key="k")
        shutil.rmtree(daemon.store / "team")
        eventually((daemon.store / "team").is_dir)
        eventually(lambda: client.status()["coherent"])
        assert team.list() == []
        team.put(b"y", key="l")
        (daemon.store / "team" / "l").unlink()
        eventually(lambda: not team.exists("l"))


def test_a_copy_that_another_daemon_has_is_refused_in_the_stores_place(
    daemon: Daemon, start_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    with daemon.client(timeout=5) as client:
        client.put(b"x", key="k")
        shutil.copytree(daemon.store, tmp_path / "copy", ignore=lambda *_: ["socket"])
        start_daemon(name="copy")
        daemon.store.rename(tmp_path / "original")
        (tmp_path / "copy").rename(daemon.store)
        eventually(lambda: client.status()["store_away"])
        with pytest.raises(StoreUnavailable):
            client.evict("k")
        assert (daemon.store / "k").exists()


def test_a_standard_error_that_nobody_reads_stops_nothing(tmp_path: Path) -> None:
    address = f"ipc://{tmp_path}/s"
    command = [sys.executable, "-m", "storekeeperd", "serve", str(tmp_path / "store"), "--address", address]
    process = subprocess.Popen([*command, "--log-level", "debug"], stderr=subprocess.PIPE)
    try:
        eventually(lambda: Path(tmp_path / "s").exists())
        for _ in range(2000):
            with socket.socket(socket.AF_UNIX) as garbage:
                garbage.connect(str(tmp_path / "s"))
                garbage.sendall(b"garbage")
        with Client(address, timeout=20) as client:
            assert client.exists("k") is False
        process.terminate()
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()


def test_a_slow_reader_does_not_hold_up_a_stop_beyond_its_time(
    start_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    (tmp_path / "config").write_text("[limits]\nstop_timeout_s = 1")
    daemon = start_daemon("--config", str(tmp_path / "config"))
    raw = Raw(daemon.address)
    raw.ask(b"SK01", b"put", b"1", b"", b"large", bytes(4_000_000))
    for _ in range(4):
        raw.send(b"SK01", b"get", b"2", b"", b"large")
    with daemon.client() as client:
        eventually(lambda: client.status()["requests"] >= 5)
    started = time.monotonic()
    assert daemon.stop() == 0
    assert time.monotonic() - started < 10  # of the 1 s that it may take; nobody will ever read those answers
    raw.close()
