"""entries.py: what getdents64(2) tells of real directories, and of hostile ones."""

from __future__ import annotations

import ctypes
import errno
import os
import random
import socket
import struct
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest

from storekeeper import wire
from storekeeperd import entries
from storekeeperd.entries import DIRECTORY, LINK, REGULAR, UNKNOWN, Sorted, kind_of, sort, take_apart

FIFO, CHARACTERS, BLOCKS, SOCKET = 1, 2, 6, 12
"""Other types of readdir(3): DT_FIFO, DT_CHR, DT_BLK, DT_SOCK."""


def read(folder: Path) -> list[tuple[bytes, int]]:
    """All entries of a directory, with their types."""
    found: list[tuple[bytes, int]] = []
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for data in entries.read(descriptor):
            names, types = take_apart(data)
            assert len(names) == len(types)
            found += zip(names, types, strict=True)
    finally:
        os.close(descriptor)
    return found


def told(folder: Path) -> list[tuple[bytes, int]]:
    """The same, as os.scandir has it, with the two that it leaves out."""
    types = {
        entry.name: DIRECTORY
        if entry.is_dir(follow_symlinks=False)
        else LINK
        if entry.is_symlink()
        else REGULAR
        if entry.is_file(follow_symlinks=False)
        else entry.stat(follow_symlinks=False).st_mode >> 12
        for entry in os.scandir(os.fsencode(folder))
    }
    return sorted([*types.items(), (b".", DIRECTORY), (b"..", DIRECTORY)])


def make(folder: Path, names: Iterable[bytes]) -> None:
    """Makes files of these names, the quick way."""
    origin = folder.parent / "origin"
    origin.touch()
    for name in names:
        os.link(origin, os.fsencode(folder) + b"/" + name)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "folder").mkdir()
    return tmp_path / "folder"


def record(name: bytes, type_: int, length: int = 0) -> bytes:
    """One struct linux_dirent64; `length` if it is to be longer than it must be."""
    length = length or (19 + len(name) + 1 + 7) // 8 * 8
    return (struct.pack("<QqHB", 0xFFFFFFFFFFFFFFFF, -1, length, type_) + name).ljust(length, b"\0")


def buffer(found: list[tuple[bytes, int]]) -> bytes:
    return b"".join(record(name, type_) for name, type_ in found)


# -- reading real directories


def test_an_empty_directory_has_two_entries(folder: Path) -> None:
    assert sorted(read(folder)) == [(b".", DIRECTORY), (b"..", DIRECTORY)]


def test_names_of_every_length_are_read(folder: Path) -> None:
    make(folder, [b"x" * length for length in range(1, 256)])
    assert sorted(read(folder)) == told(folder)


@pytest.mark.parametrize("length", [1, 3, 4, 5, 11, 12, 13, 36, 251, 252, 253, 255])
def test_names_of_one_length_are_read(folder: Path, length: int) -> None:
    # 4, 12, 36 and 252 bytes, with what goes before them and the NUL, fill a record exactly.
    rng = random.Random(length)
    names = {bytes(rng.choices(b"abcdefghijklmnopqrstuvwxyz", k=length)) for _ in range(300)}
    make(folder, names)
    assert sorted(read(folder)) == told(folder)


def test_names_of_nearly_one_length_are_read(folder: Path) -> None:
    # All in records of one length, from 24 to 32 bytes, with other ends.
    make(folder, [b"%0*d" % (length, length) for length in range(5, 13)])
    make(folder, [b"y%0*d" % (length - 1, length) for length in range(5, 13)])
    assert sorted(read(folder)) == told(folder)


def test_names_that_are_no_text_are_read(folder: Path) -> None:
    names = [
        "é".encode(), "日本".encode() * 40, "🗝".encode(), b"\xff", b"\xff" * 255, b"\xc3", b"\x80abc", b"\x01", b"\n",
        b" ", b"a b", b"..a", b"...", b".x", b"a\tb", bytes(range(1, 47)) + bytes(range(48, 256)),
    ]  # fmt: skip
    make(folder, names)
    assert sorted(read(folder)) == told(folder)


