"""sights.py: what stands under a name, and whose it is."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import adopt, by_hand
from storekeeperd import moments, sight
from storekeeperd.ground import WITNESS, Ground
from storekeeperd.home import TEMPORARY
from storekeeperd.metadata import ATTRIBUTE, Metadata
from storekeeperd.sight import ABSENT, UNSEEN
from storekeeperd.sights import Sights

BOOT = 7
KEPT = Metadata(4321, 1_700_000_000_999_999, BOOT, 5_000_000_000, 0, False)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    (tmp_path / "store" / TEMPORARY).mkdir(parents=True)
    (tmp_path / "store/n").mkdir()
    (tmp_path / "store" / os.fsdecode(WITNESS)).touch()
    return tmp_path / "store"


@pytest.fixture
def place(store: Path) -> Iterator[int]:
    descriptor = os.open(store, os.O_PATH | os.O_DIRECTORY)
    yield descriptor
    os.close(descriptor)


@pytest.fixture
def ground(store: Path) -> Ground:
    ground = Ground(store)
    found = (store / os.fsdecode(WITNESS)).stat()
    ground.witness = found.st_dev, found.st_ino
    adopt(ground)
    return ground


@pytest.fixture
def sights() -> Sights:
    return Sights(attributes=True, boot=BOOT)


def write(path: Path, kept: Metadata | bytes | None = None, *, mode: int = 0o440) -> Path:
    """A file as a daemon leaves it."""
    path.write_bytes(b"bytes")
    if kept is not None:
        try:
            os.setxattr(path, ATTRIBUTE, kept if isinstance(kept, bytes) else kept.pack())
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            pytest.skip("the file system of tmp_path has no user attributes")
    path.chmod(mode)
    return path


def test_an_object_is_whose_the_daemon_wrote_beside_it(sights: Sights, store: Path, place: int) -> None:
    write(store / "k", KEPT)
    assert sights.look(b"k", place) == sight.of(5, 4321, 1_700_000_000)


@pytest.mark.parametrize("mode", [0o660, 0o460, 0o442])
def test_whoever_can_write_a_file_could_have_written_what_stands_beside_it(
    sights: Sights, store: Path, place: int, mode: int
) -> None:
    path = write(store / "k", KEPT, mode=mode)
    assert sights.look(b"k", place) == by_hand(path)


@pytest.mark.parametrize("mode", [0o600, 0o640])
def test_what_the_daemon_was_marking_when_it_was_killed_is_believed(
    sights: Sights, store: Path, place: int, mode: int
) -> None:
    path = write(store / "k", KEPT, mode=mode)
    assert sights.look(b"k", place) == sight.of(5, 4321, 1_700_000_000)
    if os.geteuid() == 0:  # another one's file may be written by that one
        os.chown(path, 12345, -1)
        assert sights.look(b"k", place) == by_hand(path)


def test_an_object_without_an_attribute_is_its_unix_owners(sights: Sights, store: Path, place: int) -> None:
    path = write(store / "k")
    os.utime(path, (77, 77))
    assert sights.look(b"k", place) == sight.of(5, os.geteuid(), 77)


def test_a_file_of_another_unix_owner_is_his(sights: Sights, store: Path, place: int) -> None:
    path = write(store / "k")
    if os.geteuid() != 0:
        pytest.skip("only root gives files away")
    os.chown(path, 4321, -1)
    assert sight.owner_of(sights.look(b"k", place)) == 4321


def test_an_attribute_that_is_not_ours_says_nothing(sights: Sights, store: Path, place: int) -> None:
    for number, raw in enumerate((b"", b"\x01" + KEPT.pack()[1:], KEPT.pack()[:36], KEPT.pack() + b"\0")):
        path = write(store / f"{number}", raw)
        assert sights.look(b"%d" % number, place) == by_hand(path)


def test_where_there_are_no_attributes_all_objects_are_their_unix_owners(store: Path, place: int) -> None:
    path = write(store / "k", KEPT)
    without = Sights(attributes=False, boot=BOOT)
    assert without.kept(b"k", place) is None
    assert without.look(b"k", place) == by_hand(path)


def test_what_is_kept_is_what_was_written(sights: Sights, store: Path, place: int) -> None:
    write(store / "k", KEPT)
    write(store / "without")
    (store / "link").symlink_to("k")
    assert sights.kept(b"k", place) == KEPT
    for name in (b"without", b"link", b"none"):
        assert sights.kept(name, place) is None


def test_a_life_is_seen(sights: Sights, store: Path, place: int) -> None:
    lives = {
        "expires": (KEPT._replace(ttl_us=2_000_000), sight.of(5, 4321, 1_700_000_000, expires_ms=7000)),
        "pinned": (KEPT._replace(pinned=True), sight.of(5, 4321, 1_700_000_000, pinned=True)),
        "tied": (KEPT._replace(process=99), sight.of(5, 4321, 1_700_000_000, process=99)),
        "all": (
            KEPT._replace(ttl_us=2_000_000, pinned=True, process=99),
            sight.of(5, 4321, 1_700_000_000, pinned=True, expires_ms=7000, process=99),
        ),
    }
    for name, (kept, seen) in lives.items():
        write(store / name, kept)
        assert sights.look(name.encode(), place) == seen, name


def test_the_process_of_another_boot_is_no_more_and_the_object_has_expired(store: Path, place: int) -> None:
    write(store / "k", KEPT._replace(process=99))
    seen = Sights(attributes=True, boot=BOOT + 1).look(b"k", place)
    assert sight.process_of(seen) == 0
    assert 0 < sight.expires_of(seen) <= moments.now_ms()


def test_what_is_no_object_is_absent(sights: Sights, store: Path, place: int, ground: Ground) -> None:
    (store / "link").symlink_to("k")
    os.mkfifo(store / "fifo")
    (store / "k.ready").touch()
    with ground.stay() as stay:
        for name in (b"n", b"link", b"fifo", b"k.ready", b"none", b"x" * 256):
            assert sights.look(name, place) == ABSENT, name
            assert sights.look_again(name, stay) == ABSENT, name


def test_a_look_again_says_nothing_where_nothing_can_be_said(sights: Sights, store: Path, ground: Ground) -> None:
    path = write(store / "n/k")
    with ground.stay() as stay:
        assert sights.look_again(b"n/k", stay) == by_hand(path)
        assert sights.look_again(b"no-namespace/k", stay) == ABSENT
    store.rename(store.with_name("away"))
    with ground.stay() as stay:
        assert sights.look_again(b"n/k", stay) == UNSEEN


def test_a_look_at_many_sees_of_each_what_a_look_at_one_sees(
    sights: Sights, store: Path, place: int, ground: Ground
) -> None:
    write(store / "kept", KEPT._replace(ttl_us=1))
    write(store / "plain")
    os.utime(store / "kept", (1, 1))
    nested = write(store / "n/k")
    with ground.stay() as stay:
        seen, recent, why = sights.look_at_all([b"kept", b"plain", b"n/k", b"none", b"n"], stay)
    assert seen == [sights.look(b"kept", place), by_hand(store / "plain"), by_hand(nested), ABSENT, ABSENT]
    assert sight.expires_of(seen[0]) > 0
    assert recent == {b"plain", b"n/k"}
    assert why is None


def test_an_age_is_whole_seconds(sights: Sights, store: Path, place: int) -> None:
    write(store / "k", KEPT)
    os.utime(store / "k")
    assert sight.created_of(sights.look(b"k", place)) == 1_700_000_000 < time.time()
