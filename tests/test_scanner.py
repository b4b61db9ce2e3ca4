"""scanner.py: directories read from end to end, beside everything else."""

from __future__ import annotations

import contextlib
import os
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from conftest import adopt, eventually
from storekeeper.errors import StoreUnavailable
from storekeeperd.disk import Disk
from storekeeperd.entries import DIRECTORY, LINK, REGULAR, UNKNOWN, Sorted
from storekeeperd.ground import WITNESS, Ground
from storekeeperd.home import TEMPORARY
from storekeeperd.scanner import WENT_AWAY, Report, Scanner

Buffers = Iterator[bytes]

FIFO = 1
"""d_type of readdir(3): DT_FIFO."""


def buffer(*entries: tuple[bytes, int]) -> bytes:
    """A buffer as getdents64(2) fills it."""
    data = b""
    for number, (name, type_) in enumerate(entries, 1):
        length = (19 + len(name) + 1 + 7) // 8 * 8
        data += (struct.pack("<QqHB", number, number, length, type_) + name).ljust(length, b"\0")
    return data


def files(*names: bytes) -> bytes:
    return buffer(*((name, REGULAR) for name in names))


class FakeDisk:
    """A disk whose directories are generators."""

    def __init__(self, **directories: Callable[[], Buffers]) -> None:
        self.directories = directories

    def scan(self, directory: bytes) -> Buffers:
        return self.directories[directory.decode().rstrip("/") or "root"]()


@pytest.fixture
def woken() -> threading.Event:
    return threading.Event()


@pytest.fixture
def make(woken: threading.Event) -> Iterator[Callable[..., Scanner]]:
    """Gives a function that makes a scanner of a fake disk; closed with the test."""
    made: list[Scanner] = []

    def make_one(*prefixes: bytes, **directories: Callable[[], Buffers]) -> Scanner:
        scanner = Scanner(FakeDisk(**directories), prefixes, woken.set)  # type: ignore[arg-type]
        made.append(scanner)
        return scanner

    yield make_one
    for scanner in made:
        scanner.close(5)


def take_all(scanner: Scanner) -> tuple[list[list[bytes]], Report]:
    """Takes until the end of the scan; returns the objects of each piece, and the report."""
    pieces: list[list[bytes]] = []
    ends: list[Report] = []

    def ended() -> bool:
        while (taken := scanner.take()) is not None:
            if isinstance(taken, Report):
                ends.append(taken)
            else:
                pieces.append(taken.objects)
        return bool(ends)

    eventually(ended)
    [report] = ends
    assert report is scanner.report
    return pieces, report


def two_buffers() -> Buffers:
    yield buffer((b"a", REGULAR), (b"n", DIRECTORY), (b"b", REGULAR))
    yield buffer((b"link", LINK), (b"c", REGULAR), (b"fifo", FIFO))


def one_buffer() -> Buffers:
    yield buffer((b"a", REGULAR), (b"x", LINK), (b"y", LINK), (b"z", DIRECTORY), (b"\xff", REGULAR))


def broken() -> Buffers:
    yield buffer((b"a", REGULAR), (b"fifo", FIFO))
    raise OSError("unreadable")


def test_a_scanner_that_was_not_started_has_nothing(make: Callable[..., Scanner]) -> None:
    scanner = make(b"", root=two_buffers)
    assert not scanner.running
    assert scanner.take() is None
    assert scanner.report == Report()
    assert not scanner.report.complete


def test_a_scan_hands_over_all_names_and_a_complete_end(make: Callable[..., Scanner], woken: threading.Event) -> None:
    scanner = make(b"", b"n/", root=two_buffers, n=one_buffer)
    scanner.start()
    assert scanner.running
    pieces, report = take_all(scanner)
    assert pieces == [[b"a", b"b"], [b"c"], [b"n/a"]]
    assert report.complete
    assert report.names == 4
    assert report.seconds > 0
    assert not scanner.running
    # The namespace's folder is not foreign.
    assert report.foreign == Counter(link=3, special=1, directory=1, name=1)
    assert report.doubtful == []
    assert woken.is_set()


def test_names_that_take_a_look_are_handed_over_and_reported(make: Callable[..., Scanner]) -> None:
    def root() -> Buffers:
        yield buffer((b"k", REGULAR), (b"k.ready", REGULAR), (b"?", UNKNOWN))

    def n() -> Buffers:
        yield buffer((b"k.ready", REGULAR))

    scanner = make(b"", b"n/", root=root, n=n)
    scanner.start()
    taken: list[object] = []
    eventually(lambda: taken.append(scanner.take()) or not scanner.running)  # type: ignore[func-returns-value]
    found = [each for each in taken if isinstance(each, Sorted)]
    assert [(each.objects, each.doubtful) for each in found] == [([b"k"], [b"k.ready", b"?"]), ([], [b"n/k.ready"])]
    assert scanner.report.doubtful == [b"k.ready", b"?", b"n/k.ready"]
    assert scanner.report.names == 1


def test_a_scan_runs_until_its_end_is_taken(make: Callable[..., Scanner]) -> None:
    scanner = make(b"", root=lambda: iter([files(b"k")]))
    scanner.start()
    eventually(lambda: scanner.take() == Sorted([b"k"]))
    assert scanner.running
    assert scanner.report.names == 1
    assert not scanner.report.complete
    pieces, report = take_all(scanner)
    assert (pieces, report.complete) == ([], True)
    assert not scanner.running


