"""exits.py: what a refusal of the file system means to who starts a daemon. Real ones: test_home.py, test_cli.py."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from storekeeperd import exits

STORE = Path("/a/store")


@pytest.mark.parametrize(
    ("number", "status", "words"),
    [
        (errno.EXDEV, exits.EX_CONFIG, "another file system"),
        (errno.ENOTDIR, exits.EX_NOINPUT, "is not a directory"),
        (errno.EEXIST, exits.EX_NOINPUT, "is not a directory"),
        (errno.EACCES, exits.EX_NOPERM, f"cannot be written by uid {os.geteuid()}"),
        (errno.EPERM, exits.EX_NOPERM, f"cannot be written by uid {os.geteuid()}"),
        (errno.EROFS, exits.EX_NOPERM, os.strerror(errno.EROFS)),
        (errno.ENOSPC, exits.EX_CANTCREAT, "free some space"),
        (errno.EDQUOT, exits.EX_CANTCREAT, "quota"),
        (errno.EIO, exits.EX_IOERR, os.strerror(errno.EIO)),
        (errno.EMFILE, exits.EX_IOERR, os.strerror(errno.EMFILE)),
    ],
    ids=lambda value: errno.errorcode.get(value, "") if isinstance(value, int) else "",
)
def test_a_refusal_has_a_status_and_one_line_with_its_reason(number: int, status: int, words: str) -> None:
    for path in (None, "/a/store/lab"):
        error = exits.refusal(STORE, OSError(number, os.strerror(number), path))
        assert error.status == status
        assert words in str(error)
        assert "\n" not in str(error)


def test_the_statuses_are_those_of_the_system() -> None:
    names = [name for name in vars(exits) if name.startswith("EX_")]
    assert len(names) == 8
    for name in names:
        assert getattr(exits, name) == getattr(os, name)
