"""Who may do what: real users against a real daemon, everything held against the README's rules.

What is expected is derived by a small oracle of its own, from who is in which list. Nothing of the daemon is asked
for that.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from callers import FIRST_UID, Call, Caller, User, callers
from conftest import Daemon, daemons, eventually
from mounts import needs_root
from storekeeper.lines import somebody_listens

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


def readable(user: User, name: str) -> set[str]:
    """Of which namespaces a user is told who asks about one: the default one stands for all."""
    return {other for other in KINDS if level(user, other)} if name == "default" else {name}


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

    yield case(
        "events", "events", allowed=reads, result=lambda t: {e.namespace for e in t.events} <= readable(user, name)
    )

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
        there: dict[str, Any] = {"owner": owner}
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


def test_putting_the_same_bytes_with_replace_is_nobodys_change(stage: Stage) -> None:
    stage.crew["other"].get("put", b"bytes", "same-with-replace")
    assert stage.crew["stranger"].do("put", b"bytes", "same-with-replace", replace=True)[0] == "ok"
    assert stage.root.get("put", b"bytes", "same-with-replace", replace=True)
    assert stage.root.get("stat", "same-with-replace").owner == OTHER.uid


@pytest.mark.parametrize("who", WHO)
def test_a_batch_is_judged_item_by_item(stage: Stage, who: str) -> None:
    caller = stage.crew[who]
    own, others = [f"batch-{who}-{number}" for number in range(2)]
    stage.place("default", caller.user, own, b"old")
    stage.place("default", OTHER, others, b"old")
    may = may_change(caller.user, "default", OTHER)
    for method, arguments in (("put_batch", ([b"new"] * 2, [others, own])), ("evict_batch", ([others, own],))):
        options: dict[str, Any] = {"replace": True} if method == "put_batch" else {}
        code, _ = caller.do(method, *arguments, **options)
        assert code == ("ok" if may else "batch")
        left = [stage.root.get("get", key) for key in (others, own)]
        assert left == (
            [b"new" if may else b"old", b"new"] if method == "put_batch" else [None if may else b"old", None]
        )


@pytest.mark.parametrize("who", WHO)
def test_what_namespaces_are_listed_and_what_one_may_do_there(stage: Stage, who: str) -> None:
    caller = stage.crew[who]
    levels = {name: level(caller.user, name) for name in KINDS}
    readable = {name for name, reached in levels.items() if reached}
    told = caller.get("namespaces")
    assert {name: told[name]["you_may"] for name in told if name in KINDS} == {
        name: ["read", "write", "manage"][: levels[name]] for name in readable
    }
    assert set(caller.get("usage", by="namespace")["namespaces"]) & set(KINDS) == readable
    assert set(caller.get("status")["namespaces"]) & set(KINDS) == readable


@pytest.mark.parametrize("who", WHO)
def test_namespaces_are_made_by_root_and_creators_alone(stage: Stage, who: str) -> None:
    caller, name = stage.crew[who], f"new-{who}"
    code, told = caller.do("create_namespace", name, read=["*"], write=["*"], manage=[])
    assert code == ("ok" if who in ("root", "maker") else "denied"), told
    assert stage.folder(name).is_dir() == (code == "ok")
    if code == "ok":
        assert stage.crew["stranger"].get("put", b"x", "k", namespace=name) == "k"
        assert caller.get("evict", "k", namespace=name) is True  # who made it manages it
        assert caller.do("create_namespace", name)[0] == "key_exists"
        caller.get("drop_namespace", name)
    assert not stage.folder(name).exists()


@pytest.mark.parametrize("who", WHO)
def test_a_namespace_is_dropped_when_it_is_empty_by_who_manages_it(stage: Stage, who: str) -> None:
    caller, name = stage.crew[who], f"dropped-by-{who}"
    stage.root.get("create_namespace", name, **KINDS["listed"].settings())
    reached = level(caller.user, "listed")
    refused = "denied" if reached else "no_namespace"
    stage.crew["other"].get("put", b"x", "k", namespace=name)
    assert caller.do("drop_namespace", name)[0] == ("bad_request" if reached == MANAGE else refused)
    assert stage.root.get("get", "k", namespace=name) == b"x"
    stage.crew["other"].get("evict", "k", namespace=name)
    assert caller.do("drop_namespace", name)[0] == ("ok" if reached == MANAGE else refused)
    assert stage.folder(name).exists() == (reached < MANAGE)
    if reached < MANAGE:
        stage.root.get("drop_namespace", name)


def test_a_made_namespace_that_says_nothing_is_its_makers_alone(stage: Stage) -> None:
    stage.crew["maker"].get("create_namespace", "private")
    try:
        for who in WHO:
            expected = "ok" if who in ("maker", "root") else "denied"
            assert stage.crew[who].do("put", b"x", "k", namespace="private")[0] == expected, who
            assert stage.crew[who].do("get", "k", namespace="private")[0] == expected, who
    finally:
        stage.root.get("evict", "k", namespace="private")
        stage.root.get("drop_namespace", "private")


def test_the_daemons_own_user_may_everything_and_so_may_root(commons: Path) -> None:
    own, stranger, root = USERS["manager"], USERS["stranger"], USERS["root"]
    config, store, address = commons / "config.toml", commons / "store", f"ipc://{commons}/own/socket"
    config.write_text("[namespace.closed]\nread = []\nwrite = []\nmanage = []\n")
    for folder in (store, commons / "own"):
        folder.mkdir()
        os.chown(folder, own.uid, own.gid)
    become = (
        "import ctypes, importlib, os, pkgutil, sys\n"
        "import click, difflib, encodings.ascii, select, storekeeper, storekeeperd, tomllib\n"
        "for package in (storekeeper, storekeeperd):\n"
        "    for found in pkgutil.iter_modules(package.__path__):\n"
        "        if found.name not in ('connector', '__main__'):\n"
        "            importlib.import_module(f'{package.__name__}.{found.name}')\n"
        f"os.setgroups([])\nos.setgid({own.gid})\nos.setuid({own.uid})\n"
        "ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)\n"  # PR_SET_DUMPABLE: its /proc is its own again
        "storekeeperd.cli.cli()\n"
    )
    options = ["serve", str(store), "--address", address, "--config", str(config), "--socket-mode", "0666"]
    with open(commons / "log", "wb") as log:
        process = subprocess.Popen([sys.executable, "-c", become, *options], stderr=log)
    try:
        eventually(lambda: somebody_listens(address) or process.poll() is not None)
        assert process.poll() is None, (commons / "log").read_text()
        with callers(address, [own, stranger, root]) as (his, strangers, roots):
            for caller in (his, roots):
                for namespace in ("default", "closed"):
                    if namespace == "default":
                        assert strangers.get("put", b"x", "k") == "k"
                    else:
                        assert roots.get("put", b"x", "k", namespace=namespace) == "k"
                    assert caller.get("pin", "k", namespace=namespace) is True
                    assert caller.get("put", b"y", "k", replace=True, namespace=namespace) == "k"
                    assert caller.get("stat", "k", namespace=namespace).owner == caller.user.uid
                    assert caller.get("evict", "k", namespace=namespace) is True
                caller.get("create_namespace", "made")
                caller.get("drop_namespace", "made")
            assert strangers.do("get", "k", namespace="closed")[0] == "denied"
            assert strangers.do("create_namespace", "made")[0] == "denied"
            assert his.get("put", b"x", "his") == "his"
            assert strangers.do("evict", "his")[0] == "denied"
            strangers.get("put", b"x", "strangers")
            assert (store / "strangers").stat().st_uid == own.uid  # the daemon owns all files
    finally:
        process.kill()
        process.wait()


# -- what one may not read reveals nothing

KEYED: list[tuple[str, Callable[[str], tuple[Any, ...]]]] = [
    *((verb, lambda key: (key,)) for verb in ("exists", "get", "stat", "verify", "evict", "touch", "pin", "unpin")),
    ("put", lambda key: (b"secret", key)),
    ("put", lambda key: (b"other bytes", key)),
    ("put", lambda key: (LARGE, key)),
    ("upload", lambda key: (key, b"secret")),
    ("read_range", lambda key: (key, 0, 1)),
    ("list", lambda key: (key,)),
    ("list_info", lambda key: (key,)),
    ("get_batch", lambda key: ([key, "large"],)),
    ("exists_batch", lambda key: ([key, "large"],)),
    ("evict_batch", lambda key: ([key, "large"],)),
]


def test_what_one_may_not_read_is_refused_with_the_same_words_whether_it_is_there_or_not(stage: Stage) -> None:
    stage.root.get("put", b"secret", "there", namespace="closed")
    stage.adopt("closed", USERS["stranger"].uid, "adopted", b"secret")  # his own, but he may not
    (stage.folder("closed") / "folder").mkdir(exist_ok=True)
    stage.root.get("list", fresh=True, namespace="closed")
    keys = ("there", "adopted", "folder", "absent", "large")
    choices: list[dict[str, Any]] = [{}, {"replace": True}]
    for options in choices:
        for verb, arguments in KEYED:
            if not options or verb in ("put", "upload"):
                calls = [Call("closed", verb, arguments(key), options) for key in keys]
                told = set(stage.crew["stranger"].ask(calls))
                assert {code for code, _ in told} == {"denied"}, (verb, told)
                assert len(told) == 1, (verb, told)
    assert stage.root.get("get", "there", namespace="closed") == b"secret"
    assert stage.root.get("get", "adopted", namespace="closed") == b"secret"
    for verb, options in (
        ("usage", {}),
        ("usage", {"fresh": True}),
        ("usage", {"by": "user"}),
        ("list", {"fresh": True}),
        ("events", {}),
    ):
        assert stage.crew["stranger"].do(verb, namespace="closed", **options)[0] == "denied"


def test_what_one_may_not_read_is_not_counted_in_what_one_is_told(stage: Stage) -> None:
    stranger, secret = stage.crew["stranger"], FIRST_UID + 50

    def told() -> dict[str, Any]:
        return {
            "served": stranger.get("status")["namespaces"],
            "usage": stranger.get("usage", fresh=True),
            "by user": stranger.get("usage", by="user"),
            "by namespace": stranger.get("usage", by="namespace"),
            "namespaces": stranger.get("namespaces"),
            "events": stranger.get("events"),
        }

    before = told()
    stage.root.get("put_batch", [b"secret"] * 50, [f"secret-{number}" for number in range(50)], namespace="closed")
    stage.adopt("closed", secret, "secret", b"secret")
    assert "secret" in stage.root.get("list", fresh=True, namespace="closed")
    assert str(secret) in stage.root.get("usage", by="user")["users"]
    stage.root.get("evict", "secret", namespace="closed")
    assert [event.owner for event in stage.root.get("events", namespace="closed").events][-1] == secret
    assert told() == before
    assert "closed" not in repr(before) and str(secret) not in repr(before)
    stage.root.get("evict_batch", stage.root.get("list", "secret", namespace="closed"), namespace="closed")
    code, message = stranger.do("get", "k", namespace="no-such-namespace")
    assert code == "no_namespace"
    assert "closed" not in message and "listed" not in message


@pytest.mark.parametrize("verb", ["exists", "get", "stat", "evict", "verify"])
def test_the_time_of_a_refusal_tells_nothing(stage: Stage, verb: str) -> None:
    present, absent = ([f"{kind}-{number:03}" for number in range(200)] for kind in ("timed", "never"))
    stage.root.get("put_batch", [bytes(20_000)] * 200, present, namespace="closed")
    for _ in range(3):  # chance is given more than one chance; a difference stays
        taken = stage.crew["stranger"].get("time_pairs", verb.encode(), present, absent, 400, namespace="closed")
        there, not_there = (statistics.median(times) for times in taken)
        slower = sum(one > other for one, other in zip(*taken, strict=True)) / len(taken[0])
        if 1 / 1.3 < there / not_there < 1.3 and 0.35 < slower < 0.65:
            break
    else:
        pytest.fail(f"{verb}: {there} ns if it is there, {not_there} if not; the former was slower in {slower:.0%}")


# -- owners stay


@pytest.mark.parametrize("ends", ["stop", "kill"])
def test_owners_survive_the_daemon(commons: Path, ends: str) -> None:
    users = [USERS["stranger"], OTHER, User(1, 1), USERS["root"]]  # 1: a user who has a name
    owners = {f"put-by-{user.uid}": user.uid for user in users}
    with daemons(commons) as start:
        daemon = start("--socket-mode", "0666")
        with callers(daemon.address, users) as crew:
            for caller in crew:
                caller.get("put", b"bytes", f"put-by-{caller.user.uid}")
            for uid in (0, 1, 61_234):
                adopt(daemon.store, f"while-it-runs-{uid}", uid)
                owners[f"while-it-runs-{uid}"] = uid
            check_owners(daemon, owners)
            getattr(daemon, ends)()
            for uid in (0, 1, 61_234):
                adopt(daemon.store, f"while-it-is-down-{uid}", uid)
                owners[f"while-it-is-down-{uid}"] = uid
            # Whoever's the file is now: the object is his who put it.
            os.chown(daemon.store / f"put-by-{OTHER.uid}", 61_777, 61_777)
            daemon.start()
            check_owners(daemon, owners)
            stranger, other = crew[:2]
            for key, uid in owners.items():
                if uid != stranger.user.uid:
                    assert stranger.do("evict", key)[0] == "denied", key
            assert stranger.get("evict", f"put-by-{stranger.user.uid}") is True
            assert other.get("put", b"new", f"put-by-{OTHER.uid}", replace=True)
            with callers(daemon.address, [User(61_234, 61_234)]) as (adopter,):
                assert adopter.get("put", b"new", "while-it-is-down-61234", replace=True)
                assert adopter.get("evict", "while-it-runs-61234") is True


def adopt(store: Path, key: str, uid: int) -> None:
    hidden = store.parent / "hidden"
    hidden.write_bytes(b"by hand")
    os.chown(hidden, uid, uid)
    hidden.rename(store / key)


def name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def check_owners(daemon: Daemon, owners: dict[str, int]) -> None:
    """Whose all objects are, by all that tells it, the command line first: right after a start it is not all known."""
    command = [sys.executable, "-m", "storekeeper", "--address", daemon.address, "ls", "-l", "--fresh"]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    shown = {line.split()[-1]: line.split()[1] for line in lines}
    assert shown == {key: name_of(uid) for key, uid in owners.items()}
    with daemon.client() as client:
        assert {info.key: info.owner for info in client.list_info()} == owners
        for uid in set(owners.values()):
            assert {info.key for info in client.list_info(owner=uid)} == {k for k, v in owners.items() if v == uid}
        for key, uid in owners.items():
            info = client.stat(key)
            assert info is not None
            assert info.owner == uid
        users = client.usage(by="user", fresh=True)["users"]
        counts = {str(uid): sum(owner == uid for owner in owners.values()) for uid in set(owners.values())}
        assert {uid: told["objects"] for uid, told in users.items()} == counts


# -- the files


@pytest.mark.parametrize("groups", [(), (os.getgid(),)], ids=["of other groups", "of the daemon's group"])
@pytest.mark.parametrize("made_by", ["the daemon", "hand"])
def test_no_other_user_can_open_the_files_of_a_store(commons: Path, made_by: str, groups: tuple[int, ...]) -> None:
    stranger = User(USERS["stranger"].uid, USERS["stranger"].gid, groups)
    old = os.umask(0)
    try:
        if made_by == "hand":
            (commons / "store").mkdir(mode=0o755)
        with daemons(commons) as start:
            daemon = start("--socket-mode", "0666", "--namespace", "plain")
            with callers(daemon.address, [USERS["root"], stranger]) as (root, strangers):
                root.get("create_namespace", "closed", read=[], write=[], manage=[])
                for namespace in ("default", "plain", "closed"):
                    root.get("put", b"secret", "k", namespace=namespace)
                    root.get("put", LARGE, "large", durability="disk", ttl=1000, namespace=namespace)
                    root.get("pin", "k", namespace=namespace)
                files = [path for path in daemon.store.rglob("*") if not path.is_socket()]
                assert len(files) > 10
                opened = []
                for path in [daemon.store, *files]:
                    secret = path.is_file() and ".storekeeper" not in path.parts
                    for flags in ([os.O_RDONLY] if secret else []) + ([] if path.is_dir() else [os.O_WRONLY]):
                        if strangers.do("open_file", str(path), flags)[0] == "ok":
                            opened.append(f"{path.relative_to(daemon.store)}, mode {path.stat().st_mode & 0o777:o}")
                    if path.is_dir():
                        code, _ = strangers.do("link_file", "/etc/hostname", str(path / "planted"))
                        assert code in ("PermissionError", "OSError"), path
                    elif path != daemon.store:
                        assert strangers.do("remove_file", str(path))[0] == "PermissionError", path
                assert not opened, opened
    finally:
        os.umask(old)
