"""The algorithm of coherence.py in all interleavings of one key, and the broken variants that must be found.

`--large-model` visits larger models, for some minutes.
"""

from __future__ import annotations

from collections.abc import Collection

import pytest

from model import KEY, Broken, Model, Outside
from storekeeperd.coherence import Coherence
from storekeeperd.echoes import MADE, Echoes
from storekeeperd.index import Index
from storekeeperd.sight import ABSENT

SMALL = {
    "outside and own changes": Model(Coherence, Outside(toggles=2, changes=1, asks=0)),
    "fresh answers": Model(Coherence, Outside(toggles=2, changes=0, asks=1)),
    "fresh answers beside an own change": Model(Coherence, Outside(there=True, toggles=1, changes=1, asks=1)),
    "a queue of two": Model(Coherence, Outside(there=True, toggles=3, changes=0, asks=0), slots=2),
    "a kernel that reports deletes early": Model(Coherence, Outside(toggles=2, changes=0, asks=0), early=True),
    "two own changes in a busy directory": Model(Coherence, Outside(toggles=1, changes=2, asks=0), slots=3, busy=True),
}
LARGE = {
    "all at once": Model(Coherence, Outside(toggles=2, changes=1, asks=1)),
    "many outside changes": Model(Coherence, Outside(toggles=4, changes=0, asks=1)),
    "more changes of both": Model(Coherence, Outside(toggles=3, changes=1, asks=0)),
    "two own changes": Model(Coherence, Outside(toggles=1, changes=2, asks=1)),
    "all at once, a queue of two": Model(Coherence, Outside(toggles=2, changes=1, asks=1), slots=2),
    "a kernel that reports deletes early": Model(Coherence, Outside(toggles=3, changes=1, asks=0), early=True),
}


@pytest.mark.parametrize("name", SMALL)
def test_at_rest_the_index_is_the_directory_in_every_interleaving(name: str) -> None:
    states = SMALL[name].explore()
    print(f"{name}: {states} states")
    assert states > 1000


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", LARGE)
def test_at_rest_the_index_is_the_directory_in_every_interleaving_of_more(
    name: str, request: pytest.FixtureRequest
) -> None:
    if not request.config.getoption("--large-model"):
        pytest.skip("takes minutes: --large-model")
    print(f"{name}: {LARGE[name].explore()} states")


class KeepsOldLooks(Coherence):
    """Looks from before a scan may assign during it, and shield a stale value from it."""

    def begin_scan(self) -> None:
        looks, changing = dict(self._looks._under_way), dict(self._changing)
        super().begin_scan()
        self._looks._under_way, self._changing = looks, changing


class BelievesTheScan(Coherence):
    """Names that a scan saw are entered though they were seen to go since it began: nothing is kept of that."""

    def scanned(self, names: Collection[bytes]) -> None:
        self._index.confirm(names)


class AssignsAnyLook(Coherence):
    """A look assigns though a younger one was told before: there is no mark of what is under way."""

    def looked(self, name: bytes, number: int, seen: int, *, recent: bool = False) -> None:
        self._looks._under_way.pop(name, None)
        self._assign(name, seen)


class AssignsOwnChangesBlindly(Coherence):
    """An own change is believed as it was, whatever was heard meanwhile."""

    def finish(self, name: bytes, seen: int, result: bytes = b"") -> None:
        self._changing.pop(name)
        self._assign(name, seen)


class DropsQuestionsDuringALook(Coherence):
    """A question that comes while a look is under way does not make it look again."""

    def ask(self, name: bytes) -> None:
        if name not in self._looks:
            super().ask(name)


class BelievesChangesFromBeforeTheScan(Coherence):
    """A scan counts though the look of an own change that began before it was told during it."""

    def begin_scan(self) -> None:
        super().begin_scan()
        self._sweep._changing = set()
        self._sweep.leftovers = set()


class ForgetsLosses(Coherence):
    """A loss is not repaired."""

    def lost(self, kind: str) -> None:
        self.losses[kind] += 1


class RemovesWithoutALook(Coherence):
    """What a scan did not see is removed at once."""

    def sweep(self) -> bool:
        for name in self._index.unmarked(self._sweep._unswept or []):
            self._assign(name, ABSENT)
        return super().sweep()


class LooksOnceAtDeletes(Coherence):
    """No second look for kernels that report a delete before it can be seen."""

    def ask_second_looks(self) -> None:
        self._deletes.step()
        self._deletes.step()


class AnswersWithoutWaiting(Coherence):
    """A fresh answer does not wait for the names in doubt."""

    def take_doubts(self) -> set[bytes]:
        return set()


class AnyEcho(Echoes):
    """Any event of a name is taken for the one that is awaited, and it stays awaited though all was read."""

    def is_own(self, name: bytes, event: int) -> bool:
        first = self.held.get(name)
        if first is None:
            return self.awaited.pop(name, 0) != 0
        return super().is_own(name, event)

    def finish(self, name: bytes, result: bytes) -> bool:
        first = self.held.pop(name, 0)
        if first:
            return False
        self.awaited[name] = MADE
        return False

    def drained(self) -> None:
        pass


