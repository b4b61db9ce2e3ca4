"""ledger.py: room is reserved before a byte is written, and no bound is ever exceeded."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest

from storekeeper.errors import Busy, QuotaExceeded
from storekeeperd import sight
from storekeeperd.index import Index
from storekeeperd.ledger import Bounds, Charge, Ledger, SpaceFull
from storekeeperd.namespaces import Namespace, Quota

BLOCK = 4096
SPACES = (b"", b"a/", b"b/")
USERS = (1, 2, 3)


def endless() -> tuple[int, int]:
    return 1 << 62, 1 << 62


def make(bounds: Bounds | None = None, **spaces: Namespace) -> tuple[Index, Ledger]:
    index = Index()
    ledger = Ledger(index, bounds or Bounds(), endless)
    ledger.set_space(b"", spaces.pop("default", Namespace()))
    for name, space in spaces.items():
        ledger.set_space(name.encode() + b"/", space)
    return index, ledger


def reserved(ledger: Ledger) -> tuple[int, int]:
    return ledger.reserved().objects, ledger.reserved().charged_bytes


# -- what is not bounded


def test_nothing_is_reserved_where_nothing_is_bounded() -> None:
    _, ledger = make()
    assert not ledger.bounds_anything
    assert not ledger.counts
    assert ledger.reserve(b"", 1, 1 << 40) is None
    ledger.grow(None, b"", 1 << 41)
    ledger.release(None)
    assert reserved(ledger) == (0, 0)


def test_what_is_bounded_somewhere_is_counted_everywhere() -> None:
    _, ledger = make(a=Namespace(bytes_max=BLOCK))
    charge = ledger.reserve(b"", 1, 100 * BLOCK)
    assert charge is not None
    assert reserved(ledger) == (1, 100 * BLOCK)
    ledger.release(charge)
    assert reserved(ledger) == (0, 0)


@pytest.mark.parametrize(
    ("bounds", "counts"),
    [
        (Bounds(quota=Quota(1)), True),
        (Bounds(user_quota=Quota(0, 1)), True),
        (Bounds(users={7: Quota(1)}), True),
        (Bounds(object_bytes_max=1), False),
        (Bounds(keep_free_bytes=1), False),
        (Bounds(keep_free_inodes=1), False),
    ],
)
def test_every_object_matters_only_where_what_is_kept_is_bounded(bounds: Bounds, counts: bool) -> None:
    _, ledger = make(bounds)
    assert ledger.bounds_anything
    assert ledger.counts is counts


def test_a_namespace_that_is_no_more_bounds_nothing() -> None:
    _, ledger = make(a=Namespace(bytes_max=BLOCK))
    assert ledger.counts
    ledger.set_space(b"a/", None)
    ledger.set_space(b"never/", None)
    assert not ledger.counts
    assert not ledger.bounds_anything


def test_room_for_many_is_reserved_at_once_or_not_at_all() -> None:
    index, ledger = make(Bounds(quota=Quota(4 * BLOCK, 4), object_bytes_max=2 * BLOCK))
    index.assign(b"k", sight.of(BLOCK, 1, 0))
    for sizes in ([BLOCK] * 4, [0] * 4, [2 * BLOCK + 1], [BLOCK, 2 * BLOCK + 1]):
        assert ledger.reserve_all(b"", 1, sizes) == []
        assert reserved(ledger) == (0, 0)
    charges = ledger.reserve_all(b"", 1, [1, BLOCK, 0])
    assert [charge.bytes for charge in charges] == [BLOCK, BLOCK, 0]
    assert reserved(ledger) == (3, 2 * BLOCK)
    for charge in charges:
        ledger.release(charge)
    assert reserved(ledger) == (0, 0)


def test_nothing_is_reserved_for_many_while_it_is_not_known_what_there_is() -> None:
    index, ledger = make(Bounds(quota=Quota(4 * BLOCK, 4)))
    index.confirm([b"found"])
    assert ledger.reserve_all(b"", 1, [0, 0]) == []
    assert reserved(ledger) == (0, 0)


# -- what is refused


@dataclass
class Case:
    """A bound that is full: whose it is, what it is, and what is used of it."""

    whose: str
    bounds: Bounds
    space: Namespace


BYTES = [
    Case("the store", Bounds(quota=Quota(2 * BLOCK)), Namespace()),
    Case("uid 1", Bounds(user_quota=Quota(2 * BLOCK)), Namespace()),
    Case("uid 1", Bounds(user_quota=Quota(1 << 40), users={1: Quota(2 * BLOCK)}), Namespace()),
    Case("uid 1 in namespace 'a'", Bounds(), Namespace(user_bytes_max=2 * BLOCK)),
    Case("namespace 'a'", Bounds(), Namespace(bytes_max=2 * BLOCK)),
]
OBJECTS = [
    Case("the store", Bounds(quota=Quota(0, 2)), Namespace()),
    Case("uid 1", Bounds(user_quota=Quota(0, 2)), Namespace()),
    Case("uid 1", Bounds(users={1: Quota(0, 2)}), Namespace()),
    Case("uid 1 in namespace 'a'", Bounds(), Namespace(user_objects_max=2)),
    Case("namespace 'a'", Bounds(), Namespace(objects_max=2)),
]


@pytest.mark.parametrize("case", BYTES, ids=lambda case: case.whose)
def test_too_many_bytes_are_refused_with_whose_bound_it_is_what_is_used_and_what_is_allowed(case: Case) -> None:
    index, ledger = make(case.bounds, a=case.space)
    index.assign(b"a/there", sight.of(1, 1, 0))  # a byte takes a block
    ledger.reserve(b"a/", 1, 10)
    with pytest.raises(QuotaExceeded) as caught:
        ledger.reserve(b"a/", 1, 1)
    message = str(caught.value)
    assert message.startswith(f"{case.whose} may hold {2 * BLOCK} bytes in whole blocks and holds {2 * BLOCK}")
    assert f"{BLOCK} more are too many" in message
    assert reserved(ledger) == (1, BLOCK)  # nothing of it stays


@pytest.mark.parametrize("case", OBJECTS, ids=lambda case: case.whose)
def test_too_many_objects_are_refused_the_same_way(case: Case) -> None:
    index, ledger = make(case.bounds, a=case.space)
    index.assign(b"a/there", sight.of(0, 1, 0))
    ledger.reserve(b"a/", 1, 0)
    with pytest.raises(QuotaExceeded) as caught:
        ledger.reserve(b"a/", 1, 0)
    assert str(caught.value) == f"{case.whose} may hold 2 objects and holds 2; evict something"
    assert reserved(ledger) == (1, 0)


def test_the_default_namespace_is_named() -> None:
    _, ledger = make(default=Namespace(bytes_max=BLOCK))
    with pytest.raises(SpaceFull, match="namespace 'default' may hold"):
        ledger.reserve(b"", 1, BLOCK + 1)


def test_a_bound_of_some_users_stands_in_place_of_that_of_all() -> None:
    _, ledger = make(Bounds(user_quota=Quota(BLOCK), users={1: Quota(3 * BLOCK), 2: Quota()}))
    ledger.reserve(b"", 1, 3 * BLOCK)
    ledger.reserve(b"", 2, 1 << 40)
    with pytest.raises(QuotaExceeded, match=r"uid 1 may hold 12288 .* holds 12288"):
        ledger.reserve(b"", 1, 1)
    with pytest.raises(QuotaExceeded, match=r"uid 3 may hold 4096 .* holds 0"):
        ledger.reserve(b"", 3, BLOCK + 1)


def test_an_object_that_is_too_long_is_refused_with_the_bound_and_its_size() -> None:
    _, ledger = make(Bounds(object_bytes_max=100), a=Namespace(object_bytes_max=10))
    ledger.release(ledger.reserve(b"", 1, 100))
    with pytest.raises(QuotaExceeded, match="an object of the store has at most 100 bytes, this one has 101"):
        ledger.reserve(b"", 1, 101)
    with pytest.raises(QuotaExceeded, match="an object of namespace 'a' has at most 10 bytes, this one has 11"):
        ledger.reserve(b"a/", 1, 11)
    charge = ledger.reserve(b"a/", 1, 0)
    with pytest.raises(QuotaExceeded, match="at most 10 bytes"):
        ledger.grow(charge, b"a/", 11)


def test_what_the_file_system_must_keep_free_is_kept() -> None:
    free = [10 * BLOCK, 5]
    ledger = Ledger(Index(), Bounds(keep_free_bytes=7 * BLOCK, keep_free_inodes=2), lambda: (free[0], free[1]))
    charge = ledger.reserve(b"", 1, 2 * BLOCK)
    ledger.grow(charge, b"", 3 * BLOCK)
    with pytest.raises(QuotaExceeded, match=f"{free[0]} bytes free, {3 * BLOCK} of them .* {7 * BLOCK} are to be kept"):
        ledger.reserve(b"", 1, 1)
    with pytest.raises(QuotaExceeded, match="bytes free"):
        ledger.grow(charge, b"", 3 * BLOCK + 1)
    assert charge is not None
    assert charge.bytes == 3 * BLOCK
    ledger.reserve(b"", 1, 0)
    ledger.reserve(b"", 1, 0)
    with pytest.raises(QuotaExceeded, match="5 inodes free, and 2 are to be kept free"):
        ledger.reserve(b"", 1, 0)


def test_only_a_namespaces_own_bound_can_be_made_room_for() -> None:
    _, ledger = make(Bounds(quota=Quota(4 * BLOCK)), a=Namespace(bytes_max=2 * BLOCK, objects_max=1))
    with pytest.raises(SpaceFull) as caught:
        ledger.reserve(b"a/", 1, 3 * BLOCK)
    full = caught.value
    assert (full.prefix, full.charge_bytes, full.objects) == (b"a/", 3 * BLOCK, 1)
    assert full.is_lasting
    full.charge_bytes = 2 * BLOCK
    assert not full.is_lasting
    full.objects = 2
    assert full.is_lasting
    with pytest.raises(QuotaExceeded) as other:
        ledger.reserve(b"a/", 1, 5 * BLOCK)  # the store's is in the way, too
    assert not isinstance(other.value, SpaceFull)


# -- what is not known yet


def test_it_is_busy_while_anything_was_not_looked_at() -> None:
    index, ledger = make(Bounds(quota=Quota(1 << 40)))
    index.assign(b"k", sight.of(1, 1, 0))
    index.confirm([b"a/scanned"])
    charge = ledger.hold(b"", 1, 0)
    with pytest.raises(Busy, match="being measured"):
        ledger.reserve(b"", 1, 1)
    with pytest.raises(Busy, match="being measured"):
        ledger.grow(charge, b"", 1)
    index.assign(b"a/scanned", sight.of(1, 1, 0))
    ledger.grow(charge, b"", 1)
    ledger.reserve(b"", 1, 1)


def test_it_is_not_busy_where_nothing_of_what_is_kept_is_bounded() -> None:
    index, ledger = make(a=Namespace(bytes_max=BLOCK))
    index.confirm([b"scanned"])
    charge = ledger.reserve(b"", 1, 1)
    ledger.grow(charge, b"", 100 * BLOCK)
    with pytest.raises(Busy):
        ledger.reserve(b"a/", 1, 1)


# -- reservations


def test_a_reservation_grows_by_blocks_and_never_shrinks() -> None:
    _, ledger = make(Bounds(quota=Quota(3 * BLOCK)))
    charge = ledger.reserve(b"", 1, 0)
    for size, charged in ((1, 1), (BLOCK, 1), (BLOCK + 1, 2), (5, 2), (3 * BLOCK, 3)):
        ledger.grow(charge, b"", size)
        assert reserved(ledger) == (1, charged * BLOCK)
    with pytest.raises(QuotaExceeded):
        ledger.grow(charge, b"", 3 * BLOCK + 1)
    assert reserved(ledger) == (1, 3 * BLOCK)
    ledger.release(charge)
    assert reserved(ledger) == (0, 0)


def test_what_is_removed_and_still_being_read_is_never_refused() -> None:
    _, ledger = make(Bounds(quota=Quota(BLOCK, 1)))
    held = ledger.hold(b"", 1, 2 * BLOCK)
    assert reserved(ledger) == (1, 2 * BLOCK)  # it has no name any more, but its file is there
    with pytest.raises(QuotaExceeded, match="holds 8192"):
        ledger.reserve(b"", 1, 0 + 1)
    ledger.release(held)
    ledger.reserve(b"", 1, BLOCK)


def test_what_is_told_of_bounds_is_what_holds_for_a_user() -> None:
    index, ledger = make(
        Bounds(quota=Quota(100 * BLOCK), user_quota=Quota(10 * BLOCK, 5), users={2: Quota(20 * BLOCK)}),
        a=Namespace(objects_max=7, user_bytes_max=8 * BLOCK),
    )
    index.assign(b"a/k", sight.of(1, 1, 0))
    index.assign(b"l", sight.of(1, 2, 0))
    ledger.reserve(b"a/", 1, BLOCK)
    assert ledger.bounds_of(b"a/", 1) == {
        "store_bytes_max": (100 * BLOCK, 3 * BLOCK),
        "user_bytes_max": (10 * BLOCK, 2 * BLOCK),
        "user_objects_max": (5, 2),
        "namespace_user_bytes_max": (8 * BLOCK, 2 * BLOCK),
        "namespace_objects_max": (7, 2),
    }
    assert ledger.bounds_of(b"", 2) == {
        "store_bytes_max": (100 * BLOCK, 3 * BLOCK),
        "user_bytes_max": (20 * BLOCK, BLOCK),
    }
    assert ledger.used(b"a/") == (2 * BLOCK, 2)


# -- whatever happens


def blocks(size: int) -> int:
    return -(-size // BLOCK)


@pytest.mark.parametrize("round_", range(20))
def test_no_bound_is_exceeded_and_everything_is_given_back_whatever_happens(seed: int, round_: int) -> None:
    chance = random.Random(seed + round_)

    def bound(most: int) -> int:
        return chance.choice((0, 0, chance.randint(1, most)))

    def quota() -> Quota:
        return Quota(bound(40) * BLOCK, bound(12))

    bounds = Bounds(quota(), quota(), {3: quota()})
    told = {
        prefix: Namespace(
            bytes_max=bound(30) * BLOCK,
            objects_max=bound(8),
            user_bytes_max=bound(20) * BLOCK,
            user_objects_max=bound(5),
        )
        for prefix in SPACES
    }
    index = Index()
    ledger = Ledger(index, bounds, endless)
    for prefix, space in told.items():
        ledger.set_space(prefix, space)
    there: dict[bytes, tuple[bytes, int, int]] = {}  # name -> namespace, owner, blocks
    held: list[tuple[Charge | None, bytes, int, int, int]] = []  # charge, namespace, user, blocks, objects

    def sums(prefix: bytes | None, uid: int | None) -> tuple[int, int]:
        """The naive model: everything is counted anew."""
        parts = [(space, owner, size, 1) for space, owner, size in there.values()]
        parts += [(space, owner, size, objects) for _, space, owner, size, objects in held]
        chosen = [
            (size, objects) for space, owner, size, objects in parts if prefix in (None, space) and uid in (None, owner)
        ]
        return sum(size for size, _ in chosen) * BLOCK, sum(objects for _, objects in chosen)

    def all_bounds(prefix: bytes, uid: int) -> list[tuple[str, Quota, tuple[int, int]]]:
        space = told[prefix]
        return [
            ("store", bounds.quota, sums(None, None)),
            ("user", bounds.users.get(uid, bounds.user_quota), sums(None, uid)),
            ("namespace_user", space.user_quota, sums(prefix, uid)),
            ("namespace", space.quota, sums(prefix, None)),
        ]

    def fits(prefix: bytes, uid: int, charge: int, objects: int) -> bool:
        return all(
            not (most.bytes_max and used[0] + charge * BLOCK > most.bytes_max)
            and not (most.objects_max and used[1] + objects > most.objects_max)
            for _, most, used in all_bounds(prefix, uid)
        )

    for _ in range(600):
        prefix, uid, size = chance.choice(SPACES), chance.choice(USERS), chance.randint(0, 8 * BLOCK)
        what = chance.random()
        if what < 0.4:
            expected = fits(prefix, uid, blocks(size), 1)
            try:
                charge = ledger.reserve(prefix, uid, size)
            except QuotaExceeded:
                assert not expected
            else:
                assert expected
                if charge is not None:
                    held.append((charge, prefix, uid, blocks(size), 1))
        elif what < 0.55 and held:
            place = chance.randrange(len(held))
            charge, space, owner, had, objects = held[place]
            more = blocks(size) - had
            expected = more <= 0 or fits(space, owner, more, 0)
            try:
                ledger.grow(charge, space, size)
            except QuotaExceeded:
                assert not expected
            else:
                assert expected
                held[place] = charge, space, owner, max(had, blocks(size)), objects
        elif what < 0.75 and held:  # it is there now, or came to nothing
            charge, space, owner, had, objects = held.pop(chance.randrange(len(held)))
            ledger.release(charge)
            name = b"%s%d" % (space, chance.randrange(1 << 30))
            if objects and chance.random() < 0.7 and name not in there:
                there[name] = space, owner, had
                index.assign(name, sight.of(had * BLOCK, owner, 0))
        elif there:
            name = chance.choice(list(there))
            space, owner, had = there.pop(name)
            index.assign(name, sight.ABSENT)
            if chance.random() < 0.3:  # it is still being read
                held.append((ledger.hold(space, owner, had * BLOCK), space, owner, had, 1))
        for prefix in SPACES:
            for uid in USERS:
                expected_told = {}
                for whose, most, used in all_bounds(prefix, uid):
                    if most.bytes_max:
                        assert used[0] <= most.bytes_max
                        expected_told[f"{whose}_bytes_max"] = most.bytes_max, used[0]
                    if most.objects_max:
                        assert used[1] <= most.objects_max
                        expected_told[f"{whose}_objects_max"] = most.objects_max, used[1]
                assert ledger.bounds_of(prefix, uid) == expected_told
    for charge, *_ in held:
        ledger.release(charge)
    assert reserved(ledger) == (0, 0)
    for prefix in SPACES:
        there = index.totals(prefix)
        assert ledger.used(prefix) == (there.charged_bytes, there.objects)
