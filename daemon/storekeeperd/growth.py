"""Which objects may still grow, and when each is looked at again for that.

Pure. Owns names, not sizes; the steps of time are its caller's. A file that somebody writes in place under its final
name comes with an event, but grows without one: the watch does not ask for those, see watcher.py. So a size that was
news is looked at again `soon`, until it stays the same; and `later`, if the file was written to only a moment before:
its writer may only have paused. An empty file that is named like a marker is none, but may become an object.
"""

from __future__ import annotations

from storekeeperd.looks import Questions

RECENT_S = 5.0
"""A file that was written to no longer ago may be written to at this moment, too."""


class Growth:
    """Names that are due for another look after a while. Each stands in it a few times at most, however busy it is.

    Attributes:
        soon: names whose size was news.
        later: names whose size stayed the same, but whose writer may only have paused.
        empty: empty files named like markers, which are no objects, but may have become some.
    """

    def __init__(self) -> None:
        self.soon = Cohorts()
        self.later = Cohorts()
        self.empty: dict[bytes, None] = {}
        self._asked: dict[bytes, None] = {}

    def seen(self, name: bytes, *, news: bool, recent: bool) -> None:
        """Takes what a look says of an object.

        Args:
            name: the object.
            news: it came behind our back, or has another size than was known.
            recent: it was written to less than `RECENT_S` before.
        """
        again = name in self._asked
        if again:
            del self._asked[name]
        if self.empty:
            self.empty.pop(name, None)
        if news:
            self.soon.add(name)
        elif again and recent:
            self.later.add(name)

    def seen_empty(self, name: bytes) -> None:
        """Takes that a look saw an empty file, named like a marker, that was made less than `RECENT_S` before."""
        self.seen(name, news=name not in self._asked, recent=True)
        self.empty[name] = None

    def gone(self, name: bytes) -> None:
        """Takes that a look saw no object of that name."""
        if self._asked or self.soon or self.later:
            self._asked.pop(name, None)
            self.empty.pop(name, None)
            self.soon.remove(name)
            self.later.remove(name)

    @property
    def due(self) -> int:
        """How many names are due for a look."""
        return len(self.soon.due) + len(self.later.due)

    def take(self, limit: int) -> list[bytes]:
        """Takes at most `limit` names that are due for a look."""
        names = (self.soon.due or self.later.due).take(limit)
        self._asked.update(dict.fromkeys(names))
        return names


class Cohorts:
    """Names that become due when they have waited for one whole step of time, which is their caller's.

    Attributes:
        due: names that have waited long enough.
    """

    def __init__(self) -> None:
        self._new: dict[bytes, None] = {}
        self._waiting: dict[bytes, None] = {}  # since before the last step
        self.due = Questions()

    def add(self, name: bytes) -> None:
        """Lets a name wait from now on."""
        self._new[name] = None

    def remove(self, name: bytes) -> None:
        """Forgets a name that waits; one that is due is looked at once more."""
        self._new.pop(name, None)
        self._waiting.pop(name, None)

    def step(self) -> None:
        """Says that a step of time has passed."""
        self.due.add_all(self._waiting)
        self._waiting, self._new = self._new, {}

    def __bool__(self) -> bool:
        """Whether any name waits for a step."""
        return bool(self._new or self._waiting)
