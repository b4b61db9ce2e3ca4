"""The seam between the daemon and the file system, and a daemon's parts that are driven by hand.

Every module of the daemon that touches a store says `os.something`. A `Seam` takes the place of that `os`: it counts
the calls, lets one of them fail or come short, and tells a `Recorder` what each meant: which file, which name in which
folder. A function that nobody here has heard of passes through, counted and failable like any other; a recorder that
does not know what it changes refuses it.

Two things go past the seam: getdents64 (entries.py), which only reads, and the methods of `Path` by which home.py makes
its folders.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import functools
import importlib
import json
import os
import pkgutil
import stat
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import storekeeperd
from storekeeper import wire
from storekeeperd import entries
from storekeeperd.answers import Peer
from storekeeperd.coherence import Coherence
from storekeeperd.config import Limits
from storekeeperd.disk import Disk
from storekeeperd.features import probe
from storekeeperd.home import TEMPORARY, Home
from storekeeperd.index import Index
from storekeeperd.operations import Job, Put, WouldWait
from storekeeperd.service import Service

FIGURES: dict[str, int] = {}
"""What the campaigns of this session came to; conftest.py prints it at the end."""


def count(what: str, number: int = 1) -> None:
    """Adds to a figure."""
    FIGURES[what] = FIGURES.get(what, 0) + number


def _modules() -> list[ModuleType]:
    """Returns all modules of the daemon that say `os.something`."""
    names = [found.name for found in pkgutil.iter_modules(storekeeperd.__path__) if found.name != "__main__"]
    modules = [importlib.import_module(f"storekeeperd.{name}") for name in names]
    return [module for module in modules if vars(module).get("os") is os]


MODULES = _modules()

_NO_CALLS = {
    "fsencode", "fsdecode", "fspath", "strerror", "getpid", "geteuid", "getuid", "uname", "cpu_count", "sched_yield",
    "major", "minor", "urandom", "eventfd", "eventfd_read", "eventfd_write",
}  # fmt: skip
"""Functions of `os` that ask nothing of a file system."""

READING = {
    "read", "pread", "preadv", "fstat", "stat", "lstat", "access", "readlink", "getxattr", "listxattr", "listdir",
    "scandir", "statvfs", "fstatvfs", "posix_fadvise", "lseek", "close", "dup", "dup2",
}  # fmt: skip
"""Calls that leave what is on the platter as it is."""

CHANGING = {
    "open", "write", "pwrite", "ftruncate", "posix_fallocate", "fchmod", "setxattr", "link", "rename", "replace",
    "unlink", "mknod", "mkdir", "fsync", "fdatasync",
}  # fmt: skip
"""Calls of which a `Recorder` knows what they change."""

# -- faults

BEFORE, AFTER, SHORT = "before", "after", "short"

_ERRORS = (errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.EINTR)
_LATE_ERRORS = (errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EINTR)
_AGAIN = {"link": errno.EEXIST, "rename": errno.ENOENT, "unlink": errno.ENOENT}
"""What NFS says of a call whose answer was lost: it was sent again, and had its effect already."""

_HAVE_EFFECT = CHANGING - {"open"} | {"close"}
_MAY_COME_SHORT = {"write", "pwrite", "read", "pread", "preadv"}


@dataclass(slots=True)
class Call:
    """One call of the file system.

    Attributes:
        number: which one it is, from 1.
        name: of the function of `os`.
        where: module and function that made it.
        arguments, options: what it was given.
        can_fail: the kernel has a way to let it fail.
        result: what it returned; meaningless if it failed.
    """

    number: int
    name: str
    where: str
    arguments: tuple[Any, ...]
    options: dict[str, Any]
    can_fail: bool = True
    result: Any = None


@dataclass(slots=True, frozen=True)
class Fault:
    """What happens to one call: it fails before or after its effect, or does only half of it."""

    number: int
    when: str
    code: int = 0

    def __str__(self) -> str:
        return f"call {self.number} {self.when} {errno.errorcode.get(self.code, '')}".strip()


def faults_of(call: Call) -> list[Fault]:
    """Returns all that may happen to a call."""
    found = []
    if call.can_fail:
        if call.name != "close":  # the kernel takes a descriptor back in any case
            found += [Fault(call.number, BEFORE, code) for code in _ERRORS]
        if call.name in _HAVE_EFFECT:
            late = (*_LATE_ERRORS, _AGAIN[call.name]) if call.name in _AGAIN else _LATE_ERRORS
            found += [Fault(call.number, AFTER, code) for code in late]
    if call.name == "preadv":
        found.append(Fault(call.number, BEFORE, errno.EAGAIN))
    if call.name in _MAY_COME_SHORT and _length(call.name, call.arguments) > 1:
        found.append(Fault(call.number, SHORT))
    return found


def _length(name: str, arguments: tuple[Any, ...]) -> int:
    """Returns how many bytes a read or write is about."""
    if name == "preadv":
        return sum(map(len, arguments[1]))
    return arguments[1] if name in ("read", "pread") else len(arguments[1])


def _shorten(name: str, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """Returns the arguments of a write, or of a read into a buffer, of half as many bytes."""
    descriptor, what, *more = arguments
    half = _length(name, arguments) // 2
    return descriptor, [memoryview(what[0])[:half]] if name == "preadv" else memoryview(what)[:half], *more


class Seam:
    """Stands in for `os`. Everything that it does not know passes through.

    Args:
        fault: what happens to one of the calls that are counted.
        recorder: is told of the calls that are counted.

    Attributes:
        calls: those made while `counting`.
        fired: the call that the fault befell.
    """

    def __init__(self, fault: Fault | None = None, recorder: Recorder | None = None) -> None:
        self.fault = fault
        self.recorder = recorder
        self.counting = False
        self.calls: list[Call] = []
        self.fired: Call | None = None

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name in _NO_CALLS or not callable(real) or isinstance(real, type):
            return real
        call = functools.partial(self._call, name, _no_platter if name in ("fsync", "fdatasync") else real)
        self.__dict__[name] = call
        return call

    @contextlib.contextmanager
    def counted(self) -> Iterator[None]:
        """Counts calls while the block lasts; the fault and the recorder count with them."""
        self.counting = True
        try:
            yield
        finally:
            self.counting = False

    @contextlib.contextmanager
    def installed(self, over: Callable[[Seam], Any] | None = None) -> Iterator[Seam]:
        """Stands in for `os` in all modules of the daemon while the block lasts.

        Args:
            over: makes what stands between the modules and this seam, as a broken daemon does.
        """
        stand_in = over(self) if over else self
        for module in MODULES:
            vars(module)["os"] = stand_in
        try:
            yield self
        finally:
            for module in MODULES:
                vars(module)["os"] = os

    def _call(self, name: str, real: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        if not self.counting:
            return real(*arguments, **options)
        frame = sys._getframe(1)
        where = f"{frame.f_globals['__name__'].rpartition('.')[2]}.{frame.f_code.co_name}"
        call = Call(len(self.calls) + 1, name, where, arguments, options)
        if name == "close":
            # close(2) reports what flushing brought to light. There is nothing to flush of a directory, nor of what was
            # opened as a mere path (O_PATH): no file system lets that fail.
            directory = stat.S_ISDIR(os.fstat(arguments[0]).st_mode)
            call.can_fail = not directory and not fcntl.fcntl(arguments[0], fcntl.F_GETFL) & os.O_PATH
        self.calls.append(call)
        fault = self.fault if self.fault is not None and self.fault.number == call.number else None
        if fault is not None:
            self.fired = call
            if fault.when == BEFORE:
                raise OSError(fault.code, os.strerror(fault.code))
            if fault.when == SHORT and name not in ("read", "pread"):
                arguments = _shorten(name, arguments)
        if self.recorder is not None:
            call.result = self.recorder.carry_out(call, real)
        else:
            call.result = real(*arguments, **options)
        if fault is not None and fault.when == AFTER:
            raise OSError(fault.code, os.strerror(fault.code))
        if fault is not None and fault.when == SHORT and name in ("read", "pread") and len(call.result) > 1:
            return call.result[: len(call.result) // 2]  # how much there is shows only now
        return call.result


def _no_platter(descriptor: int) -> None:
    """Is fsync(2) but for the platter: what reaches it is the model's business, not that of the machine of the test."""
    os.fstat(descriptor)


