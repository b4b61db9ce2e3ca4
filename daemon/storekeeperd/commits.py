"""Group commit: many durable puts that wait for the platter once.

Owns the order of a group: all files are written, the disk is told of all of them before the first is waited for, each
is synced, each gets its name, then every directory is synced once. So eight puts cost little more than one: a wait for
the journal, not eight (measured: writing first and waiting then doubles the rate; threads that sync at once do not).

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
from storekeeperd.operations import Outcome, Put, failed
from storekeeperd.publisher import Publisher, sync_directory, unsettled, write_all
from storekeeperd.refusals import typed
from storekeeperd.sights import look_again


class Commits:
    """Durable puts, a group at a time. Thread-safe.

    Args:
        publisher: how files are made and named.
        group_max: puts that are made together: each is an open file meanwhile.
    """

    def __init__(self, publisher: Publisher, group_max: int) -> None:
        self._publisher = publisher
        self._group_max = group_max

    def put_all(self, puts: list[Put], stay: Stay) -> list[Outcome]:
        """Publishes objects of different names, durably; returns what came of each, in order."""
        outcomes: list[Outcome] = []
        while len(outcomes) < len(puts):
            outcomes += self._put_group(puts[len(outcomes) : len(outcomes) + self._group_max], stay)
        return outcomes

    def _put_group(self, puts: list[Put], stay: Stay) -> list[Outcome]:
        """Publishes the first of them, as many as there are descriptors for; at least one."""
        group = _Group(puts, stay, self._publisher)
        try:
            group.write()
            group.sync()
            group.name()
            group.sync_directories()
            return group.outcomes()
        finally:
            group.discard()


class _Group:
    """Puts on their common way; those that failed have an error and go no further."""

    def __init__(self, puts: list[Put], stay: Stay, publisher: Publisher) -> None:
        self._puts = puts
        self._stay = stay
        self._publisher = publisher
        self._files: list[int] = []
        self._errors: dict[int, StorekeeperError] = {}
        self._words: dict[int, bytes] = {}

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

    def _write_one(self, put: Put, file: int) -> None:
        write_all(file, put.payload, 0)
        self._publisher.prepare(file, put, checksums.of(put.payload), self._stay)

    def sync(self) -> None:
        """Gets the bytes onto the platter: begins with all of them, then waits for each."""
        for position in self._left():
            with contextlib.suppress(OSError):  # posix_fadvise(2): what is dirty is handed to the disk. Only a hint.
                os.posix_fadvise(self._files[position], 0, 0, os.POSIX_FADV_DONTNEED)
        for position in self._left():
            self._try(position, lambda _, file: os.fsync(file))

    def name(self) -> None:
        """Gives the files their names."""

        def name_one(put: Put, file: int) -> None:
            self._words[position] = self._publisher.name(file, put, self._stay)

        for position in self._left():
            self._try(position, name_one)

    def sync_directories(self) -> None:
        """Gets the names onto the platter."""
        places: dict[int, StorekeeperError | None] = {}
        for position in self._left():
            place, _ = self._stay.place(self._puts[position].name)
            if place not in places:
                try:
                    sync_directory(place)
                    places[place] = None
                except OSError as error:
                    places[place] = unsettled(error)
            failure = places[place]
            if failure is not None:
                self._errors[position] = failure

    def outcomes(self) -> list[Outcome]:
        """Returns what came of each."""
        return [self._outcome(position) for position in range(len(self._puts))]

    def discard(self) -> None:
        """Closes the files; what has no name is gone."""
        for file in self._files:
            if file >= 0:
                with contextlib.suppress(OSError):  # it was synced, or it failed already
                    self._publisher.discard(file, self._stay)

    def _outcome(self, position: int) -> Outcome:
        error = self._errors.get(position)
        seen = look_again(self._puts[position].name, self._stay)
        return failed(error, seen) if error is not None else Outcome(self._words[position], seen)

    def _left(self) -> list[int]:
        return [position for position in range(len(self._puts)) if position not in self._errors]

    def _try(self, position: int, step: Callable[[Put, int], object]) -> None:
        try:
            step(self._puts[position], self._files[position])
        except OSError as error:
            self._errors[position] = typed(error)
        except StorekeeperError as refusal:
            self._errors[position] = refusal
