"""What an administrator should know about a store's directory: what in it is no object, and how it is watched.

Owns nothing and changes nothing. Needs no running daemon: reads the directory itself, so it takes the permissions of
whoever asks.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from storekeeperd import entries
from storekeeperd.filesystem import find

_SENTENCES = {
    "directory": "a directory; serve it with --namespace if it holds objects, else move it away",
    "link": "a symbolic link, which is never followed; replace it by the file itself",
    "special": "a fifo, socket or device; move it away",
    "name": "its name is no key (UTF-8); rename it",
    "marker": "a marker of ProxyStore's FileConnector; kept up to date with ready_markers = true",
    "unreadable": "may not be read by this user; change its mode or owner, or run the daemon as its owner",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing worth knowing.

    Attributes:
        name: the entry, relative to the store, undecodable bytes escaped.
        kind: `directory`, `link`, `special`, `name`, `marker` or `unreadable`.
        advice: what it is, and what to do.
    """

    name: str
    kind: str
    advice: str


def examine(store: Path, namespaces: tuple[str, ...] = ()) -> Iterator[Finding]:
    """Goes through a store and yields all that is not served, in no order. Makes a system call per file.

    Raises:
        OSError: the directory cannot be read.
    """
    for folder in ("", *namespaces):
        descriptor = os.open(store / folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for data in entries.read(descriptor):
                for name, type_ in zip(*entries.take_apart(data), strict=True):
                    kind = _kind(descriptor, name, type_)
                    if kind == "directory" and not folder and os.fsdecode(name) in namespaces:
                        continue
                    if kind in _SENTENCES:
                        path = (Path(folder) / os.fsdecode(name)).as_posix()
                        yield Finding(os.fsencode(path).decode("utf-8", "backslashreplace"), kind, _SENTENCES[kind])
        finally:
            os.close(descriptor)


def _kind(directory: int, name: bytes, type_: int) -> str:
    kind = entries.kind_of(name, type_)
    if kind == "doubtful":
        try:
            found = os.stat(name, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            return "gone"
        kind = entries.kind_of(name, stat.S_IFMT(found.st_mode) >> 12)  # IFTODT of readdir(3)
        if kind == "doubtful":
            kind = "object" if found.st_size else "marker"
    if kind == "object" and not os.access(name, os.R_OK, dir_fd=directory):
        there = os.access(name, os.F_OK, dir_fd=directory, follow_symlinks=False)
        return "unreadable" if there else "gone"
    return kind


def how_watched(store: Path) -> str:
    """Returns one sentence about how changes are noticed there."""
    found = find(store)
    if found.local:
        return f"{store} lies on {found.kind}: the kernel tells of every change"
    return (
        f"{store} lies on {found.kind}: changes made elsewhere than through this mount are noticed by scans, "
        "every scan_interval_s or 20 times the length of a scan"
    )
