"""watcher.py: names that were heard of, and losses."""

from __future__ import annotations

import errno
import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from watchdog.observers.inotify_c import InotifyConstants, InotifyEvent, Mask, WatchDescriptor

from conftest import eventually
from storekeeperd import watcher as watcher_module
from storekeeperd.watcher import OVERFLOW, Watcher, WatchRefused


@pytest.fixture
def store(tmp_path: Path) -> Path:
    (tmp_path / "store/n").mkdir(parents=True)
    return tmp_path / "store"


@pytest.fixture
def make(store: Path) -> Iterator[Callable[..., Watcher]]:
    """Gives a function that makes watchers; they are closed with the test."""
    made: list[Watcher] = []

    def make_one(*prefixes: bytes, path: Path = store) -> Watcher:
        made.append(Watcher(path, prefixes or (b"",)))
        return made[-1]

    yield make_one
    for each in made:
        each.close()


@pytest.fixture
def watcher(make: Callable[..., Watcher]) -> Watcher:
    """A watcher of the store and its namespace n."""
    watcher = make(b"", b"n/")
    watcher.arm()
    return watcher


def heard_until(watcher: Watcher, store: Path) -> list[bytes]:
    """Returns the names heard of up to now; there must be no loss."""
    (store / "zzz-until-here").touch()
    names: list[bytes] = []

    def arrived() -> bool:
        more, losses = watcher.take()
        assert losses == []
        names.extend(more)
        return b"zzz-until-here" in names

    eventually(arrived)
    (store / "zzz-until-here").unlink()
    eventually(lambda: b"zzz-until-here" in watcher.take()[0])
    names.remove(b"zzz-until-here")
    return sorted(names)


def losses_until(watcher: Watcher, reason: str) -> list[str]:
    """Returns the losses heard of until one of that reason came."""
    losses: list[str] = []

    def arrived() -> bool:
        losses.extend(watcher.take()[1])
        return any(reason in loss for loss in losses)

    eventually(arrived)
    return losses


# -- names


def test_a_quiet_directory_says_nothing(watcher: Watcher) -> None:
    assert watcher.descriptor >= 0
    names, losses = watcher.take()
    assert (list(names), losses) == ([], [])


def test_names_that_come_and_go_are_heard(watcher: Watcher, store: Path, tmp_path: Path) -> None:
    (store / "created").touch()
    assert heard_until(watcher, store) == [b"created"]
    (store / "created").unlink()
    assert heard_until(watcher, store) == [b"created"]
    (tmp_path / "outside").touch()
    (tmp_path / "outside").rename(store / "renamed-in")
    assert heard_until(watcher, store) == [b"renamed-in"]
    os.link(store / "renamed-in", store / "linked")
    assert heard_until(watcher, store) == [b"linked"]
    (store / "linked").rename(store / "within")
    assert heard_until(watcher, store) == [b"linked", b"within"]
    (store / "within").rename(tmp_path / "out")
    assert heard_until(watcher, store) == [b"within"]
    (store / "foreign").mkdir()
    assert heard_until(watcher, store) == [b"foreign"]


def test_an_object_that_is_replaced_is_heard(watcher: Watcher, store: Path, tmp_path: Path) -> None:
    (store / "k").touch()
    assert heard_until(watcher, store) == [b"k"]
    (tmp_path / "new").touch()
    (tmp_path / "new").rename(store / "k")
    assert heard_until(watcher, store) == [b"k"]


def test_names_of_a_namespace_have_its_prefix(watcher: Watcher, store: Path) -> None:
    (store / "n/k").touch()
    (store / "k").touch()
    assert heard_until(watcher, store) == [b"k", b"n/k"]


def test_names_of_a_folder_that_is_not_served_are_not_heard(make: Callable[..., Watcher], store: Path) -> None:
    watcher = make(b"")
    watcher.arm()
    (store / "n/k").touch()
    assert heard_until(watcher, store) == []


