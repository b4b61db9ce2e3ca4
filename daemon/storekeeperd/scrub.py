"""Holds every object of a store against its checksum, whether a daemon runs or not, and has what is damaged moved away.

Owns the walk: names in order, so that an interrupted one goes on where it stopped (`.storekeeper/scrub`), and no faster
than asked for. Reads the files itself, with the permissions of whoever asks. Changes nothing in the store but by
`repair`: that is the daemon's, who alone may change what a name is, or ours under the daemon's own lock.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from storekeeper import Client
from storekeeper.errors import CorruptObject, StorekeeperError
from storekeeperd import checksums, entries
from storekeeperd.disk import Disk
from storekeeperd.exits import EX_TEMPFAIL, StartError
from storekeeperd.home import FOLDER, TEMPORARY, Home
from storekeeperd.metadata import ATTRIBUTE, Metadata
from storekeeperd.operations import Verify
from storekeeperd.reader import READ_FLAGS
from storekeeperd.sights import is_object

_STATE = f"{FOLDER}/scrub"
_PART_BYTES = 1024 * 1024
_TRIES = 3
_SAVE_S = 5.0


@dataclass(slots=True)
class Tally:
    """How far a scrub has come, and what it has found.

    Attributes:
        folder, after: the namespace ("" for the default one) and the key that were looked at last.
        objects, bytes: that were read.
        unknown: objects without a checksum: no daemon put them.
        damaged: those whose bytes are not the ones that were put, as `key` or `namespace/key`.
        unreadable: those that could not be read, and why.
    """

    folder: str = ""
    after: str = ""
    objects: int = 0
    bytes: int = 0
    unknown: int = 0
    damaged: list[str] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)


class Scrub:
    """One scrub of a store.

    Args:
        store: the directory.
        namespaces: sub-folders that are looked at too.
        bytes_per_s: how fast to read; 0 for as fast as it goes.
        restart: begin anew, though one was interrupted.

    Raises:
        OSError: the directory cannot be read.
    """

    def __init__(self, store: Path, namespaces: tuple[str, ...], bytes_per_s: float, *, restart: bool) -> None:
        self._store = store
        self._folders = ("", *namespaces)
        self._bytes_per_s = bytes_per_s
        self.tally = Tally() if restart else self._load()
        self.resumed = bool(self.tally.after)
        self._names = {folder: self._names_of(folder) for folder in self._folders_left()}
        self._saved = time.monotonic()
        self._due = time.monotonic()

    def __len__(self) -> int:
        """Returns how many objects are left."""
        return sum(map(len, self._names.values()))

    def walk(self) -> Iterator[str]:
        """Looks at the objects that are left, and yields the name of each as it is done."""
        for folder, names in self._names.items():
            directory = os.open(self._store / folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                for key in names:
                    name = f"{folder}/{os.fsdecode(key)}".lstrip("/")
                    self._look_at(directory, key, name)
                    self.tally.folder, self.tally.after = folder, os.fsdecode(key)
                    if time.monotonic() - self._saved > _SAVE_S:
                        self.save()
                    yield name
            finally:
                os.close(directory)

    def save(self) -> bool:
        """Notes how far it has come; returns whether that could be written."""
        self._saved = time.monotonic()
        return self._write(json.dumps(asdict(self.tally)))

    def finish(self) -> None:
        """Forgets how far it had come: the next one begins anew."""
        with contextlib.suppress(OSError):
            os.unlink(self._store / _STATE)

    def repair(self, name: str) -> str:
        """Has a damaged object moved into the quarantine; returns what came of it, as a sentence."""
        return _repair(self._store, self._folders[1:], name)

    # -- parts

    def _folders_left(self) -> tuple[str, ...]:
        folder = self.tally.folder
        return self._folders[self._folders.index(folder) :] if folder in self._folders else self._folders

    def _names_of(self, folder: str) -> list[bytes]:
        directory = os.open(self._store / folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        after = os.fsencode(self.tally.after) if folder == self.tally.folder else b""
        try:
            return sorted(
                name
                for data in entries.read(directory)
                for name, type_ in zip(*entries.take_apart(data), strict=True)
                if name > after and entries.kind_of(name, type_) in ("object", "doubtful")
            )
        finally:
            os.close(directory)

    def _look_at(self, directory: int, key: bytes, name: str) -> None:
        tally = self.tally
        try:
            for _ in range(_TRIES):  # a file that changes while it is read says nothing
                verdict, size, quiet = self._prove(directory, key)
                if verdict != "damaged" or quiet:
                    break
        except OSError as error:
            tally.unreadable[name] = os.strerror(error.errno or 0)
            return
        if verdict == "gone":
            return
        tally.objects += 1
        tally.bytes += size
        if verdict == "damaged":
            tally.damaged.append(name)
        elif verdict == "unknown":
            tally.unknown += 1

    def _prove(self, directory: int, key: bytes) -> tuple[str, int, bool]:
        """Returns what can be said of an object, its size, and whether nobody changed it meanwhile."""
        try:
            descriptor = os.open(key, READ_FLAGS, dir_fd=directory)
        except FileNotFoundError:
            return "gone", 0, True
        try:
            found = os.fstat(descriptor)
            if not is_object(key, found):
                return "gone", 0, True
            try:
                kept = Metadata.unpack(os.getxattr(descriptor, ATTRIBUTE))
            except OSError:
                kept = None
            if kept is None:
                return "unknown", found.st_size, True
            cached = _is_cached(descriptor, found.st_size)
            checksum = self._read(descriptor, found.st_size)
            if not cached:  # leave the page cache to those who need it
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            quiet = os.fstat(descriptor).st_ctime_ns == found.st_ctime_ns
            return ("ok" if checksum == kept.checksum else "damaged"), found.st_size, quiet
        finally:
            os.close(descriptor)

    def _read(self, descriptor: int, size: int) -> int:
        running = checksums.Running()
        offset = 0
        while offset < size and (part := os.pread(descriptor, min(_PART_BYTES, size - offset), offset)):
            running.wrote(descriptor, offset, part)
            offset += len(part)
            self._throttle(len(part))
        return running.finish(descriptor, offset)

    def _throttle(self, size: int) -> None:
        if self._bytes_per_s:
            now = time.monotonic()
            self._due = max(self._due, now - 0.1) + size / self._bytes_per_s
            if self._due > now:
                time.sleep(self._due - now)

    def _load(self) -> Tally:
        try:
            return Tally(**json.loads((self._store / _STATE).read_text("utf-8")))
        except (OSError, ValueError, TypeError):
            return Tally()

    def _write(self, text: str) -> bool:
        private = self._store / f"{_STATE}.new"
        try:
            private.write_text(text, "utf-8")
            os.rename(private, self._store / _STATE)
        except OSError:
            return False
        return True


def _is_cached(descriptor: int, size: int) -> bool:
    """Returns whether the file seems to be in the page cache already."""
    try:
        return os.preadv(descriptor, [bytearray(1)], size // 2, os.RWF_NOWAIT) == 1
    except OSError:
        return False


def _repair(store: Path, namespaces: tuple[str, ...], name: str) -> str:
    """Has the daemon of a store verify an object again, which moves it away; does so itself where none runs."""
    try:
        return _verify_alone(store, namespaces, name)
    except StartError as error:
        if error.status != EX_TEMPFAIL:
            return f"not moved: {error}"
    try:
        address = (store / FOLDER / "address").read_text("utf-8").strip()
    except OSError as error:
        return f"not moved: a daemon has the store, but where it listens cannot be read: {error.strerror}"
    namespace, _, key = name.rpartition("/")
    with Client(address, namespace or "default") as client:
        return _outcome(lambda: client.verify(key))


def _verify_alone(store: Path, namespaces: tuple[str, ...], name: str) -> str:
    home = Home(store, namespaces)
    try:
        features = home.features
        disk = Disk(home.ground, TEMPORARY, unnamed_files=features.unnamed_files, attributes=features.attributes)
        try:
            with disk.stay() as stay:
                outcome = disk.perform(Verify(os.fsencode(name)), stay)
        finally:
            disk.close()
    finally:
        home.leave()

    def tell() -> object:
        if outcome.error is not None:
            raise outcome.error
        return outcome.word

    return _outcome(tell)


def _outcome(verify: Callable[[], object]) -> str:
    try:
        verify()
    except CorruptObject:
        return f"moved to {FOLDER}/quarantine"
    except StorekeeperError as error:
        return f"not moved: {error}"
    return "not moved: it was replaced or removed meanwhile"
