"""Whose turn it is: jobs that wait, in turn by user, and of one user in turn by connection.

Pure. Owns the order. Who has a thousand jobs waiting gets one done, then everybody else one: a flood delays others by
one job for each who floods, not by all of theirs. Who had none waiting comes before those of his user who had, every
second time: whoever asks for little now and then is hardly kept waiting at all. The daemon's own work counts as one
more user.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from storekeeperd.operations import Job

_OURSELVES = -1

Queues = dict[Any, deque[Job]]
"""Jobs by connection, in the order of turns: who had one goes to the end."""


@dataclass(slots=True, eq=False)
class _User:
    new: Queues = field(default_factory=dict)
    known: Queues = field(default_factory=dict)
    was_new: bool = False

    def queue(self, peer: Any) -> deque[Job]:
        queue = self.known.get(peer) or self.new.get(peer)
        if queue is None:
            queue = self.new[peer] = deque()
        return queue

    def take(self) -> Job:
        self.was_new = bool(self.new) and not (self.was_new and self.known)
        queues = self.new if self.was_new else self.known
        peer = next(iter(queues))
        queue = queues.pop(peer)
        job = queue.popleft()
        if queue:
            self.known[peer] = queue
        return job


class Rota:
    """Jobs that wait for their turn."""

    def __init__(self) -> None:
        self._users: dict[int, _User] = {}  # in the order of turns
        self._size = 0

    def __len__(self) -> int:
        return self._size

    @property
    def contenders(self) -> int:
        """How many connections have jobs waiting."""
        return sum(len(user.new) + len(user.known) for user in self._users.values())

    def add(self, job: Job) -> None:
        """Lets a job wait behind those of its connection."""
        user, peer = self._of(job)
        user.queue(peer).append(job)
        self._size += 1

    def put_back(self, job: Job) -> None:
        """Lets a job that was begun wait before those of its connection; others have their turn first."""
        user, peer = self._of(job)
        queue = user.known.pop(peer, None) or user.new.pop(peer, None) or deque()
        queue.appendleft(job)
        user.known[peer] = queue
        self._size += 1

    def take(self) -> Job:
        """Returns the job whose turn it is; there must be one."""
        uid = next(iter(self._users))
        user = self._users.pop(uid)
        job = user.take()
        if user.new or user.known:
            self._users[uid] = user
        self._size -= 1
        return job

    def _of(self, job: Job) -> tuple[_User, Any]:
        peer = None if job.owner is None else job.owner.peer
        uid = _OURSELVES if peer is None else peer.uid
        user = self._users.get(uid)
        if user is None:
            user = self._users[uid] = _User()
        return user, peer
