"""Which durable puts are made together, and when.

Pure. Owns those that wait for it, and the judgement: a group goes out when the one before has come back, and as many
wait as that one had and left waiting. For who was just answered is likely to put again. But nobody is held back for
longer than `delay_s`, and a client that is alone never is.

The loop gathers, not the thread that carries them out: it would be woken for each put, and take the interpreter from
the loop every time.
"""

from __future__ import annotations

import math

from storekeeperd.operations import Job
from storekeeperd.rota import Rota


class Groups:
    """Jobs of durable puts on their way.

    Args:
        puts_max: in a group; one job that has more goes alone.
        delay_s: how long a put may be held back.

    Attributes:
        due: when those that wait go out at the latest; endless if none do, or if a group is under way.
    """

    def __init__(self, puts_max: int, delay_s: float) -> None:
        self._puts_max = puts_max
        self._delay_s = delay_s
        self._waiting = Rota()
        self._expected = 1
        self._under_way = False
        self._since = 0.0
        self.due = math.inf

    def add(self, job: Job, now: float) -> None:
        """Lets a job wait for its group."""
        if not self._waiting:
            self._since = now
        self._waiting.add(job)
        if not self._under_way:
            self.due = self._since + self._delay_s

    def take(self, now: float) -> list[Job]:
        """Returns the next group if it is time; `ended` must follow when it is done."""
        waiting = len(self._waiting)
        if self._under_way or not waiting or (waiting < self._expected and now < self.due):
            return []
        return self._take()

    def end(self) -> list[Job]:
        """Returns some of what waits, as a group, whatever the time; none if nothing does."""
        return self._take() if self._waiting else []

    def ended(self, jobs: int, now: float) -> None:
        """Takes that the group that was under way, of so many jobs, has come back."""
        self._under_way = False
        self._expected = jobs + len(self._waiting)
        self._since = now
        if self._waiting:
            self.due = now + self._delay_s

    def _take(self) -> list[Job]:
        group: list[Job] = []
        puts = 0
        while self._waiting and puts < self._puts_max:
            group.append(self._waiting.take())
            puts += len(group[-1].operations)
        self._under_way = True
        self.due = math.inf
        return group
