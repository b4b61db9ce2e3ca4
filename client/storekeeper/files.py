"""Objects from files and into files, for the command line: mapped files, pipes, devices.

Owns how a file becomes the bytes of an object and how these become a file, whole or not at all; nothing of what users
type, nor of what they are shown.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from storekeeper import ranges
from storekeeper.client import Client
from storekeeper.terminal import bar


@contextlib.contextmanager
def contents(file: str) -> Iterator[Any]:
    """Gives the bytes of a file, mapped, not read; standard input goes through a temporary file."""
    with contextlib.ExitStack() as stack:
        if file == "-":
            source: BinaryIO = stack.enter_context(tempfile.TemporaryFile())
            while block := sys.stdin.buffer.read(1 << 20):
                source.write(block)
            source.flush()
        else:
            source = stack.enter_context(open(file, "rb"))
        if os.fstat(source.fileno()).st_size:
            # Not closed here: an error on its way out may still hold a view of it.
            yield memoryview(mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_READ))
        else:
            yield source.read() if file != "-" else b""


def fetch(client: Client, key: str, target: BinaryIO) -> bool:
    """Writes an object to a stream, in order; returns whether there was one."""
    with _progress(client, key) as progress:
        size = client._traffic.fetch_in_order(key, target, progress)
    target.flush()
    return size is not None


def fetch_file(client: Client, key: str, path: Path) -> bool:
    """Writes an object to a file that appears whole or not at all; returns whether there was one."""
    if path.exists() and not path.is_file():  # a device, a fifo: written into, not replaced
        with open(path, "wb") as stream:
            return fetch(client, key, stream)
    path = path.resolve()  # through a link, not over it
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".storekeeper-", delete=False) as file:
        try:
            with _progress(client, key) as progress:
                size = client._traffic.fetch(
                    key, lambda _: lambda start, part: _write_at(file.fileno(), part, start), progress
                )
            if size is None:
                os.unlink(file.name)
                return False
            umask = os.umask(0)
            os.umask(umask)
            os.fchmod(file.fileno(), 0o666 & ~umask)
            os.rename(file.name, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(file.name)
            raise
    return True


@contextlib.contextmanager
def _progress(client: Client, key: str) -> Iterator[ranges.Progress]:
    info = client.stat(key) if sys.stderr.isatty() else None
    with bar(key, info.size if info else 0) as progress:
        yield progress


def _write_at(descriptor: int, part: memoryview, start: int) -> None:
    while part:
        written = os.pwrite(descriptor, part, start)
        start += written
        part = part[written:]
