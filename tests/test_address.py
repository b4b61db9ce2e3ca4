"""address.py: where a daemon is, if nobody says."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from storekeeper import address


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("STOREKEEPER_ADDRESS", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


def test_the_nodes_daemon_is_below_run() -> None:
    assert address.node_address() == "ipc:///run/storekeeperd/default/socket"
    assert address.node_address("fast") == "ipc:///run/storekeeperd/fast/socket"


def test_the_users_daemon_is_in_the_runtime_directory(tmp_path: Path) -> None:
    assert address.user_folder() == tmp_path / "storekeeperd"
    assert address.user_address() == f"ipc://{tmp_path}/storekeeperd/default/socket"
    assert address.user_address("fast") == f"ipc://{tmp_path}/storekeeperd/fast/socket"


@pytest.mark.parametrize("runtime", [None, ""])
def test_without_a_runtime_directory_it_is_in_tmp(monkeypatch: pytest.MonkeyPatch, runtime: str | None) -> None:
    if runtime is None:
        monkeypatch.delenv("XDG_RUNTIME_DIR")
    else:
        monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
    assert address.user_address() == f"ipc:///tmp/storekeeperd-{os.geteuid()}/default/socket"


def test_the_variable_outranks_everything(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "storekeeperd/default").mkdir(parents=True)
    (tmp_path / "storekeeperd/default/socket").touch()
    monkeypatch.setenv("STOREKEEPER_ADDRESS", "tcp://elsewhere:1")
    assert address.default_address() == "tcp://elsewhere:1"


def test_the_users_own_daemon_comes_before_the_nodes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("STOREKEEPER_ADDRESS", "")
    assert address.default_address() == address.node_address()
    (tmp_path / "storekeeperd/default").mkdir(parents=True)
    (tmp_path / "storekeeperd/default/socket").touch()
    assert address.default_address() == address.user_address()


def test_a_plain_path_is_an_address(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert address.normal_address("/a/b") == "ipc:///a/b"
    assert address.normal_address("b/../c") == f"ipc://{tmp_path}/c"
    assert address.normal_address("ipc:///a/b") == "ipc:///a/b"
    assert address.normal_address("tcp://h:1") == "tcp://h:1"
