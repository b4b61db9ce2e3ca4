"""The service under seeded worlds: at rest index and disk are equal, and no acknowledged change is lost.

`--seeds N` plays N worlds from `--first-seed` on. A failure prints its seed and its log.
"""

from __future__ import annotations

import pytest

from simulation import MOVED_HERE, World, Wrong
from storekeeperd.coherence import Coherence
from storekeeperd.echoes import Echoes
from storekeeperd.index import Index


def test_the_service_keeps_its_promises_in_every_world(request: pytest.FixtureRequest) -> None:
    first = request.config.getoption("--first-seed")
    count = request.config.getoption("--seeds")
    print(f"seeds {first} to {first + count - 1}")
    for seed in range(first, first + count):
        World(seed).run()


def test_a_world_is_the_same_every_time() -> None:
    def story(seed: int) -> list[str]:
        world = World(seed)
        world.run()
        return world.log

    assert story(5) == story(5)
    assert story(5) != story(6)


class AssignsBlindly(Coherence):
    """An own change is believed as it was, without asking again about what was heard meanwhile."""

    def finish(self, name: bytes, seen: int, result: bytes = b"") -> None:
        self._changing.pop(name)
        self._assign(name, max(seen, -1))


class LooksOnlyOnce(Coherence):
    """A question during a look is dropped."""

    def ask(self, name: bytes) -> None:
        if name not in self._looks:
            super().ask(name)


class ForgetsLosses(Coherence):
    """A loss is not repaired."""

    def lost(self, reason: str) -> None:
        self.losses[reason] += 1


class BelievesTheScan(Coherence):
    """Names that a scan saw are entered though they were seen to go since it began."""

    def scanned(self, names: list[bytes]) -> None:  # type: ignore[override]
        self._index.confirm(names)


class KeepsOldLooks(Coherence):
    """Looks from before a scan may assign during it."""

    def begin_scan(self) -> None:
        looks = dict(self._looks._under_way)
        changing = dict(self._changing)
        super().begin_scan()
        self._looks._under_way = looks
        self._changing = changing


class AssignsAnyLook(Coherence):
    """A look assigns though a later one was started."""

    def looked(self, name: bytes, number: int, seen: int, *, recent: bool = False, idle: bool = False) -> None:
        self._looks._under_way.pop(name, None)
        self._assign(name, max(seen, -1))


class ReplacementsToo(Echoes):
    """The event of a replacement is awaited, too: the kernel may have joined it with another's."""

    def finish(self, name: bytes, result: bytes) -> bool:
        first = self.held.get(name)
        if result != b"replaced" or first is None:
            return super().finish(name, result)
        del self.held[name]
        if not first:
            self.awaited[name] = MOVED_HERE
        return first not in (0, MOVED_HERE)


class AwaitsReplacements(Coherence):
    """As it is, but for such echoes."""

    def __init__(self, index: Index) -> None:
        super().__init__(index)
        self.echoes = ReplacementsToo()


class AnyEcho(Echoes):
    """Any event of a name is taken for the one that is awaited, for ever."""

    def is_own(self, name: bytes, event: int) -> bool:
        if name in self.held:
            return super().is_own(name, event)
        return self.awaited.pop(name, 0) != 0

    def finish(self, name: bytes, result: bytes) -> bool:
        wrong = super().finish(name, result)
        if result in (b"created", b"evicted"):
            self.awaited[name] = 1
        return wrong

    def drained(self) -> None:
        pass

    def forget(self) -> None:
        pass


class AwaitsAnything(Coherence):
    """As it is, but for such echoes."""

    def __init__(self, index: Index) -> None:
        super().__init__(index)
        self.echoes = AnyEcho()


class ShowsWhatIsChanged(Coherence):
    """What an own operation is changing stays on the shelf."""

    def begin(self, name: bytes) -> None:
        withdraw, self.withdraw = self.withdraw, None
        super().begin(name)
        self.withdraw = withdraw


class ShowsWhatIsAsked(Coherence):
    """What the watcher hears of stays on the shelf until it is looked at."""

    def ask(self, name: bytes) -> None:
        withdraw, self.withdraw = self.withdraw, None
        super().ask(name)
        self.withdraw = withdraw


class ShowsWhatIsNotSettled(Coherence):
    """What is put goes onto the shelf though something was heard meanwhile."""

    def is_settled(self, name: bytes) -> bool:
        return True


@pytest.mark.parametrize(
    "broken",
    [
        ShowsWhatIsChanged,
        ShowsWhatIsAsked,
        ShowsWhatIsNotSettled,
        AssignsBlindly,
        LooksOnlyOnce,
        ForgetsLosses,
        BelievesTheScan,
        KeepsOldLooks,
        AssignsAnyLook,
        AwaitsReplacements,
        AwaitsAnything,
    ],
)
def test_the_simulation_finds_a_broken_algorithm(broken: type[Coherence]) -> None:
    # A wrong answer, that is, not a mutant that no longer fits the code.
    with pytest.raises(Wrong, match=r"WRONG: (?!AttributeError|TypeError|NameError|KeyError)"):
        for seed in range(1, 3000):
            world = World(seed, broken)
            world.STEPS = 60 if seed % 2 else world.STEPS  # a short one ends before its wrongs are put right
            world.run()
