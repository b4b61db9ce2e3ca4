"""The daemon's own folder inside a store, `.storekeeper/`: who owns the store, which store it is, where to reach it.

Owns these files and no others:

    lock      held with flock(2) for the life of a daemon; its text names the holder
    store     JSON: the store's UUID and the format version; tells this store from another directory at its path
    address   where the daemon of this store listens, for those who know only the directory
    namespaces  JSON: namespaces that users have made, and what they are told
    lifetimes  there if objects of the store may expire or end with a process
    tmp/      private names of files that are not published yet; emptied at start

(And knows nothing of `quarantine/`, which is proofs.py's, and `scrub`, which is scrub.py's.)
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import stat
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from storekeeper import wire
from storekeeper.errors import BadRequest, StoreUnavailable
from storekeeperd import papers
from storekeeperd.features import probe
from storekeeperd.ground import Ground

FOLDER = ".storekeeper"
TEMPORARY = f"{FOLDER}/tmp"
FORMAT = 1

# sysexits.h
EX_DATAERR, EX_NOINPUT, EX_OSERR, EX_CANTCREAT, EX_IOERR, EX_TEMPFAIL, EX_NOPERM, EX_CONFIG = (
    65, 66, 71, 73, 74, 75, 77, 78,
)  # fmt: skip


_MADE_BYTES_MAX = 4 * 1024 * 1024
_NOT_NOW = (errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM)


class StartError(Exception):
    """The daemon cannot start; one line that says why, and a status of sysexits.h."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


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
            raise _start_error(store, error) from None
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
            self._furnish(root)
            self._check_folders(root)
            self._clear(root)
        finally:
            os.close(root)
        self.store_id = self._identify()
        self.features = probe(self.private)
        for made in (self.store, self.store.parent):
            papers.sync(made)

    def _furnish(self, root: int) -> None:
        """Makes the folders that must be there, if they are not, so that they survive a power cut."""
        made = False
        for name in (TEMPORARY, *self._namespaces):
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=root)
                made = True
        if made:  # whatever is put into a namespace would go with its folder
            with contextlib.suppress(PermissionError), papers.opened(".", root) as store:  # which may not be read
                os.fsync(store)

    def _check_folders(self, root: int) -> None:
        """Raises unless what is there of them are folders, no links, on the store's own file system.

        Nothing can be linked into another file system; and a link would lead us to somebody else's files.
        """
        device = os.fstat(root).st_dev
        for name in (FOLDER, TEMPORARY, *self._namespaces):
            try:
                found = os.stat(name, dir_fd=root, follow_symlinks=False)
            except FileNotFoundError:
                continue
            path = self.store / name
            if not stat.S_ISDIR(found.st_mode):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
            if found.st_dev != device:
                raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), path)

    def _clear(self, root: int) -> None:
        """Removes files that were not published: their writers are gone."""
        with contextlib.suppress(FileNotFoundError), papers.opened(TEMPORARY, root) as private:
            for name in os.listdir(private):
                with contextlib.suppress(IsADirectoryError, PermissionError):
                    os.unlink(name, dir_fd=private)

    def _take_lock(self) -> None:
        # Not for writing: as long as a file is open for that, its file system cannot be made read-only. But flock(2)
        # on NFS, which makes it a lock of fcntl(2), takes nothing less.
        try:
            lock = self._lock_file(os.O_RDONLY)
        except OSError as error:
            if error.errno != errno.EBADF:
                raise
            lock = self._lock_file(os.O_RDWR)
        try:
            held = os.fstat(lock)
            with papers.opened(self.folder) as folder:
                if not os.path.samestat(os.stat("lock", dir_fd=folder, follow_symlinks=False), held):
                    raise StartError(f"{self.store} changes hands at this very moment", EX_TEMPFAIL)
                if held.st_nlink == 1:  # else it is somebody's file, too
                    papers.overwrite("lock", folder, f"pid {os.getpid()} uid {os.geteuid()}\n")
        except BaseException:
            os.close(lock)
            raise
        if self._lock >= 0:
            os.close(self._lock)
        self._lock = lock
        self.ground.witness = held.st_dev, held.st_ino

    def _lock_file(self, flags: int) -> int:
        with papers.opened(self.folder) as folder:
            lock = os.open("lock", flags | os.O_CREAT | papers.CAREFUL, 0o644, dir_fd=folder)
        try:
            if not stat.S_ISREG(os.fstat(lock).st_mode):
                raise StartError(f"{self.folder}/lock is no file: remove it and start again", EX_DATAERR)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(lock, 200, 0).decode("utf-8", "replace").strip() or "an unknown process"
            os.close(lock)
            raise StartError(f"{self.store} is owned by another daemon: {holder}", EX_TEMPFAIL) from None
        except BaseException:
            os.close(lock)
            raise
        return lock

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
                try:
                    os.rmdir(name, dir_fd=root)
                except OSError as error:
                    if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                        raise
                    raise BadRequest(f"namespace {name!r} is not empty: evict what is in it first") from None
            else:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(name, 0o700, dir_fd=root)
                found = os.stat(name, dir_fd=root, follow_symlinks=False)
                if not stat.S_ISDIR(found.st_mode) or found.st_dev != os.fstat(root).st_dev:
                    raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), name)
                with papers.opened(name, root) as folder, os.scandir(folder) as entries:
                    if next(entries, None) is not None:  # whoever makes a namespace gets nothing of others with it
                        raise BadRequest(f"a folder {name!r} is there already, and not empty: it is not served")
            with contextlib.suppress(PermissionError), papers.opened(".", root) as store:
                os.fsync(store)
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
                    self._clear(root)
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
            self._furnish(root)
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
        """Writes a small file whole: private name, fsync, rename."""
        with papers.opened(self.private) as private, papers.opened(self.folder) as folder:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=private)
            file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | papers.CAREFUL, 0o600, dir_fd=private)
            try:
                papers.write_whole(file, text)
                os.fchmod(file, 0o644)
                os.fsync(file)
            finally:
                os.close(file)
            os.rename(name, name, src_dir_fd=private, dst_dir_fd=folder)
            os.fsync(folder)


def _start_error(store: Path, error: OSError) -> StartError:
    reason = os.strerror(error.errno or 0)
    if error.errno == errno.EXDEV:
        return StartError(f"{error.filename} lies on another file system than {store}: a namespace cannot", EX_CONFIG)
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return StartError(f"{error.filename or store} is not a directory: a store is one", EX_NOINPUT)
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return StartError(
            f"{store} cannot be written by uid {os.geteuid()}: {reason} ({error.filename or store})", EX_NOPERM
        )
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StartError(f"{store} is full ({reason}): free some space or quota, then start again", EX_CANTCREAT)
    return StartError(f"{store}: {reason} ({error.filename or store})", EX_IOERR)
