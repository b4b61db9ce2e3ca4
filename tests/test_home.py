"""home.py: who owns a store, which store it is, and why a daemon cannot start."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import stat
import subprocess
import tempfile
import types
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from storekeeper.errors import BadRequest, StoreUnavailable
from storekeeperd import features, folders, lock, papers
from storekeeperd import home as home_module
from storekeeperd.exits import (
    EX_CANTCREAT,
    EX_DATAERR,
    EX_IOERR,
    EX_NOINPUT,
    EX_NOPERM,
    EX_TEMPFAIL,
    StartError,
)
from storekeeperd.home import FOLDER, Home
from storekeeperd.watcher import Watcher

NOBODY = 65_533
"""A uid that owns nothing."""


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def enter(store: Path) -> Iterator[Callable[..., Home]]:
    """Gives a function that makes homes; they are left with the test."""
    made: list[Home] = []

    def make(*namespaces: str) -> Home:
        made.append(Home(store, namespaces))
        return made[-1]

    yield make
    for each in made:
        each.leave()


def refused(store: Path, *namespaces: str) -> StartError:
    with pytest.raises(StartError) as caught:
        Home(store, namespaces)
    assert "\n" not in str(caught.value)
    return caught.value


def fault(number: int) -> Callable[..., int]:
    def refuse(*_: object, **__: object) -> int:
        raise OSError(number, os.strerror(number))

    return refuse


@pytest.fixture
def break_os(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Gives a function that replaces functions of `os`, for home.py and what it is made of alone."""

    def replace(**functions: Callable[..., int]) -> None:
        broken = types.SimpleNamespace(**{**vars(os), **functions})
        for module in (home_module, features, folders, lock, papers):
            monkeypatch.setattr(module, "os", broken)

    return replace


def as_nobody(action: Callable[[], str]) -> str:
    """Returns what an action returns in a child process that may do nothing."""
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    reads, writes = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            os.write(writes, action().encode())
        except BaseException as error:
            os.write(writes, repr(error).encode())
        finally:
            os._exit(0)
    os.close(writes)
    with open(reads, encoding="utf-8") as answer:
        told = answer.read()
    os.waitpid(child, 0)
    return told


