"""complaints.py: refusals in the log, in measure."""

from __future__ import annotations

import logging

import pytest

from storekeeper.errors import BadKey, DiskFull
from storekeeperd.answers import Peer
from storekeeperd.complaints import Complaints


def test_who_was_refused_what_and_why_stands_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    complaints = Complaints()
    complaints.tell_error(Peer(1000, 100, 42), b"put", BadKey("a key must not start with a dot"))
    complaints.tell(Peer(1000, 100, 42), b"get", "corrupt", "its bytes are wrong", 3)
    first, second = caplog.records
    assert first.getMessage() == "refused put of uid 1000 pid 42: bad_key: a key must not start with a dot"
    assert first.levelno == logging.INFO
    assert second.getMessage() == "refused get of uid 1000 pid 42: corrupt: its bytes are wrong (the first of 3 items)"
    assert second.levelno == logging.WARNING


def test_a_flood_of_one_user_does_not_keep_others_out_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    complaints = Complaints()
    for _ in range(1000):
        complaints.tell_error(Peer(1, 1, 1), b"put", DiskFull("full"))
    complaints.tell_error(Peer(2, 2, 2), b"put", DiskFull("full"))
    assert [record.getMessage().split()[4] for record in caplog.records] == ["1"] * 10 + ["2"]
    caplog.clear()
    complaints.tick()
    assert [record.getMessage() for record in caplog.records] == ["refused 990 more requests: 990 of uid 1"]
    complaints.tell_error(Peer(1, 1, 1), b"put", DiskFull("full"))
    assert len(caplog.records) == 2


def test_many_users_together_do_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    complaints = Complaints()
    for uid in range(1000):
        complaints.tell_error(Peer(uid, 1, 1), b"put", DiskFull("full"))
    assert len(caplog.records) == 50
    complaints.tick()
    complaints.tick()
    assert len(caplog.records) == 51
