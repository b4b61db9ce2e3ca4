"""shelves.py and stock.py: who gets a shelf, what stands on it, and when it ends; over memory that is a dict."""

from __future__ import annotations

from typing import Any

import pytest

from fake_shelf import FakeMemory
from simulation import FakeDisk
from storekeeper.errors import Denied
from storekeeperd.access import NOBODY, Rules, Who
from storekeeperd.answers import Peer
from storekeeperd.config import Limits
from storekeeperd.namespaces import Namespace
from storekeeperd.operations import Job
from storekeeperd.outside import Outside
from storekeeperd.shelves import Shelves
from storekeeperd.sight import of
from storekeeperd.stock import DATA_BYTES_MAX, Memory
from test_service import Bench

MIB = 1024 * 1024


class Shop(Bench):
    """A service with shelves."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.made: list[FakeMemory] = []
        self.fails: Exception | None = None
        self.now_s = 100.0
        super().__init__(limits, Outside(make_shelf=self.make, monotonic_s=lambda: self.now_s))
        self.peer = Peer(1000, 100, 1, passes_descriptors=True)
        self.disk = FakeDisk()  # of our own changes nothing is heard

    def make(self, table_bytes: int) -> Memory:
        if self.fails is not None:
            raise self.fails
        self.made.append(FakeMemory(table_bytes))
        return self.made[-1]

    @property
    def shelves(self) -> Shelves:
        return self.service.shelves

    def open(self, **options: Any) -> FakeMemory:
        """Returns the shelf that the service hands out."""
        assert self.ask(b"shelf", **options).words == ["ok"]
        return self.made[-1]

    def put(self, key: bytes, payload: bytes, **options: Any) -> str:
        return self.ask(b"put", key, payload, **options).words[0]

    def hear(self, key: bytes) -> None:
        """Hears of a key, and looks at it."""
        self.coherence.hear({key: None}, {})
        self.settle()

    def settle(self) -> None:
        """Does all that there is to do."""
        self.turn()
        self.shelves.judge()


@pytest.fixture
def shop() -> Shop:
    shop = Shop()
    shop.disk.set(b"k", b"hello")
    shop.disk.ours.add(b"k")
    shop.disk.objects[b"team/t"] = b"team's"
    shop.scan()
    shop.hear(b"k")
    return shop


# -- who gets one


def test_a_shelf_is_made_when_somebody_asks_and_handed_to_all_who_do(shop: Shop) -> None:
    assert not shop.made
    shop.send(b"shelf")
    making = shop.take()
    shop.send(b"shelf")
    shop.do(making)
    assert [frames[2] for _, frames in shop.service.replies] == [b"ok", b"ok"]
    assert {frames.transfer for _, frames in shop.service.replies} == set(shop.made)  # type: ignore[attr-defined]
    assert len(shop.made) == 1
    assert shop.made[0].believed
    assert shop.made[0].until_s > shop.now_s


def test_who_takes_no_descriptors_gets_none(shop: Shop) -> None:
    shop.peer.passes_descriptors = False
    assert shop.ask(b"shelf").words == ["none"]
    assert not shop.made


def test_who_may_not_read_a_namespace_is_denied_its_shelf(shop: Shop) -> None:
    only_seven = Rules(Who(uids=frozenset({7})), NOBODY, NOBODY)
    shop.service.set_space("team", Namespace(), only_seven)
    with pytest.raises(Denied):
        shop.ask(b"shelf", namespace="team")
    assert not shop.made


def test_rules_that_change_make_an_end_of_the_shelf(shop: Shop) -> None:
    memory = shop.open(namespace="team")
    shop.service.set_space("team", Namespace())
    assert not memory.believed
    assert memory.descriptor == -1
    shop.do_all()
    assert memory.released


def test_there_is_none_while_hits_are_not_believed(shop: Shop) -> None:
    shop.coherence.lost("overflow")
    assert shop.ask(b"shelf").words == ["none"]


def test_there_is_none_where_the_namespace_has_none(shop: Shop) -> None:
    shop.service.set_space("team", Namespace(shelf_bytes_max=0))
    assert shop.ask(b"shelf", namespace="team").words == ["none"]


def test_all_together_take_no_more_than_their_bound() -> None:
    shop = Shop(Limits(shelves_bytes_max=17 * MIB))
    shop.scan()
    assert shop.open().size_bytes == 16 * MIB
    assert shop.ask(b"shelf", namespace="team").words == ["none"]
    shop.service.set_space("team", Namespace(shelf_bytes_max=MIB))
    assert shop.open(namespace="team").size_bytes == MIB


def test_where_there_is_no_memory_it_is_not_tried_again_at_once(shop: Shop) -> None:
    shop.fails = OSError("no memory")
    assert shop.ask(b"shelf").words == ["none"]
    shop.fails = None
    assert shop.ask(b"shelf").words == ["none"]
    for _ in range(60):
        shop.shelves.tick()
    assert shop.ask(b"shelf").words == ["ok"]


def test_a_namespace_that_is_dropped_while_its_shelf_is_made_has_none(shop: Shop) -> None:
    shop.send(b"shelf", namespace="team")
    making = shop.take()
    shop.service.drop_space("team")
    shop.service.set_space("team", Namespace())
    shop.do(making)
    assert shop.reply().words == ["none"]
    shop.do_all()
    assert shop.made[0].released
    assert shop.shelves.taken_bytes == 0


# -- what is put on


def test_what_is_put_is_on_it_with_its_bytes(shop: Shop) -> None:
    memory = shop.open()
    shop.put(b"new", b"bytes")
    shop.settle()
    assert memory.get(b"new") == b"bytes"


def test_what_is_read_is_on_it_if_only_we_could_have_written_it(shop: Shop) -> None:
    memory = shop.open()
    shop.disk.set(b"foreign", b"bytes")
    shop.hear(b"foreign")
    shop.ask(b"get", b"k", b"foreign")
    assert memory.get(b"k") == b"hello"
    assert not memory.has(b"foreign")


def test_what_is_read_over_and_over_takes_its_room_once(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = shop.open()
    shop.ask(b"get", b"k")
    monkeypatch.setattr(memory, "enter", lambda *_: pytest.fail("entered again"))
    assert shop.ask(b"get", b"k").words == ["ok"]


def test_what_somebody_was_told_to_exist_is_on_it_without_its_bytes(shop: Shop) -> None:
    memory = shop.open()
    assert shop.ask(b"exists", b"k", b"missing").words == ["yes", "no"]
    assert memory.held == {b"k": None}


def test_the_shortest_way_puts_it_on_too(shop: Shop) -> None:
    memory = shop.open()
    shop.ask(b"exists", b"missing")
    shop.settle()
    assert shop.service.is_hit(shop.peer, b"id", b"", b"k")
    assert memory.has(b"k")


def test_keys_of_a_namespace_are_on_its_own_shelf(shop: Shop) -> None:
    memory, team = shop.open(), shop.open(namespace="team")
    shop.put(b"new", b"team's", namespace="team")
    assert team.held == {b"new": b"team's"}
    assert not memory.held


def test_long_objects_are_on_it_by_name_alone() -> None:
    shop = Shop(Limits())
    shop.scan()
    memory = shop.open()
    shop.put(b"long", bytes(DATA_BYTES_MAX + 1))
    shop.put(b"just so", bytes(DATA_BYTES_MAX))
    assert memory.held == {b"long": None, b"just so": bytes(DATA_BYTES_MAX)}


@pytest.mark.parametrize("life", [{"ttl": 60.0}, {"lifetime": "process"}])
def test_what_does_not_simply_live_on_is_not_on_it(shop: Shop, life: dict[str, Any]) -> None:
    memory = shop.open()
    shop.service.keeps_lives = True
    shop.index.assign(b"k", of(5, 0, 1, expires_ms=10**9, process=1 if "lifetime" in life else 0))
    shop.ask(b"exists", b"k")
    shop.ask(b"get", b"k")
    assert not memory.held


def test_what_nobody_has_looked_at_is_not_on_it_where_objects_may_expire(shop: Shop) -> None:
    memory = shop.open(namespace="team")
    assert shop.index.size(b"team/t") == -1
    shop.service.keeps_lives = True
    shop.service.stock.note(b"team/t")
    assert not memory.held
    shop.service.keeps_lives = False
    shop.service.stock.note(b"team/t")
    assert memory.held == {b"t": None}


def test_a_new_one_is_filled_with_what_exists_as_far_as_it_has_room_to_spare() -> None:
    shop = Shop(Limits())
    for number in range(300):
        shop.disk.objects[b"k%d" % number] = b""
    shop.disk.objects[b"team/t"] = b""
    shop.scan()
    memory = shop.open()
    memory.room = 250
    assert shop.service.turn(1)
    assert 0 < len(memory.held) < 250
    while shop.service.turn(1):
        pass
    assert len(memory.held) == 250
    assert all(key.startswith(b"k") for key in memory.held)
    assert set(memory.held.values()) == {None}


def test_what_goes_before_it_is_filled_in_is_not_put_on(shop: Shop) -> None:
    memory = shop.open()
    del shop.disk.objects[b"k"]
    shop.hear(b"k")
    shop.service.turn(1)
    assert memory.held == {}


def test_how_large_it_is_goes_by_how_much_exists(shop: Shop) -> None:
    shop.coherence.begin_scan()
    shop.coherence.scanned([b"k%d" % number for number in range(40_000)])
    shop.coherence.end_scan(complete=True)
    shop.coherence.sweep()
    assert shop.open().table_bytes == 8 * MIB


# -- what is taken off


def test_a_change_takes_it_off_before_it_is_made(shop: Shop) -> None:
    memory = shop.open()
    shop.ask(b"get", b"k")
    assert memory.has(b"k")
    shop.send(b"evict", b"k")
    assert not memory.has(b"k")
    shop.do_all()
    assert not memory.has(b"k")


def test_what_is_replaced_is_on_it_again_when_nothing_more_is_heard(shop: Shop) -> None:
    memory = shop.open()
    shop.ask(b"get", b"k")
    shop.put(b"k", b"other", replace=True)
    assert memory.get(b"k") != b"hello"  # the kernel may have joined its event with that of another's change
    shop.settle()
    shop.ask(b"get", b"k")
    assert memory.get(b"k") == b"other"


def test_whatever_is_heard_of_a_name_takes_it_off(shop: Shop) -> None:
    memory = shop.open()
    shop.ask(b"get", b"k")
    shop.coherence.hear({b"k": None}, {})
    assert not memory.has(b"k")


def test_a_look_that_does_not_find_it_takes_it_off(shop: Shop) -> None:
    memory = shop.open()
    shop.ask(b"get", b"k")
    del shop.disk.objects[b"k"]  # nobody has heard of that
    assert shop.ask(b"exists", b"k", fresh=True).words == ["no"]
    assert not memory.has(b"k")


def _held_up(shop: Shop, verb: bytes) -> Job:
    shop.send(verb, b"k")
    job = shop.take()
    job.outcomes = [shop.disk.perform(operation) for operation in job.operations]
    return job


def test_a_read_that_is_older_than_a_change_puts_nothing_on(shop: Shop) -> None:
    memory = shop.open()
    read = _held_up(shop, b"get")
    shop.service.replies.clear()
    for payload in (b"other", b"hallo"):  # as long as before
        shop.ask_while_owed(b"put", b"k", payload, replace=True)
        shop.settle()
    shop.service.finished(read)
    assert memory.get(b"k") in (None, b"hallo")


def test_of_two_reads_only_the_one_that_nothing_was_heard_since_puts_something_on(shop: Shop) -> None:
    memory = shop.open()
    old = _held_up(shop, b"get")
    shop.disk.set(b"k", b"other")
    shop.disk.ours.add(b"k")
    shop.hear(b"k")
    new = _held_up(shop, b"get")
    shop.service.finished(old)
    assert memory.get(b"k") is None
    shop.service.finished(new)
    assert memory.get(b"k") == b"other"


def test_what_is_heard_of_while_it_is_put_is_not_put_on(shop: Shop) -> None:
    memory = shop.open()
    shop.send(b"put", b"new", b"bytes")
    shop.coherence.ask(b"new")
    shop.do(shop.take())
    assert not memory.has(b"new")


# -- whether it is believed


def test_while_hits_are_not_believed_it_is_not_and_then_again(shop: Shop) -> None:
    memory = shop.open()
    shop.ask(b"get", b"k")
    del shop.disk.objects[b"k"]
    shop.disk.objects[b"other"] = b""
    shop.send(b"get", b"k")
    shop.do(shop.take())
    shop.service.replies.clear()
    assert not shop.coherence.coherent
    shop.shelves.judge()
    assert not memory.believed
    shop.settle()
    assert memory.believed


def test_a_loss_makes_an_end_of_it(shop: Shop) -> None:
    memory = shop.open()
    shop.ask(b"get", b"k")
    shop.coherence.lost("overflow")
    shop.shelves.judge()
    assert memory.descriptor == -1
    shop.scan()
    shop.settle()
    assert memory.released
    assert not memory.believed
    assert shop.open() is not memory


def test_a_store_that_is_away_takes_the_belief_along(shop: Shop) -> None:
    memory = shop.open()
    shop.service.store_away = True
    shop.shelves.judge()
    assert not memory.believed


def test_it_says_every_second_until_when_it_is_believed(shop: Shop) -> None:
    memory = shop.open()
    before = memory.until_s
    shop.now_s += 1
    shop.shelves.tick()
    assert memory.until_s == before + 1


# -- its size, and its end


def test_one_that_is_too_small_makes_way_for_a_larger_one(shop: Shop) -> None:
    memory = shop.open()
    memory.is_small = True
    shop.shelves.tick()
    shop.do_all()
    assert memory.released
    larger = shop.open()
    assert larger.table_bytes == 4 * memory.table_bytes
    assert shop.shelves.taken_bytes == larger.size_bytes


def test_it_does_not_grow_over_the_namespaces_bound(shop: Shop) -> None:
    shop.service.set_space("team", Namespace(shelf_bytes_max=7 * MIB))
    memory = shop.open(namespace="team")
    assert memory.size_bytes == 4 * MIB
    memory.is_small = True
    for _ in range(3):
        shop.shelves.tick()
    assert memory.believed


def test_its_memory_is_free_a_while_after_the_last_reader_has_gone(shop: Shop) -> None:
    memory = shop.open()
    for _ in range(100):
        shop.shelves.tick()
    assert memory.believed
    shop.service.gone(shop.peer)
    for _ in range(61):
        shop.shelves.tick()
    shop.do_all()
    assert memory.released
    assert shop.shelves.taken_bytes == 0


def test_closing_makes_an_end_of_all(shop: Shop) -> None:
    memories = [shop.open(), shop.open(namespace="team")]
    shop.shelves.close()
    assert [memory.released for memory in memories] == [1, 1]


# -- where room is made by use


@pytest.fixture
def making_room(shop: Shop) -> FakeMemory:
    shop.hear(b"team/t")  # its size is known, so that there can be bounds
    shop.service.set_space("team", Namespace(objects_max=10, eviction="lru"))
    shop.service.turn(1000)
    return shop.open(namespace="team")


def test_there_a_put_is_no_use_and_puts_nothing_on(shop: Shop, making_room: FakeMemory) -> None:
    shop.put(b"new", b"bytes", namespace="team")
    assert not making_room.held


def test_there_a_read_lasts_half_a_lease_and_counts_as_a_use_again(shop: Shop, making_room: FakeMemory) -> None:
    lease_ms = int(shop.service.limits.lease_s * 1000)
    shop.put(b"new", b"bytes", namespace="team")
    shop.ask(b"get", b"new", namespace="team")
    assert making_room.get(b"new") == b"bytes"
    shop.service.turn(1000 + lease_ms // 2 - 1)
    assert making_room.has(b"new")
    shop.service.turn(1000 + lease_ms // 2)
    assert not making_room.has(b"new")
    uses = shop.service.evictions._spaces[b"team/"].uses
    assert uses.is_leased(b"team/new", 1000 + lease_ms // 2 + lease_ms - 1, lease_ms)