# -- broken daemons


class Broken:
    """Stands before a seam, and does some calls otherwise than the daemon meant them."""

    def __init__(self, seam: Seam) -> None:
        self.seam = seam

    def __getattr__(self, name: str) -> Any:
        return getattr(self.seam, name)


class LinksBeforeItWrites(Broken):
    """The file has its length, and its bytes come when it is closed."""

    def __init__(self, seam: Seam) -> None:
        super().__init__(seam)
        self.late: dict[int, list[tuple[bytes, int]]] = {}

    def pwrite(self, descriptor: int, payload: Any, offset: int) -> int:
        self.seam.ftruncate(descriptor, max(os.fstat(descriptor).st_size, offset + len(payload)))
        self.late.setdefault(descriptor, []).append((bytes(payload), offset))
        return len(payload)

    def close(self, descriptor: int) -> None:
        for payload, offset in self.late.pop(descriptor, []):
            self.seam.pwrite(descriptor, payload, offset)
        self.seam.close(descriptor)


# -- what the calls mean


@dataclass(slots=True, frozen=True)
class Created:
    """A new empty file."""

    node: int


@dataclass(slots=True, frozen=True)
class Wrote:
    """Bytes of a file."""

    node: int
    offset: int
    data: bytes


@dataclass(slots=True, frozen=True)
class Sized:
    """A file was cut off, or made longer by zeros."""

    node: int
    size: int


