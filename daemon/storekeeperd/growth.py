"""Which objects may still grow, and when each is looked at again for that.

Pure. Owns names, not sizes; the steps of time are its caller's. A file that somebody writes in place under its final
name comes with an event, but grows without one: the watch does not ask for those, see watcher.py. So a size that was
news is looked at again `soon`, until it stays the same; and `later`, if the file was written to only a moment before:
its writer may only have paused. An empty file that is named like a marker is none, but may become an object.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from storekeeperd.looks import Questions

RECENT_S = 5.0
"""A file that was written to no longer ago may be written to at this moment, too."""


class Growth:
    """Names that are due for another look after a while. Each stands in it a few times at most, however busy it is.

    Attributes:
        soon: names whose size was news.
        later: names whose size stayed the same, but whose writer may only have paused.
        asked: names that are asked about for that, and not looked at yet.
        empty: empty files named like markers, which are no objects, but may have become some.
    """

    def __init__(self) -> None:
        self.soon = Cohorts()
        self.later = Cohorts()
        self.empty: dict[bytes, None] = {}
        self.asked: dict[bytes, None] = {}

    def seen(self, name: bytes, *, news: bool, recent: bool) -> None:
        """Takes what a look says of an object.

        Args:
            name: the object.
            news: it came behind our back, or has another size than was known.
            recent: it was written to less than `RECENT_S` before.
        """
        again = name in self.asked
        if again:
            del self.asked[name]
        if self.empty:
            self.empty.pop(name, None)
        if news:
            self.soon.add((name,))
        elif again and recent:
            self.later.add((name,))

    def come(self, names: list[bytes]) -> None:
        """Takes objects that came behind our back, or have another size than was known: `seen` for many of them."""
        if self.asked or self.empty:
            for name in names:
                self.seen(name, news=True, recent=True)
        else:
            self.soon.add(names)

    def go(self, names: list[bytes], recent: Collection[bytes]) -> None:
        """Takes names that a look saw no objects of. Those in `recent` are empty files, named like markers."""
        if recent:
            for name in names:
                if name in recent:
                    self.seen(name, news=name not in self.asked, recent=True)
                    self.empty[name] = None
            names = [name for name in names if name not in recent]
        for waiting in (self.asked, self.empty, *self.soon.waiting, *self.later.waiting):
            if waiting:
                for name in names:
                    waiting.pop(name, None)

    @property
    def due(self) -> int:
        """How many names are due for a look."""
        return len(self.soon.due) + len(self.later.due)

    def take(self, limit: int) -> list[bytes]:
        """Takes at most `limit` names that are due for a look."""
        names = (self.soon.due or self.later.due).take(limit)
        self.asked.update(dict.fromkeys(names))
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

    def add(self, names: Iterable[bytes]) -> None:
        """Lets names wait from now on."""
        self._new.update(dict.fromkeys(names))

    @property
    def waiting(self) -> tuple[dict[bytes, None], dict[bytes, None]]:
        """The names that wait; they may be removed."""
        return self._new, self._waiting

    def step(self) -> None:
        """Says that a step of time has passed."""
        self.due.add_all(self._waiting)
        self._waiting, self._new = self._new, {}

    def __bool__(self) -> bool:
        """Whether any name waits for a step."""
        return bool(self._new or self._waiting)
