"""terminal.py: what a command ends with, and what it says then."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import Daemon, Run, tell
from storekeeper import errors, terminal


def test_what_is_missing_is_exit_status_1(run: Run) -> None:
    run("put", "--key", "there", "-", stdin=b"x")
    assert run("exists", "there").returncode == 0
    done = run("exists", "there", "missing", "--fresh")
    assert (done.returncode, done.stdout) == (1, b"yes there\nno missing\n")
    assert run("evict", "missing").returncode == 1
    assert run("stat", "missing").returncode == 1
    done = run("get", "missing", "there")
    assert (done.returncode, done.stdout) == (1, b"x")


def test_each_failure_has_its_exit_status(run: Run, daemon: Daemon, tmp_path: Path) -> None:
    run("put", "--key", "k", "-", stdin=b"first")
    refused = run("put", "--key", "k", "-", stdin=b"second")
    assert refused.returncode == 73
    assert b"--replace" in refused.stderr or b"replace" in refused.stderr
    assert run("get", "../k").returncode == 65
    assert run("--namespace", "nowhere", "ls").returncode == 64
    assert run("get").returncode == 2
    assert run("put", "--key", "k", "a", "b").returncode == 2
    assert run("put", str(tmp_path / "no such file")).returncode == 74
    (daemon.store / "folder").mkdir()
    assert run("put", "--key", "folder", "-", stdin=b"x").returncode == 73
    daemon.kill()
    done = run("--timeout", "1", "get", "k")
    assert done.returncode == 69
    assert b"storekeeperd serve" in done.stderr
    assert done.stderr.count(b"\n") == 1


def test_every_error_code_has_an_exit_status_in_the_range_of_sysexits() -> None:
    assert set(terminal.STATUS_OF) <= set(errors.BY_CODE)
    assert all(64 <= status <= 78 for status in terminal.STATUS_OF.values())


def test_what_others_own_is_denied_with_77(run: Run, daemon: Daemon) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    os.chmod(daemon.address.removeprefix("ipc://"), 0o777)
    tell(run, "put", "--key", "ours", "-", stdin=b"x")
    parts = [daemon.store.parent, *daemon.store.parent.parents]
    modes = {part: part.stat().st_mode for part in parts if not part.stat().st_mode & 0o001}
    for part in modes:
        part.chmod(part.stat().st_mode & 0o7777 | 0o011)
    code = (
        "import os, sys, storekeeper.dealer\n"
        "from storekeeper import Client; from storekeeper.terminal import status_of\n"
        "os.setgroups([]); os.setgid(65533); os.setuid(65533); store = Client(sys.argv[1])\n"
        "try: store.evict('ours')\n"
        "except Exception as error: print(status_of(error), error)\n"
        "try: store.create_namespace('theirs')\n"
        "except Exception as error: print(status_of(error), error)\n"
        "print(store.get('ours'))"
    )
    try:
        done = subprocess.run([sys.executable, "-c", code, daemon.address], capture_output=True, text=True, timeout=30)
    finally:
        for part, mode in modes.items():
            part.chmod(mode & 0o7777)
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[:2]] == ["77", "77"], done.stderr
    assert "uid 65533 may not make namespaces" in lines[1]
    assert lines[2] == "b'x'"


def test_another_server_than_expected_is_77(run: Run) -> None:
    assert tell(run, "--server", str(os.geteuid()), "ls") == ""
    other = run("--server", str(os.geteuid() + 1), "ls")
    assert other.returncode == 77
    assert b"nothing was sent" in other.stderr
    assert run("--server", "no such user", "ls").returncode == 2