@dataclass(slots=True, frozen=True)
class Described:
    """Mode or an attribute of a file; the attribute is None for its mode."""

    node: int
    attribute: str | None
    value: Any


@dataclass(slots=True, frozen=True)
class Entered:
    """A name leads to a file from now on, to none if the node is None. Names are (folder, name)."""

    name: tuple[str, str]
    node: int | None


@dataclass(slots=True, frozen=True)
class Synced:
    """fsync of a file, or fdatasync (`data`): its size and bytes, but not its attributes."""

    node: int
    data: bool


@dataclass(slots=True, frozen=True)
class SyncedFolder:
    """fsync of a folder."""

    folder: str


@dataclass(slots=True, frozen=True)
class MadeFolder:
    """A new empty folder, and the one that it is in."""

    folder: str
    parent: str


@dataclass(slots=True, frozen=True)
class Said:
    """Something was asked of the daemon, or answered by it."""

    what: Any


Step = Created | Wrote | Sized | Described | Entered | Synced | SyncedFolder | MadeFolder | Said


@dataclass(slots=True)
class Found:
    """A file as it was when the recording began: all of it is on the platter."""

    data: bytes
    mode: int
    attributes: dict[str, bytes]


class NotUnderstood(AssertionError):
    """A call changes something, and the recorder does not know what."""


