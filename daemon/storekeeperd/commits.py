"""Group commit: many durable puts that wait for the platter once.

Owns the order of a group: all files are written, the disk is told of all of them before the first is waited for, they
are synced together (see syncs.py), each gets its name, then the directories are synced. So eight puts cost little more
than one: two waits for the journal, not sixteen.

Every put fails alone up to its name; if a directory cannot be synced, all who have a new name in it hear of that.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable

from storekeeper.errors import StorekeeperError
from storekeeperd import checksums
from storekeeperd.ground import Stay
from storekeeperd.metadata import Metadata
from storekeeperd.operations import Outcome, Put, failed
from storekeeperd.publisher import OURS, Publisher, open_directory, unsettled, write_all
from storekeeperd.refusals import typed
from storekeeperd.sights import Sights
from storekeeperd.syncs import Syncs


class Commits:
    """Durable puts, a group at a time. Thread-safe.

    Args:
        publisher: how files are made and named.
        group_max: puts that are made together: each is an open file meanwhile.
        syncs: how files are synced.
        sights: how names are looked at.
    """

    def __init__(self, publisher: Publisher, group_max: int, syncs: Syncs, sights: Sights) -> None:
        self._publisher = publisher
        self._group_max = group_max
        self._syncs = syncs
        self._sights = sights

    def put_all(self, puts: list[Put], stay: Stay) -> list[Outcome]:
        """Publishes objects of different names, durably; returns what came of each, in order."""
        outcomes: list[Outcome] = []
        while len(outcomes) < len(puts):
            outcomes += self._put_group(puts[len(outcomes) : len(outcomes) + self._group_max], stay)
        return outcomes

    def _put_group(self, puts: list[Put], stay: Stay) -> list[Outcome]:
        """Publishes the first of them, as many as there are descriptors for; at least one."""
        group = _Group(puts, stay, self._publisher, self._syncs)
        try:
            group.write()
            group.sync()
            group.name()
            group.sync_directories()
            return group.outcomes(self._sights)
        finally:
            group.discard()


class _Group:
    """Puts on their common way; those that failed have an error and go no further."""

    def __init__(self, puts: list[Put], stay: Stay, publisher: Publisher, syncs: Syncs) -> None:
        self._puts = puts
        self._stay = stay
        self._publisher = publisher
        self._syncs = syncs
        self._files: list[int] = []
        self._errors: dict[int, StorekeeperError] = {}
        self._words: dict[int, bytes] = {}
        self._kept: dict[int, Metadata | None] = {}  # what is kept with those that are ours

    def write(self) -> None:
        """Makes and writes the files."""
        for position in range(len(self._puts)):
            try:
                self._files.append(self._publisher.begin(self._stay.root))
            except OSError as error:
                if position and error.errno in (errno.EMFILE, errno.ENFILE):
                    del self._puts[position:]  # the next group has them
                    return
                self._files.append(-1)
                self._errors[position] = typed(error)
                continue
            except StorekeeperError as refusal:
                self._files.append(-1)
                self._errors[position] = refusal
                continue
            self._try(position, self._write_one)

    def _write_one(self, position: int, put: Put, file: int) -> None:
        write_all(file, put.payload, 0)
        self._kept[position] = self._publisher.prepare(file, put, checksums.of(put.payload), self._stay)

    def sync(self) -> None:
        """Gets the bytes onto the platter: begins with all of them, then waits for each."""
        if not self._syncs.together:  # else the kernel begins with all of them by itself
            for position in self._left():
                with contextlib.suppress(
                    OSError
                ):  # posix_fadvise(2): what is dirty is handed to the disk. Only a hint.
                    os.posix_fadvise(self._files[position], 0, 0, os.POSIX_FADV_DONTNEED)
        left = self._left()
        for position, error in zip(left, self._syncs.sync([self._files[each] for each in left]), strict=True):
            if error is not None:
                self._errors[position] = typed(error)

    def name(self) -> None:
        """Gives the files their names."""
        for position in self._left():
            self._try(position, self._name_one)

    def _name_one(self, position: int, put: Put, file: int) -> None:
        self._words[position] = self._publisher.name(file, put, self._stay)

    def sync_directories(self) -> None:
        """Gets the names onto the platter."""
        left = self._left()
        places = {position: self._stay.place(self._puts[position].name)[0] for position in left}
        errors = self._sync_places(sorted(set(places.values())))
        for position in left:
            error = errors[places[position]]
            if error is not None:
                self._errors[position] = unsettled(error)

    def _sync_places(self, places: list[int]) -> dict[int, OSError | None]:
        with contextlib.ExitStack() as opened:
            try:
                directories = []
                for place in places:
                    directories.append(open_directory(place))
                    opened.callback(os.close, directories[-1])
            except OSError as error:
                return dict.fromkeys(places, error)
            return dict(zip(places, self._syncs.sync(directories), strict=True))

    def outcomes(self, sights: Sights) -> list[Outcome]:
        """Returns what came of each."""
        return [self._outcome(position, sights) for position in range(len(self._puts))]

    def discard(self) -> None:
        """Closes the files; what has no name is gone."""
        for file in self._files:
            if file >= 0:
                with contextlib.suppress(OSError):  # it was synced, or it failed already
                    self._publisher.discard(file, self._stay)

    def _outcome(self, position: int, sights: Sights) -> Outcome:
        error, word = self._errors.get(position), self._words.get(position)
        ours = self._kept[position] if word in OURS else None
        seen = sights.look_again(self._puts[position].name, self._stay, ours)
        return failed(error, seen) if error is not None else Outcome(self._words[position], seen)

    def _left(self) -> list[int]:
        return [position for position in range(len(self._puts)) if position not in self._errors]

    def _try(self, position: int, step: Callable[[int, Put, int], None]) -> None:
        try:
            step(position, self._puts[position], self._files[position])
        except StorekeeperError as refusal:  # first: some of these are errors of the system, too
            self._errors[position] = refusal
        except OSError as error:
            self._errors[position] = typed(error)