def test_names_that_are_no_keys_are_not_heard(watcher: Watcher, store: Path) -> None:
    (store / ".hidden").touch()
    (store / "n/.hidden").touch()
    (store / os.fsdecode(b"\xff")).touch()
    (store / "é").touch()
    assert heard_until(watcher, store) == ["é".encode()]


def test_readers_and_writers_in_place_cause_nothing(watcher: Watcher, store: Path) -> None:
    (store / "k").write_bytes(b"bytes")
    heard_until(watcher, store)
    assert (store / "k").read_bytes() == b"bytes"
    (store / "k").write_bytes(b"other")
    (store / "k").chmod(0o400)
    os.utime(store / "k")
    assert sorted(os.listdir(store)) == ["k", "n"]
    assert heard_until(watcher, store) == []


def test_a_storm_on_few_names_stays_small(watcher: Watcher, store: Path) -> None:
    for _ in range(500):
        (store / "k").touch()
        (store / "k").unlink()
    (store / "last").touch()
    names: dict[bytes, None] = {}

    def arrived() -> bool:
        taken, losses = watcher.take()
        assert losses == []
        assert len(list(taken)) <= 2
        names.update(dict.fromkeys(taken))
        return b"last" in names

    eventually(arrived)
    assert list(names) == [b"k", b"last"]


# -- losses


def test_a_removed_directory_is_a_loss(watcher: Watcher, store: Path) -> None:
    (store / "n").rmdir()
    assert "directory removed, moved or unmounted" in losses_until(watcher, "removed")
    store.rmdir()
    assert losses_until(watcher, "removed")


def test_a_moved_directory_is_a_loss(watcher: Watcher, store: Path) -> None:
    store.rename(f"{store}.away")
    assert losses_until(watcher, "moved") == ["directory removed, moved or unmounted"]
    assert watcher.descriptor >= 0


def test_a_watch_that_the_kernel_drops_is_a_loss(watcher: Watcher, store: Path) -> None:
    (store / "n").rmdir()
    losses_until(watcher, "watch gone")


def test_a_directory_can_be_watched_anew_after_a_loss(watcher: Watcher, store: Path) -> None:
    store.rename(f"{store}.away")
    losses_until(watcher, "moved")
    (store / "n").mkdir(parents=True)
    watcher.arm()
    (store / "n/k").touch()
    assert heard_until(watcher, store) == [b"n/k"]
    Path(f"{store}.away/k").touch()
    Path(f"{store}.away").rename(f"{store}.further")
    assert heard_until(watcher, store) == []


def test_watching_anew_is_itself_no_loss(watcher: Watcher, store: Path) -> None:
    watcher.arm()
    names, losses = watcher.take()
    assert (list(names), losses) == ([], [])
    (store / "other").touch()
    assert heard_until(watcher, store) == [b"other"]


