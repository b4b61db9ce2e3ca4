"""How operations become jobs, and outcomes come back to those who wait for them.

Pure. Owns the jobs that wait to be carried out, and the two rules they obey: one change of a name at a time, and every
look is registered before it is made (see turns.py and coherence.py). What an outcome means to a verb is a ticket: a
function that takes the operation and its outcome.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from storekeeper.errors import InternalError
from storekeeperd import faults
from storekeeperd.answers import Answer
from storekeeperd.coherence import Coherence
from storekeeperd.index import Index
from storekeeperd.operations import Change, Commit, Job, Look, Operation, Outcome, Put, Survey
from storekeeperd.sight import ABSENT, UNSEEN, size_of
from storekeeperd.turns import Turns

_SURVEYED_MAX = 1024
"""Names looked at because of a question, at a time."""

_UNLINKED = (b"evicted", b"replaced", b"created")
"""Results of changes after which an object has no name any more that was there before; of one that had ended, too."""

Ticket = Callable[[Any, Outcome], None] | None
"""What to do with the outcome of an operation."""


class Witness:
    """A ticket of a change that has to know what stood under the name before.

    Only when it is the change's turn that can be told: others may have changed the name since it was asked for.

    Args:
        then: takes the operation, its outcome, and what the index had of the name, as `Index.seen`.
    """

    __slots__ = ("_then", "was")

    def __init__(self, then: Callable[[Any, Outcome, int | None], None]) -> None:
        self._then = then
        self.was: int | None = None

    def __call__(self, operation: Any, outcome: Outcome) -> None:
        """Takes the outcome."""
        self._then(operation, outcome, self.was)


class Orders:
    """Jobs on their way out and back.

    Args:
        index, coherence: what exists, and what asks and learns about it.
        questions_per_job: operations of one kind that are put into one job.
        fault: called with the answer a job was for, and an error, if its outcomes could not be taken in.

    Attributes:
        jobs: work to be carried out, oldest first; the driver takes it from here.
        unlinked: called with the name of an object that a change removed or replaced.
    """

    def __init__(
        self,
        index: Index,
        coherence: Coherence,
        questions_per_job: int,
        fault: Callable[[Answer | None, InternalError], None] = lambda _answer, _error: None,
    ) -> None:
        self._fault = fault
        self.jobs: deque[Job] = deque()
        self._out: dict[int, Job] = {}  # those under way, by their identity
        self._surveyed = 0  # names that are being looked at because of a question
        self._index = index
        self._coherence = coherence
        self._turns = Turns()
        self._questions_per_job = questions_per_job
        self.unlinked: Callable[[bytes], None] = lambda _name: None

    @property
    def under_way(self) -> int:
        """How many jobs are handed out, or wait in `jobs`."""
        return len(self._out)

    def is_busy(self, prefix: bytes) -> bool:
        """Returns whether anything is under way, or waits, with an object whose name begins so; looks do not count."""
        return self._turns.has_any(prefix) or any(
            getattr(operation, "name", b"").startswith(prefix)
            for job in self._out.values()
            for operation in job.operations
            if not isinstance(operation, Look)
        )

    @property
    def unfinished(self) -> int:
        """How many jobs are under way, and changes wait for one of them."""
        return self.under_way + self._turns.queued

    def is_changing(self, name: bytes) -> bool:
        """Returns whether a change of a name is under way, or waits."""
        return name in self._turns

    def order(self, operations: list[Operation], tickets: list[Any], owner: Answer | None = None) -> None:
        """Orders operations as one job."""
        if operations:
            job = Job(operations, tickets, owner)
            self._out[id(job)] = job
            self.jobs.append(job)

    def order_in_parts(self, operations: list[Operation], tickets: list[Ticket], owner: Answer | None = None) -> None:
        """Orders many operations as several jobs, so that more than one worker has something of them."""
        size = self._questions_per_job
        for start in range(0, len(operations), size):
            self.order(operations[start : start + size], tickets[start : start + size], owner)

    def change(self, changes: Iterable[tuple[Change, Ticket]], owner: Answer | None = None) -> None:
        """Orders changes whose names are free; the others follow when it is their turn."""
        take, begin = self._turns.take, self._coherence.begin
        operations: list[Operation] = []
        tickets: list[Ticket] = []
        for operation, ticket in changes:
            name = operation.name
            if take(name, (operation, ticket, owner)):
                begin(name)
                operations.append(operation)
                tickets.append(self._change_ticket(name, ticket))
        self.order_in_parts(operations, tickets, owner)

    def look_ticket(self, name: bytes, then: Ticket = None) -> Ticket:
        """Registers a look that is about to be ordered; returns its ticket, which takes it in and then calls `then`."""
        number = self._coherence.start_look(name)

        def looked(operation: Look, outcome: Outcome) -> None:
            self._coherence.looked(name, number, outcome.seen, recent=name in outcome.recent, idle=True)
            if then is not None:
                then(operation, outcome)

        return looked

    def ask(self, names_max: int) -> int:
        """Turns open questions about names into jobs, at most `names_max`; returns how many it turned.

        Only so many are under way at a time: the rest waits where each name stands once.
        """
        names_max = min(names_max, _SURVEYED_MAX - self._surveyed)
        asked = 0
        while names := self._coherence.take_questions(min(self._questions_per_job, names_max - asked)):
            known = list(map(self._index.seen, names))
            self.order([Survey(names, known)], [self._survey_ticket(names)])
            asked += len(names)
        return asked

    def finished(self, job: Job) -> None:
        """Takes back a job with its outcomes."""
        del self._out[id(job)]
        for operation, ticket, outcome in zip(job.operations, job.tickets, job.outcomes, strict=True):
            if ticket is not None:
                try:
                    ticket(operation, outcome)
                except Exception as error:
                    self._fault(job.owner, faults.report(type(operation).__name__, error))

    def observe(self, name: bytes, seen: int) -> None:
        """Takes what a read found in passing: a question, if the index says otherwise."""
        known = self._index.size(name)
        if seen == UNSEEN or (seen == known and seen >= 0):
            return
        size = size_of(seen)
        if size == ABSENT and known is not None:
            self._coherence.missed(name)
        elif size not in (ABSENT, known):
            self._coherence.ask(name)

    def _survey_ticket(self, names: list[bytes]) -> Ticket:
        number = self._coherence.start_looks(names)
        self._surveyed += len(names)

        def surveyed(_: Survey, outcome: Outcome) -> None:
            self._surveyed -= len(names)
            seen = outcome.payload if outcome.error is None else [UNSEEN] * len(names)
            self._coherence.looked_at_all(names, number, seen, outcome.recent)

        return surveyed

    def _change_ticket(self, name: bytes, ticket: Ticket) -> Ticket:
        if type(ticket) is Witness:
            ticket.was = self._index.seen(name)

        def changed(operation: Change, outcome: Outcome) -> None:
            if outcome.word in _UNLINKED or (outcome.word == b"same" and _takes_place(operation)):
                self.unlinked(operation.name)
            self._coherence.finish(operation.name, outcome.seen, outcome.word)
            following = self._turns.release(operation.name)
            if following is not None:
                next_operation, next_ticket, next_owner = following
                self._coherence.begin(next_operation.name)
                self.order([next_operation], [self._change_ticket(next_operation.name, next_ticket)], next_owner)
            if ticket is not None:
                ticket(operation, outcome)

        return changed


def _takes_place(operation: Change) -> bool:
    """Returns whether a put takes the place of the same bytes: durable ones are made so by a copy of their own."""
    return isinstance(operation, Put | Commit) and operation.durable
