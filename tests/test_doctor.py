"""doctor.py: what an administrator is told about a store's directory."""

from __future__ import annotations

import json
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from storekeeperd import doctor, entries
from storekeeperd.cli import cli
from storekeeperd.doctor import examine, how_watched
from storekeeperd.exits import EX_NOINPUT
from storekeeperd.filesystem import FileSystem
from storekeeperd.home import Home

NOBODY = 65_533
"""A uid that owns nothing."""


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store as a daemon left it, with an object."""
    Home(tmp_path / "store", ("n",)).leave()
    (tmp_path / "store/k").write_bytes(b"bytes")
    return tmp_path / "store"


def found(store: Path, *namespaces: str) -> list[tuple[str, str]]:
    return sorted((finding.kind, finding.name) for finding in examine(store, namespaces))


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, ["doctor", *map(str, arguments)])


def spoil(folder: Path) -> None:
    """Puts one thing of every kind into a directory."""
    (folder / "d").mkdir()
    (folder / "l").symlink_to("k")
    os.mkfifo(folder / "f")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(folder / "s"))
    (folder / "k.ready").touch()
    (folder / os.fsdecode(b"bad\xff")).touch()


EVERY_KIND = [
    ("directory", "d"),
    ("link", "l"),
    ("marker", "k.ready"),
    ("name", "bad\\xff"),
    ("special", "f"),
    ("special", "s"),
]


# -- findings


def test_a_store_that_holds_objects_alone_is_well(store: Path) -> None:
    (store / "é").touch()
    (store / "empty").touch()
    (store / ".hidden").touch()
    (store / "k2.ready").write_bytes(b"an object that is only named like a marker")
    assert found(store, "n") == []


def test_every_kind_of_foreign_entry_is_found_with_advice(store: Path) -> None:
    spoil(store)
    assert found(store, "n") == EVERY_KIND
    assert all(finding.advice for finding in examine(store, ("n",)))
    advice = {finding.kind: finding.advice for finding in examine(store, ("n",))}
    assert "--namespace" in advice["directory"]
    assert "ready_markers" in advice["marker"]


def test_a_folder_that_is_a_namespace_is_no_finding(store: Path) -> None:
    assert found(store) == [("directory", "n")]
    assert found(store, "n") == []


def test_namespaces_are_examined_too(store: Path) -> None:
    spoil(store / "n")
    assert found(store) == [("directory", "n")]
    assert found(store, "n") == sorted((kind, f"n/{name}") for kind, name in EVERY_KIND)


def test_a_folder_in_a_namespace_is_a_finding_whatever_its_name(store: Path) -> None:
    (store / "n/n").mkdir()
    assert found(store, "n") == [("directory", "n/n")]


def test_nothing_is_changed(store: Path) -> None:
    spoil(store)

    def state() -> list[tuple[str, int, int, int]]:
        return sorted(
            (entry.name, found.st_ino, found.st_mode, found.st_mtime_ns)
            for entry in os.scandir(store)
            for found in [entry.stat(follow_symlinks=False)]
        )

    before = state()
    assert len(found(store)) == 7
    assert state() == before


def test_a_file_system_that_tells_no_types_is_examined_all_the_same(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(store)
    original = entries.take_apart

    def without(data: bytes) -> tuple[list[bytes], bytes]:
        names, types = original(data)
        return names, bytes(len(types))

    monkeypatch.setattr(entries, "take_apart", without)
    assert found(store, "n") == EVERY_KIND


@pytest.mark.parametrize("name", ["object", "marker.ready"])
def test_a_file_that_goes_meanwhile_is_no_finding(store: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    # access(2) says no of a file that is gone, too: that does not make it an unreadable one.
    (store / name).touch()
    original = entries.read

    def read(descriptor: int) -> Iterator[bytes]:
        buffers = list(original(descriptor))
        (store / name).unlink(missing_ok=True)
        yield from buffers

    monkeypatch.setattr(entries, "read", read)
    assert found(store, "n") == []


def test_an_object_that_may_not_be_read_is_found_by_who_may_not() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    with tempfile.TemporaryDirectory(prefix="storekeeper-test-") as name:
        os.chmod(name, 0o755)
        for file, mode in (("open", 0o444), ("closed", 0o400), ("closed.ready", 0o400)):
            Path(name, file).write_bytes(b"bytes")
            os.chmod(Path(name, file), mode)
        reads, writes = os.pipe()
        child = os.fork()
        if not child:
            try:
                os.setgroups([])
                os.setgid(NOBODY)
                os.setuid(NOBODY)
                os.write(writes, repr(found(Path(name))).encode())
            except BaseException as error:
                os.write(writes, repr(error).encode())
            finally:
                os._exit(0)
        os.close(writes)
        with open(reads, encoding="utf-8") as answer:
            told = answer.read()
        os.waitpid(child, 0)
    assert told == repr([("unreadable", "closed"), ("unreadable", "closed.ready")])


def test_a_directory_that_cannot_be_read_is_told(store: Path) -> None:
    with pytest.raises(FileNotFoundError):
        list(examine(store / "gone"))
    with pytest.raises(NotADirectoryError):
        list(examine(store / "k"))
    with pytest.raises(FileNotFoundError):
        list(examine(store, ("gone",)))


def test_an_examination_that_is_broken_off_leaves_nothing_open(store: Path) -> None:
    spoil(store)
    before = len(os.listdir("/proc/self/fd"))
    going = examine(store)
    next(going)
    going.close()  # type: ignore[attr-defined]
    assert len(os.listdir("/proc/self/fd")) == before


# -- how it is watched


def test_one_sentence_says_how_changes_are_noticed(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "find", lambda _: FileSystem("xfs", local=True, network=False))
    assert how_watched(store) == f"{store} lies on xfs: the kernel tells of every change"
    for kind, network in (("nfs4", True), ("overlay", False)):
        monkeypatch.setattr(
            doctor, "find", lambda _, kind=kind, network=network: FileSystem(kind, local=False, network=network)
        )
        sentence = how_watched(store)
        assert sentence.startswith(f"{store} lies on {kind}: ")
        assert "scan_interval_s" in sentence


def test_a_directory_that_is_not_there_is_not_watched(store: Path) -> None:
    with pytest.raises(FileNotFoundError):
        how_watched(store / "gone")


# -- the command


def test_a_store_that_is_well_ends_with_status_0(store: Path) -> None:
    result = run(store, "--namespace", "n")
    assert result.exit_code == 0
    assert result.output == how_watched(store) + "\n"


def test_anything_found_ends_with_status_1(store: Path) -> None:
    (store / "l").symlink_to("k")
    result = run(store, "--namespace", "n")
    assert result.exit_code == 1
    first, second = result.output.splitlines()
    assert first == how_watched(store)
    assert second == "'l': a symbolic link, which is never followed; replace it by the file itself"


def test_a_script_is_told_in_json(store: Path) -> None:
    spoil(store)
    result = run(store, "--namespace", "n", "--json")
    assert result.exit_code == 1
    told = [json.loads(line) for line in result.output.splitlines()]
    assert sorted((each["kind"], each["name"]) for each in told) == EVERY_KIND
    assert all(each.keys() == {"name", "kind", "advice"} for each in told)


def test_a_script_is_told_nothing_of_a_store_that_is_well(store: Path) -> None:
    result = run(store, "--namespace", "n", "--json")
    assert (result.exit_code, result.output) == (0, "")


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_what_cannot_be_examined_is_an_error_and_no_finding(store: Path, options: list[str]) -> None:
    for arguments in ([store / "gone"], [store / "k"], [store, "--namespace", "gone"]):
        result = run(*arguments, *options)
        assert result.exit_code == EX_NOINPUT, arguments
        assert "storekeeperd: " in result.output


def test_the_doctor_examines_a_store_that_is_being_served(store: Path) -> None:
    home = Home(store, ("n",))
    try:
        assert run(store, "--namespace", "n").exit_code == 0
    finally:
        home.leave()
