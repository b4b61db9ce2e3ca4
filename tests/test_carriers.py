"""carriers.py: which carrier is taken, and what becomes of idle ones."""

from __future__ import annotations

import subprocess
import sys

import pytest

from conftest import Daemon
from storekeeper import Client
from storekeeper.carriers import Carriers, kind_of

LOCAL, REMOTE = "ipc:///run/s", "tcp://127.0.0.1:1"


@pytest.mark.parametrize(
    ("told", "variable", "address", "kind"),
    [
        (None, None, LOCAL, "unix"),
        (None, None, REMOTE, "zmq"),
        (None, "zmq", LOCAL, "zmq"),
        (None, "unix", REMOTE, "zmq"),  # a preference of the environment, where it can be had
        ("zmq", "unix", LOCAL, "zmq"),
        ("unix", "zmq", LOCAL, "unix"),
    ],
)
def test_the_faster_one_is_taken_unless_another_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, told: str | None, variable: str | None, address: str, kind: str
) -> None:
    monkeypatch.delenv("STOREKEEPER_CARRIER", raising=False)
    if variable is not None:
        monkeypatch.setenv("STOREKEEPER_CARRIER", variable)
    assert kind_of(told, address) == kind


def test_one_that_is_none_or_does_not_go_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="there are unix and zmq"):
        Client(LOCAL, carrier="pigeon")
    with pytest.raises(ValueError, match="'zmq' goes there"):
        Client(REMOTE, carrier="unix")
    monkeypatch.setenv("STOREKEEPER_CARRIER", "pigeon")
    with pytest.raises(ValueError, match="there are unix and zmq"):
        Client(LOCAL)


@pytest.mark.usefixtures("each_carrier")
def test_an_idle_one_is_used_again_while_it_is_whole(daemon: Daemon) -> None:
    carriers = Carriers(daemon.address)
    first = carriers.take()
    first.send([b"SK01", b"status", b"1", b""])
    assert first.receive(1e9)[1] == b"1"
    carriers.give_back(first)
    assert carriers.take() is first
    carriers.give_back(first)
    daemon.kill()
    daemon.start()
    second = carriers.take()
    assert second is not first
    second.close()
    carriers.close()


def test_whoever_never_needs_zeromq_does_not_load_it(daemon: Daemon) -> None:
    code = (
        "import sys; from storekeeper import Client\n"
        "with Client(sys.argv[1], carrier='unix') as store: store.put(b'x', key='k')\n"
        "assert 'zmq' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, daemon.address], check=True, timeout=30)