def start_error(store: Path, *namespaces: str) -> Callable[[], str]:
    def attempt() -> str:
        try:
            Home(store, namespaces)
        except StartError as error:
            return f"{error.status} {error}"
        return "started"

    return attempt


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may enter, which tmp_path is not."""
    with tempfile.TemporaryDirectory(prefix="storekeeper-test-") as name:
        os.chmod(name, 0o711)
        yield Path(name)


# -- taking possession


def test_a_store_is_made_with_all_that_leads_to_it(tmp_path: Path) -> None:
    home = Home(tmp_path / "a/b/c", ("n", "m"))
    try:
        assert (tmp_path / "a/b/c/n").is_dir()
        assert (tmp_path / "a/b/c/m").is_dir()
        assert home.private == tmp_path / "a/b/c/.storekeeper/tmp"
        assert home.private.is_dir()
    finally:
        home.leave()


def test_objects_are_private_but_where_the_daemon_listens_is_not(enter: Callable[..., Home], store: Path) -> None:
    before = os.umask(0o022)
    try:
        home = enter("n")
        home.announce("ipc:///a")
    finally:
        os.umask(before)
    modes = {name: stat.S_IMODE((store / name).stat().st_mode) for name in ("", "n", ".storekeeper/tmp")}
    assert modes == {"": 0o700, "n": 0o700, ".storekeeper/tmp": 0o700}
    assert stat.S_IMODE(home.folder.stat().st_mode) == 0o755
    assert stat.S_IMODE((home.folder / "address").stat().st_mode) == 0o644


def test_what_is_in_the_store_stays(enter: Callable[..., Home], store: Path) -> None:
    (store / "n").mkdir(parents=True)
    (store / "k").write_text("bytes")
    (store / "n/k").write_text("bytes")
    enter("n").leave()
    enter("n")
    assert (store / "k").read_text() == (store / "n/k").read_text() == "bytes"


def test_files_that_were_never_published_are_removed_at_start(enter: Callable[..., Home]) -> None:
    home = enter()
    (home.private / "17").write_text("half")
    (home.private / "store").write_text("half")
    home.leave()
    enter()
    assert list(home.private.iterdir()) == []


def test_a_store_has_an_identity_for_life(enter: Callable[..., Home], store: Path) -> None:
    first = enter()
    kept = json.loads((store / ".storekeeper/store").read_text())
    assert kept == {"format": 1, "uuid": str(uuid.UUID(first.store_id))}
    first.leave()
    assert enter().store_id == first.store_id


def test_two_stores_are_told_apart(tmp_path: Path) -> None:
    homes = [Home(tmp_path / name) for name in "ab"]
    try:
        assert homes[0].store_id != homes[1].store_id
    finally:
        for home in homes:
            home.leave()


# -- the lock


def test_a_second_daemon_is_refused_and_told_the_first(enter: Callable[..., Home], store: Path) -> None:
    first = enter()
    error = refused(store)
    assert error.status == EX_TEMPFAIL
    assert f"pid {os.getpid()} " in str(error)
    assert first.check(quiet=True, unmoved=False)
    assert refused(store).status == EX_TEMPFAIL


def test_a_second_daemon_does_not_touch_the_files_of_the_first(enter: Callable[..., Home], store: Path) -> None:
    first = enter()
    first.announce("ipc:///first")
    (first.private / "upload").write_text("under way")
    refused(store)
    assert (first.private / "upload").read_text() == "under way"
    assert (first.folder / "address").read_text() == "ipc:///first\n"


def test_a_store_that_was_left_can_be_taken(enter: Callable[..., Home]) -> None:
    for _ in range(3):
        home = enter()
        home.leave()
        home.leave()


# -- announcing


def test_the_address_is_there_while_the_daemon_is(enter: Callable[..., Home]) -> None:
    home = enter()
    assert not (home.folder / "address").exists()
    home.announce("ipc:///a")
    home.announce("ipc:///b")
    assert (home.folder / "address").read_text() == "ipc:///b\n"
    assert list(home.private.iterdir()) == []
    home.leave()
    assert not (home.folder / "address").exists()


# -- which directory it is


def marker(store_id: str) -> str:
    return json.dumps({"format": 1, "uuid": store_id})


def swap(store: Path) -> Path:
    """Moves the store away and puts an empty directory in its place; returns where it is now."""
    away = store.with_name("away")
    store.rename(away)
    store.mkdir()
    return away


def entered(home: Home) -> bool:
    try:
        os.close(home.ground.enter())
    except StoreUnavailable:
        return False
    return True


def test_the_locked_file_proves_which_directory_it_is(enter: Callable[..., Home], store: Path) -> None:
    home = enter()
    found = (store / ".storekeeper/lock").stat()
    assert home.ground.witness == (found.st_dev, found.st_ino)
    assert home.check(quiet=True, unmoved=False)
    assert entered(home)


def test_a_directory_that_is_gone_is_away_until_it_is_back(enter: Callable[..., Home], store: Path) -> None:
    home = enter()
    witness = home.ground.witness
    store.rename(f"{store}.away")
    for unmoved in (False, True):
        assert not home.check(quiet=True, unmoved=unmoved)
    assert not store.exists()
    Path(f"{store}.away").rename(store)
    assert home.check(quiet=True, unmoved=False)
    assert home.ground.witness == witness


def test_a_copy_of_the_store_in_its_place_is_taken_over_by_its_lock(enter: Callable[..., Home], store: Path) -> None:
    home = enter()
    shutil.copytree(store, f"{store}.copy")
    store.rename(f"{store}.away")
    Path(f"{store}.copy").rename(store)
    assert not entered(home)  # nobody works in it before it is locked
    assert home.check(quiet=True, unmoved=False)
    assert entered(home)
    found = (store / ".storekeeper/lock").stat()
    assert home.ground.witness == (found.st_dev, found.st_ino)
    assert refused(store).status == EX_TEMPFAIL
    assert (store / ".storekeeper/lock").read_text().startswith(f"pid {os.getpid()} ")
    Home(Path(f"{store}.away")).leave()  # and the old one was given back


def test_a_directory_with_our_marker_alone_is_taken_over_and_made_whole(
    enter: Callable[..., Home], store: Path
) -> None:
    home = enter("n")
    home.announce("ipc:///a")
    swap(store)
    (store / ".storekeeper").mkdir()
    (store / ".storekeeper/store").write_text(marker(home.store_id))
    assert home.check(quiet=True, unmoved=False)
    assert (store / "n").is_dir()
    assert home.private.is_dir()
    assert (store / ".storekeeper/address").read_text() == "ipc:///a\n"
    assert refused(store).status == EX_TEMPFAIL


def test_a_copy_that_another_daemon_holds_is_not_taken_over(enter: Callable[..., Home], store: Path) -> None:
    home = enter()
    witness = home.ground.witness
    shutil.copytree(store, f"{store}.copy")
    other = Home(Path(f"{store}.copy"))
    try:
        assert other.store_id == home.store_id
        store.rename(f"{store}.away")
        Path(f"{store}.copy").rename(store)
        for unmoved in (False, True):
            assert not home.check(quiet=True, unmoved=unmoved)
        assert home.ground.witness == witness
        assert other._lock >= 0
    finally:
        store.rename(f"{store}.copy")
        other.leave()
    Path(f"{store}.away").rename(store)
    assert home.check(quiet=True, unmoved=False)
    assert refused(store).status == EX_TEMPFAIL  # it never let go of its own


@pytest.mark.parametrize("known", [None, "", "nonsense", "[]", "1", "{}", '{"format":1,"uuid":"other"}'])
def test_another_directory_at_its_place_is_not_the_store(
    enter: Callable[..., Home], store: Path, known: str | None
) -> None:
    home = enter("n")
    home.announce("ipc:///a")
    swap(store)
    (store / ".storekeeper").mkdir(parents=True)
    (store / ".storekeeper/address").write_text("not ours")
    if known is not None:
        (store / ".storekeeper/store").write_text(known)
    before = sorted(os.listdir(store / ".storekeeper"))
    assert not home.check(quiet=True, unmoved=False)
    home.leave()
    assert (store / ".storekeeper/address").read_text() == "not ours"
    assert sorted(os.listdir(store / ".storekeeper")) == before
    assert os.listdir(store) == [".storekeeper"]


@pytest.mark.parametrize("known", ["", "nonsense", "{}", '{"format":1,"uuid":"other"}'])
def test_a_marker_that_is_not_ours_outranks_an_unmoved_directory(
    enter: Callable[..., Home], store: Path, known: str
) -> None:
    home = enter()
    swap(store)
    (store / ".storekeeper").mkdir()
    (store / ".storekeeper/store").write_text(known)
    assert not home.check(quiet=True, unmoved=True)
    assert os.listdir(store / ".storekeeper") == ["store"]


def test_an_empty_directory_is_away_and_stays_empty(enter: Callable[..., Home], store: Path) -> None:
    home = enter("n")
    swap(store)
    assert not home.check(quiet=True, unmoved=False)
    assert os.listdir(store) == []


def test_another_stores_lock_in_its_place_is_not_ours(enter: Callable[..., Home], store: Path, tmp_path: Path) -> None:
    home = enter()
    other = Home(tmp_path / "other")
    other.leave()
    store.rename(tmp_path / "away")
    (tmp_path / "other").rename(store)
    assert not home.check(quiet=True, unmoved=False)
    assert not home.check(quiet=True, unmoved=True)
    assert Home(store).leave() is None  # type: ignore[func-returns-value]  # it was not locked


def test_our_lock_with_a_marker_of_another_store_is_not_the_store(enter: Callable[..., Home], store: Path) -> None:
    home = enter()
    (store / ".storekeeper/store").write_text(marker(str(uuid.uuid4())))
    assert not home.check(quiet=True, unmoved=False)
    assert not home.check(quiet=True, unmoved=True)
    (store / ".storekeeper/store").write_text(marker(home.store_id))
    assert home.check(quiet=True, unmoved=False)


@pytest.mark.parametrize("damaged", [b"", b"nonsense", b"\xff\xfe", b"[]", b"1", b"{}", b"[" * 10_000])
def test_a_damaged_marker_speaks_neither_for_nor_against_the_store(
    enter: Callable[..., Home], store: Path, damaged: bytes
) -> None:
    home = enter()
    (store / ".storekeeper/store").write_bytes(damaged)
    assert home.read_marker() == ""
    assert home.check(quiet=True, unmoved=False)
    assert (store / ".storekeeper/store").read_bytes() == damaged


def test_a_file_in_its_place_is_not_the_store(enter: Callable[..., Home], store: Path) -> None:
    home = enter()
    store.rename(f"{store}.away")
    store.write_text("bytes")
    assert not home.check(quiet=True, unmoved=False)
    assert not home.check(quiet=True, unmoved=True)
    home.leave()
    assert store.read_text() == "bytes"


# -- making it whole


@pytest.mark.parametrize(
    "missing", [["store"], ["address"], ["tmp"], ["store", "address", "tmp"], ["lock"], ["lock", "address", "tmp"]]
)
def test_what_is_missing_of_our_own_folder_is_made_again(
    enter: Callable[..., Home], store: Path, missing: list[str]
) -> None:
    home = enter()
    home.announce("ipc:///a")
    for name in missing:
        if name == "tmp":
            home.private.rmdir()
        else:
            (home.folder / name).unlink()
    assert home.check(quiet=True, unmoved=False)
    assert sorted(os.listdir(home.folder)) == ["address", "lock", "store", "tmp"]
    assert home.read_marker() == home.store_id
    assert (home.folder / "address").read_text() == "ipc:///a\n"
    assert list(home.private.iterdir()) == []
    assert entered(home)
    assert refused(store).status == EX_TEMPFAIL


def test_a_namespace_that_is_gone_is_made_again(enter: Callable[..., Home], store: Path) -> None:
    home = enter("n", "m")
    (store / "n").rmdir()
    assert home.check(quiet=True, unmoved=False)
    assert (store / "n").is_dir()


def test_our_own_folder_is_made_again_in_a_directory_that_is_known_to_be_the_same(
    enter: Callable[..., Home], store: Path
) -> None:
    home = enter()
    home.announce("ipc:///a")
    (store / "k").write_text("bytes")
    shutil.rmtree(home.folder)
    assert not home.check(quiet=True, unmoved=False)
    assert not home.folder.exists()
    assert home.check(quiet=True, unmoved=True)
    assert home.check(quiet=True, unmoved=False)
    assert sorted(os.listdir(home.folder)) == ["address", "lock", "store", "tmp"]
    assert stat.S_IMODE(home.folder.stat().st_mode) == 0o755
    assert home.read_marker() == home.store_id
    assert (store / "k").read_text() == "bytes"
    assert refused(store).status == EX_TEMPFAIL


def test_no_address_is_made_before_there_is_one(enter: Callable[..., Home]) -> None:
    home = enter()
    assert home.check(quiet=True, unmoved=False)
    assert not (home.folder / "address").exists()


def test_what_is_whole_is_not_written_again(enter: Callable[..., Home]) -> None:
    home = enter()
    home.announce("ipc:///a")
    before = {name: (home.folder / name).stat() for name in ("store", "address", "lock")}
    assert home.check(quiet=True, unmoved=False)
    assert {name: (home.folder / name).stat().st_mtime_ns for name in before} == {
        name: found.st_mtime_ns for name, found in before.items()
    }
    assert {name: (home.folder / name).stat().st_ino for name in before} == {
        name: found.st_ino for name, found in before.items()
    }


@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EACCES])
def test_what_cannot_be_made_again_now_does_not_send_the_store_away(
    enter: Callable[..., Home], break_os: Callable[..., None], number: int
) -> None:
    home = enter()
    home.private.rmdir()
    break_os(mkdir=fault(number))
    assert home.check(quiet=True, unmoved=False)
    assert not home.private.exists()
    break_os()
    assert home.check(quiet=True, unmoved=False)
    assert home.private.is_dir()


def test_what_cannot_be_told_at_the_moment_is_no_answer(enter: Callable[..., Home], store: Path) -> None:
    home = enter()
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, before[1]))
    try:
        with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
            home.check(quiet=True, unmoved=False)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert home.check(quiet=True, unmoved=False)


def test_checking_holds_no_descriptor(enter: Callable[..., Home], store: Path) -> None:
    home = enter()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        assert home.check(quiet=True, unmoved=False)
        (home.folder / "lock").unlink()
        assert home.check(quiet=True, unmoved=False)
    away = swap(store)
    assert not home.check(quiet=True, unmoved=False)
    store.rmdir()
    away.rename(store)
    assert len(os.listdir("/proc/self/fd")) == before


# -- the heartbeat


def test_the_marker_says_which_store_it_is(enter: Callable[..., Home]) -> None:
    home = enter()
    assert home.read_marker() == home.store_id
    (home.folder / "store").unlink()
    assert home.read_marker() is None


@pytest.mark.parametrize("content", [None, b"nonsense", b"{}", b"\xff\xfe"])
def test_every_beat_is_counted_and_heard_by_the_watcher(
    enter: Callable[..., Home], store: Path, content: bytes | None
) -> None:
    # Whatever stands in it, it was opened.
    home = enter()
    if content is not None:
        (home.folder / "store").write_bytes(content)
    watcher = Watcher(store, [b""])
    watcher.arm()
    try:
        for _ in range(3):
            before = home.beats
            assert not watcher.take(everything=True).beat
            assert home.check(quiet=True, unmoved=False)
            assert watcher.take(everything=True).beat
            assert home.beats == before + 1
    finally:
        watcher.close()


def test_a_marker_that_is_not_there_is_no_beat(enter: Callable[..., Home], store: Path) -> None:
    home = enter()
    before = home.beats
    (home.folder / "store").unlink()
    assert home.read_marker() is None
    swap(store)
    assert not home.check(quiet=True, unmoved=False)
    assert home.beats == before


# -- refusals


def test_a_file_is_no_store(store: Path) -> None:
    store.write_text("bytes")
    error = refused(store)
    assert error.status == EX_NOINPUT
    assert "is not a directory" in str(error)
    assert refused(store / "below").status == EX_NOINPUT
    assert store.read_text() == "bytes"


def test_a_link_to_nowhere_is_no_store(store: Path) -> None:
    store.symlink_to("nowhere")
    assert refused(store).status == EX_NOINPUT


def test_a_link_to_a_directory_is_a_store(enter: Callable[..., Home], store: Path, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    store.symlink_to("real")
    enter()
    assert (tmp_path / "real/.storekeeper/lock").exists()


def test_an_object_is_no_namespace(enter: Callable[..., Home], store: Path) -> None:
    store.mkdir()
    (store / "k").write_text("bytes")
    error = refused(store, "k")
    assert error.status == EX_NOINPUT
    assert f"{store}/k" in str(error)
    assert (store / "k").read_text() == "bytes"
    enter()  # the refusal gave the lock back


def test_a_damaged_store_file_is_told(enter: Callable[..., Home], store: Path) -> None:
    enter().leave()
    file = store / ".storekeeper/store"
    whole = {"format": 1, "uuid": str(uuid.uuid4())}
    for damaged in (b"", b"nonsense", b"\xff\xfe", b"[]", b"1", b"null", b'{"format":1}', b'{"format":1,"uuid":"x"}',
                    json.dumps({"uuid": whole["uuid"]}).encode()):  # fmt: skip
        file.write_bytes(damaged)
        error = refused(store)
        assert error.status == EX_DATAERR
        assert str(file) in str(error)
        assert file.read_bytes() == damaged
    file.write_text(json.dumps(whole))
    assert enter().store_id == whole["uuid"]


def test_a_damaged_store_file_may_be_removed(enter: Callable[..., Home], store: Path) -> None:
    enter().leave()
    (store / ".storekeeper/store").write_text("")
    refused(store)
    (store / ".storekeeper/store").unlink()
    enter()


def test_a_store_of_another_format_is_refused(enter: Callable[..., Home], store: Path) -> None:
    enter().leave()
    (store / ".storekeeper/store").write_text(json.dumps({"format": 2, "uuid": str(uuid.uuid4())}))
    error = refused(store)
    assert error.status == EX_DATAERR
    assert "format 2" in str(error)


def test_a_store_that_may_not_be_written_is_refused(open_folder: Path) -> None:
    (open_folder / "store").mkdir(mode=0o755)
    told = as_nobody(start_error(open_folder / "store"))
    assert told.startswith(f"{EX_NOPERM} ")
    assert f"cannot be written by uid {NOBODY}" in told
    assert os.listdir(open_folder / "store") == []


def test_a_store_that_may_not_be_made_is_refused(open_folder: Path) -> None:
    assert as_nobody(start_error(open_folder / "store")).startswith(f"{EX_NOPERM} ")


def test_the_store_of_somebody_else_is_refused(open_folder: Path) -> None:
    Home(open_folder / "store").leave()
    os.chmod(open_folder / "store", 0o777)
    assert as_nobody(start_error(open_folder / "store")).startswith(f"{EX_NOPERM} ")


def test_whoever_owns_the_directory_can_serve_it(open_folder: Path) -> None:
    (open_folder / "store").mkdir()
    if os.geteuid() == 0:
        os.chown(open_folder / "store", NOBODY, NOBODY)
    assert as_nobody(start_error(open_folder / "store", "n")) == "started"


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", small], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount a small file system: {mounted.stderr.decode().strip()}")
    try:
        (small / "filler").write_bytes(bytes(3 * 4096))  # leaves room for the lock
        error = refused(small)
        assert error.status == EX_CANTCREAT
        assert "full" in str(error)
        (small / "filler").unlink()
        Home(small).leave()
    finally:
        subprocess.run(["umount", small], check=True)


# -- what the file system can do


def test_the_features_are_what_works(enter: Callable[..., Home]) -> None:
    home = enter()
    probe = home.private / "x"
    probe.touch()
    try:
        os.setxattr(probe, "user.storekeeper", b"x")
    except OSError:
        assert not home.features.attributes
    else:
        assert home.features.attributes
    probe.unlink()
    assert list(home.private.iterdir()) == []


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL])
def test_a_file_system_without_unnamed_files_will_do(
    enter: Callable[..., Home], break_os: Callable[..., None], number: int
) -> None:
    def without(path: os.PathLike[str], flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(number, os.strerror(number))
        return os.open(path, flags, mode, dir_fd=dir_fd)

    break_os(open=without)
    home = enter()
    assert not home.features.unnamed_files
    assert list(home.private.iterdir()) == []


def test_a_probe_that_fails_for_another_reason_is_told(
    enter: Callable[..., Home], break_os: Callable[..., None], store: Path
) -> None:
    def failing(path: os.PathLike[str], flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return os.open(path, flags, mode, dir_fd=dir_fd)

    break_os(open=failing)
    assert refused(store).status == EX_IOERR
    break_os()
    enter()


def test_a_file_system_without_attributes_or_quick_reads_will_do(
    enter: Callable[..., Home], break_os: Callable[..., None]
) -> None:
    break_os(setxattr=fault(errno.EOPNOTSUPP), preadv=fault(errno.EOPNOTSUPP))
    home = enter()
    assert not home.features.attributes
    assert not home.features.read_nowait


@pytest.mark.parametrize(
    ("step", "number", "status"),
    [
        ("setxattr", errno.EIO, EX_IOERR),
        ("setxattr", errno.ENOSPC, EX_CANTCREAT),
        ("setxattr", errno.EDQUOT, EX_CANTCREAT),
        ("fsync", errno.EIO, EX_IOERR),
        ("rename", errno.EROFS, EX_NOPERM),
        ("open", errno.EROFS, EX_NOPERM),
        ("open", errno.EMFILE, EX_IOERR),
    ],
)
def test_what_the_system_refuses_is_told_and_the_lock_given_back(
    enter: Callable[..., Home], break_os: Callable[..., None], store: Path, step: str, number: int, status: int
) -> None:
    break_os(**{step: fault(number)})
    error = refused(store)
    assert error.status == status
    assert os.strerror(number) in str(error)
    break_os()
    enter()


# -- what an attack found: who may write into the store's directory must not lead the daemon to other files


def foreign(tmp_path: Path) -> Path:
    """Gives a folder with a file that is none of the daemon's business."""
    folder = tmp_path / "foreign"
    folder.mkdir()
    (folder / "file").write_text("precious")
    return folder


