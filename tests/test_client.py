"""client.py, carriers.py, exchange.py and ranges.py: buffers, threads, forks, re-entry, interruptions, limits."""

from __future__ import annotations

import array
import gc
import mmap
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import zmq

from conftest import Daemon, eventually, figures
from storekeeper import Client, wire
from storekeeper.errors import BadRequest, ClientClosed, DaemonUnreachable, NamespaceMissing, ProtocolError, TimedOut

pytestmark = pytest.mark.usefixtures("each_carrier")


def test_any_buffer_can_be_put(client: Client, tmp_path: Path) -> None:
    (tmp_path / "mapped").write_bytes(b"mapped")
    with open(tmp_path / "mapped", "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert client.get(client.put(mapped)) == b"mapped"
    assert client.get(client.put(array.array("d", [1.5, 2.5]))) == array.array("d", [1.5, 2.5]).tobytes()
    assert client.get(client.put(memoryview(bytearray(b"abcdef"))[::-1])) == b"fedcba"
    assert client.get(client.put(memoryview(b"abcdef").cast("B", (2, 3)))) == b"abcdef"
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        assert client.get(client.put(numpy.zeros((3, 0)))) == b""
    for wrong in ("text", 7, None, ["list"]):
        with pytest.raises(TypeError):
            client.put(wrong)


def test_a_buffer_changed_after_the_put_changes_nothing(client: Client) -> None:
    for size in (100, 1_000_000, 9_000_000):
        data = bytearray(size)
        key = client.put(data)
        data[:] = b"x" * size
        assert client.get(key) == bytes(size)


@pytest.mark.parametrize("size", [0, 1, 1000, wire.MESSAGE_BYTES_MAX, wire.MESSAGE_BYTES_MAX + 1, 9_999_999])
def test_an_object_comes_into_a_buffer_of_the_caller(client: Client, size: int) -> None:
    data = os.urandom(size)
    key = client.put(data)
    target = bytearray(b"." * (size + 3))
    assert client.get(key, into=target) == size
    assert target == data + b"..."
    assert client.get("missing", into=target) is None
    if size:
        with pytest.raises(ValueError, match="buffer"):
            client.get(key, into=bytearray(size - 1))
        with pytest.raises(ValueError, match="writable"):
            client.get(key, into=bytes(size))
    assert client.get(key) == data


def test_stat_tells_size_owner_and_age(client: Client, daemon: Daemon) -> None:
    key = client.put(b"12345")
    info = client.stat(key)
    assert info is not None
    assert (info.key, info.size, info.owner) == (key, 5, os.geteuid())
    assert abs(info.created - time.time()) < 60
    assert client.stat("missing") is None
    (daemon.store / "foreign").write_bytes(b"123")
    info = client.stat("foreign")
    assert info is not None
    assert (info.size, info.owner) == (3, os.geteuid())


def test_a_list_is_sorted_whole_and_by_prefix(start_daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("[limits]\nlist_names = 7\n")
    daemon = start_daemon("--config", str(tmp_path / "c.toml"))
    with daemon.client() as client:
        names = sorted(f"{'ab'[n % 2]}-{n:03}" for n in range(100))
        client.put_batch([b""] * 100, keys=names)
        assert client.list() == names
        assert client.list("b-") == names[50:]
        assert client.list("é") == []
        assert client.status()["connections"] == 1


def test_a_fresh_list_sees_all_that_was_done_before(client: Client, daemon: Daemon) -> None:
    client.put(b"x", key="kept")
    for number in range(4):
        names = [f"by-hand-{number}-{n:02}" for n in range(30)]
        for name in names:
            (daemon.store / name).write_bytes(b"x")
        assert client.list(fresh=True) == [*names, "kept"]
        assert client.list("by-hand", fresh=True) == names
        for name in names:
            (daemon.store / name).unlink()
        assert client.list(fresh=True) == ["kept"]


def test_fresh_usage_counts_all_that_was_done_before(client: Client, daemon: Daemon, tmp_path: Path) -> None:
    client.put(b"12345", key="k")
    assert figures(client.usage()) == {"objects": 1, "bytes": 5, "objects_not_sized": 0}
    for number in range(4):
        (tmp_path / "made").write_bytes(bytes(number))
        (tmp_path / "made").rename(daemon.store / "by hand")
        assert figures(client.usage(fresh=True)) == {"objects": 2, "bytes": 5 + number, "objects_not_sized": 0}
        (daemon.store / "by hand").unlink()
        assert figures(client.usage(fresh=True)) == {"objects": 1, "bytes": 5, "objects_not_sized": 0}


def test_fresh_usage_counts_what_is_written_in_place_before(client: Client, daemon: Daemon) -> None:
    with open(daemon.store / "by hand", "wb", buffering=0) as file:
        assert client.list(fresh=True) == ["by hand"]  # it was looked at, and is empty
        file.write(b"12345")
    assert figures(client.usage(fresh=True)) == {"objects": 1, "bytes": 5, "objects_not_sized": 0}


def test_a_fresh_list_has_an_object_that_was_a_marker_a_moment_ago(client: Client, daemon: Daemon) -> None:
    with open(daemon.store / "k.ready", "wb", buffering=0) as file:
        assert client.list(fresh=True) == []  # empty, it is a marker of FileConnector's
        file.write(b"12345")
    assert client.list(fresh=True) == ["k.ready"]
    assert client.usage(fresh=True)["bytes"] == 5


def test_usage_counts_by_itself_what_is_written_in_place_with_pauses(client: Client, daemon: Daemon) -> None:
    with open(daemon.store / "by hand", "wb", buffering=0) as file:
        for size in (1, 2):
            file.write(b"1")
            eventually(lambda size=size: client.usage()["bytes"] == size)  # type: ignore[misc]
            time.sleep(0.6)  # it was looked at again, and is the same


def test_fresh_usage_after_a_start_has_looked_at_every_object(
    start_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    (tmp_path / "store").mkdir()
    for number in range(1500):
        (tmp_path / "store" / f"{number}").write_bytes(b"123")
    with start_daemon().client(timeout=20) as client:
        assert figures(client.usage(fresh=True)) == {"objects": 1500, "bytes": 4500, "objects_not_sized": 0}


def test_a_list_and_a_usage_without_fresh_ask_nothing_special_of_an_older_daemon() -> None:
    asked: list[dict[str, object]] = []

    class Line:
        address, timeout_s = "", 1.0

        def call(self, conversation: Callable[[object], object]) -> object:
            return conversation(self)

        def ask(self, verb: bytes, arguments: list[bytes], options: dict[str, object]) -> wire.Reply:
            asked.append(options)
            return wire.Reply(b"", {}, ["ok"], [b""])

    client = Client(session=Line(), namespace="team")  # type: ignore[arg-type]
    client.list()
    client.list("a", fresh=True)
    assert asked == [{"namespace": "team"}, {"namespace": "team", "prefix": "a", "fresh": True}]


def test_calls_in_threads_do_not_wait_for_each_other(daemon: Daemon, client: Client) -> None:
    keys = client.put_batch([b"%d" % n for n in range(8)])
    wrong: list[object] = []

    def read(number: int) -> None:
        for _ in range(200):
            if client.get(keys[number]) != b"%d" % number:
                wrong.append(number)

    threads = [threading.Thread(target=read, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert client.status()["connections"] <= 9


def test_a_del_may_evict_inside_a_get(client: Client) -> None:
    class Owned:
        """In a cycle, so that the collector ends it, wherever the program is at that moment."""

        def __init__(self, key: str) -> None:
            self.key = key
            self.me = self

        def __del__(self) -> None:
            evicted.append(client.evict(self.key))

    evicted: list[bool] = []
    before = gc.get_threshold()
    kept = client.put(b"kept")
    try:
        gc.set_threshold(1)
        for _ in range(60):
            Owned(client.put(b"owned"))
            assert client.get(kept) == b"kept"
    finally:
        gc.set_threshold(*before)
    gc.collect()
    assert evicted == [True] * 60
    assert client.list() == [kept]


def test_a_forked_child_uses_the_client_and_the_parent_goes_on(client: Client) -> None:
    key = client.put(b"bytes")
    for _ in range(3):
        child = os.fork()
        if child == 0:
            good = client.get(key) == b"bytes" and client.put(b"the child's", key="child", replace=True) == "child"
            os._exit(0 if good else 1)
        assert client.get(key) == b"bytes"
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert client.get("child") == b"the child's"


def test_an_interrupted_call_leaves_the_client_usable(daemon: Daemon, client: Client) -> None:
    key = client.put(b"bytes")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        os.kill(daemon.pid, signal.SIGSTOP)
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(KeyboardInterrupt):
            client.get(key)
    finally:
        os.kill(daemon.pid, signal.SIGCONT)
        signal.signal(signal.SIGALRM, before)
    assert client.get(key) == b"bytes"
    assert client.exists("other") is False


def test_a_client_without_a_daemon_fails_within_a_second_or_so(tmp_path: Path) -> None:
    with Client(f"ipc://{tmp_path}/nobody") as client:
        started = time.monotonic()
        with pytest.raises(DaemonUnreachable, match="storekeeperd serve"):
            client.get("k")
        assert time.monotonic() - started < 10  # not the 30 s of its time-out


def test_a_client_waits_for_a_daemon_that_is_starting(start_daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    with Client(f"ipc://{tmp_path}/store.socket") as client:
        client._session.grace_s = 20
        timer = threading.Timer(0.1, start_daemon)
        timer.start()
        assert client.get("k") is None
        timer.join()


def test_a_closed_client_refuses_and_its_connections_are_gone(daemon: Daemon) -> None:
    with daemon.client() as watching:
        client = daemon.client()
        client.put(b"x")
        client.close()
        client.close()
        with pytest.raises(ClientClosed):
            client.get("k")
        eventually(lambda: watching.status()["connections"] == 1)
        forgotten = daemon.client()
        forgotten.put(b"x")
        del forgotten
        gc.collect()
        eventually(lambda: watching.status()["connections"] == 1)


def test_wrong_arguments_are_typed_errors(client: Client, daemon: Daemon) -> None:
    with Client("nonsense://x") as nowhere, pytest.raises(BadRequest, match="ipc://"):
        nowhere.get("k")
    with daemon.client(namespace="nowhere") as elsewhere, pytest.raises(NamespaceMissing, match="default"):
        elsewhere.get("k")
    with pytest.raises(BadRequest, match="durability"):
        client.put(b"x", durability="forever")
    with pytest.raises(ValueError, match="2 objects, 1 keys"):
        client.put_batch([b"x", b"y"], keys=["k"])
    assert client.put(b"x", key="k") == "k"


def test_a_path_is_an_address_too(daemon: Daemon) -> None:
    with Client(daemon.address.removeprefix("ipc://")) as client:
        assert client.status()["pid"] == daemon.pid


def test_the_environment_names_the_daemon(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOREKEEPER_ADDRESS", daemon.address)
    with Client() as client:
        assert client.status()["pid"] == daemon.pid


def test_a_daemon_with_smaller_limits_is_served_in_ranges(start_daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("[limits]\nmessage_bytes_max = 1048576\n")
    daemon = start_daemon("--config", str(tmp_path / "c.toml"))
    with daemon.client() as client:
        data = os.urandom(3_000_000)
        key = client.put(data)
        assert client.get(key) == data
        assert client.get_batch([key, key]) == [data, data]


class Impostor:
    """Something that answers at an address and is no daemon."""

    def __init__(self, address: str, *answers: list[bytes]) -> None:
        self.socket = zmq.Context.instance().socket(zmq.ROUTER)
        self.socket.linger = 0
        self.socket.bind(address)
        self.answers = answers
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()

    def _serve(self) -> None:
        for answer in self.answers:
            if self.socket.poll(10_000):
                sender, *request = self.socket.recv_multipart()
                self.socket.send_multipart([sender, *(request[2] if part == b"ID" else part for part in answer)])

    def close(self) -> None:
        self.thread.join()
        self.socket.close()
        zmq.Context.instance().term()


@pytest.mark.parametrize(
    "answer",
    [[b"what?"], [b"SK01"], [b"SK01", b"another id", b"ok", b"", b"yes"], [b"SK01", b"ID", b"ok", b"{", b"yes"],
     [b"HTTP", b"ID", b"ok", b"", b""], [b"SK01", b"ID", b"ok", b"[1]", b""], [b"SK01", b"ID", b"\xff", b""]],
)  # fmt: skip
def test_an_answer_that_is_none_is_a_protocol_error(answer: list[bytes], tmp_path: Path) -> None:
    impostor = Impostor(f"ipc://{tmp_path}/s", answer)
    try:
        with Client(f"ipc://{tmp_path}/s", timeout=5) as client, pytest.raises(ProtocolError):
            client.status()
    finally:
        impostor.close()


def test_an_answer_that_never_comes_is_a_timeout(tmp_path: Path) -> None:
    impostor = Impostor(f"ipc://{tmp_path}/s")
    try:
        with Client(f"ipc://{tmp_path}/s", timeout=0.3) as client, pytest.raises(TimedOut, match="timeout="):
            client.status()
    finally:
        impostor.close()


def test_many_short_lived_clients_leave_nothing(daemon: Daemon) -> None:
    with daemon.client() as watching:
        watching.put(b"x", key="k")
        held = len(os.listdir("/proc/self/fd"))
        for _ in range(150):
            with daemon.client() as client:
                assert client.exists("k")
        eventually(lambda: len(os.listdir("/proc/self/fd")) <= held)
        eventually(lambda: watching.status()["connections"] == 1)
        assert len(os.listdir(f"/proc/{daemon.pid}/fd")) < 40


def test_a_program_started_by_a_user_of_the_client_inherits_no_descriptor(daemon: Daemon) -> None:
    listing = "import os; print([os.readlink(f'/proc/self/fd/{n}') for n in os.listdir('/proc/self/fd')[3:-1]])"
    script = (
        f"import subprocess, sys; from storekeeper import Client; c = Client({daemon.address!r}); c.put(b'x')\n"
        f"subprocess.run([sys.executable, '-c', {listing!r}], close_fds=False)"
    )
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30)
    assert told.stdout == "[]\n", told.stdout + told.stderr


def test_batches_fit_a_daemon_with_other_limits(start_daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("[limits]\nmessage_bytes_max = 1048576\nbatch_items_max = 8\n")
    daemon = start_daemon("--config", str(tmp_path / "c.toml"))
    with daemon.client() as client:
        assert client.exists_batch([f"k{n}" for n in range(20)]) == [False] * 20
    with daemon.client() as client:
        objects = [os.urandom(700_000), os.urandom(700_000), os.urandom(3_000_000), b"small"]
        keys = client.put_batch(objects)
        assert client.get_batch(keys) == objects
    with daemon.client() as client:
        many = client.put_batch([b"%d" % n for n in range(30)])
        assert client.evict_batch(many) == [True] * 30


def test_a_ranged_call_rides_over_a_restart_after_its_time_for_small_ones(daemon: Daemon) -> None:
    data = os.urandom(160 << 20)
    with daemon.client(timeout=30) as client:
        client.put(data, key="large")
    with daemon.client(timeout=0.4) as client:
        client.exists("large")

        def restart() -> None:
            daemon.kill()
            time.sleep(0.7)
            daemon.start()

        timer = threading.Timer(0.1, restart)
        timer.start()
        assert client.get("large") == data
        timer.join()


def test_a_burst_of_threads_leaves_few_connections(daemon: Daemon, client: Client) -> None:
    key = client.put(b"bytes")
    threads = [threading.Thread(target=client.get, args=(key,)) for _ in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    eventually(lambda: client.status()["connections"] <= 17)


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf")])
def test_a_timeout_is_a_positive_number(timeout: float) -> None:
    with pytest.raises(ValueError, match="timeout="):
        Client("ipc:///x", timeout=timeout)
