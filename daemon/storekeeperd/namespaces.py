"""What a namespace is told: who may do what in it, how much it may hold, how long and how safely.

Pure. Owns the settings and their rules, wherever they come from: the configuration file, or a user who makes a
namespace. What follows from them is access.py's, ledger.py's and eviction.py's.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from storekeeper import wire

REFUSE, LRU, EXPIRED_FIRST = "refuse", "lru", "expired-first"
EVICTIONS = (REFUSE, LRU, EXPIRED_FIRST)
EVERYBODY = "*"
DEFAULT = "default"

_AMOUNT_MAX = 1 << 60
_WHO_MAX = 256


class BadSetting(ValueError):
    """A setting breaks a rule; the message names both."""


@dataclass(frozen=True, slots=True)
class Quota:
    """Bounds on what is kept. 0: no bound.

    Attributes:
        bytes_max: bytes, in whole blocks; what is being written, and what is removed but still being read, counts.
        objects_max: objects, those being written included.
    """

    bytes_max: int = 0
    objects_max: int = 0


UNBOUNDED = Quota()


@dataclass(frozen=True, slots=True)
class Namespace:
    """One namespace.

    Attributes:
        read, write, manage: who may: names of users, `@` and names of groups, numbers of both, `*` for everybody. Who
            may write may read; who may manage may both, and evict and replace what others own.
        owner_only: only its owner evicts or replaces an object, as in a sticky directory; else who may write.
        bytes_max, objects_max: of all objects of the namespace, as in Quota.
        user_bytes_max, user_objects_max: of each user's objects in it.
        object_bytes_max: bytes of one object.
        ttl_s: seconds until an object expires that is put without a lifetime of its own; 0: never.
        durability: of what is put without saying.
        eviction: what is done when a bound of the namespace is reached: refuse; remove what was least recently used
            (lru); remove what would expire soonest (expired-first).
        high_mark, low_mark: parts of a bound: from the one on objects are evicted, down to the other.
        shelf_bytes_max: memory from which clients read what exists, and small objects; 0: none.
    """

    read: tuple[str, ...] = (EVERYBODY,)
    write: tuple[str, ...] = (EVERYBODY,)
    manage: tuple[str, ...] = ()
    owner_only: bool = True
    bytes_max: int = 0
    objects_max: int = 0
    user_bytes_max: int = 0
    user_objects_max: int = 0
    object_bytes_max: int = 0
    ttl_s: float = 0.0
    durability: str = "os"
    eviction: str = REFUSE
    high_mark: float = 0.95
    low_mark: float = 0.85
    shelf_bytes_max: int = 64 * 1024 * 1024

    @property
    def quota(self) -> Quota:
        """The bounds on all objects of the namespace."""
        return Quota(self.bytes_max, self.objects_max)

    @property
    def user_quota(self) -> Quota:
        """The bounds on each user's objects in it."""
        return Quota(self.user_bytes_max, self.user_objects_max)

    def to_settings(self) -> dict[str, Any]:
        """Returns what differs from the defaults, as `parse` takes it."""
        plain = Namespace()
        settings = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in settings.items()
            if value != getattr(plain, name)
        }


def parse(settings: Mapping[str, Any], where: str = "") -> Namespace:
    """Returns the namespace of some settings.

    Args:
        settings: by name, as TOML or JSON has them.
        where: what is put before a setting's name in messages.

    Raises:
        BadSetting: unknown, or of a wrong type or value.
    """
    if not isinstance(settings, Mapping):
        raise BadSetting(f"{where}settings must be a table, not {type(settings).__name__}")
    plain = Namespace()
    known = [field.name for field in dataclasses.fields(plain)]
    given: dict[str, Any] = {}
    for name, value in settings.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"; did you mean {where}{near[0]}?" if near else ""
            raise BadSetting(f"unknown setting {where}{name[:40]}{hint}")
        given[name] = _checked(f"{where}{name}", value, getattr(plain, name))
    made = dataclasses.replace(plain, **given)
    if made.durability not in wire.DURABILITIES:
        raise BadSetting(f"{where}durability must be one of {', '.join(wire.DURABILITIES)}")
    if made.eviction not in EVICTIONS:
        raise BadSetting(f"{where}eviction must be one of {', '.join(EVICTIONS)}")
    if made.eviction != REFUSE and not (made.bytes_max or made.objects_max):
        raise BadSetting(f"{where}eviction = {made.eviction!r} needs {where}bytes_max or {where}objects_max")
    if not 0 < made.low_mark <= made.high_mark <= 1:
        raise BadSetting(f"{where}low_mark and high_mark: 0 < low_mark <= high_mark <= 1 must hold")
    if made.ttl_s > wire.TTL_S_MAX:
        raise BadSetting(f"{where}ttl_s must be at most {wire.TTL_S_MAX}")
    return made


def _checked(name: str, value: Any, plain: Any) -> Any:
    if isinstance(plain, tuple):
        if not isinstance(value, list) or not all(type(one) in (str, int) for one in value) or len(value) > _WHO_MAX:
            raise BadSetting(f'{name} must be a list of users, "@group"s or "*", at most {_WHO_MAX}')
        return tuple(map(str, value))
    kinds = (int, float) if isinstance(plain, float) else (type(plain),)
    if type(value) not in kinds:
        raise BadSetting(f"{name} must be of type {type(plain).__name__}")
    if type(value) in (int, float) and not 0 <= value <= _AMOUNT_MAX:
        raise BadSetting(f"{name} must lie between 0 and {_AMOUNT_MAX}")
    return value
