"""Who carries out the service's jobs: the loop itself while that is quick, a small pool of threads otherwise.

Owns the threads. Knows nothing of what a job means; outcomes go back as they came. A job starts on the loop if it is
short by its numbers and the disk has lately been quick; an operation that finds it would wait sends the rest of its
job to the pool.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable

from storekeeper.errors import InternalError
from storekeeperd.config import Limits
from storekeeperd.disk import Disk, WouldWait
from storekeeperd.operations import UNSEEN, Commit, Evict, Job, Operation, Outcome, Put, failed

log = logging.getLogger(__name__)

_SLOW_FOR_S = 1.0


class Jobs:
    """Carries out jobs.

    Args:
        disk: what they are carried out on.
        limits: what is short enough for the loop.
        wake: called from a worker when something has finished; must be quick and thread-safe.
        clock: seconds, monotonic.
    """

    def __init__(
        self, disk: Disk, limits: Limits, wake: Callable[[], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._disk = disk
        self._limits = limits
        self._wake = wake
        self._clock = clock
        self._slow_s = limits.slow_disk_ms / 1000
        self._slow_until = 0.0
        # What waits for the platter has threads of its own, so that reads never wait for somebody's fsync.
        self._todo: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._slow: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._done: deque[Job] = deque()
        self._threads = [
            threading.Thread(target=self._work, args=(todo,), name=f"storekeeperd-{kind}-{number}", daemon=True)
            for number in range((limits.pool_threads + 1) // 2)
            for kind, todo in (("job", self._todo), ("slow-job", self._slow))
        ]
        self.inline_jobs = 0
        self.pool_jobs = 0
        for thread in self._threads:
            thread.start()

    def start(self, job: Job) -> bool:
        """Carries a job out now (True: its outcomes are there) or hands it to the pool (False)."""
        started = self._clock()
        if started >= self._slow_until and self._is_short(job):
            done = self._try_inline(job)
            if self._clock() - started > self._slow_s:
                self._slow_until = self._clock() + _SLOW_FOR_S
            if done:
                self.inline_jobs += 1
                return True
        self.pool_jobs += 1
        slow = any(
            isinstance(operation, Commit) or getattr(operation, "durable", False) for operation in job.operations
        )
        (self._slow if slow else self._todo).put(job)
        return False

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
        deadline = self._clock() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, deadline - self._clock()))

    def _is_short(self, job: Job) -> bool:
        limits = self._limits
        if job.moved_bytes > limits.inline_bytes_max:
            return False
        operations = job.operations
        if len(operations) == 1:
            return _is_quick(operations[0])
        return len(operations) <= limits.inline_items_max and all(map(_is_quick, operations))

    def _try_inline(self, job: Job) -> bool:
        """Returns whether all of the job could be done without waiting; what was done is kept either way."""
        try:
            for operation in job.operations:
                job.outcomes.append(self._perform(operation, wait=False))
        except WouldWait:
            return False
        return True

    def _perform(self, operation: Operation, *, wait: bool) -> Outcome:
        try:
            return self._disk.perform(operation, wait=wait)
        except WouldWait:
            raise
        except Exception as error:
            log.exception("internal error in %s", type(operation).__name__)
            return failed(InternalError(f"a fault of the daemon ({type(error).__name__}); see its log"), UNSEEN)

    def _work(self, todo: queue.SimpleQueue[Job | None]) -> None:
        while (job := todo.get()) is not None:
            for operation in job.operations[len(job.outcomes) :]:
                job.outcomes.append(self._perform(operation, wait=True))
            self._done.append(job)
            self._wake()


def _is_quick(operation: Operation) -> bool:
    """Whether an operation is quick by its kind: nothing that waits for a platter, nor compares a whole upload."""
    if isinstance(operation, Put):
        return not operation.durable
    if isinstance(operation, Evict):
        return operation.small
    return not isinstance(operation, Commit)
