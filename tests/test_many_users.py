"""Who may do what: real users against a real daemon, everything held against the README's rules.

What is expected is derived by a small oracle of its own, from who is in which list. Nothing of the daemon is asked
for that.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from callers import FIRST_UID, Call, Caller, User, callers
from conftest import Daemon, daemons
from mounts import needs_root

pytestmark = needs_root

MESSAGE_BYTES = 4 << 20
LARGE = bytes(range(256)) * (MESSAGE_BYTES // 256) + b"more than a message"
READERS, WRITERS, MAKERS = FIRST_UID + 100, FIRST_UID + 200, FIRST_UID + 300
"""Groups, by number."""

USERS: dict[str, User] = {
    "writer-by-uid": User(FIRST_UID + 1, FIRST_UID + 1),
    "writer-by-supplementary-group": User(FIRST_UID + 2, FIRST_UID + 2, (FIRST_UID + 3, WRITERS)),
    "reader-by-supplementary-group": User(FIRST_UID + 3, FIRST_UID + 3, (READERS, FIRST_UID + 2)),
    "reader-by-primary-group": User(FIRST_UID + 4, READERS),
    "manager": User(FIRST_UID + 5, FIRST_UID + 5),
    "maker": User(FIRST_UID + 6, FIRST_UID + 6, (MAKERS,)),
    "stranger": User(FIRST_UID + 7, FIRST_UID + 7),
    # His uid is a group's number, his groups are users' numbers: neither makes him one of them.
    "namesake": User(WRITERS, FIRST_UID + 5, (FIRST_UID + 1, FIRST_UID + 6, 0)),
    "other": User(FIRST_UID + 9, FIRST_UID + 9),
    "root": User(0, 0),
}
OTHER = USERS["other"]
WHO = [name for name in USERS if name != "other"]

EVERYBODY = ["*"]
NONE, READ, WRITE, MANAGE = range(4)


class Kind(NamedTuple):
    """A namespace's rules, as they stand in the configuration."""

    read: list[str] = EVERYBODY
    write: list[str] = EVERYBODY
    manage: list[str] = []  # noqa: RUF012 - nobody changes it
    owner_only: bool = True

    def settings(self) -> dict[str, Any]:
        return self._asdict()


READ_LIST = [f"@{READERS}"]
WRITE_LIST = [str(USERS["writer-by-uid"].uid), f"@{WRITERS}", str(OTHER.uid)]
MANAGE_LIST = [str(USERS["manager"].uid)]

KINDS: dict[str, Kind] = {
    "default": Kind(),
    "plain": Kind(),  # in the configuration, without a word on rights
    "listed": Kind(READ_LIST, WRITE_LIST, MANAGE_LIST),
    "managed-by-group": Kind(EVERYBODY, WRITE_LIST, [f"@{READERS}"]),
    "shared": Kind(EVERYBODY, WRITE_LIST, MANAGE_LIST, owner_only=False),
    "closed": Kind([], [], []),
    "made": Kind(READ_LIST, WRITE_LIST, MANAGE_LIST),  # at run time, by the maker
    "made-shared": Kind(READ_LIST, WRITE_LIST, [], owner_only=False),
}
MADE = ("made", "made-shared")


# -- the oracle: the README's section "Many users"


def is_one_of(user: User, entries: list[str]) -> bool:
    groups = {user.gid, *user.groups}
    return any(
        entry == "*" or (int(entry[1:]) in groups if entry.startswith("@") else int(entry) == user.uid)
        for entry in entries
    )


def may_everything(user: User) -> bool:
    return user.uid == 0


def level(user: User, name: str) -> int:
    """What a user may do in a namespace; each implies what is before it."""
    kind = KINDS[name]
    if may_everything(user) or is_one_of(user, kind.manage) or (name in MADE and user == USERS["maker"]):
        return MANAGE
    if is_one_of(user, kind.write):
        return WRITE
    return READ if is_one_of(user, kind.read) else NONE


def may_change(user: User, name: str, owner: User) -> bool:
    """Whether a user may replace, remove, touch and pin an object."""
    reached = level(user, name)
    return reached == MANAGE or (reached == WRITE and (owner.uid == user.uid or not KINDS[name].owner_only))


