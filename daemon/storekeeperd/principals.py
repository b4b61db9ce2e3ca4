"""Names of users and groups, and their numbers.

Owns the questions to the system's databases (pwd, grp), which may ask a network: asked when a rule is made, never for a
request. The daemon knows its callers by number alone, from the kernel.
"""

from __future__ import annotations

import grp
import pwd
from collections.abc import Iterable

from storekeeperd.access import Rules, Who
from storekeeperd.namespaces import EVERYBODY, BadSetting, Namespace

_ID_MAX = (1 << 32) - 2
_ID_DIGITS = 10


def resolve(names: Iterable[str], where: str) -> Who:
    """Returns who is meant by names of users, `@` and names of groups, numbers of both, and `*`.

    Args:
        names: as a configuration has them.
        where: which setting it is, for messages.

    Raises:
        BadSetting: this system knows no such user or group.
    """
    uids, gids = set(), set()
    everybody = False
    for name in names:
        if name == EVERYBODY:
            everybody = True
        elif name.startswith("@"):
            gids.add(_number(name[1:], lambda group: grp.getgrnam(group).gr_gid, where, "group"))
        else:
            uids.add(_number(name, lambda user: pwd.getpwnam(user).pw_uid, where, "user"))
    return Who(everybody, frozenset(uids), frozenset(gids))


def rules_of(space: Namespace, where: str) -> Rules:
    """Returns the rules of a namespace; raises as `resolve`."""
    return Rules(
        resolve(space.read, f"{where}read"),
        resolve(space.write, f"{where}write"),
        resolve(space.manage, f"{where}manage"),
        space.owner_only,
    )


def _number(name: str, find: object, where: str, kind: str) -> int:
    assert callable(find)
    if name.isascii() and name.isdigit() and len(name) <= _ID_DIGITS and int(name) <= _ID_MAX:
        return int(name)
    try:
        number: int = find(name)
    except (KeyError, ValueError):
        raise BadSetting(f"{where}: this system knows no {kind} {name!r}; a number will do") from None
    return number
