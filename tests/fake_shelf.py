"""A shelf whose memory is a dict: for the service without a system below it."""

from __future__ import annotations

from typing import Any


class FakeMemory:
    """Does as segment.Segment, and reads as storekeeper.shelf.Shelf; but for the bounds on its room."""

    def __init__(self, table_bytes: int) -> None:
        self.table_bytes = table_bytes
        self.size_bytes = 4 * table_bytes
        self.descriptor = 7
        self.is_small = False
        self.believed = False
        self.until_s = 0.0
        self.released = 0
        self.room = 1000
        self.held: dict[bytes, Any] = {}

    def believe(self, believed: bool) -> None:
        self.believed = believed

    def beat(self, until_s: float) -> None:
        self.until_s = until_s

    def enter(self, key: bytes, data: Any = None, *, spare: bool = False) -> bool:
        if spare and len(self.held) >= self.room:
            return False
        if data is None and key in self.held:
            return False
        self.held[key] = None if data is None else bytes(data)
        return True

    def keeps(self, key: bytes) -> bool:
        return self.held.get(key) is not None

    def withdraw(self, key: bytes) -> None:
        self.held.pop(key, None)

    def retire(self) -> None:
        self.believed = False
        self.descriptor = -1

    def release(self) -> None:
        assert self.descriptor < 0
        self.released += 1
        assert self.released == 1

    def has(self, key: bytes) -> bool:
        return self.believed and key in self.held

    def get(self, key: bytes) -> bytes | None:
        return self.held.get(key) if self.believed else None