def test_types_are_told(folder: Path) -> None:
    (folder / "directory").mkdir()
    (folder / "file").touch()
    (folder / "link").symlink_to("file")
    (folder / "dangling").symlink_to("nowhere")
    os.mkfifo(folder / "fifo")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(folder / "socket"))
    found = dict(read(folder))
    assert found.items() >= {
        b"directory": DIRECTORY, b"file": REGULAR, b"link": LINK, b"dangling": LINK, b"fifo": FIFO, b"socket": SOCKET,
    }.items()  # fmt: skip
    assert sorted(found.items()) == told(folder)


@pytest.mark.parametrize("width", [36, 1], ids=["as long as UUIDs", "of many lengths"])
def test_a_long_directory_is_read_in_buffers_each_name_once(folder: Path, width: int) -> None:
    make(folder, [b"%0*d" % (width, number) + b"x" * (number % 30 if width == 1 else 0) for number in range(7000)])
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        buffers = list(entries.read(descriptor))
    finally:
        os.close(descriptor)
    assert len(buffers) > 1
    pieces = [piece for data in buffers for piece in entries.split(data)]
    assert len(pieces) > len(buffers)
    assert all(0 < len(piece) <= 80 * 1024 for piece in pieces)
    assert b"".join(pieces) == b"".join(buffers)
    assert sorted(name for piece in pieces for name in entries.take_apart(piece)[0]) == sorted(
        name for data in buffers for name in entries.take_apart(data)[0]
    )
    assert sorted(read(folder)) == told(folder)


@pytest.mark.parametrize("place", ["/dev/shm", "/proc/self", "/sys", "/dev"])
def test_other_file_systems_are_read_too(place: str) -> None:
    if not os.path.isdir(place):
        pytest.skip(f"{place} is not there")
    assert {name for name, _ in read(Path(place))} >= {b".", b".."}
    if place == "/sys":
        assert sorted(read(Path(place))) == told(Path(place))


