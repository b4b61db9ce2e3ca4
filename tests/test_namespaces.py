"""namespaces.py and principals.py: what a namespace is told, and whom names mean."""

from __future__ import annotations

import dataclasses
import grp
import pwd
from typing import Any

import pytest

from storekeeper import wire
from storekeeperd import namespaces
from storekeeperd.access import Rules, Who
from storekeeperd.namespaces import EVICTIONS, UNBOUNDED, BadSetting, Namespace, Quota, parse
from storekeeperd.principals import resolve, rules_of

OTHERS: dict[str, Any] = {
    "read": ["alice", "@lab"],
    "write": ["1000"],
    "manage": ["@7", "*"],
    "owner_only": False,
    "bytes_max": 1,
    "objects_max": 2,
    "user_bytes_max": 3,
    "user_objects_max": 4,
    "object_bytes_max": 5,
    "ttl_s": 6,
    "durability": "disk",
    "eviction": "lru",
    "high_mark": 0.5,
    "low_mark": 0.25,
    "shelf_bytes_max": 7,
}
NAMES = [field.name for field in dataclasses.fields(Namespace)]


def test_nothing_said_is_everybodys_and_unbounded() -> None:
    plain = parse({})
    assert plain == Namespace()
    assert (plain.read, plain.write, plain.manage, plain.owner_only) == (("*",), ("*",), (), True)
    assert plain.quota == plain.user_quota == UNBOUNDED
    assert (plain.ttl_s, plain.durability, plain.eviction) == (0.0, "os", "refuse")
    assert plain.to_settings() == {}


def test_every_setting_is_taken_and_told_again() -> None:
    assert set(OTHERS) == set(NAMES)
    made = parse(OTHERS)
    for name, value in OTHERS.items():
        assert getattr(made, name) == (tuple(value) if isinstance(value, list) else value)
    assert made.to_settings() == OTHERS
    assert parse(made.to_settings()) == made
    assert made.quota == Quota(1, 2)
    assert made.user_quota == Quota(3, 4)


@pytest.mark.parametrize("name", NAMES)
def test_each_setting_alone_is_all_that_is_told(name: str) -> None:
    needed = {"bytes_max": 1} if name == "eviction" else {}
    value = 0.97 if name == "high_mark" else OTHERS[name]
    assert parse({name: value, **needed}).to_settings() == {name: value, **needed}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("where", ["", "namespace.lab."])
def test_a_value_of_another_type_is_refused_with_the_name_of_its_setting(name: str, where: str) -> None:
    for wrong in ("x", 1, 1.5, True, None, [], ["a"], [1], {}, {"a": 1}):
        plain = getattr(Namespace(), name)
        if isinstance(plain, tuple):
            fits = isinstance(wrong, list) and all(type(one) in (str, int) for one in wrong)
        else:
            fits = type(wrong) is type(plain) or (type(plain) is float and type(wrong) is int)
        if not fits:
            with pytest.raises(BadSetting, match=f"^{where}{name} must be "):
                parse({name: wrong}, where)


