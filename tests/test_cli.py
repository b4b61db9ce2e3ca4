"""The two command lines as a user meets them: output, exit codes, options; and a daemon that cannot start."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import Daemon, Run, eventually, figures, tell
from storekeeper import Client, errors


def test_a_first_session(run: Run, tmp_path: Path) -> None:
    assert run("put", "--key", "greeting", "-", stdin=b"hello\n").stdout == b"greeting\n"
    assert run("get", "greeting").stdout == b"hello\n"
    (tmp_path / "file.txt").write_bytes(b"a file")
    (tmp_path / "other.txt").write_bytes(b"")
    assert run("put", "file.txt", str(tmp_path / "other.txt")).stdout == b"file.txt\nother.txt\n"
    assert run("ls").stdout == b"file.txt\ngreeting\nother.txt\n"
    assert run("ls", "gr").stdout == b"greeting\n"
    assert run("exists", "greeting", "file.txt").stdout == b"yes greeting\nyes file.txt\n"
    assert run("evict", "greeting").stdout == b"evicted greeting\n"
    missing = run("get", "greeting")
    assert (missing.returncode, missing.stdout) == (1, b"")
    assert b"no object 'greeting'" in missing.stderr


def test_json_is_for_scripts(run: Run) -> None:
    told = json.loads(run("put", "--key", "k", "--json", "--durability", "disk", "-", stdin=b"four").stdout)
    assert told == {"key": "k", "size": 4, "outcome": "created", "durability": "disk"}
    assert json.loads(run("put", "--key", "k", "--json", "-", stdin=b"four").stdout)["outcome"] == "same"
    again = run("put", "--key", "k", "--replace", "--json", "-", stdin=b"three")
    assert json.loads(again.stdout)["outcome"] == "replaced"
    assert json.loads(run("exists", "--json", "k", "l").stdout) == {"k": True, "l": False}
    info = json.loads(run("stat", "--json", "k").stdout)
    assert (info["key"], info["size"], info["owner"]) == ("k", 5, os.geteuid())
    assert abs(info["created"] - time.time()) < 60
    assert json.loads(run("ls", "--json").stdout) == "k"
    assert json.loads(run("ls", "--long", "--json").stdout)["size"] == 5
    assert figures(json.loads(run("usage", "--json").stdout)) == {"objects": 1, "bytes": 5, "objects_not_sized": 0}
    status = json.loads(run("status", "--json").stdout)
    assert status["objects"] == 1
    assert status["coherent"] is True
    assert json.loads(run("evict", "--json", "k").stdout) == {"k": True}


def test_people_are_told_the_same(run: Run) -> None:
    run("put", "--key", "k", "-", stdin=b"12345")
    assert b"k: 5 bytes, owner " in run("stat", "k").stdout
    assert run("ls", "-l").stdout.split()[0] == b"5"
    assert b"objects" in run("status").stdout
    assert run("usage").stdout == b"1 objects, 5 bytes\n"


def test_fresh_sees_what_was_done_by_hand_before(run: Run, daemon: Daemon, tmp_path: Path) -> None:
    run("put", "--key", "k", "-", stdin=b"12345")
    for number in range(300):
        (tmp_path / "made").write_bytes(b"x" * number)
        (tmp_path / "made").rename(daemon.store / f"by-hand-{number:03}")
    (daemon.store / "k").unlink()
    expected = "".join(f"by-hand-{number:03}\n" for number in range(300))
    assert run("ls", "--fresh").stdout.decode() == expected
    assert run("ls", "--fresh", "by-hand-00").stdout.count(b"\n") == 10
    assert run("usage", "--fresh").stdout == f"300 objects, {sum(range(300))} bytes\n".encode()


def test_output_goes_to_a_file_whole_or_not_at_all(run: Run, tmp_path: Path) -> None:
    data = os.urandom(9_000_000)
    (tmp_path / "large").write_bytes(data)
    run("put", "large")
    assert run("get", "large").stdout == data
    assert run("get", "large", "-o", "copy").returncode == 0
    assert (tmp_path / "copy").read_bytes() == data
    (tmp_path / "folder").mkdir()
    run("put", "--key", "small", "-", stdin=b"x")
    assert run("get", "large", "small", "-o", "folder").returncode == 0
    assert sorted(p.name for p in (tmp_path / "folder").iterdir()) == ["large", "small"]
    assert run("get", "missing", "-o", "nothing").returncode == 1
    assert not (tmp_path / "nothing").exists()
    assert run("get", "large", "small", "-o", "copy").returncode == 2
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_standard_input_may_be_large_and_without_a_name(run: Run) -> None:
    data = os.urandom(5_000_000)
    key = run("put", "-", stdin=data).stdout.decode().strip()
    assert len(key) == 36
    assert run("get", key).stdout == data


def test_a_namespace_is_a_store_of_its_own(start_daemon: Callable[..., Daemon]) -> None:
    daemon = start_daemon("--namespace", "team")
    command = [sys.executable, "-m", "storekeeper", "--address", daemon.address, "--namespace", "team"]
    subprocess.run([*command, "put", "--key", "k", "-"], input=b"x", check=True, capture_output=True)
    assert (daemon.store / "team" / "k").read_bytes() == b"x"
    with daemon.client() as client, daemon.client(namespace="team") as team:
        assert (client.exists("k"), team.exists("k")) == (False, True)
        client.put(b"y", key="k")
        assert (client.list(), team.list()) == (["k"], ["k"])
        client.put(b"1234567", key="l")
        one = {"objects": 1, "bytes": 1, "objects_not_sized": 0}
        assert figures(client.usage()) == {"objects": 2, "bytes": 8, "objects_not_sized": 0}
        assert figures(team.usage()) == one
        assert client.evict("l")
        assert team.get("k") == b"x"
        (daemon.store / "team" / "k").unlink()
        eventually(lambda: not team.exists("k"))
        assert client.exists("k")


# -- storekeeperd


def serve(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "storekeeperd", "serve", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30)


def failed(done: subprocess.CompletedProcess[str], status: int, *words: str) -> None:
    assert done.returncode == status, done.stderr
    assert done.stderr.startswith("storekeeperd: "), done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    for word in words:
        assert word in done.stderr


def test_a_second_daemon_on_a_store_ends_with_75_and_names_the_first(daemon: Daemon, tmp_path: Path) -> None:
    done = serve(str(daemon.store), "--address", f"ipc://{tmp_path}/other")
    failed(done, 75, f"pid {daemon.pid}")
    with daemon.client() as client:
        assert client.status()["pid"] == daemon.pid


def test_a_second_daemon_on_an_address_ends_with_75(daemon: Daemon, tmp_path: Path) -> None:
    failed(serve(str(tmp_path / "other"), "--address", daemon.address), 75)
    with daemon.client() as client:
        assert client.status()["pid"] == daemon.pid


def test_a_killed_daemon_s_socket_is_taken_over(daemon: Daemon) -> None:
    daemon.kill()
    assert Path(daemon.address.removeprefix("ipc://")).exists()
    daemon.start()
    with daemon.client() as client:
        assert client.list() == []


def test_what_cannot_be_served_is_said_in_one_line(tmp_path: Path) -> None:
    address = f"ipc://{tmp_path}/s"
    failed(serve(str(tmp_path / "x"), "--address", f"ipc:///tmp/{'y' * 120}"), 78, "107")
    (tmp_path / "file").write_bytes(b"")
    failed(serve(str(tmp_path / "file"), "--address", address), 66, "not a directory")
    failed(serve(str(tmp_path / "file" / "below"), "--address", address), 66, "not a directory")
    failed(serve("--address", address), 78, "no store")
    failed(serve(str(tmp_path / "x"), "--address", "tcp://127.0.0.1:1"), 78, "ipc://")
    failed(serve(str(tmp_path / "x"), "--address", address, "--socket-mode", "rw"), 78, "socket_mode")
    failed(serve(str(tmp_path / "x"), "--address", address, "--namespace", "a/b"), 78, "namespace")
    (tmp_path / "c.toml").write_text("[limits]\nmessage_byte_max = 5\n")
    failed(serve(str(tmp_path / "x"), "--config", str(tmp_path / "c.toml")), 78, "message_bytes_max")
    assert serve("--no-such-option").returncode == 2
    assert serve(str(tmp_path / "x"), "--address", address, "--watch", "poll").returncode == 2
    (tmp_path / "c.toml").write_text('watch = "poll"\n')
    failed(serve(str(tmp_path / "x"), "--config", str(tmp_path / "c.toml")), 78, "auto, inotify, scan")


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system: needs root")
def test_a_full_disk_at_start_is_said_in_one_line(tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "full", str(full)]).returncode:
        pytest.skip("cannot mount here")
    try:
        filler = os.open(full / "filler", os.O_WRONLY | os.O_CREAT)
        with pytest.raises(OSError, match="No space"):
            while True:
                os.write(filler, bytes(4096))
        os.close(filler)
        failed(serve(str(full), "--address", f"ipc://{tmp_path}/s"), 73, "full")
    finally:
        subprocess.run(["umount", str(full)], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system: needs root")
def test_a_put_on_a_full_disk_is_a_typed_error_and_the_daemon_serves_on(
    start_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    (tmp_path / "store").mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "small", str(tmp_path / "store")]).returncode:
        pytest.skip("cannot mount here")
    daemon = None
    try:
        daemon = start_daemon()
        with daemon.client() as client:
            client.put(b"small", key="small")
            for data in (bytes(16 << 20), bytes(3 << 20), bytes(3 << 20), bytes(3 << 20)):
                try:
                    client.put(data)
                except errors.DiskFull as error:
                    assert "free some space" in str(error)
                    break
            else:
                pytest.fail("it took more than there is room for")
            assert client.get("small") == b"small"
            for key in client.list():
                client.evict(key)
            eventually(lambda: os.statvfs(tmp_path / "store").f_bavail * 4096 > 7 << 20)
            assert client.put(bytes(5 << 20), key="fits again") == "fits again"
    finally:
        if daemon is not None:
            daemon.end()
        subprocess.run(["umount", str(tmp_path / "store")], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user: needs root")
def test_an_unwritable_store_is_said_in_one_line(tmp_path: Path) -> None:
    script = (
        "import os, sys; os.setgid(65534); os.setuid(65534)\n"
        "sys.argv = ['storekeeperd', 'serve', sys.argv[1], '--address', 'ipc:///tmp/never-bound']\n"
        "from storekeeperd.__main__ import main; main()"
    )
    (tmp_path / "store").mkdir()
    for folder in (tmp_path, *tmp_path.parents):
        if not folder.stat().st_mode & 0o001:
            folder.chmod(folder.stat().st_mode | 0o011)
    command = [sys.executable, "-c", "import storekeeperd.cli, storekeeperd.__main__, faulthandler\n" + script]
    done = subprocess.run([*command, str(tmp_path / "store")], capture_output=True, text=True, timeout=30)
    failed(done, 77, "uid 65534")


def test_settings_come_from_the_file_and_options_outrank_it(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(
        f'store = "{tmp_path}/one"\naddress = "ipc://{tmp_path}/s"\nnamespaces = ["team"]\nsocket_mode = "0660"\n'
        "idle_exit_s = 0.2\n[limits]\nbatch_items_max = 7\n"
    )
    command = [sys.executable, "-m", "storekeeperd", "serve", "--config", str(tmp_path / "c.toml")]
    process = subprocess.Popen([*command, str(tmp_path / "two")], stderr=subprocess.DEVNULL)
    with Client(f"ipc://{tmp_path}/s") as client:
        client._session.grace_s = 10
        status = client.status()
        assert status["store"] == f"{tmp_path}/two"
        assert status["namespaces"] == ["default", "team"]
        assert status["limits"]["batch_items_max"] == 7
        assert oct((tmp_path / "s").stat().st_mode & 0o777) == "0o660"
    assert process.wait(10) == 0


@pytest.mark.parametrize(("option", "state"), [("inotify", "inotify"), ("scan", "scan")])
def test_the_command_line_says_how_changes_are_noticed(
    start_daemon: Callable[..., Daemon], tmp_path: Path, option: str, state: str
) -> None:
    (tmp_path / "c.toml").write_text('watch = "auto"\n[limits]\nscan_interval_s = 0.2\n')
    daemon = start_daemon("--config", str(tmp_path / "c.toml"), "--watch", option)
    with daemon.client() as client:
        assert client.status()["watch"] == state
        (tmp_path / "made").write_bytes(b"x")
        (tmp_path / "made").rename(daemon.store / "by hand")
        assert client.list(fresh=True) == ["by hand"]
        assert figures(client.usage(fresh=True)) == {"objects": 1, "bytes": 1, "objects_not_sized": 0}
        (daemon.store / "by hand").unlink()
        assert client.list(fresh=True) == []


def test_ready_markers_are_kept_if_asked_for(start_daemon: Callable[..., Daemon]) -> None:
    with start_daemon(name="plain").client() as client:
        client.put(b"x", key="k")
    daemon = start_daemon("--ready-markers", name="marked")
    with daemon.client() as client:
        client.put(b"x", key="k")
        assert (daemon.store / "k.ready").read_bytes() == b""
        assert client.list(fresh=True) == ["k"]
        assert client.evict("k")
        assert not (daemon.store / "k.ready").exists()
    assert [path.name for path in (daemon.store.parent / "plain").iterdir() if path.name[0] != "."] == ["k"]


# -- storekeeperd doctor


def doctor(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "storekeeperd", "doctor", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30)


def test_doctor_has_nothing_to_say_of_a_sound_store(tmp_path: Path) -> None:
    (tmp_path / "object").write_bytes(b"x")
    (tmp_path / "team").mkdir()
    (tmp_path / "team" / "object").write_bytes(b"x")
    (tmp_path / ".storekeeper").mkdir()
    done = doctor(str(tmp_path), "--namespace", "team")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("\n") == 1
    assert done.stdout.startswith(f"{tmp_path} lies on ")
    assert doctor(str(tmp_path), "--namespace", "team", "--json").stdout == ""


def test_doctor_names_what_is_not_served_and_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "object").write_bytes(b"x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("object")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "object.ready").write_bytes(b"")
    (tmp_path / "full.ready").write_bytes(b"x")
    (tmp_path / ".hidden").write_bytes(b"x")
    with open(os.fsencode(tmp_path) + b"/\xff", "wb"):
        pass
    (tmp_path / "team").mkdir()
    (tmp_path / "team" / "link").symlink_to("nowhere")
    before = sorted(path.name for path in tmp_path.rglob("*"))
    done = doctor(str(tmp_path), "--namespace", "team", "--json")
    assert done.returncode == 1
    findings = [json.loads(line) for line in done.stdout.splitlines()]
    assert {(finding["name"], finding["kind"]) for finding in findings} == {
        ("folder", "directory"),
        ("link", "link"),
        ("fifo", "special"),
        ("object.ready", "marker"),
        ("\\xff", "name"),
        ("team/link", "link"),
    }
    assert len(findings) == 6
    told = doctor(str(tmp_path), "--namespace", "team")
    assert told.returncode == 1
    assert "'fifo': a fifo, socket or device; move it away\n" in told.stdout
    assert told.stdout.count("\n") == 7
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


def test_doctor_of_what_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    failed(doctor(str(tmp_path / "nowhere")), 66, "nowhere", "No such file")
    failed(doctor(str(tmp_path / "nowhere"), "--json"), 66, "nowhere", "No such file")
    failed(doctor(str(tmp_path), "--namespace", "none"), 66, "none", "No such file")
    assert doctor().returncode == 2


def test_doctor_needs_no_daemon_and_minds_none(daemon: Daemon) -> None:
    with daemon.client() as client:
        client.put(b"x", key="k")
        assert doctor(str(daemon.store)).returncode == 0
        assert client.get("k") == b"x"


@pytest.mark.parametrize(
    ("package", "missing", "extra"), [("storekeeperd", "watchdog", "daemon"), ("storekeeper", "click", "cli")]
)
def test_without_its_extra_a_command_says_what_to_install(package: str, missing: str, extra: str) -> None:
    script = f"import sys; sys.modules[{missing!r}] = None; from {package}.__main__ import main; main()"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30)
    assert done.returncode == 69
    assert f"pip install 'storekeeper[{extra}]'" in done.stderr


def test_the_client_alone_needs_only_pyzmq() -> None:
    script = (
        "import sys\nfor name in ('click', 'watchdog', 'proxystore'): sys.modules[name] = None\n"
        "import storekeeper, storekeeper.connector; print(storekeeper.__version__)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system: needs root")
@pytest.mark.parametrize("carrier", ["unix", "zmq"])
@pytest.mark.parametrize("durability", ["os", "disk"])
def test_64_mib_for_a_full_disk_are_refused_leave_nothing_and_space_comes_back(
    start_daemon: Callable[..., Daemon], tmp_path: Path, durability: str, carrier: str
) -> None:
    store = tmp_path / "store"
    store.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "small", str(store)]).returncode:
        pytest.skip("cannot mount here")
    daemon = None
    try:
        daemon = start_daemon()
        with daemon.client(carrier=carrier) as client:
            client.put(b"small", key="small")
            free = os.statvfs(store).f_bavail
            for _ in range(3):
                with pytest.raises(errors.DiskFull, match="nothing was stored"):
                    client.put(bytes(64 << 20), key="large", durability=durability)
                assert client.get("small") == b"small"
                eventually(lambda: os.statvfs(store).f_bavail == free)
            assert client.list(fresh=True) == ["small"]
            assert os.listdir(store / ".storekeeper/tmp") == []
            assert client.put(bytes(40 << 20), key="fits", durability=durability) == "fits"
            assert client.get("fits") == bytes(40 << 20)
        if carrier == "zmq":  # else the client writes it itself
            assert "refused write of uid" in daemon.log.read_text()
    finally:
        if daemon is not None:
            daemon.end()
        subprocess.run(["umount", str(store)], check=True)


# -- many users


def test_ls_filters_sorts_and_pages(run: Run) -> None:
    for name, size in (("a", 5000), ("b", 10), ("c", 70_000), ("x", 1)):
        tell(run, "put", "--key", name, "-", stdin=bytes(size))
    assert tell(run, "ls", "--larger-than", "4K") == "a\nc\n"
    assert tell(run, "ls", "--sort", "size", "--reverse", "--limit", "2") == "c\na\n"
    assert tell(run, "ls", "--sort", "size", "--limit", "3") == "x\nb\na\n"
    assert tell(run, "ls", "--sort", "size") == "x\nb\na\nc\n"
    assert tell(run, "ls", "--after", "b", "--limit", "1") == "c\n"
    assert tell(run, "ls", "--owner", str(os.geteuid() + 1)) == ""
    assert tell(run, "ls", "--owner", str(os.geteuid()), "--reverse") == "x\nc\nb\na\n"
    assert tell(run, "ls", "--older-than", "1h") == ""
    assert [json.loads(line) for line in tell(run, "ls", "--json", "--larger-than", "4K").splitlines()] == ["a", "c"]
    long = [json.loads(line) for line in tell(run, "ls", "-l", "--json", "--sort", "size", "--limit", "1").splitlines()]
    assert [(info["key"], info["size"], info["owner"]) for info in long] == [("x", 1, os.geteuid())]
    for wrong in (("--limit", "0"), ("--sort", "age"), ("--larger-than", "5X"), ("--owner", "no such user")):
        tell(run, "ls", *wrong, status=2)


def test_evict_removes_what_options_select_together(run: Run) -> None:
    for name, size in (("tmp-1", 10), ("tmp-2", 5000), ("kept", 5000)):
        tell(run, "put", "--key", name, "-", stdin=bytes(size))
    dry = run("evict", "--prefix", "tmp-", "--dry-run")
    assert (dry.returncode, dry.stdout) == (0, b"tmp-1\ntmp-2\n")
    assert b"2 objects, 5010 bytes would be evicted" in dry.stderr
    told = json.loads(tell(run, "evict", "--prefix", "tmp-", "--dry-run", "--json"))
    assert told == {"selected": 2, "bytes": 5010, "evicted": 0, "refused": {}}
    assert tell(run, "evict", "kept", "--dry-run") == "would be evicted kept\n"
    assert tell(run, "ls") == "kept\ntmp-1\ntmp-2\n"
    assert tell(run, "evict", "--prefix", "tmp-", "--larger-than", "4K") == "1 of 1 objects evicted\n"
    assert tell(run, "ls") == "kept\ntmp-1\n"
    assert tell(run, "evict", "--older-than", "1h") == "0 of 0 objects evicted\n"
    told = json.loads(tell(run, "evict", "--prefix", "", "--json"))
    assert told == {"selected": 2, "bytes": 5010, "evicted": 2, "refused": {}}
    tell(run, "evict", status=2)
    tell(run, "evict", "k", "--prefix", "k", status=2)


def test_touch_pin_and_unpin_say_what_they_did(run: Run) -> None:
    tell(run, "put", "--key", "k", "--ttl", "1h", "-", stdin=b"x")
    assert "expires in 3" in tell(run, "stat", "k")
    assert tell(run, "touch", "k", "--ttl", "2h") == "touched k\n"
    info = json.loads(tell(run, "stat", "--json", "k"))
    assert 7100 < info["expires_in"] <= 7200
    assert tell(run, "pin", "k") == "pinned k\n"
    assert "pinned" in tell(run, "stat", "k")
    assert json.loads(tell(run, "unpin", "--json", "k", "missing", status=1)) == {"k": True, "missing": False}
    assert tell(run, "touch", "k", "--ttl", "0") == "touched k\n"
    assert "expires" not in tell(run, "stat", "k")
    tell(run, "touch", "k", status=64)  # the namespace has no lifetime of its own
    tell(run, "pin", "missing", status=1)
    tell(run, "put", "--key", "short", "--ttl", "0.05", "-", stdin=b"x")
    time.sleep(0.2)
    tell(run, "exists", "short", status=1)
