"""Names that wait for a look, and which of the looks under way count.

Pure. Owns the order of questions and looks, not what a look saw. A look takes its time: it is started, made by somebody
else, and told later, and several at one name may be told in any order. What counts is decided by when they started:

* A look that was told makes all that were started before it worthless.
* So does an own change of the name that has ended since, or a scan that has begun since: `void`.
* A question is answered by a look that was started after it. If the newest one was not, the name is to be asked about
  again when it is told.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Iterator
from itertools import filterfalse
from typing import NamedTuple


class Questions:
    """Names in the order in which they came, each once. All methods are fast, however many there are."""

    def __init__(self) -> None:
        self._new: dict[bytes, None] = {}
        self._old: dict[bytes, None] = {}  # those that are handed out first...
        self._order: list[
            bytes
        ] = []  # ...from the end of this: a dict is slow to find its first key in again and again

    def __len__(self) -> int:
        return len(self._new) + len(self._old)

    def __contains__(self, name: bytes) -> bool:
        return name in self._new or name in self._old

    def __iter__(self) -> Iterator[bytes]:
        yield from self._old
        yield from self._new

    def without(self, names: set[bytes]) -> set[bytes]:
        """Returns those of the names that do not wait."""
        return names.difference(self._new, self._old)

    def add(self, name: bytes) -> None:
        """Adds a name, unless it waits already."""
        if name not in self._old:
            self._new[name] = None

    def add_all(self, names: dict[bytes, None]) -> None:
        """Adds names, but for those that wait already."""
        self._new.update(dict.fromkeys(filterfalse(self._old.__contains__, names)) if self._old else names)

    def take(self, limit: int) -> list[bytes]:
        """Removes and returns the oldest names, at most `limit`; maybe fewer than there are."""
        if limit <= 0:
            return []
        if not self._old:
            if len(self._new) <= limit:
                names = list(self._new)
                self._new = {}
                return names
            self._old, self._new = self._new, {}
            self._order = list(self._old)[::-1]
        names = self._order[: -limit - 1 : -1]
        del self._order[-limit:]
        deque(map(self._old.__delitem__, names), maxlen=0)
        return names


class Verdict(NamedTuple):
    """What becomes of a look that was told.

    Attributes:
        counts: what it saw was true after all that is known.
        settles: every question so far is older than it.
        again: nobody else will look, so the name is to be asked about again.
        alone: there was no other look at that name as long as this one took.
    """

    counts: bool
    settles: bool
    again: bool
    alone: bool = False


_WORTHLESS = Verdict(counts=False, settles=False, again=False)
_VOID = Verdict(counts=False, settles=False, again=True)
_OLD = Verdict(counts=True, settles=False, again=True)
_OVERTAKEN = Verdict(counts=True, settles=False, again=False)
_YOUNG = Verdict(counts=True, settles=True, again=False)
_ALONE = Verdict(counts=True, settles=True, again=False, alone=True)


class _UnderWay(NamedTuple):
    """The looks at one name.

    Attributes:
        newest: number of the one that was started last.
        first: number of the first one since the newest of those before was told; they do not count any more.
        floor: those up to that number do not count.
        asked: number of the newest one when the name was last asked about.
    """

    newest: int
    first: int
    floor: int
    asked: int


class Looks:
    """Looks at many names.

    Attributes:
        questions: names that a look is to be started for.
    """

    def __init__(self) -> None:
        self.questions = Questions()
        self._under_way: dict[bytes, _UnderWay] = {}
        self._last = 0

    def __contains__(self, name: bytes) -> bool:
        return name in self._under_way

    def __len__(self) -> int:
        return len(self._under_way)

    def names(self) -> Collection[bytes]:
        """Returns the names that are being looked at."""
        return self._under_way.keys()

    def idle(self, names: Iterable[bytes]) -> set[bytes]:
        """Returns those of the names that neither wait for a look nor are being looked at."""
        idle = set(names)
        idle.difference_update(self._under_way)
        return self.questions.without(idle)

    def ask(self, name: bytes) -> None:
        """Takes a question: only looks that are started from now on answer it."""
        looks = self._under_way.get(name)
        if looks is None:
            self.questions.add(name)
        else:
            self._under_way[name] = looks._replace(asked=looks.newest)

    def start(self, names: Collection[bytes]) -> int:
        """Registers one look at many names that is about to be made; returns its number for `told`."""
        self._last += 1
        looks = _UnderWay(newest=self._last, first=self._last, floor=self._last - 1, asked=0)
        if self._under_way.keys().isdisjoint(names):
            self._under_way.update(dict.fromkeys(names, looks))
        else:
            for name in names:
                others = self._under_way.get(name)
                self._under_way[name] = looks if others is None else others._replace(newest=self._last)
        return self._last

    def void(self, name: bytes) -> None:
        """Says that no look at that name which is under way counts."""
        looks = self._under_way.get(name)
        if looks is not None:
            self._under_way[name] = looks._replace(floor=looks.newest)

    def void_all(self) -> None:
        """Says that no look which is under way counts."""
        self._under_way = {name: looks._replace(floor=looks.newest) for name, looks in self._under_way.items()}

    def told_alone(self, names: Collection[bytes], number: int) -> bool:
        """Takes that a look has been made, if it was the only one at each of the names and they were not asked about.

        Returns:
            Whether that was so: then it counts and settles everything. Else nothing was taken; tell name by name.
        """
        under_way = self._under_way
        shared = under_way.get(next(iter(names), b""))  # by all names of one `start`, while nothing else happens
        if shared != _UnderWay(number, number, number - 1, 0):
            return False
        for name in names:
            if under_way.get(name) is not shared:
                return False
        for name in names:
            under_way.pop(name, None)
        return True

    def told(self, name: bytes, number: int) -> Verdict:
        """Takes that a look has been made; returns what becomes of it."""
        looks = self._under_way.get(name)
        if looks is None:
            return _WORTHLESS
        if number < looks.newest:
            if number <= looks.floor:
                return _WORTHLESS
            self._under_way[name] = looks._replace(floor=number)
            return _YOUNG if number > looks.asked else _OVERTAKEN
        del self._under_way[name]
        if number <= looks.floor:
            return _VOID
        if number <= looks.asked:
            return _OLD
        return _ALONE if number == looks.first else _YOUNG
