"""Whose turn it is: jobs that wait, in turn by user, and of one user in turn by connection.

Pure. Owns the order. Who has a thousand jobs waiting gets one done, then everybody else one: a flood delays others by
one job for each who floods, not by all of theirs. The daemon's own work counts as one more user.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from storekeeperd.operations import Job

_OURSELVES = -1


class Rota:
    """Jobs that wait for their turn."""

    def __init__(self) -> None:
        # Both dictionaries are in the order of turns: who had one goes to the end.
        self._users: dict[int, dict[Any, deque[Job]]] = {}
        self._size = 0

    def __len__(self) -> int:
        return self._size

    @property
    def contenders(self) -> int:
        """How many connections have jobs waiting."""
        return sum(map(len, self._users.values()))

    def add(self, job: Job) -> None:
        """Lets a job wait behind those of its connection."""
        self._queue(job).append(job)
        self._size += 1

    def put_back(self, job: Job) -> None:
        """Lets a job that was begun wait before those of its connection; others have their turn first."""
        self._queue(job).appendleft(job)
        self._size += 1

    def take(self) -> Job:
        """Returns the job whose turn it is; there must be one."""
        user = next(iter(self._users))
        peers = self._users.pop(user)
        peer = next(iter(peers))
        queue = peers.pop(peer)
        job = queue.popleft()
        if queue:
            peers[peer] = queue
        if peers:
            self._users[user] = peers
        self._size -= 1
        return job

    def _queue(self, job: Job) -> deque[Job]:
        peer = None if job.owner is None else job.owner.peer
        peers = self._users.setdefault(_OURSELVES if peer is None else peer.uid, {})
        queue = peers.get(peer)
        if queue is None:
            queue = peers[peer] = deque()
        return queue