class Recorder:
    """Writes down what calls mean. A file is a number, a folder its path relative to the store.

    Args:
        store: the directory; what is outside is no concern.

    Attributes:
        steps: what happened.
        found: the files that were there at first, by number.
        names: the names that were there at first.
        folders: the folders that were there at first.
    """

    def __init__(self, store: Path) -> None:
        self.store = os.path.realpath(store)
        self.steps: list[Step] = []
        self.found: dict[int, Found] = {}
        self.names: dict[tuple[str, str], int] = {}
        self.folders: list[str] = []
        self._nodes: dict[tuple[int, int], int] = {}
        self._last = 0
        for parent, folders, files in os.walk(self.store):
            place = os.path.relpath(parent, self.store)
            self.folders += [os.path.normpath(os.path.join(place, name)) for name in folders]
            for name in files:
                self._find(os.path.join(parent, name), (place, name))

    def _find(self, path: str, name: tuple[str, str]) -> None:
        there = os.lstat(path)
        key = there.st_dev, there.st_ino
        if key not in self._nodes:
            with open(path, "rb") as file:
                data = file.read()
            attributes = {one: os.getxattr(path, one) for one in _attributes(path)}
            self.found[self._new(there)] = Found(data, stat.S_IMODE(there.st_mode), attributes)
        self.names[name] = self._nodes[key]

    def _new(self, there: os.stat_result) -> int:
        self._last += 1
        self._nodes[there.st_dev, there.st_ino] = self._last  # an inode's number may be used again
        return self._last

    def carry_out(self, call: Call, real: Callable[..., Any]) -> Any:
        """Makes a call, and writes down what it changed."""
        if call.name in READING:
            return real(*call.arguments, **call.options)
        if call.name not in CHANGING:
            raise NotUnderstood(f"os.{call.name} in {call.where}: the model of a power cut does not know what it does")
        what = getattr(self, f"_{call.name}")
        return what(call, lambda: real(*call.arguments, **call.options))

    # -- one method per call

    def _open(self, call: Call, go: Callable[[], Any]) -> Any:
        flags = call.arguments[1]
        unnamed = flags & os.O_TMPFILE == os.O_TMPFILE
        name = None if unnamed else self._name(call.arguments[0], call.options.get("dir_fd"))
        makes = bool(flags & os.O_CREAT) and name is not None and not os.path.lexists(self._path(name))
        descriptor = go()
        if unnamed or makes:
            node = self._new(os.fstat(descriptor))
            self._say(Created(node))
            self._say(Described(node, None, stat.S_IMODE(os.fstat(descriptor).st_mode)))
            if name is not None:
                self._say(Entered(name, node))
        elif flags & os.O_TRUNC:
            self._say(Sized(self._node(descriptor), 0))
        return descriptor

    def _pwrite(self, call: Call, go: Callable[[], Any]) -> Any:
        descriptor, data, offset = call.arguments
        written = go()
        self._say(Wrote(self._node(descriptor), offset, bytes(data[:written])))
        return written

    def _write(self, call: Call, go: Callable[[], Any]) -> Any:
        descriptor, data = call.arguments
        offset = os.lseek(descriptor, 0, os.SEEK_CUR)
        written = go()
        self._say(Wrote(self._node(descriptor), offset, bytes(data[:written])))
        return written

    def _ftruncate(self, call: Call, go: Callable[[], Any]) -> Any:
        go()
        self._say(Sized(self._node(call.arguments[0]), call.arguments[1]))

    def _posix_fallocate(self, call: Call, go: Callable[[], Any]) -> Any:
        go()
        self._say(Sized(self._node(call.arguments[0]), os.fstat(call.arguments[0]).st_size))

    def _fchmod(self, call: Call, go: Callable[[], Any]) -> Any:
        go()
        self._say(Described(self._node(call.arguments[0]), None, call.arguments[1]))

    def _setxattr(self, call: Call, go: Callable[[], Any]) -> Any:
        target, attribute, value = call.arguments[:3]
        if not isinstance(target, int):
            raise NotUnderstood(f"os.setxattr in {call.where}: by a path")
        go()
        self._say(Described(self._node(target), attribute, bytes(value)))

    def _link(self, call: Call, go: Callable[[], Any]) -> Any:
        source, target = call.arguments
        node = self._source(source, call.options.get("src_dir_fd"))
        go()
        self._enter(target, call.options.get("dst_dir_fd"), node)

    def _rename(self, call: Call, go: Callable[[], Any]) -> Any:
        source, target = call.arguments
        node = self._source(source, call.options.get("src_dir_fd"))
        old = self._name(source, call.options.get("src_dir_fd"))
        new = self._name(target, call.options.get("dst_dir_fd"))
        same = os.path.lexists(self._path(new)) and os.path.samefile(self._path(old), self._path(new))
        go()
        if not same:  # else rename(2) leaves both names, and says that it is done
            self._say(Entered(new, node))
            self._say(Entered(old, None))

    _replace = _rename

    def _unlink(self, call: Call, go: Callable[[], Any]) -> Any:
        name = self._name(call.arguments[0], call.options.get("dir_fd"))
        go()
        self._say(Entered(name, None))

    def _mknod(self, call: Call, go: Callable[[], Any]) -> Any:
        mode = call.arguments[1]
        if not stat.S_ISREG(mode):
            raise NotUnderstood(f"os.mknod in {call.where}: no file")
        name = self._name(call.arguments[0], call.options.get("dir_fd"))
        go()
        node = self._new(os.lstat(self._path(name)))
        self._say(Created(node))
        self._say(Described(node, None, stat.S_IMODE(mode)))
        self._say(Entered(name, node))

    def _fsync(self, call: Call, go: Callable[[], Any]) -> Any:
        go()
        (descriptor,) = call.arguments
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            self._say(SyncedFolder(self._folder(descriptor)))
        else:
            self._say(Synced(self._node(descriptor), data=call.name == "fdatasync"))

    _fdatasync = _fsync

    def _mkdir(self, call: Call, go: Callable[[], Any]) -> Any:
        place, name = self._name(call.arguments[0], call.options.get("dir_fd"))
        go()
        self._say(MadeFolder(os.path.normpath(os.path.join(place, name)), place))

    # -- which file, which name

    def said(self, what: Any) -> None:
        """Takes what was asked or answered."""
        self._say(Said(what))

    def _say(self, step: Step) -> None:
        self.steps.append(step)

    def _node(self, descriptor: int) -> int:
        there = os.fstat(descriptor)
        return self._nodes[there.st_dev, there.st_ino]

    def _folder(self, descriptor: int) -> str:
        return os.path.relpath(os.readlink(f"/proc/self/fd/{descriptor}"), self.store)

    def _name(self, path: Any, descriptor: int | None) -> tuple[str, str]:
        base = os.getcwd() if descriptor is None else os.readlink(f"/proc/self/fd/{descriptor}")
        whole = os.path.relpath(os.path.join(base, os.fsdecode(path)), self.store)
        folder, name = os.path.split(whole)
        return folder or ".", name

    def _path(self, name: tuple[str, str]) -> str:
        return os.path.join(self.store, *name)

    def _source(self, path: Any, descriptor: int | None) -> int:
        base = os.getcwd() if descriptor is None else os.readlink(f"/proc/self/fd/{descriptor}")
        if base.startswith("/proc/"):
            return self._node(int(path))
        there = os.lstat(os.path.join(base, os.fsdecode(path)))
        return self._nodes[there.st_dev, there.st_ino]

    def _enter(self, path: Any, descriptor: int | None, node: int) -> None:
        self._say(Entered(self._name(path, descriptor), node))


