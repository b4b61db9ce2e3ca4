"""The entries of a directory, many at a time: getdents64(2) itself, and what is in its buffer.

Owns the buffer's layout, and what an entry's name and type say about it. os.scandir gives up the interpreter lock for
every single entry and makes an object of each; in a thread beside a busy loop that took three times as long, measured
at a million entries. So `read` belongs into a thread, where it does nothing but wait for the kernel, without the lock;
`take_apart` and `sort` belong to who wants the names.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise

from storekeeper import wire

MARKER = b".ready"
"""ProxyStore's FileConnector makes an empty file of this ending beside every object, and believes only in those."""

UNKNOWN, DIRECTORY, REGULAR, LINK = 0, 4, 8, 10
"""d_type of readdir(3): DT_UNKNOWN, DT_DIR, DT_REG, DT_LNK. Some file systems know none."""

_BUFFER_BYTES = 256 * 1024
_PIECE_BYTES = 64 * 1024
"""More than a thousand entries: about a millisecond's work for who takes them apart."""

_SYSCALLS = {"x86_64": 217, "aarch64": 61, "riscv64": 61, "loongarch64": 61, "ppc64le": 202, "s390x": 220}
"""The number of getdents64(2), by machine."""

# struct linux_dirent64: inode and offset of 8 bytes each, length of the record, type, name ended by NUL.
_LENGTH_AT, _TYPE_AT, _NAME_AT = 16, 18, 19


@dataclass(slots=True)
class Sorted:
    """Entries by what they are.

    Attributes:
        objects: names of regular files that are keys.
        doubtful: names that take a look: of an unknown type, or named like a marker.
        foreign: how many of the others, by kind.
    """

    objects: list[bytes]
    doubtful: list[bytes] = field(default_factory=list)
    foreign: Counter[str] = field(default_factory=Counter)


def read(descriptor: int) -> Iterator[bytes]:
    """Yields the entries of an open directory, as buffers for `split` and `take_apart`.

    Args:
        descriptor: the directory, opened for reading, at its beginning.

    Raises:
        OSError: it cannot be read to its end.
    """
    getdents64 = _getdents64()
    while True:
        # A new one each time, all zero: the kernel leaves what stands between the records as it was.
        buffer = ctypes.create_string_buffer(_BUFFER_BYTES)
        length = getdents64(descriptor, buffer, _BUFFER_BYTES)
        if length < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        if not length:
            return
        yield ctypes.string_at(buffer, length)


def _getdents64() -> Callable[..., int]:
    """Returns the function; C libraries older than 2019 have none, but every kernel has the call."""
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        function: Callable[..., int] = libc.getdents64
    except AttributeError:
        number = _SYSCALLS.get(os.uname().machine)
        if number is None:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS)) from None
        return partial(libc.syscall, ctypes.c_long(number))
    return function


def split(data: bytes) -> list[bytes]:
    """Returns a buffer as several, each a millisecond's work."""
    if len(data) <= _PIECE_BYTES:
        return [data]
    length = _length_of_all(data)
    if length:
        step = _PIECE_BYTES // length * length
        return [data[place : place + step] for place in range(0, len(data), step)]
    starts = _starts(data)
    cuts = [*starts[:: len(starts) * _PIECE_BYTES // len(data)], len(data)]
    return [data[start:end] for start, end in pairwise(cuts)]


def take_apart(data: bytes) -> tuple[list[bytes], bytes]:
    """Returns names and types of the entries in a buffer, in order."""
    length = _length_of_all(data)
    if length:
        starts: Sequence[int] = range(0, len(data), length)
        ends: Iterable[int] = range(length, len(data) + 1, length)
        types = data[_TYPE_AT::length]
        name_end = data.index(0, _NAME_AT)
        if 0 not in data[name_end - 1 :: length] and _is_column(data, name_end, length):  # all names as long, too
            return [data[start + _NAME_AT : start + name_end] for start in starts], types
    else:
        starts = _starts(data)
        ends = [*starts[1:], len(data)]
        types = bytes([data[start + _TYPE_AT] for start in starts])
    return [data[start + _NAME_AT : end].rstrip(b"\0") for start, end in zip(starts, ends, strict=True)], types


def _length_of_all(data: bytes) -> int:
    """Returns how long the records are if all are as long as the first one, as with names that are UUIDs; else 0."""
    length = int.from_bytes(data[_LENGTH_AT:_TYPE_AT], "little")
    fits = len(data) % length == 0
    return length if fits and _is_column(data, _LENGTH_AT, length) and _is_column(data, _LENGTH_AT + 1, length) else 0


def _is_column(data: bytes, place: int, step: int) -> bool:
    """Returns whether the byte at `place` is the same in every record, if all are `step` long."""
    return data[place::step] == data[place : place + 1] * (len(data) // step)


def _starts(data: bytes) -> list[int]:
    halves = memoryview(data).cast("H")  # records begin at multiples of 8
    starts = []
    place, end = 0, len(halves)
    while place < end:
        starts.append(place * 2)
        place += halves[place + _LENGTH_AT // 2] // 2
    return starts


def sort(names: list[bytes], types: bytes) -> Sorted:
    """Sorts entries by what they are, without a system call."""
    joined = b"\0".join(names)
    plain = b"." not in joined or not (joined.startswith(b".") or b"\0." in joined or MARKER in joined)
    if plain and joined.isascii() and types.count(REGULAR) == len(types):
        return Sorted(names)  # nearly always so, and much cheaper than one by one
    found = Sorted([])
    for name, type_ in zip(names, types, strict=True):
        kind = kind_of(name, type_)
        if kind == "object":
            found.objects.append(name)
        elif kind == "doubtful":
            found.doubtful.append(name)
        elif kind != "hidden":
            found.foreign[kind] += 1
    return found


def kind_of(name: bytes, type_: int) -> str:
    """Returns what an entry of a store's directory is, as far as its name and type tell.

    `object`; `hidden`: our own folder and all that starts with a dot; `directory`; `link`; `special`: a fifo, socket
    or device; `name`: a file whose name is no key; `doubtful`: it takes a look.
    """
    if name[0] == 0x2E:
        return "hidden"
    if type_ == UNKNOWN:
        return "doubtful"
    if type_ != REGULAR:
        return {DIRECTORY: "directory", LINK: "link"}.get(type_, "special")
    if not wire.is_key(name):
        return "name"
    return "doubtful" if name.endswith(MARKER) else "object"
