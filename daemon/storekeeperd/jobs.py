"""Who carries out the service's jobs: the loop itself while that is quick, a small pool of threads otherwise.

Owns the threads. Knows nothing of what a job means; outcomes go back as they came. A job starts on the loop if its
operations are quick by their kind and the disk has lately been quick; a long one goes on in later turns, a slice at a
time. An operation that finds it would wait sends the rest of its job to the pool. For small objects the loop is
several times cheaper than a thread: the interpreter lock changes hands at every system call otherwise, measured.

What cannot be done at once waits in a rota (see rota.py), for the loop as for each kind of thread: no client waits for
all that another one has asked for. Threads are given little more than they have under way.
"""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from collections import deque
from collections.abc import Callable

from storekeeper.errors import InternalError, TimedOut
from storekeeperd import faults
from storekeeperd.config import Limits
from storekeeperd.disk import Disk
from storekeeperd.ground import Stay
from storekeeperd.groups import Groups
from storekeeperd.operations import (
    Commit,
    Evict,
    Get,
    Job,
    Look,
    Mark,
    Open,
    Operation,
    Outcome,
    Put,
    Read,
    Stat,
    Survey,
    Task,
    Verify,
    WouldWait,
    Write,
    failed,
)
from storekeeperd.rota import Rota
from storekeeperd.sight import UNSEEN

log = logging.getLogger(__name__)

_SLOW_FOR_S = 1.0
_NAMES_PER_OPERATION = 8
"""So many looks of a survey count as one operation: on a busy node a loop is easily put aside for a few ms."""
_SLICE_PART_MIN = 8
"""A job's slice is divided by the number of those who wait for one, at most by this."""
_MOOT = (Put, Evict, Verify, Get, Stat, Look, Write, Read)
"""What need not be done for a peer that is gone."""
_ALWAYS_QUICK = frozenset({Get, Look, Mark, Open, Read, Stat, Survey})
"""What is quick by its kind alone; a batch of reads is asked at once."""
_AHEAD = 2
"""Jobs handed out per thread: one that it has, one that it takes next without waiting for the loop."""


class Lane:
    """Threads of one kind, and the jobs that wait for them."""

    def __init__(self, kind: str, threads: int, ahead: int, work: Callable[[Lane], None]) -> None:
        self.given: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self.given_max = threads * ahead
        self.under_way = 0
        self._waiting = Rota()
        self.threads = [
            threading.Thread(target=work, args=(self,), name=f"storekeeperd-{kind}-{number}", daemon=True)
            for number in range(threads)
        ]

    def add(self, job: Job) -> None:
        """Takes a job, to be carried out when it is its turn."""
        self._waiting.add(job)
        self.give()

    def give(self) -> None:
        """Gives the threads what they can take."""
        while self._waiting and self.under_way < self.given_max:
            self.under_way += 1
            self.given.put(self._waiting.take())

    def end(self) -> None:
        """Ends the threads after all jobs that are there."""
        while self._waiting:
            self.given.put(self._waiting.take())
        for _ in self.threads:
            self.given.put(None)


