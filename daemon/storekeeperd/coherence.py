"""When the index may be believed: questions, looks, losses and scans.

Pure. The only writer of the index. A watcher event, a read that finds nothing and an own put or evict are all
*questions*; only a look (`lstat`) made after the question changes the index. What is kept true here:

* Of several looks at one name only the one that was started last may assign, and none that was started before the
  running scan. A question that arrives while a look is under way makes it look again.
* While an operation of our own is changing a name, whatever is asked or seen of that name has it looked at again at
  its end: its outcome carries a look, but that look may be older than the question.
* A loss (overflow, watch gone…) raises `epoch`. The index is `coherent` once a scan that began after the last loss
  is complete: then, and only then, "it is there" may be answered from memory. "It is not there" never is.
* The scan runs beside all this. It enters names it saw unless they were seen to go since it began, and what it did
  not see is looked at before it is believed gone.

Decides only: `take_questions` says what to look at, somebody else looks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from storekeeperd.index import Index
from storekeeperd.operations import ABSENT, UNSEEN

_SWEEP_NAMES = 20_000
"""Names checked per turn when a scan ends."""


class Coherence:
    """Keeps one index true. Not locked: one thread owns it.

    Attributes:
        epoch: number of losses, the unknown state at start being the first.
        clean: the newest epoch that a complete scan has repaired.
        coherent: whether hits may be answered from the index.
        watched: whether changes are heard of at all; without that nothing is ever coherent.
        losses: how often what was lost, by reason.
        scans: complete scans.
    """

    def __init__(self, index: Index) -> None:
        self._index = index
        self.epoch = 1
        self.clean = 0
        self.coherent = False
        self.watched = True
        self.losses: Counter[str] = Counter()
        self.scans = 0
        self._questions: dict[bytes, None] = {}
        self._looking: dict[bytes, tuple[int, bool]] = {}  # name -> (newest look, look again)
        self._last_look = 0
        self._changing: dict[bytes, bool] = {}  # name -> asked about meanwhile
        self._unanswered: set[bytes] = set()
        self._scan_epoch = 0  # 0: no scan is running
        self._gone: set[bytes] = set()  # seen to be absent since the scan began
        self._unswept: list[bytes] | None = None  # names still to be checked against the finished scan
        self._leftovers: set[bytes] = set()  # names the scan did not see; looked at before it counts

    # -- questions and looks

    def ask(self, name: bytes) -> None:
        """Takes a question: something may have happened to that name."""
        if name in self._changing:
            self._changing[name] = True
        elif name in self._looking:
            self._looking[name] = (self._looking[name][0], True)
        else:
            self._questions[name] = None

    def take_questions(self, limit: int) -> list[bytes]:
        """Returns at most `limit` names to look at now; each must be `start_look`ed."""
        questions = self._questions
        if len(questions) <= limit:
            self._questions = {}
            return list(questions)
        names = [name for name, _ in zip(questions, range(limit), strict=False)]
        for name in names:
            del questions[name]
        return names

    @property
    def questions(self) -> int:
        """How many names wait for a look, those under way included."""
        return len(self._questions) + len(self._looking) + len(self._unanswered)

    def start_look(self, name: bytes) -> int:
        """Registers a look that is about to be made; returns its number for `looked`."""
        self._last_look += 1
        self._looking[name] = (self._last_look, False)
        return self._last_look

    def looked(self, name: bytes, number: int, seen: int) -> None:
        """Takes what a look saw. It counts only if no later one was started."""
        newest, again = self._looking.get(name, (0, False))
        if newest != number:
            return
        del self._looking[name]
        if again:
            self.ask(name)
        elif seen == UNSEEN:
            self._unknown(name)
        else:
            self._assign(name, seen)

    def retry_unanswered(self) -> None:
        """Asks again what a look could not tell. To be called now and then."""
        names, self._unanswered = self._unanswered, set()
        for name in names:
            self.ask(name)

    # -- own operations

    def begin(self, name: bytes) -> None:
        """Says that an operation of our own starts to change a name."""
        self._changing[name] = False

    def finish(self, name: bytes, seen: int) -> None:
        """Takes what the look at the end of an own operation saw.

        It is assigned at once, so that whoever is answered next sees what was done; and looked at again if
        somebody asked meanwhile, because the question may be younger than the look.
        """
        again = self._changing.pop(name)
        if seen == UNSEEN:
            self._unknown(name)
        else:
            self._assign(name, seen)
        if again or seen == UNSEEN or name in self._looking:
            self.ask(name)

    # -- losses and scans

    def lost(self, reason: str) -> None:
        """Says that changes may have gone unseen; hits are not believed until a scan has repaired it."""
        self.epoch += 1
        self.losses[reason] += 1
        self.coherent = False

    @property
    def wants_scan(self) -> bool:
        """Whether a scan should be started."""
        return self.clean != self.epoch and not self._scan_epoch

    def begin_scan(self) -> None:
        """Says that a scan of the directory starts now; the watches are in place."""
        assert not self._scan_epoch
        self._scan_epoch = self.epoch
        self._index.next_mark()
        self._gone = set()
        # A look that is older than the loss must not assign now: it would shield a stale value from the scan.
        for name, (number, _) in self._looking.items():
            self._looking[name] = (number, True)
        for name in self._changing:
            self._changing[name] = True

    def scanned(self, names: Iterable[bytes]) -> None:
        """Takes names that the running scan saw."""
        gone = self._gone
        self._index.confirm([name for name in names if name not in gone] if gone else names)

    def end_scan(self, *, complete: bool) -> None:
        """Says that the directory was read to its end, or that reading failed: then the scan counts for nothing."""
        assert self._scan_epoch
        if complete:
            self._unswept = self._index.names()
        else:
            self._abandon_scan()

    def sweep(self) -> bool:
        """Does one turn of what follows a scan: asks about names it did not see. True if there is more to do."""
        if self._unswept is None:
            return False
        chunk = self._unswept[-_SWEEP_NAMES:]
        del self._unswept[-_SWEEP_NAMES:]
        for name in self._index.unmarked(chunk):
            self._leftovers.add(name)
            self.ask(name)
        if not self._unswept and not self._leftovers:
            self._complete_scan()
        return bool(self._unswept)

    def _complete_scan(self) -> None:
        self.clean = self._scan_epoch
        self.coherent = self.watched and self.clean == self.epoch
        self.scans += 1
        self._abandon_scan()

    def _abandon_scan(self) -> None:
        self._scan_epoch = 0
        self._gone = set()
        self._unswept = None
        self._leftovers = set()

    # -- the one door

    def _assign(self, name: bytes, seen: int) -> None:
        self._index.assign(name, seen)
        if name in self._changing:
            self._changing[name] = True
        if not self._scan_epoch:
            return
        if seen == ABSENT:
            self._gone.add(name)
        if self._leftovers:
            self._leftovers.discard(name)
            if not self._leftovers and not self._unswept:
                self._complete_scan()

    def _unknown(self, name: bytes) -> None:
        """Nothing can be said of a name: leave it out of the index, where every miss is looked at, and ask later."""
        self._index.assign(name, ABSENT)
        self._unanswered.add(name)
        if name in self._leftovers:
            self._abandon_scan()
