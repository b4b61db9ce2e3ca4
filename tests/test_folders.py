"""folders.py: what a folder of a store must be. Namespaces made and dropped: test_home.py, test_founding.py."""

from __future__ import annotations

import errno
import os
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

from storekeeper.errors import BadRequest
from storekeeperd import folders


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield descriptor
    os.close(descriptor)


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets whatever is called `lab` lie on another file system."""

    def look(path: object, **options: object) -> os.stat_result:
        found = os.stat(path, **options)  # type: ignore[arg-type]
        if path == "lab":
            return os.stat_result((*found[:2], found.st_dev + 1, *found[3:]))
        return found

    monkeypatch.setattr(folders, "os", types.SimpleNamespace(**{**vars(os), "stat": look}))


def test_what_is_missing_is_made_and_what_is_there_stays(root: int, tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old/k").touch()
    folders.furnish(root, ("old", "new"))
    assert (tmp_path / "old/k").exists()
    assert list((tmp_path / "new").iterdir()) == []


def test_folders_are_synced_once_if_any_was_made(root: int, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(folders, "os", types.SimpleNamespace(**{**vars(os), "fsync": synced.append}))
    folders.furnish(root, ("a", "b"))
    assert len(synced) == 1
    folders.furnish(root, ("a", "b"))
    assert len(synced) == 1


@pytest.mark.parametrize("what", ["file", "link", "fifo"])
def test_what_is_no_folder_is_found(root: int, tmp_path: Path, what: str) -> None:
    (tmp_path / "there").mkdir()
    path = tmp_path / "lab"
    {"file": path.touch, "link": lambda: path.symlink_to("there"), "fifo": lambda: os.mkfifo(path)}[what]()
    folders.check(root, ("there", "missing"), tmp_path)
    with pytest.raises(NotADirectoryError) as caught:
        folders.check(root, ("there", "lab"), tmp_path)
    assert caught.value.filename == path
    with pytest.raises(NotADirectoryError):
        folders.make(root, "lab")


def test_a_folder_on_another_file_system_is_found(root: int, tmp_path: Path, elsewhere: None) -> None:
    (tmp_path / "lab").mkdir()
    with pytest.raises(OSError) as caught:
        folders.check(root, ("lab",), tmp_path)
    assert (caught.value.errno, caught.value.filename) == (errno.EXDEV, tmp_path / "lab")


def test_another_file_system_is_no_namespace(root: int, elsewhere: None) -> None:
    with pytest.raises(NotADirectoryError):
        folders.make(root, "lab")


def test_only_an_empty_folder_is_taken_or_removed(root: int, tmp_path: Path) -> None:
    folders.make(root, "lab")
    folders.make(root, "lab")  # of a daemon that was killed
    (tmp_path / "lab/k").touch()
    with pytest.raises(BadRequest, match="not empty"):
        folders.make(root, "lab")
    with pytest.raises(BadRequest, match="not empty"):
        folders.remove(root, "lab")
    (tmp_path / "lab/k").unlink()
    folders.remove(root, "lab")
    with pytest.raises(FileNotFoundError):
        folders.remove(root, "lab")


def test_a_folder_is_emptied_of_files_alone(root: int, tmp_path: Path) -> None:
    folders.clear(root, "private")  # there is none
    (tmp_path / "private/folder").mkdir(parents=True)
    (tmp_path / "private/17").write_text("half")
    (tmp_path / "kept").write_text("whole")
    (tmp_path / "private/link").symlink_to("../kept")
    folders.clear(root, "private")
    assert os.listdir(tmp_path / "private") == ["folder"]
    assert (tmp_path / "kept").read_text() == "whole"