# -- the table


class Case(NamedTuple):
    """One call on a key of its own.

    Attributes:
        call: what is asked for; `{key}` of a key.
        allowed: whether it may be done; else it is to be `denied`.
        result: what comes of it then.
        owner, data, pinned: of the object before; nobody's: there is none.
        after: owner and bytes after it was done, None if there is no object then; as before if it was denied.
    """

    what: str
    method: str
    arguments: tuple[Any, ...]
    options: dict[str, Any]
    allowed: bool
    result: Callable[[Any], bool]
    owner: User | None
    data: bytes
    after: tuple[int, bytes] | None
    code: str = "ok"
    pinned: bool = False
    lasting: Callable[[Any], bool] | None = None


def cases(user: User, name: str) -> Iterator[Case]:
    """Every verb on no object, on one of the user's own, and on another's."""
    reads, writes = level(user, name) >= READ, level(user, name) >= WRITE
    old, new = b"old bytes", b"new bytes"

    def case(
        what: str,
        method: str,
        *arguments: Any,
        allowed: bool,
        result: Callable[[Any], bool],
        owner: User | None = None,
        after: tuple[int, bytes] | str | None = "same",
        data: bytes = old,
        code: str = "ok",
        pinned: bool = False,
        lasting: Callable[[Any], bool] | None = None,
        **options: Any,
    ) -> Case:
        before = None if owner is None else (owner.uid, data)
        then = before if after == "same" else after
        assert not isinstance(then, str)
        return Case(
            what, method, arguments, options, allowed, result, owner, data, then if allowed else before, code, pinned,
            lasting if allowed else None,
        )  # fmt: skip

    def same(expected: Any) -> Callable[[Any], bool]:
        return lambda told: bool(told == expected)

    # reading: whose it is does not matter
    yield case("exists", "exists", "{key}", allowed=reads, result=same(True), owner=OTHER)
    yield case("exists, fresh", "exists", "{key}", fresh=True, allowed=reads, result=same(True), owner=OTHER)
    yield case("exists, own", "exists", "{key}", allowed=reads, result=same(True), owner=user)
    yield case("exists, absent", "exists", "{key}", allowed=reads, result=same(False))
    yield case("get", "get", "{key}", allowed=reads, result=same(old), owner=OTHER)
    yield case("get, own", "get", "{key}", allowed=reads, result=same(old), owner=user)
    yield case("get, absent", "get", "{key}", allowed=reads, result=same(None))
    yield case("get, large", "get", "large", allowed=reads, result=same(LARGE))
    yield case(
        "stat", "stat", "{key}", allowed=reads, owner=OTHER, result=lambda t: (t.size, t.owner) == (len(old), OTHER.uid)
    )
    yield case("stat, own", "stat", "{key}", allowed=reads, owner=user, result=lambda t: bool(t.owner == user.uid))
    yield case("stat, absent", "stat", "{key}", allowed=reads, result=same(None))
    yield case("verify", "verify", "{key}", allowed=reads, owner=OTHER, result=lambda t: t in (True, None))
    yield case("verify, absent", "verify", "{key}", allowed=reads, result=same(None))
    yield case("range", "read_range", "{key}", 4, 3, allowed=reads, result=same(old[4:7]), owner=OTHER)
    yield case("range, large", "read_range", "large", 3 << 20, 7, allowed=reads, result=same(LARGE[3 << 20 :][:7]))
    yield case("range, absent", "read_range", "{key}", 0, 1, allowed=reads, result=same(None))
    yield case("list", "list", "{key}", allowed=reads, result=lambda t: len(t) == 1, owner=OTHER)
    yield case("list, absent", "list", "{key}", allowed=reads, result=same([]))
    yield case("list, fresh", "list", "{key}", fresh=True, allowed=reads, result=lambda t: len(t) == 1, owner=OTHER)
    yield case(
        "list_info",
        "list_info",
        "{key}",
        owner=OTHER,
        allowed=reads,
        result=lambda t: [i.owner for i in t] == [OTHER.uid],
    )
    yield case("list_info, sorted", "list_info", limit=1, sort="size", allowed=reads, result=lambda t: len(t) == 1)
    yield case("usage", "usage", allowed=reads, result=lambda t: t["objects"] > 0)
    yield case("usage, by user", "usage", by="user", allowed=reads, result=lambda t: bool(t["users"]))
    yield case("usage, by namespace", "usage", by="namespace", allowed=reads, result=lambda t: bool(t["namespaces"]))

    # writing
    mine = (user.uid, new)
    yield case("put", "put", new, "{key}", allowed=writes, result=bool, after=mine)
    yield case("put, durable", "put", new, "{key}", durability="disk", allowed=writes, result=bool, after=mine)
    yield case("put, large", "put", LARGE, "{key}", allowed=writes, result=bool, after=(user.uid, LARGE))
    yield case("upload", "upload", "{key}", new, allowed=writes, result=same("created"), after=mine)
    yield case("evict, absent", "evict", "{key}", allowed=writes, result=same(False))
    yield case("touch, absent", "touch", "{key}", 60, allowed=writes, result=same(False))
    yield case("pin, absent", "pin", "{key}", allowed=writes, result=same(False))
    yield case("unpin, absent", "unpin", "{key}", allowed=writes, result=same(False))
    for whose, owner in (("own", user), ("other's", OTHER)):
        changes = may_change(user, name, owner)
        there = {"owner": owner}
        yield case(f"put same, {whose}", "put", old, "{key}", allowed=writes, result=bool, **there)
        yield case(f"upload same, {whose}", "upload", "{key}", old, allowed=writes, result=same("same"), **there)
        yield case(
            f"put other bytes, {whose}", "put", new, "{key}", allowed=writes, result=bool, code="key_exists", **there
        )
        yield case(
            f"upload other bytes, {whose}",
            "upload",
            "{key}",
            new,
            allowed=writes,
            result=bool,
            code="key_exists",
            **there,
        )
        yield case(
            f"replace, {whose}", "put", new, "{key}", replace=True, allowed=changes, result=bool, after=mine, **there
        )
        yield case(
            f"replace with large, {whose}", "put", LARGE, "{key}", replace=True, allowed=changes, result=bool,
            after=(user.uid, LARGE), **there,
        )  # fmt: skip
        yield case(
            f"upload in place of, {whose}", "upload", "{key}", new, replace=True, allowed=changes,
            result=same("replaced"), after=mine, **there,
        )  # fmt: skip
        yield case(f"evict, {whose}", "evict", "{key}", allowed=changes, result=same(True), after=None, **there)
        yield case(
            f"evict pinned, {whose}",
            "evict",
            "{key}",
            allowed=changes,
            result=same(True),
            after=None,
            pinned=True,
            **there,
        )
        yield case(
            f"touch, {whose}", "touch", "{key}", 3600, allowed=changes, result=same(True),
            lasting=lambda told: 0 < told.expires_in <= 3600, **there,
        )  # fmt: skip
        yield case(
            f"touch for the process, {whose}", "touch", "{key}", lifetime="process", allowed=changes,
            result=same(True), lasting=lambda told: told.process is not None, **there,
        )  # fmt: skip
        yield case(
            f"pin, {whose}",
            "pin",
            "{key}",
            allowed=changes,
            result=same(True),
            lasting=lambda told: told.pinned,
            **there,
        )
        yield case(
            f"unpin, {whose}", "unpin", "{key}", allowed=changes, result=same(True), pinned=True,
            lasting=lambda told: not told.pinned, **there,
        )  # fmt: skip