class Jobs:
    """Carries out jobs.

    Args:
        disk: what they are carried out on.
        limits: what is short enough for the loop.
        wake: called from a worker when something has finished; must be quick and thread-safe.
        clock: seconds, monotonic.
        inline: whether the loop may carry out anything itself; not where the disk is across a network.
    """

    def __init__(
        self,
        disk: Disk,
        limits: Limits,
        wake: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
        *,
        inline: bool = True,
    ) -> None:
        self._disk = disk
        self._limits = limits
        self._wake = wake
        self._clock = clock
        self._slow_s = limits.slow_disk_ms / 1000
        self._slow_until = 0.0 if inline else math.inf
        self._slice_ends = math.inf  # until the first turn begins
        threads = (limits.pool_threads + 2) // 3
        # What waits for the platter has threads of its own, so that reads never wait for somebody's fsync; and so have
        # looks that no client waits for, of which there may be a million. Small durable puts share theirs (groups.py).
        self._reads = Lane("job", threads, _AHEAD, self._work)
        self._syncs = Lane("slow-job", threads, _AHEAD, self._work)
        self._looks = Lane("look", threads, _AHEAD, self._work)
        self._lanes = (self._reads, self._syncs, self._looks)
        self._groups = Groups(limits.commit_group_max, limits.commit_delay_ms_max / 1000)
        self._given_groups: queue.SimpleQueue[list[Job] | None] = queue.SimpleQueue()
        self._done_groups: deque[list[Job]] = deque()
        self._committer = threading.Thread(target=self._commit, name="storekeeperd-commit", daemon=True)
        self._waiting = Rota()  # for the loop
        self._done: deque[tuple[Lane, Job]] = deque()
        self.inline_jobs = 0
        self.pool_jobs = 0
        for thread in self._threads:
            thread.start()

    @property
    def _threads(self) -> list[threading.Thread]:
        return [self._committer, *(thread for lane in self._lanes for thread in lane.threads)]

    def begin_turn(self) -> None:
        """Allows the loop its slice of inline work anew."""
        self._slice_ends = self._clock() + self._limits.inline_slice_ms / 1000

    def start(self, job: Job) -> bool:
        """Carries a job out now (True: its outcomes are there), or later: `go_on` or `done` will tell (False)."""
        if _is_moot(job):
            return True
        quick = _ALWAYS_QUICK.issuperset(map(type, job.operations)) or all(map(self._is_quick, job.operations))
        if self._clock() < self._slow_until or not quick:
            self._hand_over(job)
            return False
        if self._waiting or self._clock() >= self._slice_ends:
            self._waiting.add(job)  # others came first, or have their turn first
            return False
        return self._try_inline(job)

    def go_on(self) -> Job | None:
        """Carries out what waits for the loop while its slice lasts; returns the first job that is finished, if any."""
        while self._waiting and self._clock() < self._slice_ends:
            job = self._waiting.take()
            if _is_moot(job):
                return job
            if self._clock() < self._slow_until:
                self._hand_over(job)
            elif self._try_inline(job):
                return job
        return None

    @property
    def unfinished(self) -> bool:
        """Whether `go_on` has something to do."""
        return bool(self._waiting)

    def done(self) -> list[Job]:
        """Returns the jobs that the pool has finished since the last call."""
        jobs = []
        while self._done:
            lane, job = self._done.popleft()
            lane.under_way -= 1
            jobs.append(job)
        if jobs:
            for lane in self._lanes:
                lane.give()
        while self._done_groups:
            group = self._done_groups.popleft()
            self._groups.ended(len(group), self._clock())
            jobs += group
        if self._groups.due < math.inf:
            self._give_group()
        return jobs

    @property
    def due(self) -> float:
        """When `done` is to be called at the latest, as the clock has it; it may be endless."""
        return self._groups.due

    def close(self, timeout_s: float) -> None:
        """Ends the threads after the jobs they have. Waits for them, but no longer than `timeout_s` in all."""
        for lane in self._lanes:
            lane.end()
        while group := self._groups.end():
            self._given_groups.put(group)
        self._given_groups.put(None)
        deadline = self._clock() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, deadline - self._clock()))

    # -- on the loop

    def _try_inline(self, job: Job) -> bool:
        """Does what it may of a job on the loop; returns whether that was all. What was done is kept."""
        clock = self._clock
        now = clock()
        slice_ends = self._slice_ends
        if self._waiting:
            share = self._limits.inline_slice_ms / 1000 / min(_SLICE_PART_MIN, 1 + self._waiting.contenders)
            slice_ends = min(slice_ends, now + share)
        outcomes = job.outcomes
        with self._disk.stay() as stay:
            for operation in job.operations[len(outcomes) :] if outcomes else job.operations:
                if now >= slice_ends:
                    self._waiting.put_back(job)
                    return False
                before = now
                try:
                    outcomes.append(self._perform(operation, stay, wait=False))
                except WouldWait:
                    self._hand_over(job)
                    return False
                now = clock()
                if now - before > self._slow_s and now - before > self._slow_s * _weight(operation):
                    self._slow_until = now + _SLOW_FOR_S
        self.inline_jobs += 1
        return True

    def _hand_over(self, job: Job) -> None:
        self.pool_jobs += 1
        if not job.outcomes and all(map(self._is_short, job.operations)):
            self._groups.add(job, self._clock())
            self._give_group()
        else:
            self._lane(job).add(job)

    def _give_group(self) -> None:
        group = self._groups.take(self._clock())
        if group:
            self._given_groups.put(group)

    def _lane(self, job: Job) -> Lane:
        first = job.operations[0]
        if isinstance(first, Survey):
            return self._looks
        if isinstance(first, Put) and first.durable:
            return self._syncs
        return self._syncs if isinstance(first, Commit | Verify | Task) else self._reads

    def _is_short(self, operation: Operation) -> bool:
        """Whether an operation is a durable put that shares its waits with others."""
        return (
            isinstance(operation, Put)
            and operation.durable
            and operation.small
            and len(operation.payload) <= self._limits.inline_bytes_max
        )

    def _is_quick(self, operation: Operation) -> bool:
        """Whether an operation is quick by its kind: nothing that waits for a platter, nor moves or frees much."""
        if isinstance(operation, Put):
            short = len(operation.payload) <= self._limits.inline_bytes_max
            return short and operation.small and not operation.durable
        if isinstance(operation, Write):
            return len(operation.payload) <= self._limits.inline_bytes_max
        if isinstance(operation, Evict):
            return operation.small
        return not isinstance(operation, Commit | Verify)

    # -- in threads

    def _perform(self, operation: Operation, stay: Stay, *, wait: bool) -> Outcome:
        try:
            return self._disk.perform(operation, stay, wait=wait)
        except WouldWait:
            raise
        except Exception as error:
            return failed(faults.report(type(operation).__name__, error), UNSEEN)

    def _work(self, lane: Lane) -> None:
        while (job := lane.given.get()) is not None:
            if not _is_moot(job):
                with self._disk.stay() as stay:
                    for operation in job.operations[len(job.outcomes) :]:
                        job.outcomes.append(self._perform(operation, stay, wait=True))
            self._finish(lane, job)

    def _finish(self, lane: Lane, job: Job) -> None:
        self._done.append((lane, job))
        self._wake()

    def _commit(self) -> None:
        """Carries out durable puts, a group at a time."""
        while (group := self._given_groups.get()) is not None:
            due = [job for job in group if not _is_moot(job)]
            if due:
                self._put_together(due)
            self._done_groups.append(group)
            self._wake()

    def _put_together(self, group: list[Job]) -> None:
        puts = [operation for job in group for operation in job.operations if isinstance(operation, Put)]
        try:
            with self._disk.stay() as stay:
                outcomes = self._disk.put_together(puts, stay)
        except Exception as error:
            fault: InternalError = faults.report("a group of durable puts", error)
            outcomes = [failed(fault, UNSEEN) for _ in puts]
        for job in group:
            job.outcomes, outcomes = outcomes[: len(job.operations)], outcomes[len(job.operations) :]


def _is_moot(job: Job) -> bool:
    """Returns whether a job was not begun and nobody will hear of it: then its outcomes are that it is not done.

    Who comes, orders and goes leaves nothing to do behind. What holds a descriptor is carried out all the same.
    """
    if job.owner is None or not job.owner.peer.gone or job.outcomes:
        return False
    if not all(isinstance(operation, _MOOT) for operation in job.operations):
        return False
    error = TimedOut("the connection has ended; nothing was done")
    job.outcomes.extend(failed(error, UNSEEN) for _ in job.operations)
    return True


def _weight(operation: Operation) -> float:
    """How many operations' time one may take before the disk counts as slow."""
    return max(1.0, len(operation.names) / _NAMES_PER_OPERATION) if isinstance(operation, Survey) else 1.0
