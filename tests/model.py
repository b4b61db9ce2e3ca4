"""All interleavings of one key: the real Coherence and Index between a directory, a kernel's queue and a scan.

A state is what the outside world is (the file, the queue, looks and own changes under way, a scan) together with a
copy of the Coherence. `explore` visits every state that can be reached with so many outside changes, own changes and
free slots in the queue, and raises `Broken` with the way there if at rest the index is not what the directory is, if
an own change is not seen at once, if the scan alone removes an object, or if a fresh answer does not have what was
done before it was asked for.

The kernel's queue obeys inotify(7) as the kernel's source has it: when it is full an event is dropped and one marker is
queued, but no second one while the first is still in the queue. So events may stand behind the marker, and more of
them be dropped silently, before it is read. It joins an event to the last one if they are the same.
"""

from __future__ import annotations

from bisect import bisect
from collections import deque
from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

from storekeeperd.coherence import Coherence
from storekeeperd.deletes import Deletes
from storekeeperd.doubts import Doubts
from storekeeperd.echoes import MADE, REMOVED
from storekeeperd.growth import Growth
from storekeeperd.index import _MARK, _MARK_BITS, Index
from storekeeperd.looks import Looks
from storekeeperd.sight import ABSENT
from storekeeperd.sweep import Sweep

KEY = b"k"
SIZE = 1
MARKER = "marker"
RESULTS = {
    (True, False): b"created",
    (True, True): b"same",
    (False, True): b"evicted",
    (False, False): b"absent",
}
"""Of an own change that wants the object there or not, by whether it was there."""


class Broken(AssertionError):
    """A promise is broken; the message has the way to it."""


@dataclass(frozen=True)
class Outside:
    """Everything but the coherence.

    Attributes:
        there: the file exists. ghost: it was removed, but looks and scans still see it (kernels 5.3 to 5.16);
            old_ghost: and did so when second looks were asked for the last time.
        toggles, changes, asks: outside changes, own changes and fresh questions still to come.
        queue: what the kernel has for the watcher: names' events ("made", "removed") and MARKER.
        looks: looks under way, (number, what was seen or None), oldest first.
        own: an own change under way: None, "begun", its result when it is done, or that and what its look saw.
        scan: None, "begun", ("read", seen it), "told".
        modified: whether the file was changed since the scan began; since the fresh answer was asked for.
        fresh: a fresh answer: None, "asked", "heard".
    """

    there: bool = False
    ghost: bool = False
    old_ghost: bool = False
    toggles: int = 2
    changes: int = 1
    asks: int = 1
    queue: tuple[str, ...] = ()
    looks: tuple[tuple[int, int | None], ...] = ()
    own: Any = None
    scan: Any = None
    modified_in_scan: bool = False
    fresh: str | None = None
    modified_since_asked: bool = False

    @property
    def seen(self) -> int:
        return SIZE if self.there or self.ghost else ABSENT


def copy_of(coherence: Coherence) -> Coherence:
    """Returns a copy that shares nothing."""
    old = coherence._index
    index = Index()
    index._entries.update(old._entries)
    index._mark = old._mark
    index._only_confirmed = old._only_confirmed
    index.whole = replace(old.whole)
    twin = object.__new__(type(coherence))
    for name, value in vars(coherence).items():
        if isinstance(value, dict | set | list):
            value = value.copy()
        setattr(twin, name, value)
    twin._index = index
    twin.doubts = copy_of_doubts(coherence.doubts)
    twin._sweep = copy_of_sweep(coherence._sweep, index)
    twin._scan_rounds = copy(coherence._scan_rounds)
    twin._looks = copy_of_looks(coherence._looks)
    twin._deletes = Deletes()
    twin._deletes._new, twin._deletes._old = coherence._deletes._new.copy(), coherence._deletes._old.copy()
    twin.growth = Growth()  # of sizes, which the model does not have
    twin.echoes = copy(coherence.echoes)
    twin.echoes.awaited, twin.echoes.held = coherence.echoes.awaited.copy(), coherence.echoes.held.copy()
    return twin


