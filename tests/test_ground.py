"""ground.py: a path may lead elsewhere at any moment; nothing is done in another directory."""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from conftest import adopt, by_hand
from storekeeper.errors import StoreUnavailable
from storekeeperd import home
from storekeeperd.disk import Disk
from storekeeperd.ground import WITNESS, Ground
from storekeeperd.operations import (
    Begin,
    Budget,
    Commit,
    Evict,
    Get,
    Look,
    Open,
    Operation,
    Origin,
    Outcome,
    Put,
    Stat,
    Survey,
    Write,
)
from storekeeperd.sight import ABSENT, UNSEEN

US = Origin(os.geteuid())


def furnish(store: Path, content: bytes = b"foreign") -> None:
    """Makes what looks like a store with objects."""
    (store / home.TEMPORARY).mkdir(parents=True)
    (store / os.fsdecode(WITNESS)).write_text("pid 1")
    (store / "n").mkdir()
    for name in ("k", "n/k"):
        (store / name).write_bytes(content)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    furnish(tmp_path / "store", b"ours")
    return tmp_path / "store"


@pytest.fixture
def ground(store: Path) -> Iterator[Ground]:
    """The way into the store; its witness is held open, as a home does."""
    lock = os.open(store / os.fsdecode(WITNESS), os.O_RDWR | os.O_CLOEXEC)
    ground = Ground(store)
    found = os.fstat(lock)
    ground.witness = found.st_dev, found.st_ino
    adopt(ground)
    yield ground
    os.close(lock)


@pytest.fixture(params=[True, False], ids=["unnamed", "named"])
def disk(request: pytest.FixtureRequest, ground: Ground) -> Iterator[Disk]:
    disk = Disk(ground, home.TEMPORARY, unnamed_files=request.param, attributes=False, ready_markers=True)
    yield disk
    disk.close()


def do(disk: Disk, operation: Operation) -> Outcome:
    with disk.stay() as stay:
        return disk.perform(operation, stay)


def away(store: Path) -> Path:
    return store.with_name("away")


def rename(store: Path) -> None:
    store.rename(away(store))


def rename_and_make(store: Path) -> None:
    rename(store)
    store.mkdir()


def rename_and_furnish(store: Path) -> None:
    rename(store)
    furnish(store)


def exchange(store: Path) -> None:
    """renameat2(2), RENAME_EXCHANGE: there is no moment without a directory."""
    furnish(away(store))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(-100, os.fsencode(store), -100, os.fsencode(away(store)), 2):
        pytest.skip(f"directories cannot be exchanged: {os.strerror(ctypes.get_errno())}")


def copy(store: Path) -> None:
    rename(store)
    shutil.copytree(away(store), store)


def remove(store: Path) -> None:
    shutil.rmtree(store)


def remove_and_furnish(store: Path) -> None:
    remove(store)
    furnish(store)


def link_elsewhere(store: Path) -> None:
    rename(store)
    furnish(store.with_name("elsewhere"))
    store.symlink_to("elsewhere")


def dangle(store: Path) -> None:
    rename(store)
    store.symlink_to("nowhere")


def put_a_file(store: Path) -> None:
    rename(store)
    store.write_bytes(b"a file")


def put_a_fifo(store: Path) -> None:
    rename(store)
    os.mkfifo(store)


def remove_the_witness(store: Path) -> None:
    (store / os.fsdecode(WITNESS)).unlink()


def replace_the_witness(store: Path) -> None:
    remove_the_witness(store)
    (store / os.fsdecode(WITNESS)).touch()


def make_our_folder_a_file(store: Path) -> None:
    shutil.rmtree(store / ".storekeeper")
    (store / ".storekeeper").touch()


def make_the_witness_a_folder(store: Path) -> None:
    remove_the_witness(store)
    (store / os.fsdecode(WITNESS)).mkdir()


SWAPS: list[Callable[[Path], None]] = [
    rename, rename_and_make, rename_and_furnish, exchange, copy, remove, remove_and_furnish, link_elsewhere, dangle,
    put_a_file, put_a_fifo, remove_the_witness, replace_the_witness, make_our_folder_a_file, make_the_witness_a_folder,
]  # fmt: skip


def state(folder: Path) -> dict[str, tuple[object, ...]]:
    """All that is below a folder."""
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted(folder.rglob("*")):
        told = path.lstat()
        content = path.read_bytes() if stat.S_ISREG(told.st_mode) else b""
        found[str(path)] = (told.st_ino, told.st_mode, told.st_mtime_ns, told.st_nlink, content)
    return found


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


