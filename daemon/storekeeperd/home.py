"""The daemon's own folder inside a store, `.storekeeper/`: who owns the store, which store it is, where to reach it.

Owns these files and no others:

    lock      held with flock(2) for the life of a daemon; its text names the holder
    store     JSON: the store's UUID and the format version; tells this store from another directory at its path
    address   where the daemon of this store listens, for those who know only the directory
    namespaces  JSON: namespaces that users have made, and what they are told
    lifetimes  there if objects of the store may expire or end with a process
    tmp/      private names of files that are not published yet; emptied at start

(And knows nothing of `quarantine/`, which is proofs.py's, and `scrub`, which is scrub.py's.) How the lock is
taken is lock.py's, how files are written papers.py's, how folders are made and looked at folders.py's.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from storekeeper import wire
from storekeeper.errors import StoreUnavailable
from storekeeperd import exits, folders, lock, papers
from storekeeperd.exits import EX_DATAERR, EX_TEMPFAIL, StartError
from storekeeperd.features import probe
from storekeeperd.ground import Ground

FOLDER = ".storekeeper"
TEMPORARY = f"{FOLDER}/tmp"
FORMAT = 1

_MADE_BYTES_MAX = 4 * 1024 * 1024
_NOT_NOW = (errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM)


class Home:
    """Takes a store into possession, as the only daemon, for as long as the object lives.

    Args:
        store: the store's directory; it and its parents are made if they are missing.
        namespaces: sub-folders that must exist.

    Attributes:
        ground: the way into the store's directory, for all who work in it.
        beats: how often the marker was opened: as often the watcher hears of it.
        made: settings of the namespaces that users have made, by name; as read from the disk, for others to check.
        keeps_lives: whether objects of the store may have lifetimes.

    Raises:
        StartError: the store is no directory, cannot be written, is full, or another daemon has it.
    """

    def __init__(self, store: Path, namespaces: tuple[str, ...] = ()) -> None:
        self.store = store
        self.folder = store / FOLDER
        self.private = self.folder / "tmp"
        self.ground = Ground(store)
        self._namespaces = namespaces
        self.made: dict[str, Any] = {}
        self.beats = 0
        self._lock = -1
        self._address = ""
        try:
            self._enter()
        except OSError as error:
            self.leave()
            raise exits.refusal(store, error) from None
        except StartError:
            self.leave()
            raise
        except StoreUnavailable:
            self.leave()
            raise StartError(f"{store} was moved away at this very moment", EX_TEMPFAIL) from None

    def _enter(self) -> None:
        self.store.mkdir(mode=0o700, parents=True, exist_ok=True)
        # The folder may be entered by all: who may reach the store's directory may read where its daemon listens.
        self.folder.mkdir(mode=0o755, exist_ok=True)
        self._take_lock()
        root = self.ground.find()
        try:
            self.ground.adopt(root)
            self.made = self._read_made()
            self._namespaces = tuple(dict.fromkeys((*self._namespaces, *self.made)))
            self.keeps_lives = (self.folder / "lifetimes").exists()
            folders.furnish(root, (TEMPORARY, *self._namespaces))
            self._check_folders(root)
            folders.clear(root, TEMPORARY)
        finally:
            os.close(root)
        self.store_id = self._identify()
        self.features = probe(self.private)
        for made in (self.store, self.store.parent):
            papers.sync(made)

    def _check_folders(self, root: int) -> None:
        folders.check(root, (FOLDER, TEMPORARY, *self._namespaces), self.store)

    def _take_lock(self) -> None:
        held, witness = lock.take(self.store, self.folder)
        if self._lock >= 0:
            os.close(self._lock)
        self._lock = held
        self.ground.witness = witness

    def _identify(self) -> str:
        """Returns the store's UUID, made at the first start; refuses a format that it does not know."""
        path = self.folder / "store"
        try:
            known = json.loads(papers.read(path))
            version, store_id = known["format"], str(known["uuid"])
            uuid.UUID(store_id)
        except FileNotFoundError:
            self.store_id = str(uuid.uuid4())
            self._write_marker()
            return self.store_id
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise StartError(
                f"{path} is damaged; if {self.store} is the right store, remove that file and start again",
                EX_DATAERR,
            ) from None
        if version != FORMAT:
            raise StartError(f"{self.store} has format {version}, this daemon knows format {FORMAT}", EX_DATAERR)
        return store_id

    def announce(self, address: str) -> None:
        """Records where the daemon listens."""
        self._address = address
        self._write_file("address", address + "\n")

    # -- what users make

    def _read_made(self) -> dict[str, Any]:
        path = self.folder / "namespaces"
        try:
            made = json.loads(papers.read(path, bytes_max=_MADE_BYTES_MAX))
            if not isinstance(made, dict):
                raise ValueError
            for name in made:
                if not isinstance(name, str) or not wire.is_key(name.encode("utf-8", "surrogateescape")):
                    raise ValueError
            return made
        except FileNotFoundError:
            return {}
        except (ValueError, RecursionError):
            raise StartError(f"{path} is damaged: put it right or remove it, then start again", EX_DATAERR) from None

    def found(self, name: str, settings: dict[str, Any] | None) -> None:
        """Makes the folder of a namespace and keeps its settings; removes both if there are none. Waits for the disk.

        The folder is made first and removed first: a namespace that is kept is one whose folder is made at every start.
        Never more than one at a time. Whose folders must be there is not changed: see `follow`.

        Raises:
            BadRequest: the folder to be removed is not empty, or what is there already is not.
            OSError: nothing was changed, but that a new folder may be there.
            StoreUnavailable: the store is away.
        """
        root = self.ground.enter()
        try:
            if settings is None:
                folders.remove(root, name)
            else:
                folders.make(root, name)
        finally:
            os.close(root)
        made = {other: told for other, told in self.made.items() if other != name}
        if settings is not None:
            made[name] = settings
        self._write_file("namespaces", json.dumps(made, indent=1) + "\n")
        self.made = made

    def follow(self, namespaces: Iterable[str]) -> None:
        """Says whose folders must be there from now on: one that is to be removed is not made again meanwhile."""
        self._namespaces = tuple(namespaces)
        self.ground.forget_folders()

    def entries(self, name: str) -> list[bytes]:
        """Returns what is in a namespace's folder that was just made: nothing, but for accidents. Raises `OSError`."""
        root = self.ground.enter()
        try:
            with papers.opened(name, root) as folder:
                return [os.fsencode(entry) for entry in os.listdir(folder)]
        finally:
            os.close(root)

    def keep_lives(self) -> None:
        """Notes that objects of the store may have lifetimes, for every later start."""
        if not self.keeps_lives:
            self._write_file("lifetimes", "Objects of this store may expire, or end with a process.\n")
            self.keeps_lives = True

    # -- while it runs

    def check(self, *, quiet: bool, unmoved: bool = False) -> bool:
        """Returns whether the directory at the store's path is the store; makes it whole if something is missing.

        It is if our locked file is in it. If not, it may have come back as another directory, from a copy or another
        mount: then its marker has our UUID, and its lock is taken. An empty directory has neither, and is no store
        that somebody emptied; unless it is known to be the very directory that we had, whose own folder is gone.

        Opening the marker is also the heartbeat: the watcher must hear of it (see watcher.py).

        Args:
            quiet: nothing happens in the directory just now. Nothing is made in it otherwise: who removes the directory
                whole must not find something new in it.
            unmoved: the directory is known to be the one that was there all along: its watch lives.

        Raises:
            OSError: it cannot be told at the moment, as when the process is out of descriptors.
        """
        taken = False
        try:
            root = self.ground.find()
        except StoreUnavailable:
            try:
                taken = self._take_again(quiet, unmoved)
                if not taken:
                    return False
                root = self.ground.find()
            except (StoreUnavailable, FileNotFoundError, NotADirectoryError, PermissionError):
                return False
        try:
            self._check_folders(root)
            # The path may have come to lead elsewhere by now: only what stands in this very directory counts. A damaged
            # marker speaks for nothing and against nothing: the lock is ours.
            ours = self.read_marker(root) in (self.store_id, None, "")
            if ours:
                self.ground.adopt(root)
                if taken:
                    folders.clear(root, TEMPORARY)
                if quiet:
                    self._restore(root)
            return ours
        except OSError as error:
            if error.errno in (errno.EXDEV, errno.ENOTDIR, errno.ENOENT):  # a namespace is no folder of it any more
                return False
            raise
        finally:
            os.close(root)

    def identities(self) -> dict[str, tuple[int, int]]:
        """Returns device and inode of what stands at the paths of the store (the empty name) and of its namespaces."""
        found = {name: os.stat(self.store / name) for name in ("", *self._namespaces)}
        return {name: (one.st_dev, one.st_ino) for name, one in found.items()}

    def stands_on(self, identity: tuple[int, int]) -> bool:
        """Returns whether the directory at the store's path is the one of that device and inode, as far as one sees."""
        try:
            return self.identities()[""] == identity
        except OSError:
            return False

    def read_marker(self, root: int | None = None) -> str | None:
        """Returns the UUID that the store's marker has now; None if there is none, empty if it is damaged.

        Args:
            root: descriptor of the directory whose marker it is; else what stands at the path now.
        """
        try:
            text = papers.read(self.folder / "store" if root is None else f"{FOLDER}/store", root)
            self.beats += 1
            return str(json.loads(text)["uuid"])
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError, RecursionError, IsADirectoryError):
            return ""
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENXIO, errno.EAGAIN):  # a link, a socket, a fifo
                return ""
            raise

    def _take_again(self, quiet: bool, unmoved: bool) -> bool:
        """Takes the lock of a directory that is ours by its marker, or because it cannot be another."""
        marker = self.read_marker()
        if marker != self.store_id and not (unmoved and marker is None and self.store.is_dir()):
            return False
        if not quiet and not (self.folder / "lock").exists():
            return False
        try:
            self.folder.mkdir(mode=0o755, exist_ok=True)
            self._take_lock()
        except StartError:  # another daemon has it
            return False
        return True

    def _restore(self, root: int) -> None:
        """Makes again what somebody removed of our own."""
        try:
            folders.furnish(root, (TEMPORARY, *self._namespaces))
            if not (self.folder / "store").exists():
                self._write_marker()
            if self._address and not (self.folder / "address").exists():
                self.announce(self._address)
        except OSError as error:
            if error.errno not in _NOT_NOW:
                raise

    def leave(self) -> None:
        """Gives the store up: the address is removed, the lock released. Safe to call twice."""
        if self._lock < 0:
            return
        if hasattr(self, "store_id"):  # else another daemon's address may stand there
            with contextlib.suppress(OSError, StoreUnavailable):
                os.close(self.ground.enter())
                (self.folder / "address").unlink(missing_ok=True)
        os.close(self._lock)
        self._lock = -1

    def _write_marker(self) -> None:
        self._write_file("store", json.dumps({"format": FORMAT, "uuid": self.store_id}) + "\n")

    def _write_file(self, name: str, text: str) -> None:
        papers.replace(name, text, self.private, self.folder)