@pytest.mark.parametrize("name", ["lock", "store"])
def test_a_link_in_our_folder_is_not_written_through(name: str, tmp_path: Path) -> None:
    store, victim = tmp_path / "s", foreign(tmp_path) / "file"
    Home(store).leave()
    (store / FOLDER / name).unlink()
    (store / FOLDER / name).symlink_to(victim)
    with pytest.raises(StartError):
        Home(store)
    assert victim.read_text() == "precious"
    assert stat.S_IMODE(victim.stat().st_mode) != 0o444


def test_a_link_in_place_of_a_private_file_is_not_written_through(tmp_path: Path) -> None:
    store, victim = tmp_path / "s", foreign(tmp_path) / "file"
    home = Home(store)
    try:
        (store / FOLDER / "tmp" / "store").symlink_to(victim)
        (store / FOLDER / "store").unlink()
        assert home.check(quiet=True)
        assert json.loads((store / FOLDER / "store").read_text())["uuid"] == home.store_id
        assert victim.read_text() == "precious"
    finally:
        home.leave()


@pytest.mark.parametrize("running", [True, False], ids=["while it runs", "at start"])
def test_a_link_in_place_of_the_private_folder_empties_no_other(running: bool, tmp_path: Path) -> None:
    store, victim = tmp_path / "s", foreign(tmp_path)
    home = Home(store)
    if not running:
        home.leave()
    (store / FOLDER / "tmp").rmdir()
    (store / FOLDER / "tmp").symlink_to(victim)
    try:
        if running:
            (store / FOLDER / "lock").unlink()
            assert not home.check(quiet=True, unmoved=True)
        else:
            with pytest.raises(StartError):
                Home(store)
    finally:
        home.leave()
    assert os.listdir(victim) == ["file"]


