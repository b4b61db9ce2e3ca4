"""watcher.py: names that were heard of, and losses."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import select
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from conftest import eventually
from storekeeperd import watcher as watcher_module
from storekeeperd.echoes import Echoes
from storekeeperd.watcher import FOLDER_GONE, GONE, MOVED, OVERFLOW, Heard, Watcher, WatchRefused


@pytest.fixture
def store(tmp_path: Path) -> Path:
    (tmp_path / "store/n").mkdir(parents=True)
    (tmp_path / "store/.storekeeper").mkdir()
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
        heard = watcher.take()
        assert heard.losses == []
        assert heard.deleted.keys() <= heard.names.keys()
        names.extend(heard.names)
        return b"zzz-until-here" in names

    eventually(arrived)
    (store / "zzz-until-here").unlink()
    eventually(lambda: b"zzz-until-here" in watcher.take().deleted)
    names.remove(b"zzz-until-here")
    return sorted(names)


def losses_until(watcher: Watcher, *kinds: str) -> list[str]:
    """Returns the losses heard of until all of these kinds came."""
    losses: list[str] = []

    def arrived() -> bool:
        losses.extend(watcher.take().losses)
        return set(kinds) <= set(losses)

    eventually(arrived)
    return losses


def beat(store: Path) -> None:
    (store / ".storekeeper/store").read_bytes()


@pytest.fixture
def marked(store: Path) -> Path:
    (store / ".storekeeper/store").write_text("marker")
    return store


# -- names


def test_a_quiet_directory_says_nothing(watcher: Watcher) -> None:
    assert watcher.descriptor >= 0
    assert watcher.waiting_bytes == 0
    assert watcher.take() == watcher.take(everything=True) == Heard()


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


def test_names_that_were_deleted_or_moved_away_are_told(watcher: Watcher, store: Path, tmp_path: Path) -> None:
    for name in ("a", "b", "n/c", "d"):
        (store / name).touch()
    assert watcher.take(everything=True).deleted == {}
    (store / "a").unlink()
    (store / "b").rename(tmp_path / "b")
    (store / "n/c").rename(store / "e")
    (store / "f").touch()
    heard = watcher.take(everything=True)
    assert heard.names.keys() == {b"a", b"b", b"n/c", b"e", b"f"}
    assert heard.deleted.keys() == {b"a", b"b", b"n/c"}
    (store / "d").unlink()
    (store / "d").touch()
    assert watcher.take(everything=True) == Heard({b"d": None}, {b"d": None})  # maybe among other things


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
    assert sorted(os.listdir(store)) == [".storekeeper", "k", "n"]
    assert heard_until(watcher, store) == []


def test_a_storm_on_few_names_stays_small(watcher: Watcher, store: Path) -> None:
    for _ in range(500):
        (store / "k").touch()
        (store / "k").unlink()
    (store / "last").touch()
    names: dict[bytes, None] = {}

    def arrived() -> bool:
        heard = watcher.take()
        assert heard.losses == []
        assert len(heard.names) <= 2
        names.update(heard.names)
        return b"last" in names

    eventually(arrived)
    assert list(names) == [b"k", b"last"]


# -- losses


def test_a_removed_directory_is_a_loss(watcher: Watcher, store: Path) -> None:
    (store / "n").rmdir()
    assert losses_until(watcher, MOVED, GONE) == [MOVED, GONE]
    (store / ".storekeeper").rmdir()
    store.rmdir()
    assert losses_until(watcher, FOLDER_GONE, MOVED, GONE) == [FOLDER_GONE, MOVED, GONE]


def test_a_moved_directory_is_a_loss(watcher: Watcher, store: Path) -> None:
    store.rename(f"{store}.away")
    assert losses_until(watcher, MOVED) == [MOVED]
    assert watcher.descriptor >= 0


def test_a_renamed_namespace_is_a_loss(watcher: Watcher, store: Path) -> None:
    (store / "n").rename(store / "m")
    assert MOVED in losses_until(watcher, MOVED)


def test_an_unmounted_directory_is_a_loss(make: Callable[..., Watcher], tmp_path: Path) -> None:
    (tmp_path / "mounted").mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", tmp_path / "mounted"], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount: {mounted.stderr.decode().strip()}")
    try:
        (tmp_path / "mounted/.storekeeper").mkdir()
        watcher = make(b"", path=tmp_path / "mounted")
        watcher.arm()
    finally:
        subprocess.run(["umount", tmp_path / "mounted"], check=True)
    assert sorted(losses_until(watcher, MOVED, GONE, FOLDER_GONE)) == sorted([MOVED, GONE, FOLDER_GONE])


def test_a_watch_that_the_kernel_drops_is_a_loss(watcher: Watcher, store: Path) -> None:
    (store / "n").rmdir()
    losses_until(watcher, GONE)


def test_a_removed_own_folder_is_a_loss_of_its_own(watcher: Watcher, store: Path) -> None:
    (store / ".storekeeper").rmdir()
    assert losses_until(watcher, FOLDER_GONE) == [FOLDER_GONE]
    (store / "k").touch()
    (store / "n/k").touch()
    assert heard_until(watcher, store) == [b"k", b"n/k"]  # objects are still watched


def test_a_directory_can_be_watched_anew_after_a_loss(watcher: Watcher, store: Path) -> None:
    store.rename(f"{store}.away")
    losses_until(watcher, MOVED)
    (store / "n").mkdir(parents=True)
    (store / ".storekeeper").mkdir()
    watcher.arm()
    (store / "n/k").touch()
    assert heard_until(watcher, store) == [b"n/k"]
    Path(f"{store}.away/k").touch()
    Path(f"{store}.away").rename(f"{store}.further")
    assert heard_until(watcher, store) == []


def test_watching_anew_is_itself_no_loss(watcher: Watcher, store: Path) -> None:
    watcher.arm()
    assert watcher.take() == Heard()
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
    eventually(lambda: b"after" in watcher.take().names)


def test_everything_is_heard_even_after_too_many_events(make: Callable[..., Watcher], store: Path) -> None:
    most = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    if most > 50_000:
        pytest.skip(f"the kernel queues {most} events: an overflow would take too long")
    watcher = make(b"")
    watcher.arm()
    (store / "first").touch()
    for _ in range(most // 2 + 1):
        os.link(store / "first", store / "k")
        os.unlink(store / "k")
    heard = watcher.take(everything=True)
    assert heard.names.keys() == {b"first", b"k"}
    assert heard.losses == [OVERFLOW]
    assert watcher.waiting_bytes == 0


def test_a_take_reads_some_and_leaves_the_rest_for_the_next_turn(watcher: Watcher, store: Path) -> None:
    for number in range(2000):
        (store / f"k{number:05}").touch()
    before = watcher.waiting_bytes
    first = list(watcher.take().names)
    assert 0 < len(first) < 2000
    assert 0 < watcher.waiting_bytes < before
    assert len(heard_until(watcher, store)) == 2000 - len(first)


def test_everything_can_be_taken_at_once(watcher: Watcher, store: Path) -> None:
    for number in range(2000):
        (store / f"k{number:05}").touch()
    assert watcher.waiting_bytes >= 2000 * 16
    heard = watcher.take(everything=True)
    assert heard.names.keys() == {b"k%05d" % number for number in range(2000)}
    assert watcher.waiting_bytes == 0
    assert watcher.take(everything=True) == Heard()


def test_names_of_many_lengths_are_heard(watcher: Watcher, store: Path) -> None:
    names = [b"x" * length for length in range(1, 256)] + ["é".encode() * 127, b"two\nlines", b"k.ready"]
    for name in names:
        (store / os.fsdecode(name)).touch()
    assert watcher.take(everything=True).names.keys() == set(names)


def test_watches_that_are_closed_fall_silent(watcher: Watcher, store: Path) -> None:
    (store / "k").touch()
    watcher.close()
    assert watcher.descriptor == -1
    assert watcher.waiting_bytes == 0
    assert watcher.take() == watcher.take(everything=True) == Heard()
    watcher.close()


def test_what_old_watches_had_to_say_is_not_heard_after_arming_anew(watcher: Watcher, store: Path) -> None:
    (store / "k").touch()
    watcher.arm()
    assert watcher.take(everything=True) == Heard()


# -- the heartbeat


def test_opening_the_marker_is_the_beat(watcher: Watcher, marked: Path) -> None:
    watcher.take(everything=True)
    assert not watcher.take().beat
    beat(marked)
    assert watcher.take() == Heard(beat=True)
    assert watcher.take() == Heard()


def test_the_beat_comes_with_names(watcher: Watcher, marked: Path) -> None:
    watcher.take(everything=True)
    (marked / "k").touch()
    beat(marked)
    assert watcher.take(everything=True) == Heard({b"k": None}, beat=True)


def test_other_files_of_our_own_folder_are_no_beat(watcher: Watcher, marked: Path) -> None:
    watcher.take(everything=True)
    for name in ("lock", "address", "storehouse"):
        (marked / ".storekeeper" / name).touch()
    assert sorted(os.listdir(marked / ".storekeeper")) == ["address", "lock", "store", "storehouse"]
    os.stat(marked / ".storekeeper/store")
    assert watcher.take(everything=True) == Heard()


def test_an_object_that_is_named_like_the_marker_is_no_beat(watcher: Watcher, store: Path) -> None:
    (store / "store").touch()
    (store / "n/store").touch()
    assert (store / "store").read_bytes() == b""
    assert watcher.take(everything=True) == Heard({b"store": None, b"n/store": None})


def test_the_beat_is_heard_though_the_marker_was_replaced(watcher: Watcher, marked: Path) -> None:
    (marked / ".storekeeper/new").write_text("marker")
    (marked / ".storekeeper/new").rename(marked / ".storekeeper/store")
    watcher.take(everything=True)
    beat(marked)
    assert watcher.take().beat


def test_the_beat_of_another_directory_in_its_place_is_not_heard(watcher: Watcher, marked: Path) -> None:
    marked.rename(f"{marked}.away")
    shutil.copytree(f"{marked}.away", marked)
    assert MOVED in watcher.take(everything=True).losses
    beat(marked)
    assert watcher.take(everything=True) == Heard()


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


def test_a_directory_without_our_own_folder_is_watched_but_no_beat_is_heard(
    make: Callable[..., Watcher], store: Path
) -> None:
    (store / ".storekeeper").rmdir()
    watcher = make(b"")
    watcher.arm()
    assert not watcher.hears_beats
    (store / "a").touch()
    assert heard_until(watcher, store) == [b"a"]
    (store / ".storekeeper").mkdir()
    watcher.arm()
    assert watcher.hears_beats
    (store / "k").touch()
    assert heard_until(watcher, store) == [b"k"]


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
    assert "it takes read permission for uid 65533" in told


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


# -- the descriptor


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


def test_the_descriptor_is_ready_when_there_is_something_to_take(watcher: Watcher, store: Path) -> None:
    assert select.select([watcher.descriptor], [], [], 0)[0] == []
    (store / "k").touch()
    assert select.select([watcher.descriptor], [], [], 5)[0] == [watcher.descriptor]
    watcher.take()
    assert select.select([watcher.descriptor], [], [], 0)[0] == []


def test_a_watcher_needs_no_thread(watcher: Watcher) -> None:
    assert [each.name for each in threading.enumerate() if "notify" in type(each).__name__.lower()] == []


def test_a_directory_above_the_store_that_is_renamed_is_heard_of(tmp_path: Path) -> None:
    store = tmp_path / "one" / "two" / "store"
    (store / ".storekeeper").mkdir(parents=True)
    watcher = Watcher(store, [b""])
    try:
        watcher.arm()
        (tmp_path / "one" / "other").mkdir()  # what happens in it is nobody's business
        (tmp_path / "one" / "two" / "file").touch()
        assert watcher.take(everything=True) == Heard()
        (tmp_path / "one").rename(tmp_path / "moved")
        assert watcher.take(everything=True) == Heard(moved_above=True)
        (tmp_path / "moved").rename(tmp_path / "one")
        assert watcher.take(everything=True).moved_above
    finally:
        watcher.close()


# -- what an overflow may have hidden


def test_a_watch_is_whole_as_long_as_the_directories_stand_there(watcher: Watcher, store: Path) -> None:
    assert watcher.whole
    (store / "k").touch()
    (store / "n/k").touch()
    assert watcher.whole
    heard = watcher.take(everything=True)
    assert list(heard.names) == [b"k", b"n/k"]  # asking changes nothing
    assert not heard.losses


def test_nothing_is_missed_while_it_is_asked_whether_the_watch_is_whole(watcher: Watcher, store: Path) -> None:
    command = "import os, sys\nfor n in range(30_000): os.close(os.open(f'{sys.argv[1]}/{n}', os.O_CREAT))"
    names: set[bytes] = set()
    with subprocess.Popen([sys.executable, "-c", command, os.fspath(store)]) as outside:
        while outside.poll() is None:
            for _ in range(100):
                assert watcher.whole
            names.update(watcher.take().names)
    names.update(watcher.take(everything=True).names)
    assert names == {b"%d" % number for number in range(30_000)}


@pytest.mark.parametrize("folder", ["n", ""])
def test_a_directory_that_was_made_again_is_not_the_watched_one_whatever_its_inode_number(
    watcher: Watcher, store: Path, folder: str
) -> None:
    shutil.rmtree(store / folder)
    (store / folder).mkdir()
    assert not watcher.whole  # without having read what the kernel says of it


def test_a_watch_that_was_ended_is_not_whole(watcher: Watcher) -> None:
    watcher.close()
    assert not watcher.whole


def test_a_directory_that_is_not_there_is_for_others_to_tell(watcher: Watcher, store: Path) -> None:
    shutil.rmtree(store / "n")
    assert watcher.whole


def test_no_descriptor_is_lost_when_there_are_too_few(watcher: Watcher) -> None:
    watcher.close()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = len(os.listdir("/proc/self/fd"))
    for spare in range(1, 4):
        filler = os.open("/dev/null", os.O_RDONLY)
        os.close(filler)
        resource.setrlimit(resource.RLIMIT_NOFILE, (filler + spare, limits[1]))
        try:
            with pytest.raises(WatchRefused, match="out of descriptors"):
                watcher.arm()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert len(os.listdir("/proc/self/fd")) == held


# -- echoes of our own changes


@pytest.fixture
def echoes() -> Echoes:
    echoes = Echoes()
    echoes.sure = True
    return echoes


@pytest.fixture
def listener(store: Path, echoes: Echoes) -> Iterator[Watcher]:
    """A watcher that knows what is awaited."""
    watcher = Watcher(store, (b"", b"n/"), echoes)
    watcher.arm()
    yield watcher
    watcher.close()


def change(echoes: Echoes, name: bytes, result: bytes) -> None:
    """Says that a change was made of which nothing was read yet."""
    echoes.begin(name)
    echoes.finish(name, result)


def publish(store: Path, name: str, echoes: Echoes) -> None:
    """Makes an object as publisher.py does: a link to an unnamed file."""
    source = store / ".storekeeper/source"
    source.touch()
    os.link(source, store / name)
    source.unlink()
    change(echoes, os.fsencode(name), b"created")


@pytest.mark.parametrize("name", ["k", "n/k"])
def test_an_own_put_and_an_own_evict_are_not_heard_of(
    listener: Watcher, echoes: Echoes, store: Path, name: str
) -> None:
    publish(store, name, echoes)
    assert listener.take() == Heard(echoes=True)
    (store / name).unlink()
    change(echoes, os.fsencode(name), b"evicted")
    assert listener.take() == Heard(echoes=True)
    assert listener.take() == Heard()


def test_what_others_do_to_the_object_before_it_is_read_is_heard(
    listener: Watcher, echoes: Echoes, store: Path
) -> None:
    publish(store, "k", echoes)
    (store / "k").unlink()
    heard = listener.take()
    assert (heard.names, heard.deleted) == ({b"k": None}, {b"k": None})


def test_what_others_did_before_our_change_takes_its_place_and_then_ours_is_heard(
    listener: Watcher, echoes: Echoes, store: Path
) -> None:
    (store / "k").touch()
    (store / "k").unlink()
    publish(store, "k", echoes)
    assert listener.take().names == {b"k": None}


def test_what_is_read_while_we_are_at_it_is_held(listener: Watcher, echoes: Echoes, store: Path) -> None:
    echoes.begin(b"k")
    (store / "k").touch()
    assert listener.take() == Heard(echoes=True)
    (store / "k").unlink()
    assert listener.take().names == {b"k": None}
    assert not echoes.finish(b"k", b"created")


def test_a_folder_of_the_name_is_heard_of(listener: Watcher, echoes: Echoes, store: Path) -> None:
    (store / "k").mkdir()
    change(echoes, b"k", b"created")
    assert listener.take().names == {b"k": None}


def test_what_was_awaited_in_vain_is_not_any_more_when_all_is_read(
    listener: Watcher, echoes: Echoes, store: Path
) -> None:
    change(echoes, b"k", b"created")
    (store / "other").touch()
    assert listener.take().names == {b"other": None}
    (store / "k").touch()
    assert listener.take().names == {b"k": None}


def test_what_is_still_in_the_queue_stays_awaited(listener: Watcher, echoes: Echoes, store: Path) -> None:
    for number in range(2000):
        (store / f"others-{number:060}").touch()
    publish(store, "k", echoes)
    assert b"k" not in listener.take().names
    assert echoes.awaited
    heard = listener.take(everything=True)
    assert heard.echoes
    assert b"k" not in heard.names


def test_a_new_watch_awaits_nothing_of_the_old_one(listener: Watcher, echoes: Echoes, store: Path) -> None:
    publish(store, "k", echoes)
    listener.arm()
    (store / "k").unlink()
    (store / "k").touch()
    assert listener.take().names == {b"k": None}


def test_behind_the_mark_of_an_overflow_nothing_is_awaited(listener: Watcher, echoes: Echoes, store: Path) -> None:
    room = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    for number in range(room // 2 + 1):
        (store / f"{number:0200}").touch()
        (store / f"{number:0200}").unlink()
    publish(store, "k", echoes)  # dropped
    losses: list[str] = []
    while OVERFLOW not in losses:
        (store / "k").unlink(missing_ok=True)
        (store / "k").touch()  # as it was made, or dropped too
        losses += listener.take().losses
    assert not echoes.awaited


def test_the_kernel_joins_two_replacements_and_so_they_are_not_awaited(
    listener: Watcher, echoes: Echoes, store: Path, tmp_path: Path
) -> None:
    (store / "k").touch()
    listener.take()
    for writer in ("we", "another"):
        (tmp_path / writer).write_text(writer)
        (tmp_path / writer).rename(store / "k")
    change(echoes, b"k", b"replaced")
    assert listener.take() == Heard({b"k": None})


# -- directories that come and go


def test_a_directory_more_is_watched_and_nothing_of_the_others_is_missed(watcher: Watcher, store: Path) -> None:
    (store / "n/before").touch()
    (store / "more").mkdir()
    watcher.follow([b"", b"n/", b"more/"])
    (store / "more/k").touch()
    (store / "n/after").touch()
    heard = watcher.take(everything=True)
    assert heard.names.keys() == {b"n/before", b"more", b"more/k", b"n/after"}
    assert heard.losses == []


def test_a_directory_that_is_refused_is_said_to_be(watcher: Watcher) -> None:
    with pytest.raises(WatchRefused, match="missing"):
        watcher.follow([b"", b"n/", b"missing/"])


def test_the_end_of_a_directory_that_we_remove_is_no_loss(watcher: Watcher, store: Path) -> None:
    watcher.leaving = b"n/"
    (store / "n/k").touch()
    (store / "n/k").unlink()
    (store / "n").rmdir()
    heard = watcher.take(everything=True)
    assert (heard.names.keys(), heard.losses) == ({b"n/k", b"n"}, [])
    watcher.leaving = None
    watcher.follow([b""])
    assert watcher.whole
    (store / "k").touch()
    assert watcher.take().names == {b"k": None}


def test_that_of_another_one_is(watcher: Watcher, store: Path) -> None:
    watcher.leaving = b"other/"
    (store / "n").rmdir()
    assert set(watcher.take(everything=True).losses) == {MOVED, GONE}


def test_one_that_is_leaving_is_not_armed(make: Callable[..., Watcher], store: Path) -> None:
    watcher = make(b"", b"gone/")
    watcher.leaving = b"gone/"
    watcher.arm()
    (store / "k").touch()
    assert watcher.take().names == {b"k": None}


def test_a_directory_that_is_watched_no_longer_is_not_heard_of(watcher: Watcher, store: Path) -> None:
    watcher.follow([b""])
    (store / "n/k").touch()
    assert watcher.take() == Heard()
