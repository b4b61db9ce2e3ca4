"""errors.py: the closed set."""

from __future__ import annotations

import pickle

import pytest

from storekeeper import errors


def test_every_error_has_a_code_of_its_own() -> None:
    classes = [cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, Exception)]
    codes = [cls.code for cls in classes]
    assert len(set(codes)) == len(codes) == len(errors.BY_CODE)


@pytest.mark.parametrize("cls", errors.BY_CODE.values())
def test_an_error_survives_the_way_to_another_process(cls: type[errors.StorekeeperError]) -> None:
    again = pickle.loads(pickle.dumps(cls("what to do")))
    assert type(again) is cls
    assert str(again) == "what to do"
    assert again.retry is cls.retry


def test_a_code_and_a_sentence_become_the_error() -> None:
    error = errors.from_wire("disk_full", "free some space")
    assert isinstance(error, errors.DiskFull)
    assert str(error) == "free some space"
    assert error.retry


def test_an_unknown_code_is_named() -> None:
    error = errors.from_wire("from_the_future", "hm")
    assert isinstance(error, errors.InternalError)
    assert "from_the_future" in str(error)


def test_errors_are_also_what_python_programs_expect() -> None:
    assert issubclass(errors.TimedOut, TimeoutError)
    assert issubclass(errors.DaemonUnreachable, ConnectionError)
    assert issubclass(errors.BadKey, ValueError)


def test_a_failed_batch_keeps_the_results() -> None:
    error = pickle.loads(pickle.dumps(errors.BatchFailed("1 of 2 items failed", ["a", errors.BadKey("x")])))
    assert error.results[0] == "a"
    assert isinstance(error.results[1], errors.BadKey)
    assert str(error) == "1 of 2 items failed"