@pytest.mark.parametrize("name", ["lock", "store", "address"])
def test_a_fifo_in_our_folder_hangs_nothing(name: str, tmp_path: Path) -> None:
    store = tmp_path / "s"
    home = Home(store)
    try:
        home.announce("ipc:///nowhere")
        (store / FOLDER / name).unlink()
        os.mkfifo(store / FOLDER / name)
        os.mkfifo(store / FOLDER / "tmp" / "store")
        assert home.check(quiet=True, unmoved=True) is (name != "lock")
    finally:
        home.leave()


def test_a_namespace_is_no_link_to_another_folder(tmp_path: Path) -> None:
    store, victim = tmp_path / "s", foreign(tmp_path)
    home = Home(store, ("team",))
    try:
        (store / "team").rmdir()
        (store / "team").symlink_to(victim)
        assert not home.check(quiet=True)
        (store / "team").unlink()
        assert home.check(quiet=True)
        assert (store / "team").is_dir()
    finally:
        home.leave()
    (store / "team").rmdir()
    (store / "team").symlink_to(victim)
    with pytest.raises(StartError):
        Home(store, ("team",))


def test_a_marker_without_end_is_read_for_a_little_while(tmp_path: Path) -> None:
    store = tmp_path / "s"
    Home(store).leave()
    os.truncate(store / FOLDER / "store", 1 << 40)
    with pytest.raises(StartError):
        Home(store)


