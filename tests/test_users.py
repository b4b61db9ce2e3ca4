"""users.py: what all connections of one user hold, and who goes on when it is too much."""

from __future__ import annotations

from storekeeperd.users import SMALL_BYTES, User

MAX = 100
BIG = SMALL_BYTES + 1


def test_who_is_under_the_bound_goes_on() -> None:
    user = User(1, MAX)
    user.changed("a", 100, idle=False)
    assert user.admits("a", BIG)
    assert user.admits("b", BIG)
    assert not user.waiting
    assert user.leader is None


def test_over_the_bound_one_goes_on_and_the_others_wait_for_him() -> None:
    user = User(1, MAX)
    user.changed("a", 101, idle=False)
    assert user.admits("a", BIG)
    assert not user.admits("b", BIG)
    assert not user.admits("c", BIG)
    assert user.admits("a", BIG)
    assert user.released() == []
    user.changed("a", 0, idle=True)
    assert user.released() == ["b"]
    assert user.admits("b", BIG)
    assert not user.admits("a", BIG)


def test_when_there_is_room_again_all_go_on() -> None:
    user = User(1, MAX)
    user.changed("a", 200, idle=False)
    assert user.admits("a", BIG)
    assert not user.admits("b", BIG)
    assert not user.admits("c", BIG)
    user.changed("a", -150, idle=False)
    assert user.released() == ["b", "c"]
    assert user.leader is None
    assert user.released() == []


def test_a_connection_that_ends_makes_room_for_the_next_one() -> None:
    user = User(1, MAX)
    user.changed("a", 101, idle=False)
    user.changed("b", 50, idle=False)
    assert user.admits("a", BIG)
    assert not user.admits("b", BIG)
    assert not user.admits("c", BIG)
    user.left("b")
    user.left("a")
    assert user.released() == ["c"]


def test_what_is_small_is_always_admitted() -> None:
    user = User(1, MAX)
    user.changed("a", 101, idle=False)
    assert user.admits("a", BIG)
    assert user.admits("b", SMALL_BYTES)
    assert not user.waiting
    assert not user.admits("b", BIG)


def test_but_not_beyond_twice_the_bound() -> None:
    user = User(1, MAX)
    user.changed("a", 201, idle=False)
    assert user.admits("a", 0)
    assert not user.admits("b", 0)