def copy_of_doubts(doubts: Doubts) -> Doubts:
    twin = Doubts()
    twin.unanswered = doubts.unanswered.copy()
    twin._unseen = doubts._unseen.copy()
    copies = {id(names): set(names) for names in doubts._sets}
    twin._sets = [copies[id(names)] for names in doubts._sets]
    twin._older = {
        name: [copies[id(names)] for names in older if id(names) in copies] for name, older in doubts._older.items()
    }
    return twin


def copy_of_sweep(sweep: Sweep, index: Index) -> Sweep:
    twin = copy(sweep)
    twin._index = index
    twin.leftovers = sweep.leftovers.copy()
    twin._gone = sweep._gone.copy()
    twin._changing = sweep._changing.copy()
    twin._unswept = None if sweep._unswept is None else sweep._unswept.copy()
    return twin


def copy_of_looks(looks: Looks) -> Looks:
    twin = Looks()
    twin._last = looks._last
    twin._under_way = looks._under_way.copy()
    twin.questions._new = looks.questions._new.copy()
    twin.questions._old = looks.questions._old.copy()
    twin.questions._order = looks.questions._order.copy()
    return twin


def fingerprint(outside: Outside, coherence: Coherence) -> Any:
    """Returns what tells two states apart: numbers of looks and scans count by their order only."""
    numbers = sorted(number for number, _ in outside.looks)
    rank = {number: place for place, number in enumerate(numbers)}
    index = coherence._index
    entry = index._entries.get(KEY)
    looks = coherence._looks._under_way.get(KEY)
    doubts, sweep = coherence.doubts, coherence._sweep
    older = set(map(id, doubts._older.get(KEY, ())))
    return (
        replace(outside, looks=tuple((rank[number], seen) for number, seen in outside.looks)),
        None if entry is None else (entry & _MARK == index._mark, entry >> _MARK_BITS),
        index._only_confirmed,
        min(coherence.epoch - coherence.clean, 3),
        coherence.coherent,
        len(coherence._looks.questions),
        looks and tuple(bisect(numbers, number) for number in looks),
        coherence._changing.get(KEY),
        coherence.echoes.awaited.get(KEY),
        coherence.echoes.held.get(KEY),
        bool(doubts.unanswered),
        bool(coherence._deletes._new),
        bool(coherence._deletes._old),
        tuple((bool(names), id(names) in older) for names in doubts._sets),
        bool(sweep.number),
        sweep.number and min(coherence.epoch - coherence._scan_epoch, 2),
        sweep._began_empty,
        bool(sweep._gone),
        None if sweep._unswept is None else bool(sweep._unswept),
        bool(sweep.leftovers),
        bool(sweep._changing),
        tuple(getattr(coherence, "journal", ())),
    )