def test_a_directory_that_has_our_locked_file_but_the_marker_of_another_store_is_not_entered(
    enter: Callable[..., Home], store: Path, tmp_path: Path
) -> None:
    home = enter()
    other = tmp_path / "other"
    (other / ".storekeeper/tmp").mkdir(parents=True)
    (other / ".storekeeper/tmp/theirs").touch()
    os.link(store / ".storekeeper/lock", other / ".storekeeper/lock")
    (other / ".storekeeper/store").write_text(json.dumps({"format": 1, "uuid": str(uuid.uuid4())}))
    store.rename(tmp_path / "away")
    other.rename(store)
    for _ in range(2):
        assert not home.check(quiet=True)
        with pytest.raises(StoreUnavailable):
            home.ground.enter()
    assert (store / ".storekeeper/tmp/theirs").exists()


# -- what users make


def made_file(store: Path) -> Path:
    return store / FOLDER / "namespaces"


def test_a_namespace_that_is_made_is_there_at_every_start(store: Path) -> None:
    home = Home(store)
    assert home.made == {}
    home.found("lab", {"read": ["*"]})
    home.found("é", {})
    assert (store / "lab").is_dir()
    assert home.made == {"lab": {"read": ["*"]}, "é": {}}
    home.leave()
    (store / "lab").rmdir()
    home = Home(store)
    assert home.made == {"lab": {"read": ["*"]}, "é": {}}
    assert (store / "lab").is_dir()
    assert home.identities().keys() == {"", "lab", "é"}
    home.follow(["é"])
    home.found("lab", None)
    assert not (store / "lab").exists()
    assert home.identities().keys() == {"", "é"}
    home.leave()
    home = Home(store)
    assert home.made == {"é": {}}
    assert not (store / "lab").exists()
    home.leave()