# -- entering


def test_the_directory_with_our_locked_file_is_entered(ground: Ground, store: Path) -> None:
    descriptor = ground.enter()
    try:
        assert os.path.samestat(os.fstat(descriptor), store.stat())
        with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
            os.listdir(descriptor)  # O_PATH: no way to read, only to go further
        assert not os.get_inheritable(descriptor)
    finally:
        os.close(descriptor)
    assert not ground.denied


def test_while_nothing_proves_anything_nobody_enters(store: Path) -> None:
    ground = Ground(store)
    assert ground.witness is None
    with pytest.raises(StoreUnavailable):
        ground.enter()
    assert ground.denied


@pytest.mark.parametrize("swap", SWAPS)
def test_no_other_directory_is_entered(ground: Ground, store: Path, swap: Callable[[Path], None]) -> None:
    swap(store)
    before = descriptors()
    for _ in range(3):
        ground.denied = False
        with pytest.raises(StoreUnavailable) as caught:
            ground.enter()
        assert caught.value.retry
        assert ground.denied
    assert descriptors() == before


@pytest.mark.parametrize("swap", [rename, rename_and_make, exchange])
def test_the_directory_is_entered_again_when_it_is_back(
    ground: Ground, store: Path, swap: Callable[[Path], None]
) -> None:
    swap(store)
    with pytest.raises(StoreUnavailable):
        ground.enter()
    if store.exists():
        shutil.rmtree(store)
    away(store).rename(store)
    os.close(ground.enter())
    assert ground.denied  # until whoever checks has seen it


def test_a_directory_with_the_same_inode_number_is_another_one(ground: Ground, store: Path) -> None:
    number = store.stat().st_ino
    shutil.rmtree(store / "n")
    (store / "k").unlink()
    (store / ".storekeeper").rename(away(store))
    for _ in range(20):  # ext4 uses the number again at once; others later, or never
        store.rmdir()
        store.mkdir()
        if store.stat().st_ino == number:
            break
    else:
        pytest.skip("this file system does not use a number again soon")
    with pytest.raises(StoreUnavailable):
        ground.enter()
    shutil.copytree(away(store), store / ".storekeeper")
    with pytest.raises(StoreUnavailable):
        ground.enter()


def test_the_way_to_the_store_may_be_another_one(ground: Ground, store: Path) -> None:
    rename(store)
    store.symlink_to("away")
    os.close(ground.enter())
    assert not ground.denied


def test_an_ancestor_that_is_moved_takes_the_store_with_it(tmp_path: Path) -> None:
    store = tmp_path / "a/b/store"
    furnish(store)
    ground = Ground(store)
    found = (store / os.fsdecode(WITNESS)).stat()
    ground.witness = found.st_dev, found.st_ino
    adopt(ground)
    os.close(ground.enter())
    (tmp_path / "a").rename(tmp_path / "c")
    with pytest.raises(StoreUnavailable):
        ground.enter()
    furnish(store)
    with pytest.raises(StoreUnavailable):
        ground.enter()


def test_what_is_mounted_over_the_store_is_another_directory(ground: Ground, store: Path) -> None:
    if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", store], capture_output=True).returncode:
        pytest.skip("cannot mount")
    try:
        with pytest.raises(StoreUnavailable):
            ground.enter()
        furnish(store)
        with pytest.raises(StoreUnavailable):
            ground.enter()
    finally:
        subprocess.run(["umount", store], check=True)
    os.close(ground.enter())


def test_the_store_can_be_unmounted_between_jobs(tmp_path: Path) -> None:
    store = tmp_path / "mounted"
    store.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", store], capture_output=True).returncode:
        pytest.skip("cannot mount")
    try:
        furnish(store)
        ground = Ground(store)
        found = (store / os.fsdecode(WITNESS)).stat()
        ground.witness = found.st_dev, found.st_ino
        adopt(ground)
        with ground.stay() as stay:
            assert os.stat(b"k", dir_fd=stay.root).st_size == 7
    finally:
        subprocess.run(["umount", store], check=True)
    with pytest.raises(StoreUnavailable):
        ground.enter()


