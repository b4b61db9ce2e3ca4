"""What users type for sizes, durations and users on the command line.

Owns the spelling: 64K, 12h, a name or a number; nothing of what is done with it.
"""

from __future__ import annotations

import pwd
from collections.abc import Mapping
from typing import Any

import click

SIZES = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
DURATIONS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


class Amount(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.5 alone
    """A number with a unit behind it.

    Args:
        units: what each is worth.
        what: it is, for messages.
    """

    name = "amount"

    def __init__(self, units: Mapping[str, int], what: str) -> None:
        self._units = units
        self._what = what

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Returns the amount; whole for sizes."""
        if not isinstance(value, str):
            return value
        letters = "".join(self._units) + "".join(self._units).lower()
        digits = value.rstrip(letters + "iB" if self._units is SIZES else letters)
        unit = value[len(digits) :]
        if self._units is SIZES:  # KB, KiB
            unit = unit.removesuffix("B").removesuffix("i")
        worth = self._units.get(unit, self._units.get(unit.upper()))
        try:
            number = float(digits)
        except ValueError:
            number = -1.0
        if worth is None or not 0 <= number < 1e18:
            units = ", ".join(filter(None, self._units))
            self.fail(f"{value!r} is not {self._what}: a number, and maybe one of {units}", param, ctx)
        amount = number * worth
        return int(amount) if self._units is SIZES else amount


class Owner(click.ParamType):  # type: ignore[type-arg]
    """A user, by name or number."""

    name = "user"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Returns the number."""
        if isinstance(value, int):
            return value
        if value.isascii() and value.isdigit():
            return int(value)
        try:
            return pwd.getpwnam(value).pw_uid
        except KeyError:
            self.fail(f"this system knows no user {value!r}; a number will do", param, ctx)


DURATION, SIZE = Amount(DURATIONS, "a duration"), Amount(SIZES, "a size")
OWNER = Owner()