def _attributes(path: str) -> list[str]:
    try:
        return [name for name in os.listxattr(path) if name.startswith("user.")]
    except OSError:
        return []


# -- a daemon's parts


@dataclass(slots=True, frozen=True)
class Setup:
    """How a daemon is set up.

    Attributes:
        durability: of what is put.
        unnamed: whether O_TMPFILE is used, if there is one.
        markers: whether FileConnector's markers are kept.
        inline: whether operations are first tried without waiting, as the loop does it.
        nowait: whether reads from the page cache alone are used, if there are any.
        boot: which boot of the machine it is.
    """

    durability: str = "os"
    unnamed: bool = True
    markers: bool = False
    inline: bool = False
    nowait: bool = True
    boot: int = 1

    def __str__(self) -> str:
        flags = {"named": not self.unnamed, "markers": self.markers, "inline": self.inline, "wait": not self.nowait}
        return "-".join([self.durability, *(name for name, is_so in flags.items() if is_so)])


@dataclass(slots=True)
class Exchange:
    """A request and its answer.

    Attributes:
        verb: what was asked; `put` for a whole upload, too.
        items: key and bytes of each item, None where a verb takes no bytes.
        options: of the request.
        outcome: `ok`, or the code of a refusal.
        words: of the items; of a refusal its code for each.
        payloads, details: what came with them.
    """

    verb: bytes
    items: list[tuple[bytes, bytes | None]]
    options: dict[str, Any]
    outcome: bytes
    words: list[bytes]
    payloads: list[bytes] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)