class AwaitsAnything(Coherence):
    """An event is awaited of whatever came of an own change, and any is taken for it."""

    def __init__(self, index: Index) -> None:
        super().__init__(index)
        self.echoes = AnyEcho()


class StaleEchoes(Echoes):
    """What is read during the next change of a name stays awaited of the one before."""

    def is_own(self, name: bytes, event: int) -> bool:
        awaited = self.awaited.get(name)
        own = super().is_own(name, event)
        if name in self.held and awaited is not None:
            self.awaited[name] = awaited
        return own


class AwaitsForTooLong(Coherence):
    """As it is, but for such echoes."""

    def __init__(self, index: Index) -> None:
        super().__init__(index)
        self.echoes = StaleEchoes()


class AwaitsThoughLost(Coherence):
    """An own change is awaited though its event may have been dropped."""

    def __init__(self, index: Index) -> None:
        super().__init__(index)
        self.echoes = AnyEcho()

    def lost(self, kind: str) -> None:
        changing, held = self._changing, self.echoes.held.copy()
        super().lost(kind)
        self._changing = changing
        self.echoes.held.update(dict.fromkeys(changing, 0) | held)


class HidesWhatIsHeld(Coherence):
    """A fresh answer does not wait for a name of which an event is held."""

    def take_doubts(self) -> set[bytes]:
        held, self.echoes.held = self.echoes.held, {}
        try:
            return super().take_doubts()
        finally:
            self.echoes.held = held


class BelievesEvents(Coherence):
    """Edges instead of levels: an event says what is there; those heard during a scan are applied at its end."""

    def __init__(self, index: Index) -> None:
        super().__init__(index)
        self.journal: list[bool] = []

    def hear(self, names: dict[bytes, None], deleted: dict[bytes, None]) -> None:
        there = KEY not in deleted
        if self.scanning:
            self.journal.append(there)
        else:
            self._index.assign(KEY, 1 if there else ABSENT)

    def _complete_scan(self) -> None:
        super()._complete_scan()
        if self.journal:
            self._index.assign(KEY, 1 if self.journal[-1] else ABSENT)
        self.journal = []


class BelievesEventsWithABarrierAtTheEnd(BelievesEvents):
    """The same, but a scan does not end before all that was queued by then is read."""

    end_barrier = True


@pytest.mark.parametrize(
    ("broken", "start"),
    [
        (KeepsOldLooks, Outside(toggles=3, changes=0, asks=0)),
        (BelievesTheScan, Outside(there=True, toggles=2, changes=1, asks=0)),
        (AssignsAnyLook, Outside(toggles=2, changes=1, asks=0)),
        (AssignsOwnChangesBlindly, Outside(toggles=1, changes=1, asks=0)),
        (DropsQuestionsDuringALook, Outside(toggles=2, changes=0, asks=0)),
        (ForgetsLosses, Outside(toggles=3, changes=0, asks=0)),
        (RemovesWithoutALook, Outside(toggles=3, changes=0, asks=0)),
        (AnswersWithoutWaiting, Outside(toggles=1, changes=0, asks=1)),
        (AwaitsAnything, Outside(toggles=2, changes=1, asks=0)),
        (AwaitsThoughLost, Outside(toggles=3, changes=1, asks=0)),
        (HidesWhatIsHeld, Outside(toggles=1, changes=1, asks=1)),
        (BelievesEvents, Outside(toggles=3, changes=0, asks=0)),
        (BelievesEventsWithABarrierAtTheEnd, Outside(toggles=4, changes=0, asks=0)),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_the_model_finds_a_broken_variant(broken: type[Coherence], start: Outside) -> None:
    with pytest.raises(Broken):
        Model(broken, start).explore()


@pytest.mark.timeout(3600)
def test_the_model_finds_an_echo_that_is_awaited_for_too_long(request: pytest.FixtureRequest) -> None:
    if not request.config.getoption("--large-model"):
        pytest.skip("takes minutes: --large-model")
    start = Outside(toggles=1, changes=3, asks=0)
    with pytest.raises(Broken):
        Model(AwaitsForTooLong, start, slots=3, busy=True).explore()


@pytest.mark.timeout(3600)
def test_the_model_finds_a_change_from_before_the_scan(request: pytest.FixtureRequest) -> None:
    if not request.config.getoption("--large-model"):
        pytest.skip("takes minutes: --large-model")
    with pytest.raises(Broken):
        Model(BelievesChangesFromBeforeTheScan, Outside(toggles=3, changes=1, asks=1)).explore()


def test_the_model_finds_a_missing_second_look() -> None:
    with pytest.raises(Broken):
        Model(LooksOnceAtDeletes, Outside(toggles=2, changes=0, asks=0), early=True).explore()