class Stage:
    """A daemon, and a process of each user."""

    def __init__(self, daemon: Daemon, crew: dict[str, Caller]) -> None:
        self.daemon = daemon
        self.crew = crew
        self.root = crew["root"]
        self.of = {caller.user: caller for caller in crew.values()}

    def folder(self, namespace: str) -> Path:
        return self.daemon.store if namespace == "default" else self.daemon.store / namespace

    def place(self, namespace: str, owner: User, key: str, data: bytes) -> None:
        """Lets an object be a user's: he puts it, or its file comes to be his where he may not put any."""
        if level(owner, namespace) >= WRITE:
            assert self.of[owner].get("put", data, key, namespace=namespace) == key
        else:
            self.adopt(namespace, owner.uid, key, data)

    def adopt(self, namespace: str, uid: int, key: str, data: bytes) -> None:
        """Moves a file into the store that no daemon made."""
        hidden = self.daemon.store.parent / "hidden"
        hidden.write_bytes(data)
        os.chown(hidden, uid, uid)
        hidden.rename(self.folder(namespace) / key)


@contextlib.contextmanager
def open_folder() -> Iterator[Path]:
    """A folder that everybody may enter: pytest's own are its user's."""
    folder = Path(tempfile.mkdtemp(prefix="many-users-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def commons() -> Iterator[Path]:
    with open_folder() as folder:
        yield folder


def configuration() -> str:
    lines = ['namespaces = ["plain"]', f'creators = ["@{MAKERS}"]']
    for name, kind in KINDS.items():
        if name not in ("default", "plain", *MADE):
            lines.append(f"[namespace.{name}]")
            lines += [f"{key} = {str(value).lower()}" if isinstance(value, bool) else f"{key} = {value}"
                      for key, value in kind.settings().items()]  # fmt: skip
    return "\n".join(lines) + "\n"


@contextlib.contextmanager
def stages(folder: Path, users: dict[str, User]) -> Iterator[Stage]:
    config = folder / "config.toml"
    config.write_text(configuration())
    with daemons(folder) as start:
        daemon = start("--config", str(config), "--socket-mode", "0666")
        with callers(daemon.address, list(users.values())) as started:
            stage = Stage(daemon, dict(zip(users, started, strict=True)))
            for name in MADE:
                stage.crew["maker"].get("create_namespace", name, **KINDS[name].settings())
            for name in KINDS:
                stage.root.get("put", LARGE, "large", namespace=name)
            yield stage


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """A daemon with a namespace of every kind, for all tests that leave behind only keys of their own."""
    with open_folder() as folder, stages(folder, USERS) as made:
        yield made


@pytest.mark.parametrize("who", WHO)
@pytest.mark.parametrize("name", KINDS)
def test_every_verb_is_allowed_or_denied_as_the_rules_say(stage: Stage, name: str, who: str) -> None:
    caller, namespace = stage.crew[who], name
    table = [(f"{who}-{number:02}", case) for number, case in enumerate(cases(caller.user, name))]
    for key, case in table:
        if case.owner is not None:
            stage.place(namespace, case.owner, key, case.data)
    assert stage.root.get("list", who, namespace=namespace, fresh=True)  # what was moved in is known now
    stage.root.ask([Call(namespace, "pin", (key,)) for key, case in table if case.pinned])
    calls = []
    for key, case in table:
        calls.append(
            Call(namespace, case.method, tuple(key if a == "{key}" else a for a in case.arguments), case.options)
        )
    wrong = []
    outcomes = caller.ask(calls)
    states = stage.root.ask([Call(namespace, verb, (key,)) for key, _ in table for verb in ("stat", "get")])
    for number, (_, case) in enumerate(table):
        code, told = outcomes[number]
        if code != (case.code if case.allowed else "denied") or (case.allowed and not case.result(told)):
            wrong.append(f"{case.what}: {code} {told!r:.200}, allowed: {case.allowed}")
        (said, info), (given, data) = states[2 * number : 2 * number + 2]
        assert (said, given) == ("ok", "ok"), (info, data)
        found = None if info is None else (info.owner, data)
        if found != case.after:
            wrong.append(f"{case.what}: left {found!r:.80} instead of {case.after!r:.80}")
        elif case.lasting is not None and not case.lasting(info):
            wrong.append(f"{case.what}: left {info}")
        elif case.lasting is None and info is not None and info.pinned != case.pinned:
            wrong.append(f"{case.what}: pinned is {info.pinned}")
    stage.root.get("evict_batch", [key for key, _ in table], namespace=namespace)
    assert not wrong, "\n".join(wrong)
