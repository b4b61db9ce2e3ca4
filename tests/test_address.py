"""address.py: where a daemon is, if nobody says."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from storekeeper import address
from storekeeper.errors import WrongServer


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


# -- who may be there


def test_whoever_serves_an_address_that_was_given_may(monkeypatch: pytest.MonkeyPatch) -> None:
    assert address.expected_servers(None, given=True) == frozenset()
    monkeypatch.setenv("STOREKEEPER_ADDRESS", "ipc:///a")
    assert address.expected_servers(None, given=False) == frozenset()


def test_at_an_address_that_nobody_gave_root_this_user_and_the_services_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(address, "_numbers", lambda name: frozenset({42} if name == "storekeeper" else ()))
    assert address.expected_servers(None, given=False) == {0, os.geteuid(), 42}


@pytest.mark.parametrize("given", [True, False])
def test_who_is_named_and_nobody_else_may(monkeypatch: pytest.MonkeyPatch, given: bool) -> None:
    monkeypatch.setattr(address, "_numbers", lambda name: frozenset({1000} if name == "alice" else ()))
    assert address.expected_servers("alice", given=given) == {1000}
    assert address.expected_servers("1001", given=given) == {1001}
    assert address.expected_servers(0, given=given) == {0}
    with pytest.raises(ValueError, match="server='bob': this system knows no such user; a number will do"):
        address.expected_servers("bob", given=given)


def test_a_socket_of_another_user_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    (tmp_path / "socket").touch()
    place = f"ipc://{tmp_path}/socket"
    owner = os.geteuid()
    address.check_socket(place, frozenset())
    address.check_socket(place, frozenset({owner, 7}))
    with pytest.raises(WrongServer, match=f"uid {owner} serves {place}, and not uid {owner + 1}, {owner + 2}"):
        address.check_socket(place, frozenset({owner + 2, owner + 1}))
    address.check_socket(f"ipc://{tmp_path}/nothing", frozenset({owner + 1}))
    address.check_socket("tcp://h:1", frozenset({owner + 1}))


@pytest.mark.parametrize(("mode", "private"), [(0o700, True), (0o755, True), (0o770, False), (0o702, False)])
def test_a_folder_is_private_if_nobody_else_may_write_into_it(tmp_path: Path, mode: int, private: bool) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder").chmod(mode)
    assert address.is_private(tmp_path / "folder") is private
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    assert not address.is_private(tmp_path / "link")
    assert not address.is_private(tmp_path / "nothing")


def test_a_socket_in_a_folder_that_others_write_into_is_not_the_users_own(tmp_path: Path) -> None:
    (tmp_path / "storekeeperd/default").mkdir(parents=True)
    (tmp_path / "storekeeperd/default/socket").touch()
    (tmp_path / "storekeeperd").chmod(0o777)
    assert address.default_address() == address.node_address()
    with pytest.raises(PermissionError, match="somebody else"):
        address.make_user_folder()