class Rig:
    """A daemon's parts on a directory: home, disk, index, coherence and service. No sockets, no threads, no watch.

    Args:
        store: the directory.
        setup: how it is set up.
        namespaces: beside the default one.

    Attributes:
        exchanges: what was asked and answered.
        codes: of all errors that were answered.
        said: called with every request before it is taken, and with every exchange when it is answered.
    """

    def __init__(self, store: Path, setup: Setup, namespaces: tuple[str, ...] = ("team",)) -> None:
        self.store = store
        self.setup = setup
        self.exchanges: list[Exchange] = []
        self.codes: set[bytes] = set()
        self.said: Callable[[Any], None] = lambda _: None
        self.home = Home(store, namespaces)
        features = self.home.features
        self.disk = Disk(
            self.home.ground,
            TEMPORARY,
            unnamed_files=features.unnamed_files and setup.unnamed,
            attributes=features.attributes,
            read_nowait=features.read_nowait and setup.nowait,
            ready_markers=setup.markers,
            sync_together=False,  # not a function of `os`; to a file system it is the same (test_syncs.py)
            boot=setup.boot,
        )
        self.prefixes = [b"", *(name.encode() + b"/" for name in namespaces)]
        self.index = Index()
        self.coherence = Coherence(self.index)
        self.service = Service(Limits(), self.index, self.coherence, namespaces=namespaces)
        self.peer = Peer(1234, 1234, 1)
        self._replies: dict[bytes, list[list[bytes]]] = {}
        self._last_id = 0

    def close(self) -> None:
        """Ends the daemon as a kill does, but for its descriptors."""
        self.disk.close()
        self.home.leave()

    def scan(self) -> None:
        """Enters all that is in the directory, as the scan at the start does."""
        self.coherence.begin_scan()
        for prefix in self.prefixes:
            for data in self.disk.scan(prefix):
                found = entries.sort(*entries.take_apart(data))
                self.coherence.scanned([prefix + name for name in found.objects])
                self.coherence.scanned_doubtful([prefix + name for name in found.doubtful])
        self.coherence.end_scan(complete=True)
        while self.coherence.sweep():
            self.settle()
        self.settle()
        self.coherence.sweep()

    def settle(self) -> None:
        """Carries out all that is ordered, until nothing is."""
        service = self.service
        while True:
            while service.jobs:
                job = service.jobs.popleft()
                self._carry_out(job)
                service.finished(job)
            self._take_replies(service.replies)
            if service.barriers.unheard:
                service.barriers.heard()
            if not service.ask_disk(512) and not service.jobs and not service.replies:
                return

    def come_to_rest(self) -> None:
        """Does what the daemon does within a second or two: names that a look could not tell of are looked at again."""
        self.settle()
        self.coherence.retry_unanswered()
        self.settle()

    def _carry_out(self, job: Job) -> None:
        """As jobs.py does it: durable puts together; else without waiting first, and what would wait on its own."""
        puts = [operation for operation in job.operations if isinstance(operation, Put) and operation.durable]
        if len(puts) == len(job.operations):
            with self.disk.stay() as stay:
                job.outcomes = self.disk.put_together(puts, stay)
            return
        for wait in [False, True] if self.setup.inline else [True]:
            with self.disk.stay() as stay, contextlib.suppress(WouldWait):
                for operation in job.operations[len(job.outcomes) :]:
                    job.outcomes.append(self.disk.perform(operation, stay, wait=wait))

    def _take_replies(self, replies: deque[tuple[Peer, list[Any]]]) -> None:
        while replies:
            _, frames = replies.popleft()
            self._replies.setdefault(bytes(frames[1]), []).append([bytes(frame) for frame in frames])

    # -- requests

    def send(self, verb: bytes, arguments: Iterable[bytes], **options: Any) -> bytes:
        """Hands a request to the service; returns its id."""
        self._last_id += 1
        request_id = b"%d" % self._last_id
        self.service.request(self.peer, wire.encode_request(verb, request_id, options, list(arguments)))
        return request_id

    def answer(
        self, request_id: bytes, verb: bytes, items: list[tuple[bytes, bytes | None]], options: dict[str, Any]
    ) -> Exchange:
        """Returns the one answer to a request."""
        replies = self._replies.pop(request_id, [])
        assert len(replies) == 1, f"unanswered: {len(replies)} answers to {verb!r}"
        outcome, details, *rest = replies[0][2:]
        told = json.loads(details) if details else {}
        words = rest[0].split(b" ") if outcome == wire.OK else [outcome] * max(1, len(items))
        found = Exchange(verb, items, options, outcome, words, rest[1:], told)
        self.codes |= {word for word in words if word not in _WORDS}
        return found

    def _keep(self, exchange: Exchange) -> Exchange:
        self.exchanges.append(exchange)
        self.said(exchange)
        return exchange

    def ask(self, verb: bytes, *keys: bytes, **options: Any) -> Exchange:
        """Asks something about keys, and returns the answer."""
        return self._ask(verb, [(key, None) for key in keys], keys, options)

    def put(self, *items: tuple[bytes, bytes], **options: Any) -> Exchange:
        """Puts objects in one request."""
        options = {"durability": self.setup.durability, **options}
        return self._ask(b"put", list(items), [part for item in items for part in item], options)

    def _ask(
        self,
        verb: bytes,
        items: Iterable[tuple[bytes, bytes | None]],
        arguments: Iterable[bytes],
        options: dict[str, Any],
    ) -> Exchange:
        items = list(items)
        self.said((verb, items, options))
        request_id = self.send(verb, arguments, **options)
        self.settle()
        return self._keep(self.answer(request_id, verb, items, options))

    def upload(self, key: bytes, parts: list[bytes], **options: Any) -> Exchange:
        """Puts an object in ranges, all under way at once; the exchange is that of a put."""
        options = {"durability": self.setup.durability, **options}
        items: list[tuple[bytes, bytes | None]] = [(key, b"".join(parts))]
        self.said((b"put", items, options))
        request_id = self.send(b"upload", [key], **options)
        self.settle()
        begun = self.answer(request_id, b"put", items, options)
        if begun.words != [wire.OK]:
            return self._keep(begun)
        handle, offset, ids = str(begun.details["handle"]).encode(), 0, []
        for part in parts:
            ids.append(self.send(b"write", [handle, b"%d" % offset, part]))
            offset += len(part)
        commit = self.send(b"commit", [handle, b"%d" % offset])
        self.settle()
        for write in ids:
            self.answer(write, b"write", [], {})
        return self._keep(self.answer(commit, b"put", items, options))

    def fetch(self, key: bytes, part_bytes: int, **options: Any) -> Exchange:
        """Reads an object in ranges; the exchange is that of a get."""
        opened = self._ask(b"open", [(key, None)], [key], options)
        if opened.words != [wire.OK]:
            return opened
        handle, size, data = str(opened.details["handle"]).encode(), int(opened.details["size"]), b""
        word = wire.OK
        for offset in range(0, size, part_bytes):
            part = self._ask(b"read", [], [handle, b"%d" % offset, b"%d" % part_bytes], {})
            word = part.words[0]
            if word != wire.OK:
                break
            data += part.payloads[0]
        self._ask(b"close", [], [handle], {})
        self.exchanges = self.exchanges[:-1]
        return self._keep(Exchange(b"get", [(key, None)], options, wire.OK, [word], [data if word == wire.OK else b""]))

    def leave(self) -> None:
        """The connection ends, and another one begins."""
        self.service.gone(self.peer)
        self.settle()
        assert not self.peer.owed_requests and not self.peer.owed_bytes, f"owed to a peer that is gone: {self.peer}"
        self.peer = dataclasses.replace(self.peer, gone=False, handles={}, opening=0)


_WORDS = {
    b"ok", b"yes", b"no", b"absent", b"large", b"later", b"created", b"replaced", b"same", b"evicted", b"",
}  # fmt: skip


@contextlib.contextmanager
def quick_folder(fallback: Path) -> Iterator[Path]:
    """Gives a folder in memory, if this system has one that can all that a store wants; else `fallback`."""
    with contextlib.ExitStack() as stack:
        try:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="storekeeper-", dir="/dev/shm")))
            features = probe(folder)
        except OSError:
            yield fallback
            return
        yield folder if features.unnamed_files and features.attributes else fallback


def held(store: Path, namespace: str = "") -> dict[bytes, bytes]:
    """Returns what stands in a namespace's folder: its files and their bytes, markers included."""
    folder = store / namespace if namespace else store
    return {os.fsencode(path.name): path.read_bytes() for path in folder.iterdir() if path.is_file()}


def descriptors() -> set[str]:
    """Returns the descriptors that the process holds, by number and what they lead to."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            found.add(f"{name} {os.readlink(f'/proc/self/fd/{name}')}")
    return found
