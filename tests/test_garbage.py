"""garbage.py: the collector runs when nobody waits; and there is next to nothing for it, whatever is asked."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from seam import Rig, Setup
from storekeeperd import garbage
from storekeeperd.config import Limits
from storekeeperd.jobs import Jobs
from storekeeperd.operations import Job

ASKED: dict[str, Callable[[Rig], object]] = {
    "put and get": lambda rig: (rig.put((b"k", b"bytes"), replace=True), rig.ask(b"get", b"k")),
    "durable": lambda rig: rig.put((b"d", b"bytes"), durability="disk"),
    "the key holds other bytes": lambda rig: rig.put((b"taken", b"other")),
    "durable, the key holds other bytes": lambda rig: rig.put((b"taken", b"other"), durability="disk"),
    "a bad key": lambda rig: rig.ask(b"get", b".no"),
    "a directory has the name": lambda rig: rig.put((b"team", b"bytes")),
    "an empty marker": lambda rig: rig.put((b"k.ready", b"")),
    "a wrong option": lambda rig: rig.ask(b"get", b"k", nothing=1),
    "a missing namespace": lambda rig: rig.ask(b"get", b"k", namespace="nowhere"),
    "ranges": lambda rig: rig.upload(b"r", [b"one", b"two"], replace=True),
    "ranges that come back": lambda rig: rig.fetch(b"taken", 2),
    "looks": lambda rig: rig.ask(b"exists", b"taken", b"none", fresh=True),
    "stat, verify and evict": lambda rig: [rig.ask(verb, b"none") for verb in (b"stat", b"verify", b"evict")],
    "list and usage": lambda rig: (rig.ask(b"list"), rig.ask(b"usage")),
}


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path / "store", Setup())
    jobs = Jobs(rig.disk, Limits(), lambda: None)

    def carry_out(job: Job) -> None:
        if not jobs.start(job):
            while not jobs.done():
                pass

    rig._carry_out = carry_out  # type: ignore[method-assign]
    rig.scan()
    rig.put((b"taken", b"bytes"))
    yield rig
    jobs.close(5)
    rig.close()


@pytest.mark.parametrize("what", ASKED)
def test_a_request_leaves_nothing_for_the_collector(rig: Rig, what: str) -> None:
    ASKED[what](rig)
    rig.exchanges.clear()
    gc.collect()
    gc.disable()
    try:
        for _ in range(20):
            ASKED[what](rig)
            rig.exchanges.clear()
        assert gc.collect() < 10
    finally:
        gc.enable()


def test_garbage_is_collected_when_nobody_waits_and_seldom_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    collected = 0

    def collect() -> None:
        nonlocal collected
        collected += 1

    for grown, idle, expected in ((10, True, 0), (30_000, True, 1), (30_000, False, 0), (6_000_000, False, 1)):
        collected = 0
        monkeypatch.setattr(garbage.gc, "get_count", lambda grown=grown: (grown, 0, 0))
        monkeypatch.setattr(garbage.gc, "collect", collect)
        garbage.tick(idle=idle)
        monkeypatch.undo()
        assert collected == expected


def test_memory_may_be_given_back_at_any_time() -> None:
    garbage.give_back()