def test_a_process_out_of_descriptors_tells_nothing_of_the_store(ground: Ground) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, before[1]))
    try:
        with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
            ground.enter()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert not ground.denied
    os.close(ground.enter())


def test_a_path_that_is_not_utf_8_can_be_entered(tmp_path: Path) -> None:
    store = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    furnish(store)
    ground = Ground(store)
    found = (store / os.fsdecode(WITNESS)).stat()
    ground.witness = found.st_dev, found.st_ino
    adopt(ground)
    os.close(ground.enter())


# -- staying


def test_a_stay_enters_when_it_is_first_needed_and_once(ground: Ground, store: Path) -> None:
    before = descriptors()
    with ground.stay() as stay:
        assert descriptors() == before
        root = stay.root
        assert stay.root == root
        assert descriptors() == before + 1
    assert descriptors() == before


def test_a_stay_that_was_not_needed_enters_nothing(ground: Ground, store: Path) -> None:
    rename(store)
    with ground.stay():
        pass
    assert not ground.denied


def test_a_stay_ends_with_an_error_too(ground: Ground) -> None:
    before = descriptors()
    with pytest.raises(ZeroDivisionError), ground.stay() as stay:
        assert stay.root >= 0
        raise ZeroDivisionError
    assert descriptors() == before


def test_a_stay_that_was_denied_may_be_asked_again(ground: Ground, store: Path) -> None:
    rename(store)
    with ground.stay() as stay:
        with pytest.raises(StoreUnavailable):
            stay.root  # noqa: B018
        away(store).rename(store)
        assert stay.root >= 0


def test_a_stay_can_be_used_again_and_enters_anew(ground: Ground, store: Path) -> None:
    stay = ground.stay()
    with stay:
        assert stay.root >= 0
    rename(store)
    with stay, pytest.raises(StoreUnavailable):
        stay.root  # noqa: B018


def test_who_is_inside_stays_in_the_same_directory_whatever_happens_to_the_path(disk: Disk, store: Path) -> None:
    with disk.stay() as stay:
        assert stay.root >= 0
        rename_and_furnish(store)
        before = state(store)
        assert disk.perform(Put(b"new", b"ours", US, False, True), stay).word == b"created"
        assert disk.perform(Evict(b"n/k", True, US), stay).word == b"evicted"
        assert disk.perform(Get(b"k", Budget(9, 9)), stay).payload == b"ours"
    assert state(store) == before
    assert (away(store) / "new").read_bytes() == b"ours"
    assert not (away(store) / "n/k").exists()


# -- working in it


OPERATIONS: list[Operation] = [
    Look(b"k"),
    Look(b"gone"),
    Get(b"k", Budget(100, 100)),
    Put(b"k", b"new", US, True, True),
    Put(b"new", b"new", US, False, False),
    Put(b"n/new", b"new", US, False, True),
    Evict(b"k", True, US),
    Evict(b"n/k", False, US),
    Stat(b"k"),
    Begin(),
    Open(b"k"),
    Survey([b"k", b"n/k"]),
]


@pytest.mark.parametrize("swap", SWAPS)
def test_every_operation_is_refused_in_another_directory_and_touches_nothing(
    disk: Disk, store: Path, tmp_path: Path, swap: Callable[[Path], None]
) -> None:
    swap(store)
    before, open_before = state(tmp_path), descriptors()
    for operation in OPERATIONS:
        for wait in (False, True):
            with disk.stay() as stay:
                outcome = disk.perform(operation, stay, wait=wait)
            assert outcome.word == b"store_away", operation
            assert outcome.seen == UNSEEN
            assert isinstance(outcome.error, StoreUnavailable)
    for prefix in (b"", b"n/"):
        with pytest.raises(StoreUnavailable):
            list(disk.scan(prefix))
    assert state(tmp_path) == before
    assert descriptors() == open_before


IN_A_NAMESPACE: list[Operation] = [
    Look(b"n/k"),
    Get(b"n/k", Budget(100, 100)),
    Put(b"n/k", b"new", US, True, True),
    Put(b"n/new", b"new", US, False, False),
    Evict(b"n/k", True, US),
    Stat(b"n/k"),
    Open(b"n/k"),
]


def link_elsewhere(folder: Path) -> None:
    folder.symlink_to(folder.parent.parent / "elsewhere")


def put_elsewhere_there(folder: Path) -> None:
    (folder.parent.parent / "elsewhere").rename(folder)


