"""amounts.py: sizes, durations and users as they are typed."""

from __future__ import annotations

import os
import pwd

import click
import pytest

from storekeeper.amounts import DURATION, OWNER, SIZE, Amount


@pytest.mark.parametrize(
    ("typed", "size"),
    [
        ("0", 0),
        ("4096", 4096),
        ("64K", 64 << 10),
        ("64k", 64 << 10),
        ("10M", 10 << 20),
        ("2G", 2 << 30),
        ("1T", 1 << 40),
        ("1.5K", 1536),
        ("10KB", 10 << 10),
        ("10KiB", 10 << 10),
        ("7B", 7),
        ("1e3", 1000),
        ("0.5", 0),
    ],
)
def test_sizes_are_bytes_or_end_with_a_letter(typed: str, size: int) -> None:
    amount = SIZE.convert(typed, None, None)
    assert (type(amount), amount) == (int, size)


@pytest.mark.parametrize(
    ("typed", "seconds"),
    [
        ("90", 90),
        ("0", 0),
        ("0.25", 0.25),
        ("30s", 30),
        ("15m", 900),
        ("12h", 43_200),
        ("7d", 604_800),
        ("2w", 1209600),
    ],
)
def test_durations_are_seconds_or_end_with_a_letter(typed: str, seconds: float) -> None:
    amount = DURATION.convert(typed, None, None)
    assert (type(amount), amount) == (float, seconds)


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        *((SIZE, wrong) for wrong in ("", "K", "x", "-1", "-1K", "5X", "5s", "K5", "5 5", "nan", "inf", "1e30", "5KK")),
        *((DURATION, wrong) for wrong in ("", "h", "x", "-1", "5M", "5K", "5mB", "10mi", "5hh", "nan", "inf", "1h30m")),
    ],
)
def test_what_is_none_is_refused_with_what_would_do(kind: Amount, wrong: str) -> None:
    with pytest.raises(click.BadParameter, match=r"is not a (size|duration): a number, and maybe one of \w, "):
        kind.convert(wrong, None, None)


def test_what_is_an_amount_already_stays() -> None:
    assert SIZE.convert(7, None, None) == 7
    assert DURATION.convert(1.5, None, None) == 1.5


def test_users_are_names_or_numbers() -> None:
    assert OWNER.convert("1234", None, None) == 1234
    assert OWNER.convert(7, None, None) == 7
    assert OWNER.convert(pwd.getpwuid(os.geteuid()).pw_name, None, None) == os.geteuid()
    for wrong in ("no such user", "", "-1", "٣"):
        with pytest.raises(click.BadParameter, match=r"this system knows no user .* a number will do"):
            OWNER.convert(wrong, None, None)