def test_an_empty_folder_that_is_there_becomes_the_namespace(enter: Callable[..., Home], store: Path) -> None:
    home = enter()
    (store / "lab").mkdir()
    (store / "lab" / "k").write_bytes(b"x")
    with pytest.raises(BadRequest, match="not empty"):
        home.found("lab", {})
    (store / "lab" / "k").unlink()
    home.found("lab", {})
    assert home.made == {"lab": {}}


def test_a_namespace_that_is_not_empty_is_not_dropped(enter: Callable[..., Home], store: Path) -> None:
    home = enter()
    home.found("lab", {"bytes_max": 1})
    (store / "lab" / "k").write_bytes(b"x")
    with pytest.raises(BadRequest, match="'lab' is not empty"):
        home.found("lab", None)
    assert home.made == {"lab": {"bytes_max": 1}}
    assert json.loads(made_file(store).read_text()) == {"lab": {"bytes_max": 1}}
    (store / "lab" / "k").unlink()
    home.found("lab", None)
    assert home.made == {}
    assert json.loads(made_file(store).read_text()) == {}


@pytest.mark.parametrize("what", ["file", "link", "dangling", "fifo"])
def test_what_is_no_folder_is_in_the_way(enter: Callable[..., Home], store: Path, tmp_path: Path, what: str) -> None:
    home = enter()
    (tmp_path / "elsewhere").mkdir()
    path = store / "lab"
    if what == "file":
        path.write_bytes(b"x")
    elif what == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to(tmp_path / ("elsewhere" if what == "link" else "nowhere"))
    with pytest.raises(NotADirectoryError):
        home.found("lab", {})
    assert home.made == {}
    assert not made_file(store).exists()
    assert os.path.lexists(path)
    with pytest.raises(OSError, match="directory"):
        home.found("lab", None)
    assert os.path.lexists(path)