@pytest.mark.parametrize("swap", [link_elsewhere, put_elsewhere_there])
def test_every_operation_is_refused_in_a_folder_that_is_not_the_namespaces(
    disk: Disk, store: Path, tmp_path: Path, swap: Callable[[Path], None]
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/k").write_bytes(b"foreign")
    assert do(disk, Look(b"n/k")).seen == by_hand(store / "n/k")
    (store / "n").rename(tmp_path / "away")
    swap(store / "n")
    before, open_before = state(tmp_path), descriptors()
    for operation in IN_A_NAMESPACE:
        outcome = do(disk, operation)
        assert (outcome.word, outcome.seen) == (b"store_away", UNSEEN), operation
    assert do(disk, Survey([b"k", b"n/k"])).payload == [by_hand(store / "k"), UNSEEN]  # others are not concerned
    with pytest.raises(StoreUnavailable):
        list(disk.scan(b"n/"))
    assert do(disk, Get(b"k", Budget(100, 100))).payload == b"ours"
    private = str(store / home.TEMPORARY)  # where files begin that get no name
    assert {**state(tmp_path), private: None} == {**before, private: None}
    assert descriptors() == open_before


def test_a_namespaces_folder_that_was_made_again_is_entered_after_the_next_check(
    disk: Disk, ground: Ground, store: Path
) -> None:
    assert do(disk, Look(b"n/k")).seen == by_hand(store / "n/k")
    (store / "n").rename(store / "old")
    assert do(disk, Look(b"n/k")).seen == ABSENT  # there is none
    (store / "n").mkdir()
    assert do(disk, Look(b"n/k")).word == b"store_away"
    assert ground.denied
    adopt(ground)
    assert do(disk, Look(b"n/k")).seen == ABSENT
    assert do(disk, Put(b"n/k", b"new", US, False, False)).word == b"created"


@pytest.mark.parametrize("swap", SWAPS)
def test_an_upload_is_not_committed_into_another_directory(
    disk: Disk, store: Path, swap: Callable[[Path], None]
) -> None:
    begun = do(disk, Begin())
    swap(store)
    before = state(store) if store.is_dir() else {}
    assert do(disk, Write(begun.number, 0, b"bytes")).word == b"ok"  # it has no name there
    outcome = do(disk, Commit(b"new", begun.number, 5, US, False, False))
    assert (outcome.word, outcome.seen) == (b"store_away", UNSEEN)
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        os.fstat(begun.number)
    # What of the store itself was written to an own private name is no harm.
    after = state(store) if store.is_dir() else {}
    ours = {path for path in before if "/.storekeeper/tmp/" in path}
    assert {path: after[path] for path in after if path not in ours} == {
        path: before[path] for path in before if path not in ours
    }


def test_an_upload_under_way_is_committed_whole_or_not_at_all_into_a_copy_that_was_taken_over(
    disk: Disk, ground: Ground, store: Path
) -> None:
    # A private name leads, in the copy, to a copy of the half-written upload: what was written is published, no name.
    begun = do(disk, Begin())
    assert do(disk, Write(begun.number, 0, b"half")).word == b"ok"
    copy(store)
    found = (store / os.fsdecode(WITNESS)).stat()
    ground.witness = found.st_dev, found.st_ino  # as Home.check does
    adopt(ground)
    assert do(disk, Write(begun.number, 4, b" and half")).word == b"ok"
    do(disk, Commit(b"new", begun.number, 13, US, False, False))
    assert not (store / "new").exists() or (store / "new").read_bytes() == b"half and half"


def test_an_opened_object_is_read_on_in_the_directory_where_it_was_opened(disk: Disk, store: Path) -> None:
    opened = do(disk, Open(b"k"))
    rename_and_furnish(store)
    try:
        assert os.pread(opened.number, 10, 0) == b"ours"
    finally:
        os.close(opened.number)


def test_everything_works_again_when_the_directory_is_back(disk: Disk, store: Path) -> None:
    rename_and_make(store)
    assert do(disk, Look(b"k")).word == b"store_away"
    store.rmdir()
    away(store).rename(store)
    assert do(disk, Look(b"k")).seen == by_hand(store / "k")
    assert do(disk, Survey([b"k", b"gone", b"n/k"])).payload == [by_hand(store / "k"), ABSENT, by_hand(store / "n/k")]
    assert do(disk, Put(b"new", b"new", US, False, False)).word == b"created"
