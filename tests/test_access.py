"""access.py: who may do what."""

from __future__ import annotations

import pytest

from storekeeper.errors import Denied
from storekeeperd.access import EVERYBODY, MANAGE, NOBODY, READ, WRITE, Access, Rules, Who
from storekeeperd.answers import Peer

ALICE, BOB, CAROL, LAB, STAFF = 1000, 1001, 1002, 500, 501


def peer(uid: int, gid: int = 100, *groups: int) -> Peer:
    return Peer(uid, gid, 1, groups=frozenset(groups))


def users(*uids: int) -> Who:
    return Who(uids=frozenset(uids))


def groups(*gids: int) -> Who:
    return Who(gids=frozenset(gids))


@pytest.mark.parametrize(
    ("who", "caller", "has"),
    [
        (EVERYBODY, peer(ALICE), True),
        (NOBODY, peer(ALICE), False),
        (NOBODY, peer(0), False),
        (users(ALICE), peer(ALICE), True),
        (users(ALICE), peer(BOB), False),
        (users(ALICE), peer(BOB, ALICE), False),  # a number of a group is no number of a user
        (groups(LAB), peer(ALICE, LAB), True),
        (groups(LAB), peer(ALICE, 100, 7, LAB), True),
        (groups(LAB), peer(LAB, 100, 7), False),
        (Who(False, frozenset({ALICE}), frozenset({LAB})), peer(BOB, LAB), True),
        (Who(False, frozenset({ALICE}), frozenset({LAB})), peer(BOB), False),
    ],
)
def test_a_caller_is_one_of_them_by_user_group_or_supplementary_group(who: Who, caller: Peer, has: bool) -> None:
    assert who.has(caller) is has


@pytest.mark.parametrize(
    ("rules", "rights"),
    [
        (Rules(NOBODY, NOBODY, NOBODY), 0),
        (Rules(users(ALICE), NOBODY, NOBODY), READ),
        (Rules(NOBODY, users(ALICE), NOBODY), READ | WRITE),
        (Rules(NOBODY, NOBODY, users(ALICE)), READ | WRITE | MANAGE),
        (Rules(EVERYBODY, groups(LAB), NOBODY), READ | WRITE),
        (Rules(EVERYBODY, groups(STAFF), NOBODY), READ),
        (Rules(), READ | WRITE),
        (None, READ | WRITE),
    ],
)
def test_a_right_implies_the_lesser_ones(rules: Rules | None, rights: int) -> None:
    access = Access({0})
    access.set_rules(b"a/", rules)
    alice = peer(ALICE, 100, LAB)
    assert access.rights(alice, b"a/") == rights
    for right, word in ((READ, "read"), (WRITE, "write"), (MANAGE, "manage")):
        if rights & right:
            access.check(alice, b"a/", right)
        else:
            with pytest.raises(Denied, match=f"uid {ALICE} may not {word} in namespace 'a'"):
                access.check(alice, b"a/", right)


def test_admins_may_do_everything_everywhere() -> None:
    access = Access({0, BOB})
    access.set_rules(b"", Rules(NOBODY, NOBODY, NOBODY))
    for uid in (0, BOB):
        assert access.rights(peer(uid), b"") == READ | WRITE | MANAGE
        assert access.is_admin(peer(uid))
        assert access.any_owner(peer(uid), b"")
        assert access.may_create(peer(uid))
    assert not access.is_admin(peer(ALICE))
    assert access.rights(peer(ALICE), b"") == 0
    with pytest.raises(Denied, match="in namespace 'default'"):
        access.check(peer(ALICE), b"", READ)


def test_who_may_make_namespaces_are_admins_and_creators() -> None:
    access = Access({0}, groups(STAFF))
    assert access.may_create(peer(0))
    assert access.may_create(peer(ALICE, STAFF))
    assert not access.may_create(peer(ALICE, LAB))
    assert not access.is_admin(peer(ALICE, STAFF))
    assert not Access({0}).may_create(peer(ALICE))


@pytest.mark.parametrize(
    ("rules", "any_owner"),
    [
        (Rules(), False),
        (Rules(owner_only=False), True),
        (Rules(manage=users(ALICE)), True),
        (Rules(manage=users(BOB)), False),
        (None, False),
    ],
)
def test_what_others_own_is_for_managers_unless_all_is_shared(rules: Rules | None, any_owner: bool) -> None:
    access = Access({0})
    access.set_rules(b"a/", rules)
    assert access.any_owner(peer(ALICE), b"a/") is any_owner


def test_what_is_known_of_a_peer_ends_with_the_rules() -> None:
    access = Access({0})
    access.set_rules(b"", Rules())
    access.set_rules(b"a/", Rules(users(ALICE), NOBODY, NOBODY))
    alice = peer(ALICE)
    assert access.rights(alice, b"a/") == READ
    assert access.rights(alice, b"") == READ | WRITE
    assert alice.rights == {b"a/": READ, b"": READ | WRITE}
    before = access.version
    access.set_rules(b"a/", Rules(NOBODY, NOBODY, NOBODY))
    assert access.version != before
    assert access.rights(alice, b"a/") == 0
    assert alice.rights == {b"a/": 0}
    access.set_rules(b"a/", Rules(NOBODY, users(ALICE), NOBODY))
    assert access.rights(alice, b"a/") == READ | WRITE
    access.set_rules(b"a/", None)
    assert access.rights(alice, b"a/") == READ | WRITE


def test_only_by_the_rules_of_now_a_hit_is_believed_to_be_allowed() -> None:
    access = Access({0})
    access.set_rules(b"", Rules())
    alice = peer(ALICE)
    assert alice.reads_default != access.version
    access.rights(alice, b"")
    assert alice.reads_default == access.version
    access.set_rules(b"a/", Rules())
    assert alice.reads_default != access.version
    access.set_rules(b"", Rules(NOBODY, NOBODY, NOBODY))
    access.rights(alice, b"")
    assert alice.reads_default != access.version


def test_two_peers_do_not_share_what_is_known() -> None:
    access = Access({0})
    access.set_rules(b"a/", Rules(users(ALICE), NOBODY, NOBODY))
    alice, bob = peer(ALICE), peer(BOB)
    assert (access.rights(alice, b"a/"), access.rights(bob, b"a/")) == (READ, 0)
    assert (access.rights(alice, b"a/"), access.rights(bob, b"a/")) == (READ, 0)
