"""When the index may be believed: questions, looks, losses and scans.

Pure. The only writer of the index. A watcher event, a read that finds nothing and an own put or evict are all
*questions*; only a look (`lstat`) made after the question changes the index. What is kept true here:

* Looks at one name count in the order in which they were started, and none that was started before the running scan
  or the end of an own change (looks.py). A question that arrives while a look is under way makes it look again.
* While an operation of our own is changing a name, whatever is asked or seen of that name has it looked at again at
  its end: its outcome carries a look, but that look may be older than the question.
* A loss (overflow, watch gone…) raises `epoch`. The index is `coherent` once a scan that began after the last loss
  is complete: then, and only then, "it is there" may be answered from memory. "It is not there" never is.
* The event that the kernel sends of an own change is no question, where it is surely that one (echoes.py).
* The scan runs beside all this. It enters names it saw unless they were seen to go since it began, and what it did
  not see is looked at before it is believed gone (sweep.py).
* A look that fails changes nothing: its name stays in doubt, and while one is, every hit is looked up (doubts.py).
* An object that came or grew behind our back, or that a scan found and that was written to a moment before its first
  look, may be written in place: growth.py says when its size is looked at again.
* A name that was deleted is looked at a second time, a little later, unless it was seen to be gone (deletes.py).

The state is bounded by the number of distinct names, never by that of events. Decides only: `take_questions` says what
to look at, somebody else looks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable

from storekeeperd.deletes import Deletes
from storekeeperd.doubts import Doubts
from storekeeperd.echoes import Echoes
from storekeeperd.growth import Growth
from storekeeperd.index import UNSIZED, Index
from storekeeperd.looks import Looks
from storekeeperd.rounds import Rounds
from storekeeperd.sight import ABSENT, UNSEEN, size_of
from storekeeperd.sweep import Sweep


class Coherence:
    """Keeps one index true. Not locked: one thread owns it.

    Attributes:
        epoch: number of losses, the unknown state at start being the first.
        clean: the newest epoch that a complete scan has repaired.
        coherent: whether hits may be answered from the index.
        losses: how often what was lost, by kind.
        scans: complete scans.
        growth: objects that may be written in place at this moment.
        measures: rounds in which every object is looked at (see sizing.py).
        doubts: names of which nothing sure can be said, and who waits for them.
        echoes: what the watcher will hear of own changes.
        withdraw: called with a name of which from now on nothing may be said but by the index: a question about it has
            come, an operation of our own begins to change it, or it is about to leave the index; None if nobody says
            anything.
    """

    def __init__(self, index: Index) -> None:
        self._index = index
        self.epoch = 1
        self.clean = 0
        self.coherent = False
        self._watched = True
        self.losses: Counter[str] = Counter()
        self.scans = 0
        self.growth = Growth()
        self.measures = Rounds()
        self.doubts = Doubts()
        self.echoes = Echoes()
        self.withdraw: Callable[[bytes], None] | None = None
        self._looks = Looks()
        self._changing: dict[bytes, bool] = {}  # name -> asked about meanwhile
        self._deletes = Deletes()
        self._sweep = Sweep(index)
        self._scan_rounds = Rounds()
        self._doubt_sizes = False  # by the next scan
        self._scan_epoch = 0

    @property
    def watched(self) -> bool:
        """Whether changes are heard of at all; without that nothing is ever coherent."""
        return self._watched

    @watched.setter
    def watched(self, watched: bool) -> None:
        self._watched = watched
        self._judge()

    def _judge(self) -> None:
        self.coherent = self._watched and self.clean == self.epoch and not self.doubts.unanswered

    # -- questions and looks

    def hear(self, names: dict[bytes, None], deleted: dict[bytes, None]) -> None:
        """Takes names that the watcher heard of, and those of them that it heard were deleted."""
        if self._changing or self._looks or self.withdraw:
            for name in names:
                self.ask(name)
        else:
            self._looks.questions.add_all(names)
        self._deletes.report(deleted)

    def ask(self, name: bytes) -> None:
        """Takes a question: something may have happened to that name."""
        if self.withdraw is not None:
            self.withdraw(name)
        if name not in self._changing:
            self._looks.ask(name)
            return
        self._changing[name] = True
        if name in self._looks:
            self._looks.ask(name)

    def missed(self, name: bytes) -> None:
        """Takes that a read found no object of that name: a question, and no hit is believed until it is answered.

        The entry stays: the read may be older than what is known by now.
        """
        self.doubts.miss(name)
        self.coherent = False
        self.ask(name)

    def take_questions(self, limit: int) -> list[bytes]:
        """Returns at most `limit` names to look at now; a look must be started for each."""
        return self._looks.questions.take(limit)

    @property
    def questions(self) -> int:
        """How many names wait for a look to be started."""
        return len(self._looks.questions)

    @property
    def looking(self) -> int:
        """How many names are being looked at."""
        return len(self._looks)

    @property
    def in_doubt(self) -> int:
        """How many names wait for a look, those under way included."""
        return len(self._looks.questions) + len(self._looks) + len(self._looks.idle(self.doubts.unanswered))

    def is_settled(self, name: bytes) -> bool:
        """Returns whether no own operation changes a name, and it waits for no look."""
        return name not in self._changing and name not in self._looks and name not in self._looks.questions

    def start_look(self, name: bytes) -> int:
        """Registers a look that is about to be made; returns its number for `looked`."""
        return self._looks.start((name,))

    def start_looks(self, names: Collection[bytes]) -> int:
        """Registers one look at many names; returns its number for `looked_at_all`."""
        return self._looks.start(names)

    def looked(self, name: bytes, number: int, seen: int, *, recent: bool = False, idle: bool = False) -> None:
        """Takes what a look saw; looks.py says whether it counts.

        Args:
            name: what was looked at.
            number: which look it was.
            seen: as in sight.py, ABSENT or UNSEEN.
            recent: whether the file was written to a moment before.
            idle: nobody asked but a client, who has been answered.
        """
        counts, settles, again, alone = self._looks.told(name, number)
        if counts:
            if seen != UNSEEN:
                self._grow(name, seen, self._assign(name, seen), recent=recent)
                if settles:
                    self._settle(name, seen)
            elif idle and alone and not self._index.has(name) and name not in self.doubts.unanswered:
                self.doubts.settle(name)  # nothing is claimed of it, so nothing can be wrong
            else:
                self._unknown(name)
        if again:
            self.ask(name)

    def looked_at_all(
        self, names: Collection[bytes], number: int, seen: Iterable[int], recent: Collection[bytes] = ()
    ) -> None:
        """Takes what one look at many names saw; `recent` are those that were written to a moment before."""
        quiet = not self._sweep.leftovers and self._changing.keys().isdisjoint(names)
        if not quiet or not self._looks.told_alone(names, number):
            for name, one in zip(names, seen, strict=True):
                self.looked(name, number, one, recent=name in recent)
            return
        self._enter_all(dict(zip(names, seen, strict=True)), recent)

    def _enter_all(self, sights: dict[bytes, int], recent: Collection[bytes]) -> None:
        """Does as `looked` for many names of which nothing else is to be said: the hot path of a storm of changes."""
        assign, asked = self._index.assign, self.growth.asked
        news, gone = [], []
        for name, seen in sights.items():
            if seen == UNSEEN:
                self._unknown(name)
                continue
            if seen == ABSENT and self.withdraw is not None:
                self.withdraw(name)
            known = assign(name, seen)
            if seen == ABSENT:
                gone.append(name)
            elif size_of(seen) != known and (known != UNSIZED or name in recent):
                news.append(name)
            elif name in asked:
                self.growth.seen(name, news=False, recent=name in recent)
        self._sweep.gone(gone)
        self.growth.come(news)
        self.growth.go(gone, recent)
        if self.doubts.unanswered or self.doubts.sets:
            for name, seen in sights.items():
                if seen != UNSEEN:
                    self._settle(name, seen)
        elif self._deletes:
            self._deletes.seen(gone)

    def retry_unanswered(self) -> None:
        """Asks again what looks could not tell, some names at a time. To be called now and then."""
        for name in self.doubts.retries():
            self.ask(name)

    @property
    def wants_second_looks(self) -> bool:
        """Whether `ask_second_looks` has something to do."""
        return bool(self._deletes)

    def ask_second_looks(self) -> None:
        """Asks again about deletes that no look has seen. To be called every 50 ms while there are any."""
        for name in self._deletes.step():
            self.ask(name)

    def ask_grown(self, limit: int) -> None:
        """Asks about at most `limit` of the objects that may have grown, and are due for a look."""
        for name in self.growth.take(limit):
            self.ask(name)

    def ask_empty(self) -> None:
        """Asks about all files that were no objects a moment ago, but may be now."""
        for name in self.growth.empty:
            self.ask(name)

    def begin_measure(self) -> int:
        """Says that all objects are asked about from now on, in a round of its own; returns its number.

        Those that are being looked at may not be among the objects yet, and that look may be too old: they are asked
        about at once.
        """
        for name in list(self._looks.names()):
            self.ask(name)
        return self.measures.begin()

    def ask_unless_gone(self, names: Iterable[bytes]) -> None:
        """Asks about those of the names that are still objects."""
        for name in filter(self._index.has, names):
            self.ask(name)

    def take_doubts(self) -> set[bytes]:
        """Returns the names in doubt now, as a set that empties as they are looked at; `doubts` takes it back."""
        held = self.echoes.held
        changing = (name for name, asked in self._changing.items() if asked or held.get(name))
        names = {*self._looks.questions, *self._looks.names(), *self.doubts.unanswered, *changing}
        return self.doubts.hand_out(names)

    def take_unanswered(self) -> set[bytes]:
        """Returns the names that a read missed or a look could not tell of, as `take_doubts` does."""
        return self.doubts.hand_out(set(self.doubts.unanswered))

    # -- own operations

    def begin(self, name: bytes) -> None:
        """Says that an operation of our own starts to change a name."""
        if self.withdraw is not None:
            self.withdraw(name)
        self._changing[name] = False
        self.echoes.begin(name)
        self.doubts.begin(name)

    def finish(self, name: bytes, seen: int, result: bytes = b"") -> None:
        """Takes what the look at the end of an own operation saw, and what became of the operation.

        It is assigned at once, so that whoever is answered next sees what was done; and looked at again if
        somebody asked meanwhile, because the question may be younger than the look. A look that is under way may be
        older than the change, and does not count.
        """
        again = self._changing.pop(name)
        self._looks.void(name)
        if seen == UNSEEN:
            self._unknown(name)
        else:
            self._assign(name, seen)
        self.doubts.finish(name, told=seen != UNSEEN)
        self._sweep.changed(name)
        held = self.echoes.finish(name, b"" if again or seen == UNSEEN else result)
        if held:
            self._deletes.report({name: None})  # it may have been one
        if held or again or seen == UNSEEN:
            self.ask(name)
        else:  # the look is younger than every question
            self._answered(name)
            self.doubts.settle(name)

    # -- losses and scans

    def lost(self, kind: str) -> None:
        """Says that changes may have gone unseen; hits are not believed until a scan has repaired it."""
        self.epoch += 1
        # Of a change that is under way the event may be among what was lost; it would be awaited in vain.
        self.echoes.forget()
        self._changing = dict.fromkeys(self._changing, True)
        self.losses[kind] += 1
        self.coherent = False

    def want_scan(self, *, doubt_sizes: bool = False) -> int:
        """Asks for a scan that begins from now on, though nothing is known to be lost; returns its number.

        Args:
            doubt_sizes: whether objects that it finds as they were may have another size by now.
        """
        self._doubt_sizes = self._doubt_sizes or doubt_sizes
        return self._scan_rounds.want()

    def has_scanned(self, number: int) -> bool:
        """Returns whether the scan of that number, or a later one, is complete."""
        return self._scan_rounds.is_complete(number)

    @property
    def wants_scan(self) -> bool:
        """Whether a scan should be started."""
        return not self._sweep.number and (self.clean != self.epoch or self._scan_rounds.wanted)

    @property
    def scanning(self) -> bool:
        """Whether a scan runs, or what it found is still being looked at."""
        return bool(self._sweep.number)

    def begin_scan(self) -> None:
        """Says that a scan of the directory starts now; the watches are in place."""
        # What is there as before may have been replaced, though, while changes went unheard.
        doubt_sizes = self._doubt_sizes or self.clean != self.epoch
        self._sweep.begin(self._scan_rounds.begin(), self._changing, doubt_sizes=doubt_sizes)
        self._doubt_sizes = False
        self._scan_epoch = self.epoch
        # A look that is older than the loss must not assign now: it would shield a stale value from the scan.
        self._looks.void_all()
        self._changing = dict.fromkeys(self._changing, True)

    def scanned(self, names: Collection[bytes]) -> None:
        """Takes names that the running scan saw."""
        self._sweep.see(names)

    def scanned_doubtful(self, names: Iterable[bytes]) -> None:
        """Takes names that the running scan saw, but that may be no objects: they are looked at before it counts."""
        for name in names:
            self._sweep.leftovers.add(name)
            self.ask(name)

    def end_scan(self, *, complete: bool) -> None:
        """Says that the directory was read to its end, or that reading failed: then the scan counts for nothing."""
        assert self._sweep.number
        if complete:
            self._sweep.end()
        else:
            self._sweep.stop()

    def sweep(self) -> bool:
        """Does one turn of what follows a scan: asks about names it did not see. True if there is more to do."""
        for name in self._sweep.leave():
            self.ask(name)
        self._judge_scan()
        return self._sweep.unchecked

    def _judge_scan(self) -> None:
        if self._sweep.complete:
            self._complete_scan()

    def _complete_scan(self) -> None:
        self.clean = self._scan_epoch
        self._scan_rounds.complete(self._sweep.number)
        self.scans += 1
        self._sweep.stop()
        self._judge()

    # -- the one door

    def _assign(self, name: bytes, seen: int) -> int | None:
        """Enters what was seen; returns the size that was known, as Index.size does."""
        if seen == ABSENT and self.withdraw is not None:
            self.withdraw(name)
        known = self._index.assign(name, seen)
        if name in self._changing:
            self._changing[name] = True
        if seen == ABSENT:
            self._sweep.gone((name,))
        self._strike(name)
        return known

    def _unknown(self, name: bytes) -> None:
        """Nothing can be said of a name: its entry stays as it is, nothing is believed, and it is asked again."""
        self.doubts.fail(name)
        self.coherent = False
        self._strike(name)

    def _grow(self, name: bytes, seen: int, known: int | None, *, recent: bool) -> None:
        """Takes what a look that counts saw, and the size that was known before."""
        if seen == ABSENT:
            self.growth.go([name], [name] if recent else ())
        else:
            news = size_of(seen) != known and (recent or known != UNSIZED)
            self.growth.seen(name, news=news, recent=recent)

    def _settle(self, name: bytes, seen: int) -> None:
        """Ends what was in doubt: the look is younger than every question."""
        self._answered(name)
        if seen == ABSENT and self._deletes:
            self._deletes.seen((name,))
        if name in self._changing:  # what that change will bring may be older than this
            self._changing[name] = True
        else:
            self.doubts.settle(name)

    def _answered(self, name: bytes) -> None:
        if self.doubts.unanswered:
            self.doubts.answer(name)
            self._judge()

    def _strike(self, name: bytes) -> None:
        """Takes a name off the list of those that are looked at before a scan counts."""
        if self._sweep.leftovers:
            self._sweep.looked(name)
            self._judge_scan()