def test_a_store_that_is_away_gets_no_namespace(enter: Callable[..., Home], store: Path, tmp_path: Path) -> None:
    home = enter()
    store.rename(tmp_path / "away")
    store.mkdir()
    with pytest.raises(StoreUnavailable):
        home.found("lab", {})
    assert list(store.iterdir()) == []
    store.rmdir()
    (tmp_path / "away").rename(store)


def test_settings_that_cannot_be_written_are_not_kept(
    enter: Callable[..., Home], store: Path, break_os: Callable[..., None]
) -> None:
    home = enter()
    home.found("old", {})
    break_os(rename=fault(errno.ENOSPC))
    with pytest.raises(OSError, match="No space"):
        home.found("lab", {})
    assert home.made == {"old": {}}
    assert json.loads(made_file(store).read_text()) == {"old": {}}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"7",
        b"\xff",
        b"[" * 100_000,
        b'{"a/b": {}}',
        b'{".hidden": {}}',
        b'{"": {}}',
        b'{"\\ud800": {}}',
        b'{"../outside": {}}',
        b'{"a": "' + b"x" * (5 * 1024 * 1024) + b'"}',
    ],
    ids=range(12),
)
def test_a_damaged_file_of_namespaces_is_named_and_nothing_is_made_of_it(store: Path, content: bytes) -> None:
    Home(store).leave()
    made_file(store).write_bytes(content)
    before = sorted(path.name for path in store.parent.iterdir())
    error = refused(store)
    assert error.status == EX_DATAERR
    assert str(made_file(store)) in str(error)
    assert made_file(store).read_bytes() == content
    assert sorted(path.name for path in store.parent.iterdir()) == before


