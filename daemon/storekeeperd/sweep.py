"""What a scan that runs beside everything else has yet to make sure before it counts.

Pure. Owns one scan at a time: which names were seen to go since it began, which the scan did not see, and which are
looked at before it is complete. What it saw is entered at once, unless the name was seen to go since; what it did not
see is only named here: coherence.py has it looked at. Nor does it count before every own change that had begun when it
began has come to its end, and was looked at: what such a change brings may be older than the scan.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from storekeeperd.index import Index

_NAMES = 4_000
"""Names checked in one turn when the scan has ended."""


class Sweep:
    """One scan, from its beginning to its being complete.

    Args:
        index: what the scan is held against.

    Attributes:
        number: of the scan that runs; 0: none does.
        leftovers: names that are looked at before it is complete.
    """

    def __init__(self, index: Index) -> None:
        self._index = index
        self.number = 0
        self.leftovers: set[bytes] = set()
        self._began_empty = False
        self._gone: set[bytes] = set()  # seen to be absent since it began
        self._changing: set[bytes] = set()  # names with an own change under way that is older than it
        self._unswept: list[bytes] | None = None  # names still to be checked; None: the scan has not ended

    def begin(self, number: int, changing: Collection[bytes], *, doubt_sizes: bool) -> None:
        """Says that a scan begins, while own changes of some names are under way."""
        assert not self.number
        self.number = number
        self._index.next_mark(doubt_sizes=doubt_sizes)
        self._began_empty = not len(self._index)  # then all that is entered from now on needs no check
        self._changing = set(changing)
        self.leftovers = set(changing)

    def see(self, names: Collection[bytes]) -> None:
        """Takes names that the scan saw."""
        gone = self._gone
        self._index.confirm([name for name in names if name not in gone] if gone else names)

    def end(self) -> None:
        """Says that the directory was read to its end."""
        assert self.number
        self._unswept = [] if self._began_empty else self._index.names()

    def stop(self) -> None:
        """Says that the scan is over, whatever has become of it."""
        self.number = 0
        self._gone = set()
        self._unswept = None
        self.leftovers = set()
        self._changing = set()

    def leave(self) -> list[bytes]:
        """Checks some more names; returns those that the scan did not see, which are to be looked at."""
        if not self._unswept:
            return []
        left = self._index.unmarked(self._unswept[-_NAMES:])
        del self._unswept[-_NAMES:]
        self.leftovers.update(left)
        return left

    @property
    def unchecked(self) -> bool:
        """Whether the scan has ended and there are names to be checked."""
        return bool(self._unswept)

    @property
    def complete(self) -> bool:
        """Whether nothing is left to be done."""
        return not self.leftovers and self._unswept == []

    # -- what happens meanwhile

    def gone(self, names: Iterable[bytes]) -> None:
        """Takes names that were seen to be absent: what the scan has read of them is older."""
        if self.number:
            self._gone.update(names)

    def looked(self, name: bytes) -> None:
        """Takes that a name was looked at: it is no leftover, unless an own change of it is still to come."""
        if name not in self._changing:
            self.leftovers.discard(name)

    def changed(self, name: bytes) -> None:
        """Takes that an own change has come to its end; its name is to be looked at if the change is the older one."""
        self._changing.discard(name)
