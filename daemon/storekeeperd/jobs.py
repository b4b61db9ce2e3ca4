"""Who carries out the service's jobs: the loop itself while that is quick, a small pool of threads otherwise.

Owns the threads. Knows nothing of what a job means; outcomes go back as they came. A job starts on the loop if its
operations are quick by their kind and the disk has lately been quick; a long one goes on in the next turns, a slice
at a time. An operation that finds it would wait sends the rest of its job to the pool. For small objects the loop is
several times cheaper than a thread: the interpreter lock changes hands at every system call otherwise, measured.
"""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from collections import deque
from collections.abc import Callable

from storekeeper.errors import InternalError
from storekeeperd.config import Limits
from storekeeperd.disk import Disk, WouldWait
from storekeeperd.ground import Stay
from storekeeperd.operations import UNSEEN, Commit, Evict, Job, Operation, Outcome, Put, Survey, Write, failed

log = logging.getLogger(__name__)

_SLOW_FOR_S = 1.0
_NAMES_PER_OPERATION = 8
"""So many looks of a survey count as one operation: on a busy node a loop is easily put aside for a few ms."""


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
        # What waits for the platter has threads of its own, so that reads never wait for somebody's fsync; and so have
        # looks that no client waits for, of which there may be a million.
        self._todo: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._slow: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._looks: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._unfinished: deque[Job] = deque()  # on the loop, for the next turns
        self._done: deque[Job] = deque()
        self._threads = [
            threading.Thread(target=self._work, args=(todo,), name=f"storekeeperd-{kind}-{number}", daemon=True)
            for number in range((limits.pool_threads + 2) // 3)
            for kind, todo in (("job", self._todo), ("slow-job", self._slow), ("look", self._looks))
        ]
        self.inline_jobs = 0
        self.pool_jobs = 0
        for thread in self._threads:
            thread.start()

    def start(self, job: Job) -> bool:
        """Carries a job out now (True: its outcomes are there), or later: `done` will tell (False)."""
        if self._clock() < self._slow_until or not all(map(self._is_quick, job.operations)):
            self._hand_over(job)
            return False
        if self._unfinished:
            self._unfinished.append(job)  # others came first
            return False
        return self._try_inline(job)

    def go_on(self) -> None:
        """Carries out a slice of the jobs that were too long for one turn; what is finished is `done`."""
        slice_ends = self._clock() + self._limits.inline_slice_ms / 1000
        while self._unfinished and self._clock() < slice_ends:
            job = self._unfinished.popleft()
            if self._clock() < self._slow_until:
                self._hand_over(job)
            elif self._try_inline(job):
                self._done.append(job)

    @property
    def unfinished(self) -> bool:
        """Whether `go_on` has something to do."""
        return bool(self._unfinished)

    def done(self) -> list[Job]:
        """Returns the jobs that the pool has finished since the last call."""
        jobs = []
        while self._done:
            jobs.append(self._done.popleft())
        return jobs

    def close(self, timeout_s: float) -> None:
        """Ends the threads after the jobs they have. Waits for them, but no longer than `timeout_s` in all."""
        for _ in self._threads:
            self._todo.put(None)
            self._slow.put(None)
            self._looks.put(None)
        deadline = self._clock() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, deadline - self._clock()))

    def _try_inline(self, job: Job) -> bool:
        """Does what it may of a job on the loop; returns whether that was all. What was done is kept."""
        clock = self._clock
        now = clock()
        slice_ends = now + self._limits.inline_slice_ms / 1000
        outcomes = job.outcomes
        with self._disk.stay() as stay:
            for operation in job.operations[len(outcomes) :] if outcomes else job.operations:
                if now >= slice_ends:
                    self._unfinished.append(job)
                    return False
                before = now
                try:
                    outcomes.append(self._perform(operation, stay, wait=False))
                except WouldWait:
                    self._hand_over(job)
                    return False
                now = clock()
                if now - before > self._slow_s * _weight(operation):
                    self._slow_until = now + _SLOW_FOR_S
        self.inline_jobs += 1
        return True

    def _hand_over(self, job: Job) -> None:
        self.pool_jobs += 1
        waits = any(
            isinstance(operation, Commit) or getattr(operation, "durable", False) for operation in job.operations
        )
        looks = isinstance(job.operations[0], Survey)
        (self._looks if looks else self._slow if waits else self._todo).put(job)

    def _is_quick(self, operation: Operation) -> bool:
        """Whether an operation is quick by its kind: nothing that waits for a platter, nor moves or frees much."""
        if isinstance(operation, Put):
            short = len(operation.payload) <= self._limits.inline_bytes_max
            return short and operation.small and not operation.durable
        if isinstance(operation, Write):
            return len(operation.payload) <= self._limits.inline_bytes_max
        if isinstance(operation, Evict):
            return operation.small
        return not isinstance(operation, Commit)

    def _perform(self, operation: Operation, stay: Stay, *, wait: bool) -> Outcome:
        try:
            return self._disk.perform(operation, stay, wait=wait)
        except WouldWait:
            raise
        except Exception as error:
            log.exception("internal error in %s", type(operation).__name__)
            return failed(InternalError(f"a fault of the daemon ({type(error).__name__}); see its log"), UNSEEN)

    def _work(self, todo: queue.SimpleQueue[Job | None]) -> None:
        while (job := todo.get()) is not None:
            with self._disk.stay() as stay:
                for operation in job.operations[len(job.outcomes) :]:
                    job.outcomes.append(self._perform(operation, stay, wait=True))
            self._done.append(job)
            self._wake()


def _weight(operation: Operation) -> float:
    """How many operations' time one may take before the disk counts as slow."""
    return max(1.0, len(operation.names) / _NAMES_PER_OPERATION) if isinstance(operation, Survey) else 1.0
