"""moments.py: what was put after a moment, and what before; and until when it lives."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from storekeeper.errors import BadRequest
from storekeeperd import moments
from storekeeperd.metadata import TTL_US_MAX, Metadata
from storekeeperd.operations import Mark, Origin

BOOT = 7


def mark(ttl_us: int | None, pinned: bool | None, process: int | None = None) -> Mark:
    return Mark(b"k", Origin(1), ttl_us, pinned, process)


def kept(moment_ns: int, boot: int = BOOT) -> Metadata:
    return Metadata(1, 1, boot, moment_ns, 0, False)


def test_the_boot_is_the_same_all_the_time() -> None:
    assert moments.boot() == moments.boot() > 0


def test_an_object_is_newer_if_its_turn_came_later_in_this_boot(tmp_path: Path) -> None:
    found = os.stat(tmp_path)
    assert moments.is_newer(kept(101), found, 100, BOOT)
    assert not moments.is_newer(kept(100), found, 100, BOOT)
    assert not moments.is_newer(kept(99), found, 100, BOOT)
    assert not moments.is_newer(kept(101), found, 100, BOOT + 1)


def test_a_file_that_no_daemon_put_is_as_new_as_its_last_change(tmp_path: Path) -> None:
    before = moments.now_ns()
    time.sleep(0.05)
    (tmp_path / "k").touch()
    found = os.stat(tmp_path / "k")
    time.sleep(0.05)
    assert moments.is_newer(None, found, before, BOOT)
    assert not moments.is_newer(None, found, moments.now_ns(), BOOT)


# -- until when


def test_an_object_without_a_time_to_live_never_expires() -> None:
    assert moments.ends_ms(kept(5_000_000_000), BOOT) == 0
    assert moments.ends_ms(kept(5_000_000_000), BOOT + 1) == 0


def test_an_object_expires_so_long_after_its_turn_in_the_same_boot() -> None:
    living = kept(5_000_000_000)._replace(ttl_us=2_000_000, created_us=0)
    assert moments.ends_ms(living, BOOT) == 7000
    assert moments.ends_ms(living._replace(process=99), BOOT) == 7000
    assert moments.ends_ms(kept(0)._replace(ttl_us=1), BOOT) == 1  # 0 would be never


def test_after_another_boot_the_calendar_tells_when_an_object_expires() -> None:
    now_us = time.time_ns() // 1000
    living = kept(5_000_000_000)._replace(created_us=now_us - 60_000_000, ttl_us=90_000_000)
    left_ms = moments.ends_ms(living, BOOT + 1) - moments.now_ms()
    assert 25_000 < left_ms <= 30_001
    past = living._replace(ttl_us=30_000_000)
    assert 0 < moments.ends_ms(past, BOOT + 1) <= moments.now_ms()
    assert moments.ends_ms(living._replace(created_us=0, ttl_us=1), BOOT + 1) == 1


def test_an_object_tied_to_a_process_of_another_boot_has_expired() -> None:
    assert moments.ends_ms(kept(1)._replace(process=99), BOOT) == 0
    assert moments.ends_ms(kept(1)._replace(process=99), BOOT + 1) == 1
    assert moments.ends_ms(kept(1)._replace(process=99, ttl_us=10**15), BOOT + 1) == 1


def test_what_was_said_of_a_file_does_not_make_it_newer(tmp_path: Path) -> None:
    """Its stamp is of when its owner said something, not of when it came."""
    before = moments.now_ns()
    time.sleep(0.05)
    (tmp_path / "k").touch()
    found = os.stat(tmp_path / "k")
    time.sleep(0.05)
    said = kept(moments.now_ns())._replace(proved=False)
    assert moments.is_newer(said, found, before, BOOT)
    assert not moments.is_newer(said, found, moments.now_ns() - 1, BOOT)


# -- copies


OURS = Metadata(1, 2_000_000, BOOT, 50_000_000_000, 0xABC, True, True, 9_000_000, 44)


def test_a_copy_of_a_file_that_no_daemon_put_is_its_unix_owners_and_as_old(tmp_path: Path) -> None:
    (tmp_path / "k").touch()
    os.utime(tmp_path / "k", (5, 5))
    found = os.stat(tmp_path / "k")
    copy = moments.keep(OURS, None, found)
    assert copy == OURS._replace(owner=found.st_uid, created_us=5_000_000, ttl_us=0, process=0)
    os.utime(tmp_path / "k", (-5, -5))
    assert moments.keep(OURS, None, os.stat(tmp_path / "k")).created_us == 0


def test_a_copy_keeps_whose_since_when_and_how_long(tmp_path: Path) -> None:
    found = os.stat(tmp_path)
    theirs = Metadata(77, 1_000_000, BOOT, 40_000_000_000, 1, False, False, 30_000_000, 55, pinned=True)
    copy = moments.keep(OURS, theirs, found)
    assert (copy.owner, copy.created_us, copy.process, copy.pinned) == (77, 1_000_000, 55, True)
    assert (copy.boot, copy.moment_ns, copy.checksum, copy.synced) == (BOOT, 50_000_000_000, 0xABC, True)
    assert moments.ends_ms(copy, BOOT) == moments.ends_ms(theirs, BOOT) == 70_000


def test_a_copy_of_what_lives_for_good_does_so_too(tmp_path: Path) -> None:
    theirs = Metadata(77, 1_000_000, BOOT, 40_000_000_000, 1, False)
    copy = moments.keep(OURS, theirs, os.stat(tmp_path))
    assert (copy.ttl_us, copy.process, copy.pinned) == (0, 0, False)


def test_a_copy_of_what_has_expired_has_expired(tmp_path: Path) -> None:
    theirs = Metadata(77, 1_000_000, BOOT, 40_000_000_000, 1, False, ttl_us=1)
    copy = moments.keep(OURS, theirs, os.stat(tmp_path))
    assert 0 < moments.ends_ms(copy, BOOT) <= OURS.moment_ns // 1_000_000


# -- marks


def test_a_mark_changes_what_it_names_and_nothing_else() -> None:
    living = kept(5)._replace(ttl_us=9_000_000, process=55, checksum=3, synced=True)
    assert moments.marked(living, mark(None, None), BOOT) == living
    assert moments.marked(living, mark(0, None), BOOT) == living._replace(ttl_us=0)
    assert moments.marked(living, mark(None, True), BOOT) == living._replace(pinned=True)
    assert moments.marked(living._replace(pinned=True), mark(None, False), BOOT) == living


def test_a_time_to_live_counts_from_the_mark(tmp_path: Path) -> None:
    came_ns = moments.now_ns() - 3_000_000_000
    ends = moments.ends_ms(moments.marked(kept(came_ns), mark(10_000_000, None), BOOT), BOOT)
    assert 9_000 < ends - moments.now_ms() <= 10_001
    created_us = time.time_ns() // 1000 - 3_000_000
    of_before = kept(5)._replace(created_us=created_us)
    ends = moments.ends_ms(moments.marked(of_before, mark(10_000_000, None), BOOT + 1), BOOT + 1)
    assert 9_000 < ends - moments.now_ms() <= 10_001


def test_a_mark_never_says_more_than_can_be_kept() -> None:
    longest = moments.marked(kept(0), mark(TTL_US_MAX, None), BOOT)
    assert longest.ttl_us == TTL_US_MAX
    assert Metadata.unpack(longest.pack()) == longest
    # The clock was set back behind its coming: it expires at once, but never for that reason not at all.
    future = kept(5)._replace(created_us=time.time_ns() // 1000 + 60_000_000)
    assert moments.marked(future, mark(1, None), BOOT + 1).ttl_us >= 1


def test_what_is_of_this_boot_can_be_tied_to_a_process() -> None:
    assert moments.marked(kept(moments.now_ns()), mark(None, None, 77), BOOT).process == 77
    with pytest.raises(BadRequest, match="before the machine was booted"):
        moments.marked(kept(moments.now_ns()), mark(None, None, 77), BOOT + 1)
