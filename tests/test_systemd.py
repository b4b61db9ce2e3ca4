"""The unit, and what the daemon says to a service manager."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import Daemon
from storekeeper import Client

UNIT = Path(__file__).parent.parent / "systemd" / "storekeeperd@.service"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_the_unit_is_without_fault() -> None:
    command = ["systemd-analyze", "verify", "--man=no", "--recursive-errors=yes", str(UNIT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert not done.stderr


def test_the_unit_starts_what_the_command_line_has() -> None:
    from storekeeperd.cli import cli

    unit = UNIT.read_text()
    assert "Type=notify" in unit
    start = next(line for line in unit.splitlines() if line.startswith("ExecStart="))
    assert start.startswith("ExecStart=/usr/bin/env storekeeperd serve /var/lib/storekeeperd/%i ")
    options = {option for parameter in cli.commands["serve"].params for option in parameter.opts}
    assert {word for word in start.split() if word.startswith("--")} <= options


def test_ready_is_said_only_when_it_answers_and_stopping_when_it_stops(tmp_path: Path) -> None:
    """A manager of our own: a datagram socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(20)
        daemon = Daemon(tmp_path / "store", f"ipc://{tmp_path}/s")
        command = [sys.executable, "-m", "storekeeperd", "serve", str(daemon.store), "--address", daemon.address]
        environment = {**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify")}
        daemon.process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
        try:
            told = manager.recv(4096).decode()
            while "READY=1" not in told:
                assert told.startswith("STATUS=")
                told = manager.recv(4096).decode()
            assert "STATUS=0 objects" in told
            with Client(daemon.address, timeout=20) as client:
                client._session.grace_s = 0.0  # ready means ready: no second try
                assert client.list() == []
            assert daemon.stop() == 0
            while told != "STOPPING=1":
                told = manager.recv(4096).decode()
        finally:
            daemon.end()
