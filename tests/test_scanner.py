"""scanner.py: directories read from end to end, beside everything else."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from conftest import eventually
from storekeeperd.disk import Disk
from storekeeperd.scanner import Scanner

Chunks = Iterator[tuple[list[bytes], int]]


class FakeDisk:
    """A disk whose directories are generators."""

    def __init__(self, **directories: Callable[[], Chunks]) -> None:
        self.directories = directories

    def scan(self, directory: bytes) -> Chunks:
        return self.directories[directory.decode().rstrip("/") or "root"]()


@pytest.fixture
def woken() -> threading.Event:
    return threading.Event()


@pytest.fixture
def make(woken: threading.Event) -> Iterator[Callable[..., Scanner]]:
    """Gives a function that makes a scanner of a fake disk; closed with the test."""
    made: list[Scanner] = []

    def make_one(*prefixes: bytes, **directories: Callable[[], Chunks]) -> Scanner:
        scanner = Scanner(FakeDisk(**directories), prefixes, woken.set)  # type: ignore[arg-type]
        made.append(scanner)
        return scanner

    yield make_one
    for scanner in made:
        scanner.close(5)


def take_all(scanner: Scanner) -> tuple[list[list[bytes]], bool]:
    """Takes until the end of the scan; returns the chunks and whether it was complete."""
    chunks: list[list[bytes]] = []
    ends: list[bool] = []

    def ended() -> bool:
        while (chunk := scanner.take()) is not None:
            if isinstance(chunk, bool):
                ends.append(chunk)
            else:
                chunks.append(chunk)
        return bool(ends)

    eventually(ended)
    return chunks, ends[0]


def two_chunks() -> Chunks:
    yield [b"a", b"b"], 1
    yield [b"c"], 2


def one_chunk() -> Chunks:
    yield [b"n/a"], 4


def broken() -> Chunks:
    yield [b"a"], 7
    raise OSError("unreadable")


def test_a_scanner_that_was_not_started_has_nothing(make: Callable[..., Scanner]) -> None:
    scanner = make(b"", root=two_chunks)
    assert not scanner.running
    assert scanner.take() is None
    assert scanner.foreign == 0


def test_a_scan_hands_over_all_names_and_a_complete_end(make: Callable[..., Scanner], woken: threading.Event) -> None:
    scanner = make(b"", b"n/", root=two_chunks, n=one_chunk)
    scanner.start()
    assert scanner.running
    assert take_all(scanner) == ([[b"a", b"b"], [b"c"], [b"n/a"]], True)
    assert not scanner.running
    assert scanner.foreign == 6  # the namespace's folder is not foreign
    assert woken.is_set()


def test_a_scan_runs_until_its_end_is_taken(make: Callable[..., Scanner]) -> None:
    scanner = make(b"", root=one_chunk)
    scanner.start()
    eventually(lambda: scanner.take() == [b"n/a"])
    assert scanner.running
    assert take_all(scanner) == ([], True)
    assert not scanner.running


def test_a_scanner_scans_again(make: Callable[..., Scanner]) -> None:
    scanner = make(b"", root=two_chunks)
    for _ in range(3):
        scanner.start()
        assert take_all(scanner) == ([[b"a", b"b"], [b"c"]], True)
        assert scanner.foreign == 3


def test_one_scan_at_a_time(make: Callable[..., Scanner]) -> None:
    scanner = make(b"", root=two_chunks)
    scanner.start()
    with pytest.raises(AssertionError):
        scanner.start()


def test_a_scan_that_fails_says_so_and_keeps_what_was_counted_before(
    make: Callable[..., Scanner], caplog: pytest.LogCaptureFixture
) -> None:
    bad = False

    def sometimes() -> Chunks:
        return broken() if bad else one_chunk()

    scanner = make(b"", root=sometimes)
    scanner.start()
    take_all(scanner)
    bad = True
    with caplog.at_level(logging.WARNING):
        scanner.start()
        assert take_all(scanner) == ([[b"a"]], False)
    assert scanner.foreign == 4
    assert "unreadable" in caplog.text


def test_a_directory_that_fails_ends_the_whole_scan(make: Callable[..., Scanner]) -> None:
    scanner = make(b"", b"n/", root=broken, n=one_chunk)
    scanner.start()
    assert take_all(scanner) == ([[b"a"]], False)


def test_a_scan_never_runs_far_ahead_and_closing_ends_it(make: Callable[..., Scanner]) -> None:
    produced = 0

    def endless() -> Chunks:
        nonlocal produced
        while True:
            produced += 1
            yield [b"k"], 0

    scanner = make(b"", root=endless)
    scanner.start()
    eventually(lambda: produced >= 16)
    assert produced < 32
    scanner.close(5)
    assert not scanner.running
    scanner.close(5)


def test_a_real_directory_is_scanned(tmp_path: Path) -> None:
    (tmp_path / "n").mkdir()
    for name in ("a", "b", "n/c", ".hidden"):
        (tmp_path / name).touch()
    disk = Disk(tmp_path, tmp_path)
    try:
        scanner = Scanner(disk, [b"", b"n/"], lambda: None)
        scanner.start()
        chunks, complete = take_all(scanner)
        assert complete
        assert sorted(name for chunk in chunks for name in chunk) == [b"a", b"b", b"n/c"]
        assert scanner.foreign == 0  # the folder n is the namespace's
    finally:
        disk.close()


def test_a_directory_that_is_gone_is_a_failed_scan(tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    disk = Disk(tmp_path / "gone", tmp_path)
    (tmp_path / "gone").rmdir()
    try:
        scanner = Scanner(disk, [b""], lambda: None)
        scanner.start()
        assert take_all(scanner) == ([], False)
    finally:
        disk.close()
