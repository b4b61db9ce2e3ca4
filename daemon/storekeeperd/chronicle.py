"""What became of objects at the hands of others than their owners: the last events of each namespace.

Pure. Owns which events are kept, how they are numbered, and the marks by which a reader goes on. An event tells of an
object that was evicted or replaced by the daemon, or by another user who may; what an owner does himself is none. Who
may read them, and how they are told, is accounts.py's.

Every namespace has a book of its own: its events are numbered from 1, and it holds an equal part of what is kept in
all. So neither a number, nor a gap, nor an event that is kept no more tells a reader of one what happens in another:
with one count for all, or one row, he could see how busy those are that he may not read. A book begins with the daemon,
or with its namespace; a mark names the book by when it began, so one of another daemon, or of a namespace that was
dropped and made anew, is not taken for a place in this one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from typing import NamedTuple

from storekeeper.errors import BadRequest

EVICTED, REPLACED = "evicted", "replaced"
"""What became of an object."""
ASKED = "asked"
"""Why, if another user did it; else as evictions.py and lifetimes.py say."""

_Entry = tuple[float, bytes, str, str, int, int | None]
"""When, key, what, why, the sight of the object, and by whom: a plain tuple, some 200 bytes with the key."""


class Event(NamedTuple):
    """What became of an object.

    Attributes:
        number: its place in the book.
        when_s: seconds of the epoch.
        key, what, why: of which object, EVICTED or REPLACED, and the cause.
        seen: the sight of the object before; negative if nobody had looked at it.
        by: the user who did it, or for whose put room was made; None: the daemon of its own accord.
    """

    number: int
    when_s: float
    key: bytes
    what: str
    why: str
    seen: int
    by: int | None


class Mark(NamedTuple):
    """How far a book was read: up to that number."""

    began: int
    number: int

    def to_text(self, namespace: str) -> str:
        """Returns it as it is told."""
        return f"{self.began}.{self.number} {namespace}"


def parse_mark(text: str) -> tuple[str, Mark]:
    """Returns namespace and mark of a text as `Mark.to_text` made it; raises `BadRequest`."""
    place, _, namespace = text.partition(" ")
    began, _, number = place.partition(".")
    if not (namespace and len(place) < 40 and all(part.isascii() and part.isdigit() for part in (began, number))):
        raise BadRequest("a mark is passed on as the daemon told it")
    return namespace, Mark(int(began), int(number))


class Book:
    """The last events of one namespace.

    Args:
        began: when it began, in microseconds of the epoch.
    """

    __slots__ = ("_began", "_entries", "_last")

    def __init__(self, began: int) -> None:
        self._began = began
        self._last = 0
        self._entries: deque[_Entry] = deque()

    @property
    def end(self) -> Mark:
        """The mark of who has read all."""
        return Mark(self._began, self._last)

    @property
    def start(self) -> Mark:
        """The mark of who has read nothing of what is kept."""
        return Mark(self._began, self._last - len(self._entries))

    def write(self, entry: _Entry, events_max: int) -> None:
        """Takes an event; forgets the oldest ones beyond so many."""
        self._last += 1
        self._entries.append(entry)
        self.trim(events_max)

    def trim(self, events_max: int) -> None:
        """Forgets the oldest events beyond so many."""
        while len(self._entries) > events_max:
            self._entries.popleft()

    def begin(self, mark: Mark | None) -> tuple[Mark, bool]:
        """Returns from where a reader with a mark goes on, and whether he has missed some; without one: not known."""
        start = self.start
        if mark is None:
            return start, False
        if mark.began != start.began or not start.number <= mark.number <= self._last:
            return start, True
        return mark, False

    def read(self, mark: Mark) -> Iterator[Event]:
        """Yields the events after a mark of this book, oldest first."""
        start = self.start.number
        for number, entry in enumerate(islice(self._entries, mark.number - start, None), mark.number + 1):
            yield Event(number, *entry)


class Chronicle:
    """The books of all namespaces.

    Args:
        events_max: how many events are kept, in equal parts for all namespaces.
        now_s: returns seconds of the epoch.
    """

    def __init__(self, events_max: int, now_s: Callable[[], float]) -> None:
        self._events_max = self._part = events_max
        self._now_s = now_s
        self._books: dict[bytes, Book] = {}

    def set_space(self, prefix: bytes) -> None:
        """Begins the book of a namespace, if there is none."""
        if prefix not in self._books:
            self._books[prefix] = Book(int(self._now_s() * 1e6))
            self._share()

    def drop_space(self, prefix: bytes) -> None:
        """Forgets all events of a namespace: the next one of its name may be read by others."""
        del self._books[prefix]
        self._share()

    def _share(self) -> None:
        self._part = max(1, self._events_max // max(1, len(self._books)))
        for book in self._books.values():
            book.trim(self._part)

    def note(self, name: bytes, what: str, why: str, seen: int, by: int | None = None) -> None:
        """Takes what became of an object: its name in the store, and its sight before."""
        cut = name.find(b"/") + 1
        book = self._books.get(name[:cut])
        if book is not None:
            book.write((self._now_s(), name[cut:], what, why, seen, by), self._part)

    def book(self, prefix: bytes) -> Book:
        """Returns the book of a namespace."""
        return self._books[prefix]
