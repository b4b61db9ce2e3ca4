"""Rounds of work that goes through everything there is, such as a scan.

Pure. Owns the numbers of the rounds: whoever needs one that begins from now on wants it, and later asks whether it, or
one after it, is complete. Many who want one at a time share it; one that is under way is no use to them.
"""

from __future__ import annotations


class Rounds:
    """Numbers of rounds.

    Attributes:
        begun: how many have begun; the number of the newest one.
    """

    def __init__(self) -> None:
        self.begun = 0
        self._completed = 0
        self._wanted = 0

    def want(self) -> int:
        """Returns the number of the next round, and sees to it that there will be one."""
        self._wanted = self.begun + 1
        return self._wanted

    def begin(self) -> int:
        """Says that a round begins; returns its number."""
        self.begun += 1
        return self.begun

    def complete(self, number: int) -> None:
        """Says that the round of that number has come to its end."""
        self._completed = number

    def is_complete(self, number: int) -> bool:
        """Returns whether the round of that number, or a later one, is complete."""
        return self._completed >= number

    @property
    def wanted(self) -> bool:
        """Whether a round is wanted that is not complete: it has yet to begin, or it is under way."""
        return self._completed < self._wanted

    @property
    def due(self) -> bool:
        """Whether a round is wanted that has yet to begin."""
        return self.begun < self._wanted