def test_too_many_events_are_a_loss_and_watching_goes_on(make: Callable[..., Watcher], store: Path) -> None:
    most = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    if most > 50_000:
        pytest.skip(f"the kernel queues {most} events: an overflow would take too long")
    watcher = make(b"")
    watcher.arm()
    (store / "first").touch()
    for _ in range(most // 2 + 1):
        os.link(store / "first", store / "k")
        os.unlink(store / "k")
    assert losses_until(watcher, OVERFLOW) == [OVERFLOW]
    assert watcher.descriptor >= 0
    (store / "after").touch()
    eventually(lambda: b"after" in watcher.take()[0])


def test_a_take_reads_some_and_leaves_the_rest_for_the_next_turn(watcher: Watcher, store: Path) -> None:
    for number in range(2000):
        (store / f"k{number:05}").touch()
    first = list(watcher.take()[0])
    assert 0 < len(first) < 2000
    assert len(heard_until(watcher, store)) == 2000 - len(first)


def test_watches_that_are_closed_fall_silent(make: Callable[..., Watcher], monkeypatch: pytest.MonkeyPatch) -> None:
    kept = []
    original = watcher_module.InotifyFD.add_callback

    def add_callback(self: object, path: bytes, mask: Mask, callback: object, number: object) -> object:
        kept.append(callback)
        return original(self, path, mask, callback, number)  # type: ignore[arg-type]

    monkeypatch.setattr(watcher_module.InotifyFD, "add_callback", add_callback)
    watcher = make(b"")
    watcher.arm()
    [callback] = kept
    event = InotifyEvent(WatchDescriptor(1), Mask(InotifyConstants.IN_CREATE), 0, b"k")
    callback.on_event(event)
    assert list(watcher.take()[0]) == [b"k"]
    watcher.close()
    callback.on_event(event)
    callback.on_watch_deleted(WatchDescriptor(1))
    callback.on_queue_overflow()


# -- refusals


def test_a_directory_that_is_not_there_cannot_be_watched(make: Callable[..., Watcher], store: Path) -> None:
    watcher = make(b"", path=store / "gone")
    with pytest.raises(WatchRefused, match="No such file"):
        watcher.arm()
    assert watcher.descriptor == -1


def test_if_one_directory_is_refused_none_is_watched(make: Callable[..., Watcher], store: Path) -> None:
    watcher = make(b"", b"gone/")
    with pytest.raises(WatchRefused):
        watcher.arm()
    assert watcher.descriptor == -1
    (store / "k").touch()
    (store / "gone").mkdir()
    watcher.arm()
    (store / "gone/k").touch()
    assert heard_until(watcher, store) == [b"gone/k"]


def test_a_file_cannot_be_watched(make: Callable[..., Watcher], store: Path) -> None:
    (store / "f").touch()
    with pytest.raises(WatchRefused, match="Not a directory"):
        make(b"", path=store / "f").arm()


def test_a_directory_that_may_not_be_read_cannot_be_watched() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    with tempfile.TemporaryDirectory(prefix="storekeeper-test-") as name:
        os.chmod(name, 0o711)
        reads, writes = os.pipe()
        child = os.fork()
        if not child:
            try:
                os.setgroups([])
                os.setgid(65_533)
                os.setuid(65_533)
                Watcher(Path(name), [b""]).arm()
            except BaseException as error:
                os.write(writes, repr(error).encode())
            finally:
                os._exit(0)
        os.close(writes)
        with open(reads, encoding="utf-8") as answer:
            told = answer.read()
        os.waitpid(child, 0)
    assert told.startswith("WatchRefused(")
    assert os.strerror(errno.EACCES) in told


def test_advice_is_given_when_the_kernel_has_no_more(
    make: Callable[..., Watcher], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, advice in (
        (errno.EMFILE, "max_user_instances"),
        (errno.ENOSPC, "max_user_watches"),
        (errno.ENOMEM, os.strerror(errno.ENOMEM)),
    ):

        def refuse(*_: object, number: int = number) -> int:
            raise OSError(number, "refused")

        with monkeypatch.context() as patch:
            patch.setattr(watcher_module.InotifyFD, "_create_inotify_fd", refuse)
            with pytest.raises(WatchRefused, match=advice):
                make(b"").arm()


# -- the thread


def test_a_watcher_may_be_armed_and_closed_many_times(make: Callable[..., Watcher], store: Path) -> None:
    watcher = make(b"")
    for _ in range(20):
        watcher.arm()
    watcher.close()
    watcher.arm()
    (store / "k").touch()
    assert heard_until(watcher, store) == [b"k"]


def test_programs_started_by_the_daemon_do_not_get_the_watch(watcher: Watcher) -> None:
    found = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{name}") == "anon_inode:inotify":
                found += 1
                assert fcntl.fcntl(int(name), fcntl.F_GETFD) & fcntl.FD_CLOEXEC
        except FileNotFoundError:
            continue
    assert found >= 1