@pytest.mark.parametrize("name", [name for name in NAMES if type(getattr(Namespace(), name)) in (int, float)])
def test_amounts_are_not_negative_nor_endless(name: str) -> None:
    for wrong in (-1, (1 << 60) + 1):
        with pytest.raises(BadSetting, match=f"^n.{name} must lie between 0 and {1 << 60}"):
            parse({name: wrong}, "n.")
    if type(getattr(Namespace(), name)) is float:
        for wrong_float in (float("nan"), float("inf"), -0.5):
            with pytest.raises(BadSetting, match=f"^n.{name} must lie between"):
                parse({name: wrong_float}, "n.")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"durability": "ram"}, "n.durability must be one of os, disk"),
        ({"eviction": "random"}, "n.eviction must be one of refuse, lru, expired-first"),
        ({"eviction": "lru"}, "n.eviction = 'lru' needs n.bytes_max or n.objects_max"),
        ({"eviction": "expired-first", "user_bytes_max": 1}, "needs n.bytes_max or n.objects_max"),
        ({"high_mark": 0.5}, "0 < low_mark <= high_mark <= 1 must hold"),
        ({"low_mark": 0}, "0 < low_mark <= high_mark <= 1 must hold"),
        ({"high_mark": 1.01}, "0 < low_mark <= high_mark <= 1 must hold"),
        ({"ttl_s": wire.TTL_S_MAX + 1}, f"n.ttl_s must be at most {wire.TTL_S_MAX}"),
        ({"read": ["a"] * 257}, "n.read must be a list of users, .*, at most 256"),
        ({"bytes_mx": 1}, r"unknown setting n.bytes_mx; did you mean n\.bytes_max\?"),
        ({"ownr_only": True}, r"unknown setting n.ownr_only; did you mean n\.owner_only\?"),
        ({"zzzzzz": 1}, "unknown setting n.zzzzzz$"),
        ({"z" * 1000: 1}, "unknown setting n.z{40}$"),
    ],
)
def test_what_breaks_a_rule_is_refused_with_the_setting_and_the_rule(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(BadSetting, match=message):
        parse(settings, "n.")


@pytest.mark.parametrize("wrong", [None, 1, "text", [], ["read"]])
def test_settings_that_are_no_table_are_refused(wrong: Any) -> None:
    with pytest.raises(BadSetting, match="n: settings must be a table"):
        parse(wrong, "n: ")


@pytest.mark.parametrize("eviction", EVICTIONS)
@pytest.mark.parametrize("bound", ["bytes_max", "objects_max"])
def test_any_eviction_goes_with_a_bound(eviction: str, bound: str) -> None:
    assert parse({"eviction": eviction, bound: 1}).eviction == eviction


def test_marks_may_be_alike() -> None:
    made = parse({"high_mark": 1, "low_mark": 1})
    assert (made.high_mark, made.low_mark) == (1, 1)


# -- whom names mean


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    class Found:
        pw_uid = gr_gid = 4242

    def find(name: str) -> Found:
        if name not in ("alice", "lab"):
            raise KeyError(name)
        return Found()

    monkeypatch.setattr(pwd, "getpwnam", find)
    monkeypatch.setattr(grp, "getgrnam", find)


@pytest.mark.usefixtures("known")
def test_names_and_numbers_of_users_and_groups_are_understood() -> None:
    assert resolve([], "read") == Who()
    assert resolve(["*"], "read") == Who(everybody=True)
    assert resolve(["alice", "0", "7"], "read") == Who(uids=frozenset({4242, 0, 7}))
    assert resolve(["@lab", "@9"], "read") == Who(gids=frozenset({4242, 9}))
    assert resolve(["*", "7", "@9"], "read") == Who(True, frozenset({7}), frozenset({9}))


@pytest.mark.usefixtures("known")
@pytest.mark.parametrize("name", ["bob", "", "-1", "1.5", "٣", str(1 << 32), str((1 << 32) - 1), "a\0b", "\ud800"])
def test_who_is_not_known_is_refused_with_the_setting(name: str) -> None:
    with pytest.raises(BadSetting, match=r"^namespace.lab.read: this system knows no user .* a number will do"):
        resolve([name], "namespace.lab.read")
    with pytest.raises(BadSetting, match=r"^creators: this system knows no group "):
        resolve([f"@{name}"], "creators")


@pytest.mark.usefixtures("known")
def test_the_rules_of_a_namespace_are_those_of_its_settings() -> None:
    space = parse({"read": ["*"], "write": ["@lab"], "manage": ["alice"], "owner_only": False})
    assert rules_of(space, "") == Rules(
        Who(everybody=True), Who(gids=frozenset({4242})), Who(uids=frozenset({4242})), False
    )
    for setting in ("read", "write", "manage"):
        with pytest.raises(BadSetting, match=f"^namespace.x.{setting}: "):
            rules_of(parse({setting: ["bob"]}), "namespace.x.")


def test_the_default_namespace_has_a_name() -> None:
    assert namespaces.DEFAULT == "default"
