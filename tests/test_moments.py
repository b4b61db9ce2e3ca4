"""moments.py: what was put after a moment, and what before."""

from __future__ import annotations

import os
import time
from pathlib import Path

from storekeeperd import moments
from storekeeperd.metadata import Metadata

BOOT = 7


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