def test_a_scanner_scans_again(make: Callable[..., Scanner]) -> None:
    scanner = make(b"", root=two_buffers)
    reports = []
    for _ in range(3):
        scanner.start()
        pieces, report = take_all(scanner)
        assert (pieces, report.complete) == ([[b"a", b"b"], [b"c"]], True)
        assert report.foreign == Counter(link=1, special=1, directory=1)
        assert report.names == 3
        reports.append(report)
    assert len({id(report) for report in reports}) == 3  # what was reported does not change any more


def test_one_scan_at_a_time(make: Callable[..., Scanner]) -> None:
    scanner = make(b"", root=two_buffers)
    scanner.start()
    with pytest.raises(AssertionError):
        scanner.start()


def test_a_scan_that_fails_says_so_and_reports_how_far_it_came(make: Callable[..., Scanner]) -> None:
    bad = False

    def sometimes() -> Buffers:
        return broken() if bad else one_buffer()

    scanner = make(b"", root=sometimes)
    scanner.start()
    _, good = take_all(scanner)
    bad = True
    scanner.start()
    pieces, report = take_all(scanner)
    assert (pieces, report.complete) == ([[b"a"]], False)
    assert (report.names, report.foreign) == (1, Counter(special=1))
    assert good.complete
    assert good.foreign == Counter(link=2, directory=1, name=1)
    assert (good.error, report.error) == ("", "unreadable")


def test_a_store_that_is_away_is_a_failed_scan(make: Callable[..., Scanner]) -> None:
    def away() -> Buffers:
        raise StoreUnavailable("not there")
        yield b""

    scanner = make(b"", root=away)
    scanner.start()
    pieces, report = take_all(scanner)
    assert (pieces, report.complete) == ([], False)
    assert report.error == WENT_AWAY


def test_a_directory_that_fails_ends_the_whole_scan(make: Callable[..., Scanner]) -> None:
    scanner = make(b"", b"n/", root=broken, n=one_buffer)
    scanner.start()
    pieces, report = take_all(scanner)
    assert (pieces, report.complete) == ([[b"a"]], False)


def test_a_namespace_that_cannot_be_read_does_not_concern_the_others(make: Callable[..., Scanner]) -> None:
    scanner = make(b"", b"n/", b"m/", root=one_buffer, n=broken, m=one_buffer)
    for _ in range(2):
        scanner.start()
        pieces, report = take_all(scanner)
        assert report.complete
        assert list(report.unread) == [b"n/"]
        assert report.unread[b"n/"]
        assert [b"m/a"] in pieces


def test_a_scan_never_runs_far_ahead_and_closing_ends_it(make: Callable[..., Scanner]) -> None:
    produced = 0

    def endless() -> Buffers:
        nonlocal produced
        while True:
            produced += 1
            yield files(b"k")

    scanner = make(b"", root=endless)
    scanner.start()
    eventually(lambda: produced >= 8)
    assert produced < 16
    scanner.close(5)
    assert not scanner.running
    assert not scanner.report.complete
    scanner.close(5)


@contextlib.contextmanager
def disk_on(store: Path) -> Iterator[Disk]:
    """A disk on a real directory."""
    (store / TEMPORARY).mkdir(parents=True)
    lock = os.open(store / os.fsdecode(WITNESS), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
    ground = Ground(store)
    found = os.fstat(lock)
    ground.witness = found.st_dev, found.st_ino
    adopt(ground)
    disk = Disk(ground, TEMPORARY)
    try:
        yield disk
    finally:
        disk.close()
        os.close(lock)


def test_a_real_directory_is_scanned(tmp_path: Path) -> None:
    (tmp_path / "n").mkdir()
    for name in ("a", "b", "n/c", ".hidden"):
        (tmp_path / name).touch()
    with disk_on(tmp_path) as disk:
        scanner = Scanner(disk, [b"", b"n/"], lambda: None)
        scanner.start()
        pieces, report = take_all(scanner)
        assert report.complete
        assert sorted(name for piece in pieces for name in piece) == [b"a", b"b", b"n/c"]
        assert report.names == 3
        assert report.foreign.total() == 0  # the folder n is the namespace's


def test_a_directory_that_is_gone_is_a_failed_scan(tmp_path: Path) -> None:
    with disk_on(tmp_path / "gone") as disk:
        (tmp_path / "gone/k").touch()
        (tmp_path / "gone").rename(tmp_path / "away")
        scanner = Scanner(disk, [b""], lambda: None)
        scanner.start()
        pieces, report = take_all(scanner)
        assert (pieces, report.complete, report.names) == ([], False, 0)


def test_another_directory_in_its_place_is_a_failed_scan(tmp_path: Path) -> None:
    with disk_on(tmp_path / "store") as disk:
        (tmp_path / "store").rename(tmp_path / "away")
        with disk_on(tmp_path / "store"):
            (tmp_path / "store/foreign").touch()
            scanner = Scanner(disk, [b""], lambda: None)
            scanner.start()
            pieces, report = take_all(scanner)
            assert (pieces, report.complete) == ([], False)


def test_a_namespace_that_is_gone_is_a_failed_scan(tmp_path: Path) -> None:
    with disk_on(tmp_path / "store") as disk:
        (tmp_path / "store/k").touch()
        scanner = Scanner(disk, [b"", b"n/"], lambda: None)
        scanner.start()
        pieces, report = take_all(scanner)
        assert (pieces, report.complete) == ([[b"k"]], False)
