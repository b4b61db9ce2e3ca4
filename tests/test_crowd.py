"""Several users at once on a real directory: bounds, pins, leases and what was acknowledged; and nothing stays behind.

`--seeds N` plays N / 100 crowds, from `--seed` on; a failure names its own seed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from crowd import Crowd, Wrong
from seam import count, quick_folder
from storekeeperd import sight
from storekeeperd.evictions import ROOM, Evictions
from storekeeperd.index import BLOCK_BYTES, Index
from storekeeperd.ledger import Charge, Ledger
from storekeeperd.service import Service
from storekeeperd.uses import Uses


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    with quick_folder(tmp_path) as folder:
        yield folder


@pytest.mark.timeout(3600)
def test_a_crowd_is_served_as_promised(folder: Path, seed: int, request: pytest.FixtureRequest) -> None:
    proved: Counter[str] = Counter()
    crowds = max(1, request.config.getoption("--seeds") // 100)
    for number in range(seed, seed + crowds):
        crowd = Crowd(number, folder / str(number))
        crowd.run()
        proved.update(crowd.proved)
    count("crowds", crowds)
    if crowds >= 10:
        assert all(proved.values()), f"a promise was never put to the test: {proved}"


def test_a_crowd_is_the_same_every_time(folder: Path) -> None:
    def story(seed: int, name: str) -> dict[bytes, int]:
        crowd = Crowd(seed, folder / name)
        crowd.run()
        return crowd.answered

    assert story(5, "one") == story(5, "same")
    assert story(5, "again") != story(6, "other")


def never_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ledger, "_check", lambda *_: None)


def never_gives_back(monkeypatch: pytest.MonkeyPatch) -> None:
    release = Ledger.release

    def forgetful(self: Ledger, charge: Charge | None) -> None:
        if charge is None or charge.bytes != 3 * BLOCK_BYTES:
            release(self, charge)

    monkeypatch.setattr(Ledger, "release", forgetful)


def forgets_what_is_still_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ledger, "hold", lambda self, prefix, uid, _: self._enter(self._account(prefix, uid), 0))


def ignores_pins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sight, "is_pinned", lambda _: False)


def ignores_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    take = Uses.take
    monkeypatch.setattr(Uses, "take", lambda self, now_ms, _: take(self, now_ms, 0))


def gives_no_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Evictions, "use", lambda *_, **__: None)


def evicts_where_it_may_not(monkeypatch: pytest.MonkeyPatch) -> None:
    enter = Service.enter

    def mistaken(self: Service, *arguments: Any) -> bytes:
        prefix = enter(self, *arguments)
        kept = [name for name in self._index.names() if name.startswith(b"kept")]
        seen = self._index.seen(kept[0]) if kept else None
        if prefix and seen is not None and not self.orders.is_changing(kept[0]):
            self.evictions._order(kept[0], seen, ROOM, None)
        return prefix

    monkeypatch.setattr(Service, "enter", mistaken)


def answers_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    send = Service._send

    def generous(self: Service, peer: Any, frames: list[Any]) -> None:
        send(self, peer, frames)
        if b"busy" in frames or b"quota" in frames or b"absent" in frames:
            send(self, peer, frames)

    monkeypatch.setattr(Service, "_send", generous)


def miscounts(monkeypatch: pytest.MonkeyPatch) -> None:
    def forgetful(self: Index, name: bytes, old: int, new: int | None) -> None:
        if new is None:
            self._count(name, old, -1)

    monkeypatch.setattr(Index, "_recount", forgetful)


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (never_refuses, "the bound of .* is exceeded"),
        (never_gives_back, "still reserved"),
        (forgets_what_is_still_read, "the bound of the store is exceeded"),
        (ignores_pins, "was pinned, and is lost"),
        (ignores_leases, "was leased"),
        (gives_no_leases, "was leased"),
        (evicts_where_it_may_not, "was kept, and is lost"),
        (answers_twice, "was answered twice"),
        (miscounts, "a recount"),
    ],
)
def test_a_broken_daemon_is_found(broken: Any, said: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken(monkeypatch)
    with pytest.raises(Wrong, match=said):
        for seed in range(1, 100):
            Crowd(seed, folder / str(seed)).run()