class Model:
    """The steps that are possible in a state.

    Args:
        coherence_type: the algorithm. Its attribute `end_barrier`, if it has one, keeps a scan from ending before the
            queue is empty.
        start: what the world is at first.
        slots: events that the kernel's queue holds.
        early: a kernel that reports a delete before looks see it.
        busy: events of other names are always in the queue, too: it is never read to its end.
    """

    def __init__(
        self,
        coherence_type: type[Coherence],
        start: Outside,
        slots: int = 1,
        *,
        early: bool = False,
        busy: bool = False,
    ) -> None:
        self.coherence_type = coherence_type
        self.start = start
        self.slots = slots
        self.early = early
        self.busy = busy
        self.end_barrier = getattr(coherence_type, "end_barrier", False)

    def explore(self) -> int:
        """Visits all states, breadth first; returns how many. Raises `Broken`."""
        coherence = self.coherence_type(Index())
        coherence.echoes.sure = True
        first = fingerprint(self.start, coherence)
        came_by: dict[Any, tuple[Any, str]] = {first: (None, "start")}
        todo = deque([(self.start, coherence, first)])
        while todo:
            outside, coherence, place = todo.popleft()
            quiet = True
            for what, after, twin, progress in self.steps(outside, coherence):
                quiet = quiet and not progress
                try:
                    self.check_step(what, outside, coherence, twin)
                except Broken as broken:
                    raise Broken(f"{broken}\n{self.way(came_by, place)}\n{what}") from None
                there = fingerprint(after, twin)
                if there not in came_by:
                    came_by[there] = (place, what)
                    todo.append((after, twin, there))
            if quiet and coherence._index.has(KEY) != outside.there:
                raise Broken(f"at rest the index is wrong\n{self.way(came_by, place)}")
        return len(came_by)

    @staticmethod
    def way(came_by: dict[Any, tuple[Any, str]], place: Any) -> str:
        steps = []
        while place is not None:
            place, what = came_by[place]
            steps.append(what)
        return "\n".join(reversed(steps))

    def check_step(self, what: str, outside: Outside, before: Coherence, twin: Coherence) -> None:
        has = twin._index.has(KEY)
        if what == "own change answered" and has != (outside.own[1] != ABSENT):
            raise Broken("an own change is not seen at once")
        if what in ("scan ends", "sweep", "scan tells") and before._index.has(KEY) and not has:
            raise Broken("a scan alone removed an object")
        # On an early kernel a ghost may be in it: looks are all there is, and they see it.
        if what == "fresh answer" and not self.early and not outside.modified_since_asked and has != outside.there:
            raise Broken("a fresh answer is wrong")

    def steps(self, at: Outside, coherence: Coherence) -> Iterator[tuple[str, Outside, Coherence, bool]]:
        """Yields every possible step: its name, the state after it, and whether there is no rest before it."""
        if at.toggles:
            after = self.change(replace(at, toggles=at.toggles - 1), not at.there)
            yield "outside change", after, coherence, False
        if at.ghost:
            yield "ghost vanishes", replace(at, ghost=False, old_ghost=False), coherence, True
        if at.asks and at.fresh is None:
            after = replace(at, asks=at.asks - 1, fresh="asked", modified_since_asked=False)
            yield "fresh asked", after, coherence, False
        yield from self.steps_of_watch(at, coherence)
        yield from self.steps_of_looks(at, coherence)
        yield from self.steps_of_own(at, coherence)
        yield from self.steps_of_scan(at, coherence)
        yield from self.steps_of_fresh(at, coherence)

    def steps_of_watch(self, at: Outside, coherence: Coherence) -> Iterator[tuple[str, Outside, Coherence, bool]]:
        if at.queue:
            twin = copy_of(coherence)
            self.read(twin, at.queue[0], last=len(at.queue) == 1)
            yield f"reads {at.queue[0]}", replace(at, queue=at.queue[1:]), twin, True
        if coherence.wants_second_looks:
            # 50 ms after the last time: what was a ghost then is none any more.
            twin = copy_of(coherence)
            twin.ask_second_looks()
            ghost = at.ghost and not at.old_ghost
            yield "second looks", replace(at, ghost=ghost, old_ghost=ghost), twin, True

    def steps_of_looks(self, at: Outside, coherence: Coherence) -> Iterator[tuple[str, Outside, Coherence, bool]]:
        if coherence.questions and len(at.looks) < 2:
            twin = copy_of(coherence)
            number = twin.start_looks(twin.take_questions(1))
            yield "look starts", replace(at, looks=(*at.looks, (number, None))), twin, True
        for place, (number, seen) in enumerate(at.looks):
            others = at.looks[:place], at.looks[place + 1 :]
            if seen is None:
                looks = (*others[0], (number, at.seen), *others[1])
                yield "look sees", replace(at, looks=looks), coherence, True
            else:
                twin = copy_of(coherence)
                twin.looked(KEY, number, seen)
                yield "look told", replace(at, looks=(*others[0], *others[1])), twin, True

    def steps_of_own(self, at: Outside, coherence: Coherence) -> Iterator[tuple[str, Outside, Coherence, bool]]:
        if at.own is None and at.changes:
            twin = copy_of(coherence)
            twin.begin(KEY)
            yield "own change begins", replace(at, own="begun", changes=at.changes - 1), twin, False
        elif at.own == "begun":
            for there in (True, False):
                after = self.change(at, there) if there != at.there else at
                result = RESULTS[there, at.there]
                yield f"own {'put' if there else 'evict'}", replace(after, own=result, ghost=False), coherence, True
        elif isinstance(at.own, bytes):
            yield "own look", replace(at, own=(at.own, at.seen)), coherence, True
        elif at.own is not None:
            twin = copy_of(coherence)
            twin.finish(KEY, at.own[1], at.own[0])
            yield "own change answered", replace(at, own=None), twin, True

    def steps_of_scan(self, at: Outside, coherence: Coherence) -> Iterator[tuple[str, Outside, Coherence, bool]]:
        if at.scan is None and coherence._sweep._unswept is None and coherence.wants_scan:
            twin = copy_of(coherence)
            twin.begin_scan()
            # It begins some 50 ms after the loss: no ghost of before is left.
            yield "scan begins", replace(at, scan="begun", modified_in_scan=False, ghost=False), twin, True
        elif at.scan == "begun":
            for seen in {at.seen != ABSENT} | ({True, False} if at.modified_in_scan else set()):
                yield f"scan reads {seen}", replace(at, scan=("read", seen)), coherence, True
        elif isinstance(at.scan, tuple):
            twin = copy_of(coherence)
            twin.scanned([KEY] if at.scan[1] else [])
            yield "scan tells", replace(at, scan="told"), twin, True
        elif at.scan == "told" and not (self.end_barrier and at.queue):
            twin = copy_of(coherence)
            twin.end_scan(complete=True)
            yield "scan ends", replace(at, scan=None), twin, True
        elif coherence._sweep.unchecked or coherence._sweep.complete:
            twin = copy_of(coherence)
            twin.sweep()
            yield "sweep", at, twin, True

    def steps_of_fresh(self, at: Outside, coherence: Coherence) -> Iterator[tuple[str, Outside, Coherence, bool]]:
        if at.fresh == "asked":
            twin = copy_of(coherence)
            for place, event in enumerate(at.queue):
                self.read(twin, event, last=place == len(at.queue) - 1)
            twin.take_doubts()
            twin.awaited = twin.epoch  # type: ignore[attr-defined]
            yield "fresh heard", replace(at, fresh="heard", queue=()), twin, True
        elif at.fresh == "heard" and not any(coherence.doubts._sets) and coherence.clean >= coherence.awaited:  # type: ignore[attr-defined]
            twin = copy_of(coherence)
            twin.doubts._sets = []
            yield "fresh answer", replace(at, fresh=None), twin, True

    def read(self, coherence: Coherence, event: str, *, last: bool) -> None:
        """Takes an event as watcher.py and reconciler.py do; nothing is awaited after the last of the queue."""
        if event == MARKER:
            coherence.echoes.forget()
            coherence.lost("overflow")
        elif not coherence.echoes.is_own(KEY, MADE if event == "made" else REMOVED):
            coherence.hear({KEY: None}, {KEY: None} if event == "removed" else {})
        if last and not self.busy:
            coherence.echoes.drained()

    def change(self, at: Outside, there: bool) -> Outside:
        """Returns the world after a change of the file, with its event queued or dropped."""
        event = "made" if there else "removed"
        queue = at.queue
        if queue and queue[-1] == event:
            pass  # joined
        elif len(queue) < self.slots:
            queue = (*queue, event)
        elif MARKER not in queue:
            queue = (*queue, MARKER)
        ghost = self.early and not there and at.own is None
        return replace(
            at, there=there, ghost=ghost, old_ghost=False, queue=queue, modified_in_scan=True, modified_since_asked=True
        )
