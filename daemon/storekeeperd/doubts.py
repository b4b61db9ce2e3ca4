"""Names of which nothing sure can be said, and who waits until something can.

Pure. Owns the names that a read missed or a look could not tell of, and the sets of names in doubt that are handed out
to those who wait: a set empties as its names are settled. Decides nothing: coherence.py says what settles a name.
"""

from __future__ import annotations

_RETRY_NAMES = 4_000
"""Names asked about again at once, of those that looks could not tell."""


class Doubts:
    """Names in doubt.

    Attributes:
        unanswered: names that a read missed, or a look could not tell of: while there are any, no hit is believed.
    """

    def __init__(self) -> None:
        self.unanswered: dict[bytes, None] = {}
        self._unseen: dict[bytes, None] = {}  # those of them that a look could not tell of
        self._retries: list[bytes] = []  # those that are asked about again, the next one last
        self._sets: list[set[bytes]] = []  # handed out
        self._older: dict[bytes, list[set[bytes]]] = {}  # name -> those that it was in when its change began

    # -- unanswered names

    def miss(self, name: bytes) -> None:
        """Takes that a read missed an object that was thought to be there."""
        self.unanswered[name] = None

    def fail(self, name: bytes) -> None:
        """Takes that a look could not tell."""
        self.unanswered[name] = self._unseen[name] = None

    def answer(self, name: bytes) -> None:
        """Takes that the name is known again."""
        self.unanswered.pop(name, None)
        self._unseen.pop(name, None)

    def retries(self) -> list[bytes]:
        """Returns some of the unanswered names, others each time, to be asked about again."""
        if not self._retries:
            self._retries = list(self.unanswered)
        names = self._retries[-_RETRY_NAMES:]
        del self._retries[-_RETRY_NAMES:]
        return [name for name in names if name in self.unanswered]

    # -- sets for those who wait

    def hand_out(self, names: set[bytes]) -> set[bytes]:
        """Hands a set of names out, as a set that empties as they are settled; to be given back."""
        if names:
            self._sets.append(names)
        return names

    def give_back(self, names: set[bytes]) -> None:
        """Takes back a set that was handed out."""
        self._sets = [other for other in self._sets if other is not names]

    @property
    def sets(self) -> int:
        """How many sets are handed out."""
        return len(self._sets)

    def settle(self, name: bytes) -> None:
        """Takes that a name is in doubt no more."""
        for names in self._sets:
            names.discard(name)

    def are_stuck(self, names: set[bytes]) -> bool:
        """Returns whether looks can tell of nothing that is left of a set."""
        return bool(names) and names <= self._unseen.keys()

    # -- own changes

    def begin(self, name: bytes) -> None:
        """Takes that an own change of a name begins: the look at its end is younger than all that is in doubt now."""
        older = [names for names in self._sets if name in names]
        if older:
            self._older[name] = older

    def finish(self, name: bytes, *, told: bool) -> None:
        """Takes that the change has come to its end, and whether its look could tell.

        Who doubted the name before the change began has his answer then, even if one change follows the other without
        end and every one of them is asked about.
        """
        for names in self._older.pop(name, ()):
            if told:
                names.discard(name)
