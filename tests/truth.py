"""What a store holds at one instant, by the directory and by what its daemon has open: what bounds are held against.

The daemon is stopped for a moment (SIGSTOP): nothing moves while it is counted, so that what is seen was so.
"""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from conftest import Daemon

BLOCK = 4096


def blocks(size: int) -> int:
    """Returns a size in whole blocks."""
    return -(-size // BLOCK) * BLOCK


def owner_of(path: str | Path) -> int:
    """Returns whose an object is: by its attribute, else by its file."""
    try:
        return int.from_bytes(os.getxattr(path, "user.storekeeper")[4:8], "little")
    except OSError:
        return os.stat(path).st_uid


class Truth:
    """Objects and bytes, in whole blocks, by who holds them: `("store",)`, `("user", uid)`, `("namespace", name)`…

    Attributes:
        objects, charged: how many, and how much; `size` without the rounding, of what has a name.
        named: objects that have a name.
    """

    def __init__(self) -> None:
        self.objects: Counter[tuple[object, ...]] = Counter()
        self.charged: Counter[tuple[object, ...]] = Counter()
        self.size: Counter[tuple[object, ...]] = Counter()
        self.named: Counter[tuple[object, ...]] = Counter()
        self._seen: set[int] = set()
        self.unnamed: list[str] = []

    def add(self, path: str, namespace: str, *, named: bool) -> None:
        """Counts a file once, however many names and descriptors it has."""
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode) or status.st_ino in self._seen:
            return
        self._seen.add(status.st_ino)
        owner = owner_of(path)
        # Less than its length if it is written in ranges; more than that are blocks of the file system's own.
        charged = min(blocks(status.st_size), status.st_blocks * 512) if not named else blocks(status.st_size)
        for holder in (("store",), ("user", owner), ("namespace", namespace), ("user in", namespace, owner)):
            self.objects[holder] += 1
            self.charged[holder] += charged
            if not named and holder == ("store",):
                self.unnamed.append(
                    f"{os.readlink(path) if os.path.islink(path) else path}: {status.st_size} bytes of {owner}"
                )
            if named:
                self.size[holder] += status.st_size
                self.named[holder] += 1


def count(store: Path, pid: int | None = None) -> Truth:
    """Counts what a directory holds, and what has no name but is open in a process."""
    truth = Truth()
    for folder in (store, *(entry for entry in store.iterdir() if entry.is_dir() and entry.name[0] != ".")):
        for entry in os.scandir(folder):
            if entry.name[0] != "." and entry.is_file(follow_symlinks=False):
                truth.add(entry.path, "default" if folder == store else folder.name, named=True)
    if pid is not None:
        for entry in os.scandir(store / ".storekeeper" / "tmp"):
            truth.add(entry.path, "?", named=False)
        for number in os.listdir(f"/proc/{pid}/fd"):
            path = f"/proc/{pid}/fd/{number}"
            with contextlib.suppress(FileNotFoundError):
                target = os.readlink(path)
                if target.startswith(str(store)) and target.endswith(" (deleted)"):
                    parts = Path(target).relative_to(store).parts
                    namespace = "default" if len(parts) == 1 else parts[0]
                    truth.add(path, "?" if namespace[0] == "." else namespace, named=False)
    return truth


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Lets a process stand still, with all its threads."""
    os.kill(pid, signal.SIGSTOP)
    try:
        deadline = time.monotonic() + 20
        while any(_state(pid, task) != "T" for task in os.listdir(f"/proc/{pid}/task")):
            assert time.monotonic() < deadline, "it does not stop"
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def _state(pid: int, task: str) -> str:
    try:
        return Path(f"/proc/{pid}/task/{task}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "T"


def now(daemon: Daemon) -> Truth:
    """Returns what a store holds at this very instant."""
    with stopped(daemon.pid):
        return count(daemon.store, daemon.pid)
