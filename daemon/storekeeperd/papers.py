"""Small files of the daemon's own: opened, read and written so that nobody can put others in their way.

Owns the care: never through a link, never waiting for a fifo, never more of a file than there should be, never half of
one in place of a whole one. Which files there are is home.py's.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

CAREFUL = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
SMALL_BYTES = 4096


@contextlib.contextmanager
def opened(directory: Path | str, root: int | None = None) -> Iterator[int]:
    """Gives a descriptor of a folder of ours, which is no link to another one."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=root)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def overwrite(name: str, folder: int, text: str) -> None:
    """Gives a file of a folder other contents."""
    file = os.open(name, os.O_WRONLY | os.O_TRUNC | CAREFUL, dir_fd=folder)
    try:
        write_whole(file, text)
    finally:
        os.close(file)


def write_whole(file: int, text: str) -> None:
    """Writes all of a text, however little the system takes at a time."""
    left = memoryview(text.encode())
    while left:
        left = left[os.write(file, left) :]


def replace(name: str, text: str, private: Path, folder: Path) -> None:
    """Writes a small file whole: under a private name, fsync, rename into its folder, fsync of that."""
    with opened(private) as begun, opened(folder) as kept:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=begun)
        file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | CAREFUL, 0o600, dir_fd=begun)
        try:
            write_whole(file, text)
            os.fchmod(file, 0o644)
            os.fsync(file)
        finally:
            os.close(file)
        os.rename(name, name, src_dir_fd=begun, dst_dir_fd=kept)
        os.fsync(kept)


def read(path: Path | str, root: int | None = None, *, bytes_max: int = SMALL_BYTES) -> bytes:
    """Returns a small file of ours: not through a link, not from a fifo, not more of it than there should be."""
    file = os.open(path, os.O_RDONLY | CAREFUL, dir_fd=root)
    try:
        return os.read(file, bytes_max)
    finally:
        os.close(file)


def sync(directory: Path) -> None:
    """Makes the entries of a directory survive a power cut; some places cannot, or may not be read: let them be."""
    with contextlib.suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