@pytest.mark.parametrize("kind", ["link", "fifo", "folder"])
def test_a_file_of_namespaces_that_is_none_is_not_followed(store: Path, tmp_path: Path, kind: str) -> None:
    Home(store).leave()
    if kind == "link":
        (tmp_path / "theirs").write_text('{"lab": {}}')
        made_file(store).symlink_to(tmp_path / "theirs")
    elif kind == "fifo":
        os.mkfifo(made_file(store))
    else:
        made_file(store).mkdir()
    refused(store)
    assert not (store / "lab").exists()


def test_that_objects_may_have_lifetimes_is_known_to_later_daemons(store: Path) -> None:
    home = Home(store)
    assert not home.keeps_lives
    home.keep_lives()
    home.keep_lives()
    assert home.keeps_lives
    home.leave()
    home = Home(store)
    assert home.keeps_lives
    home.leave()
    (store / FOLDER / "lifetimes").unlink()
    home = Home(store)
    assert not home.keeps_lives
    home.leave()


def test_if_that_cannot_be_noted_no_object_gets_one(enter: Callable[..., Home], break_os: Callable[..., None]) -> None:
    home = enter()
    break_os(rename=fault(errno.ENOSPC))
    with pytest.raises(OSError, match="No space"):
        home.keep_lives()
    assert not home.keeps_lives
