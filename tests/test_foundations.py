"""foundations.py: the verbs on namespaces."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pytest

from lives import LivingBench
from storekeeper import wire
from storekeeper.errors import (
    BadKey,
    BadRequest,
    Busy,
    Denied,
    DiskFull,
    KeyExists,
    NamespaceMissing,
    StorekeeperError,
    TooMany,
)
from storekeeperd.access import Access, Rules, Who
from storekeeperd.answers import Peer
from storekeeperd.config import Limits
from storekeeperd.namespaces import BadSetting, Namespace
from storekeeperd.outside import Outside
from storekeeperd.principals import rules_of

MAKER, OTHER, ROOT = Peer(1000, 100, 1), Peer(1001, 100, 2), Peer(0, 0, 3)


class World:
    """What stands around the service: folders, and how it was told of them."""

    def __init__(self, bench_limits: Limits | None = None) -> None:
        self.folders: dict[str, Namespace] = {}
        self.fixed: Collection[str] = ("fixed",)
        self.founded = 0
        self.leaving: list[str] = []
        self.lives = 0
        self.error: Exception | None = None
        outside = Outside(
            found=self.found,
            fixed=lambda: self.fixed,
            leaving=self.leaving.append,
            founded=self.take_founded,
            keep_lives=self.keep_lives,
        )
        access = Access({0}, Who(uids=frozenset({1000})))
        self.bench = LivingBench(bench_limits or Limits(), outside=outside, access=access, fixed=Namespace())

    def found(self, name: str, space: Namespace | None) -> Rules:
        if self.error is not None:
            raise self.error
        if space is None:
            if any(key.startswith(name.encode() + b"/") for key in self.bench.disk.objects):
                raise BadRequest(f"namespace {name!r} is not empty")
            del self.folders[name]
            return Rules()
        rules = rules_of(space, "")
        self.folders[name] = space
        return rules

    def take_founded(self) -> None:
        self.founded += 1

    def keep_lives(self) -> None:
        self.lives += 1

    def create(self, name: str, peer: Peer = MAKER, **settings: Any) -> None:
        options = {"settings": settings} if settings else {}
        assert self.bench.ask(b"create", name.encode(), peer=peer, **options).words == ["ok"]

    def drop(self, name: str, peer: Peer = MAKER) -> None:
        assert self.bench.ask(b"drop", name.encode(), peer=peer).words == ["ok"]

    def told(self, peer: Peer) -> dict[str, Any]:
        told: dict[str, Any] = self.bench.ask(b"namespaces", peer=peer).details["namespaces"]
        return told


@pytest.fixture
def world() -> World:
    for peer in (MAKER, OTHER, ROOT):
        peer.rights_version = -1
    return World()


def test_a_namespace_is_its_makers_alone_unless_he_says_otherwise(world: World) -> None:
    world.create("lab")
    assert world.folders["lab"].to_settings() == {"read": ["1000"], "write": ["1000"], "manage": ["1000"]}
    assert world.founded == 1
    assert world.bench.ask(b"put", b"k", b"x", peer=MAKER, namespace="lab").words == ["created"]
    for verb, *rest in ((b"exists", b"k"), (b"list",), (b"usage",), (b"put", b"l", b"x")):
        with pytest.raises(Denied, match="uid 1001 may not"):
            world.bench.ask(verb, *rest, peer=OTHER, namespace="lab")
    assert world.bench.ask(b"exists", b"k", peer=ROOT, namespace="lab").words == ["yes"]


def test_who_makes_a_namespace_manages_it_whoever_else_does(world: World) -> None:
    world.create("lab", manage=["1001"], read=["*"])
    assert world.folders["lab"].manage == ("1000", "1001")
    world.create("own", manage=["1000"])
    assert world.folders["own"].manage == ("1000",)
    for peer in (MAKER, OTHER):
        assert world.told(peer)["lab"]["you_may"] == ["read", "write", "manage"]


def test_namespaces_tells_what_the_caller_may_read_and_do(world: World) -> None:
    world.create("lab", read=["*"], bytes_max=7)
    world.create("secret")
    settings = {"read": ["*"], "write": ["1000"], "manage": ["1000"], "bytes_max": 7}
    del settings["read"]  # as by default
    assert world.told(OTHER) == {
        "default": {"you_may": ["read", "write"]},
        "fixed": {"you_may": ["read", "write"]},
        "lab": {"you_may": ["read"], **settings},
    }
    assert set(world.told(MAKER)) == {"default", "fixed", "lab", "secret"}
    with pytest.raises(BadRequest, match="namespaces takes as arguments: nothing"):
        world.bench.ask(b"namespaces", b"k")


def test_only_some_may_make_namespaces(world: World) -> None:
    with pytest.raises(Denied, match=r"uid 1001 may not make namespaces; .* creators"):
        world.create("lab", OTHER)
    world.create("lab", ROOT)
    assert set(world.folders) == {"lab"}


@pytest.mark.parametrize("name", ["lab", "fixed"])
def test_a_name_is_taken_once(world: World, name: str) -> None:
    world.create("lab")
    with pytest.raises(KeyExists, match=f"a namespace '{name}' already"):
        world.create(name)


@pytest.mark.parametrize("name", [b"", b".hidden", b"a/b", b"\xff", b"x" * 256])
@pytest.mark.parametrize("verb", [b"create", b"drop"])
def test_a_namespace_is_named_like_a_key(world: World, verb: bytes, name: bytes) -> None:
    with pytest.raises(BadKey):
        world.bench.ask(verb, name, peer=MAKER)


@pytest.mark.parametrize("verb", [b"create", b"drop"])
def test_the_default_namespace_is_neither_made_nor_dropped(world: World, verb: bytes) -> None:
    with pytest.raises(BadRequest, match="always there"):
        world.bench.ask(verb, b"default", peer=ROOT)
    for arguments in ([], [b"a", b"b"]):
        with pytest.raises(BadRequest, match=f"{verb.decode()} takes as arguments: name"):
            world.bench.ask(verb, *arguments, peer=ROOT)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bytes_mx": 1}, "unknown setting bytes_mx; did you mean bytes_max"),
        ({"manage": "bob"}, "manage must be a list"),
        ({"manage": [1.5]}, "manage must be a list"),
        ({"read": ["no such user"]}, "read: this system knows no user 'no such user'"),
        ({"write": ["@no such group"]}, "write: this system knows no group 'no such group'"),
        ({"eviction": "lru"}, "needs bytes_max or objects_max"),
    ],
)
def test_settings_that_break_a_rule_are_refused_and_nothing_is_made(
    world: World, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(BadRequest, match=message):
        world.create("lab", **settings)
    assert world.folders == {}
    assert "lab" not in world.bench.service.prefixes
    assert world.founded == 0
    world.create("lab")


@pytest.mark.parametrize("error", [DiskFull("no space"), BadSetting("read: nobody answers"), Busy("wait")])
def test_what_cannot_be_made_is_not_served_and_may_be_tried_again(world: World, error: Exception) -> None:
    world.error = error
    with pytest.raises(StorekeeperError, match=str(error)):
        world.create("lab")
    assert "lab" not in world.bench.service.prefixes
    assert world.founded == 0
    world.error = None
    world.create("lab")
    world.error = DiskFull("no space")
    with pytest.raises(DiskFull):
        world.drop("lab")
    assert "lab" in world.told(MAKER)
    world.error = None
    world.drop("lab")


def test_a_name_that_is_being_made_or_dropped_is_taken(world: World) -> None:
    making = world.bench.send(b"create", b"lab", peer=MAKER)
    assert "lab" not in world.bench.service.prefixes  # only when its folder stands
    late = world.bench.send(b"create", b"lab", peer=MAKER)
    with pytest.raises(KeyExists):
        world.bench.reply(late)
    with pytest.raises(NamespaceMissing):
        world.bench.reply(world.bench.send(b"drop", b"lab", peer=MAKER))
    world.bench.do_all()
    assert world.bench.reply(making).words == ["ok"]
    dropping = world.bench.send(b"drop", b"lab", peer=MAKER)
    with pytest.raises(NamespaceMissing):
        world.bench.reply(world.bench.send(b"drop", b"lab", peer=MAKER))
    with pytest.raises(KeyExists):
        world.bench.reply(world.bench.send(b"create", b"lab", peer=MAKER))
    world.bench.do_all()
    assert world.bench.reply(dropping).words == ["ok"]
    assert set(world.told(MAKER)) == {"default", "fixed"}


def test_there_are_only_so_many_namespaces_those_under_way_included() -> None:
    world = World(Limits(namespaces_max=4))
    for peer in (MAKER, OTHER, ROOT):
        peer.rights_version = -1
    world.create("a")
    making = world.bench.send(b"create", b"b", peer=MAKER)
    with pytest.raises(TooMany, match="at most 4 namespaces"):
        world.bench.reply(world.bench.send(b"create", b"c", peer=MAKER))
    world.bench.do_all()
    world.bench.reply(making)
    world.drop("a")
    world.create("c")


def test_a_namespace_is_dropped_when_it_is_empty_by_who_manages_it(world: World) -> None:
    world.create("lab", write=["*"])
    world.bench.ask(b"put", b"k", b"x", peer=OTHER, namespace="lab")
    with pytest.raises(Denied, match="may not manage in namespace 'lab'"):
        world.drop("lab", OTHER)
    with pytest.raises(BadRequest, match="not empty"):
        world.drop("lab")
    assert "lab" in world.told(MAKER)
    world.bench.ask(b"evict", b"k", peer=MAKER, namespace="lab")
    world.drop("lab")
    assert world.folders == {}
    # Who watches the folder is told before each try to remove it, and after it.
    assert world.leaving == ["lab", "lab"]
    assert world.founded == 3
    with pytest.raises(NamespaceMissing):
        world.bench.ask(b"exists", b"k", peer=MAKER, namespace="lab")
    world.create("lab")


def test_who_may_not_even_read_is_not_told_that_a_namespace_is_there(world: World) -> None:
    world.create("secret")
    with pytest.raises(NamespaceMissing, match="no namespace 'secret'"):
        world.drop("secret", OTHER)
    with pytest.raises(NamespaceMissing, match="no namespace 'nowhere'"):
        world.drop("nowhere", OTHER)


def test_what_stands_in_the_configuration_is_not_dropped(world: World) -> None:
    with pytest.raises(Denied, match="stands in the daemon's configuration"):
        world.drop("fixed", ROOT)


def test_a_namespace_with_a_lifetime_says_that_objects_may_have_one(world: World) -> None:
    world.create("a")
    assert world.lives == 0
    world.create("b", ttl_s=5)
    assert world.lives == 1
    assert world.bench.service.keeps_lives


def test_rules_hold_from_the_moment_a_namespace_is_there(world: World) -> None:
    world.create("lab", read=["1001"])
    assert world.bench.ask(b"exists", b"k", peer=OTHER, namespace="lab").words == ["no"]
    world.drop("lab")
    world.create("lab", read=["1000"])
    with pytest.raises(Denied):
        world.bench.ask(b"exists", b"k", peer=OTHER, namespace="lab")


def test_who_is_gone_before_his_namespace_stands_has_made_it_all_the_same(world: World) -> None:
    passing = Peer(1000, 100, 9)
    world.bench.send(b"create", b"lab", peer=passing)
    world.bench.service.gone(passing)
    world.bench.do_all()
    assert world.bench.replies() == {}
    assert "lab" in world.told(MAKER)
    assert wire.ARGUMENTS[b"create"] == "name"