def test_random_directories_are_read_as_scandir_reads_them(tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    alphabet = [byte for byte in range(1, 256) if byte != 0x2F]
    for number in range(40):
        folder = tmp_path / str(number)
        folder.mkdir()
        lengths = rng.choice([[1], [4], [12], [36], [35, 36], [33, 36, 40], [1, 255], list(range(1, 256))])
        names = {bytes(rng.choices(alphabet, k=rng.choice(lengths))) for _ in range(rng.randrange(1, 60))}
        make(folder, names - {b".", b".."})
        assert sorted(read(folder)) == told(folder)


def test_a_directory_that_was_removed_is_read_to_no_end(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        folder.rmdir()
        with pytest.raises(OSError, match=os.strerror(errno.ENOENT)):
            list(entries.read(descriptor))
    finally:
        os.close(descriptor)


@pytest.mark.parametrize(("path", "number"), [("file", errno.ENOTDIR), (None, errno.EBADF)])
def test_what_is_no_directory_cannot_be_read(folder: Path, path: str | None, number: int) -> None:
    (folder / "file").touch()
    descriptor = -1 if path is None else os.open(folder / path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with pytest.raises(OSError) as caught:
            list(entries.read(descriptor))
        assert caught.value.errno == number
    finally:
        if descriptor >= 0:
            os.close(descriptor)


# -- taking buffers apart


def test_one_entry_is_taken_apart() -> None:
    for length in range(1, 256):
        assert take_apart(record(b"x" * length, REGULAR)) == ([b"x" * length], bytes([REGULAR]))


def test_every_pair_of_lengths_is_taken_apart() -> None:
    for one in range(1, 40):
        for other in range(1, 40):
            found = [(b"a" * one, REGULAR), (b"b" * other, DIRECTORY), (b"c" * one, LINK)]
            names, types = take_apart(buffer(found))
            assert list(zip(names, types, strict=True)) == found


def test_records_that_only_sum_up_to_a_multiple_of_the_first_are_taken_apart() -> None:
    # 32, 24, 40 bytes: as long as three of the first. A name looks like a record's header where the second would begin.
    trap = b"\x20\x20\x20\x20"
    found = [(b"x" * 12, REGULAR), (trap, REGULAR), (trap * 5, LINK)]
    assert len(buffer(found)) == 3 * 32
    names, types = take_apart(buffer(found))
    assert list(zip(names, types, strict=True)) == found


def test_records_may_be_longer_than_their_names_need() -> None:
    data = record(b"a", REGULAR, 64) + record(b"x" * 40, LINK, 64) + record(b"b", DIRECTORY, 64)
    assert take_apart(data) == ([b"a", b"x" * 40, b"b"], bytes([REGULAR, LINK, DIRECTORY]))


def test_random_buffers_are_taken_apart() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    alphabet = [byte for byte in range(1, 256) if byte != 0x2F]
    for _ in range(2000):
        lengths = rng.choice([[1, 2, 3, 4], [5, 12], [12, 13], [36], range(1, 256)])
        found = [
            (bytes(rng.choices(alphabet, k=rng.choice(lengths))), rng.choice([UNKNOWN, DIRECTORY, REGULAR, LINK]))
            for _ in range(rng.randrange(1, 12))
        ]
        names, types = take_apart(buffer(found))
        assert list(zip(names, types, strict=True)) == found


# -- sorting


def test_plain_files_are_objects() -> None:
    names = [b"a", b"b.c", b"ready", b"x" * 255]
    assert sort(names, bytes([REGULAR] * 4)) == Sorted(names)
    assert sort(["é".encode(), b"a"], bytes([REGULAR] * 2)) == Sorted(["é".encode(), b"a"])


def test_no_entries_are_nothing() -> None:
    assert sort([], b"") == Sorted([])


@pytest.mark.parametrize("at", [0, 1, 2])
def test_one_that_is_no_object_is_found_wherever_it_stands(at: int) -> None:
    for name, type_, expected in (
        (b".hidden", REGULAR, Sorted([b"a", b"b"])),
        (b".", DIRECTORY, Sorted([b"a", b"b"])),
        (b".storekeeper", DIRECTORY, Sorted([b"a", b"b"])),
        (b"d", DIRECTORY, Sorted([b"a", b"b"], foreign=Counter(directory=1))),
        (b"l", LINK, Sorted([b"a", b"b"], foreign=Counter(link=1))),
        (b"f", FIFO, Sorted([b"a", b"b"], foreign=Counter(special=1))),
        (b"s", SOCKET, Sorted([b"a", b"b"], foreign=Counter(special=1))),
        (b"\xff", REGULAR, Sorted([b"a", b"b"], foreign=Counter(name=1))),
        (b"k.ready", REGULAR, Sorted([b"a", b"b"], [b"k.ready"])),
        (b"?", UNKNOWN, Sorted([b"a", b"b"], [b"?"])),
    ):
        names, types = [b"a", b"b"], [REGULAR, REGULAR]
        names.insert(at, name)
        types.insert(at, type_)
        assert sort(names, bytes(types)) == expected, name


def test_a_dot_or_the_markers_ending_inside_a_name_makes_it_no_less_an_object() -> None:
    names = [b"a.b", b"a.ready.b", b"a.", b"x..ready.", b"ready", b"a.readyx", b"a.READY"]
    assert sort(names, bytes([REGULAR] * len(names))) == Sorted(names)


def test_sorting_many_is_sorting_each() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    pool = [b"a", b"b.c", b".h", b"k.ready", b"\xff", "é".encode(), b"x" * 255, b".ready", b"..", b"a.readyb", b"\x01"]
    for _ in range(2000):
        names = rng.choices(pool, k=rng.randrange(6))
        types = bytes(rng.choices([REGULAR, REGULAR, REGULAR, DIRECTORY, LINK, UNKNOWN, FIFO], k=len(names)))
        kinds = [kind_of(name, type_) for name, type_ in zip(names, types, strict=True)]
        expected = Sorted(
            [name for name, kind in zip(names, kinds, strict=True) if kind == "object"],
            [name for name, kind in zip(names, kinds, strict=True) if kind == "doubtful"],
            Counter(kind for kind in kinds if kind not in ("object", "doubtful", "hidden")),
        )
        assert sort(names, types) == expected


@pytest.mark.parametrize(
    ("name", "type_", "kind"),
    [
        (b"k", REGULAR, "object"),
        ("é".encode(), REGULAR, "object"),
        (b"x" * 255, REGULAR, "object"),
        (b"ready", REGULAR, "object"),
        (b"k.ready.x", REGULAR, "object"),
        (b"k.ready", REGULAR, "doubtful"),
        (b"k", UNKNOWN, "doubtful"),
        (b"k.ready", UNKNOWN, "doubtful"),
        (b"\xff", UNKNOWN, "doubtful"),
        (b".", DIRECTORY, "hidden"),
        (b"..", DIRECTORY, "hidden"),
        (b".storekeeper", DIRECTORY, "hidden"),
        (b".k", REGULAR, "hidden"),
        (b".ready", REGULAR, "hidden"),
        (b".k", UNKNOWN, "hidden"),
        (b".\xff", LINK, "hidden"),
        (b"k", DIRECTORY, "directory"),
        (b"k.ready", DIRECTORY, "directory"),
        (b"k", LINK, "link"),
        (b"k.ready", LINK, "link"),
        (b"\xff", LINK, "link"),
        (b"k", FIFO, "special"),
        (b"k", SOCKET, "special"),
        (b"k", CHARACTERS, "special"),
        (b"k", BLOCKS, "special"),
        (b"\xff", REGULAR, "name"),
        (b"\xff.ready", REGULAR, "name"),
    ],
)
def test_an_entry_is_what_name_and_type_tell(name: bytes, type_: int, kind: str) -> None:
    assert kind_of(name, type_) == kind


def test_an_object_of_a_directory_has_a_name_that_is_a_key(folder: Path) -> None:
    make(folder, [b"a", b".b", b"\xff", b"c.ready", "é".encode(), b"\n", b"\x7f", b"x" * 255])
    (folder / "d").mkdir()
    names, types = map(list, zip(*read(folder), strict=True))
    found = sort(names, bytes(types))
    assert all(map(wire.is_key, found.objects))
    assert sorted(found.objects) == sorted([b"a", "é".encode(), b"\n", b"\x7f", b"x" * 255])
    assert found.doubtful == [b"c.ready"]
    assert found.foreign == Counter(name=1, directory=1)


# -- the call itself


LIBRARY = ctypes.CDLL(None, use_errno=True)


class OldLibrary:
    """A C library without getdents64."""

    def __init__(self, *_: object, **__: object) -> None:
        self.syscall = LIBRARY.syscall


def test_a_c_library_without_the_function_will_do(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.uname().machine not in entries._SYSCALLS:
        pytest.skip(f"the number of the call is not known on {os.uname().machine}")
    for number in range(3):
        (folder / f"{number}").touch()
    monkeypatch.setattr(entries.ctypes, "CDLL", OldLibrary)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        names = [name for data in entries.read(descriptor) for name in take_apart(data)[0]]
        os.close(descriptor)
        with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
            list(entries.read(descriptor))
    finally:
        monkeypatch.undo()
    assert sorted(names) == [b".", b"..", b"0", b"1", b"2"]


def test_an_unknown_machine_is_an_error_of_the_scan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entries.ctypes, "CDLL", OldLibrary)
    monkeypatch.setattr(entries, "_SYSCALLS", {})
    with pytest.raises(OSError, match=os.strerror(errno.ENOSYS)):
        list(entries.read(0))
