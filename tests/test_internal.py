"""What nobody expected, in the middle of a request: answered with `internal` and a number that is in the log.

A real daemon with a fault built in: it lives, everybody else is served, and no traceback reaches a client.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from conftest import eventually
from storekeeper import Client
from storekeeper.errors import BatchFailed, DaemonUnreachable, InternalError, StorekeeperError
from storekeeper.lines import somebody_listens

FAULTS = {
    "in the verb": "objects.Objects.stat = fault",
    "in the disk": "reader.Reader.stat = fault",
    "in the disk, in a thread": "disk.Disk._verify = fault",
    "in a group of durable puts": "commits._Group.write = fault",
    "when the outcome comes back": (
        "real = objects.Objects._item_ticket\n"
        "def ticket(self, answer, position):\n"
        "    return fault if answer.request.verb == b'stat' else real(self, answer, position)\n"
        "objects.Objects._item_ticket = ticket"
    ),
    "after some of it was ordered": (
        "real = orders.Orders.order_in_parts\n"
        "def order_in_parts(self, *arguments):\n"
        "    real(self, *arguments)\n"
        "    if type(arguments[0][0]).__name__ == 'Stat': fault()\n"
        "orders.Orders.order_in_parts = order_in_parts"
    ),
}
CALLS: dict[str, Callable[[Client], object]] = {
    "in the verb": lambda client: client.stat("k"),
    "in the disk": lambda client: client.stat("k"),
    "in the disk, in a thread": lambda client: client.verify("k"),
    "in a group of durable puts": lambda client: client.put(b"x", key="new", durability="disk"),
    "when the outcome comes back": lambda client: client.stat("k"),
    "after some of it was ordered": lambda client: client.stat("k"),
}


@pytest.fixture
def faulty(tmp_path: Path) -> Iterator[Callable[[str], tuple[str, Path]]]:
    """Gives a function that starts a daemon with a fault; returns its address and its log."""
    started: list[subprocess.Popen[bytes]] = []

    def start(fault: str) -> tuple[str, Path]:
        script = (
            "from storekeeperd import commits, connection, disk, objects, orders, reader\n"
            "def fault(*_, **__): raise ZeroDivisionError('a secret of ours')\n"
            f"{fault}\nfrom storekeeperd.__main__ import main\nmain()"
        )
        address, log = f"ipc://{tmp_path}/s", tmp_path / "log"
        with open(log, "wb") as stderr:
            command = [sys.executable, "-c", script, "serve", str(tmp_path / "store"), "--address", address]
            started.append(subprocess.Popen(command, stderr=stderr))
        eventually(lambda: somebody_listens(address))
        return address, log

    yield start
    for process in started:
        assert process.poll() is None, "the daemon died of it"
        process.kill()
        process.wait()


@pytest.mark.parametrize("where", FAULTS)
def test_a_fault_is_answered_with_a_number_that_is_in_the_log(
    where: str, faulty: Callable[[str], tuple[str, Path]]
) -> None:
    address, log = faulty(FAULTS[where])
    with Client(address, timeout=10) as client:
        client.put_batch([b"bytes"], ["k"])
        for _ in range(300):  # more than a connection may have under way: nothing of them is owed for ever
            with pytest.raises((InternalError, BatchFailed)) as failure:
                CALLS[where](client)
        (number,) = re.findall(r"'fault (\w{8})'", str(failure.value))
        assert "secret" not in str(failure.value)
        assert "Traceback" not in str(failure.value)
        assert client.get("k") == b"bytes"
        assert client.status()["objects"] >= 1
    eventually(lambda: f"fault {number} in " in log.read_text())
    assert "ZeroDivisionError: a secret of ours" in log.read_text()
    assert re.search(r"refused \w+ of uid \d+ pid \d+: internal", log.read_text())


def test_a_fault_in_the_listener_ends_that_connection_alone(faulty: Callable[[str], tuple[str, Path]]) -> None:
    address, log = faulty(
        "real = connection.Connection._take_some\n"
        "def take_some(self):\n"
        "    if b'poison' in self._engine._data: fault()\n"
        "    return real(self)\n"
        "connection.Connection._take_some = take_some"
    )
    with Client(address, timeout=1) as poisoner, Client(address, timeout=10) as client:
        client.put(b"bytes", key="k")
        with pytest.raises((DaemonUnreachable, StorekeeperError)):
            poisoner.get("poison")
        assert client.get("k") == b"bytes"
    eventually(lambda: "a connection of uid" in log.read_text())
