"""rounds.py: numbers of rounds of work."""

from __future__ import annotations

from storekeeperd.rounds import Rounds


def test_who_wants_a_round_gets_one_that_begins_afterwards() -> None:
    rounds = Rounds()
    under_way = rounds.begin()
    wanted = rounds.want()
    rounds.complete(under_way)
    assert not rounds.is_complete(wanted)
    assert rounds.due
    rounds.complete(rounds.begin())
    assert rounds.is_complete(wanted)
    assert not rounds.due


def test_all_who_want_one_before_it_begins_share_it() -> None:
    rounds = Rounds()
    assert rounds.want() == rounds.want()
    rounds.complete(rounds.begin())
    assert not rounds.wanted


def test_a_round_that_never_ends_is_still_wanted_and_a_later_one_will_do() -> None:
    rounds = Rounds()
    wanted = rounds.want()
    rounds.begin()
    assert not rounds.due
    assert rounds.wanted
    rounds.complete(rounds.begin())
    assert rounds.is_complete(wanted)
    assert not rounds.wanted


def test_nobody_needs_a_round_at_first() -> None:
    rounds = Rounds()
    assert not rounds.wanted
    assert not rounds.due
    assert rounds.is_complete(0)
