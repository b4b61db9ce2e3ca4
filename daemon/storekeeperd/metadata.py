"""What is kept with an object: the bytes of its one extended attribute.

Pure. Owns the layout, which is binary because it is read with every `get`: taken apart in a twentieth of JSON's time;
and short, because ext4 has room for 60 bytes in the inode itself: a longer value takes a block of its own and makes a
put ten times as dear (both measured).
"""

from __future__ import annotations

import struct
from typing import NamedTuple, Self

ATTRIBUTE = "user.storekeeper"

_LAYOUT = struct.Struct("<BBHIIQQQ")
_CHECKSUM_AT = 28
_VERSION = 1
_SYNCED, _REPLACES = 1, 2
_CREATED_US_MAX = 1 << 60  # 34,000 years: what a calendar can show


class Metadata(NamedTuple):
    """What a daemon writes beside the bytes of an object before that gets its name."""

    owner: int
    """User id of who put it."""
    created_us: int
    """When, in microseconds since the epoch."""
    boot: int
    """Which boot of the machine that was (see moments.py)."""
    moment_ns: int
    """When it was its turn, in nanoseconds since that boot."""
    checksum: int
    """Of the bytes (see checksums.py)."""
    synced: bool
    """The bytes were on the platter before the object got its name: a power cut cannot have torn it."""
    replaces: bool = False
    """It was put so that it would have replaced another one."""

    def pack(self) -> bytes:
        """Returns the bytes of the attribute."""
        flags = (_SYNCED if self.synced else 0) | (_REPLACES if self.replaces else 0)
        return _LAYOUT.pack(_VERSION, flags, 0, self.owner, self.boot, self.created_us, self.moment_ns, self.checksum)

    @staticmethod
    def checksum_in(raw: bytes) -> int | None:
        """Returns the checksum alone, for the hot path of reads; otherwise as `unpack`."""
        if len(raw) != _LAYOUT.size or raw[0] != _VERSION:
            return None
        return int.from_bytes(raw[_CHECKSUM_AT:], "little")

    @classmethod
    def unpack(cls, raw: bytes) -> Self | None:
        """Returns what the bytes of an attribute say; None if they are not as a daemon writes them."""
        if len(raw) != _LAYOUT.size:
            return None
        version, flags, _, owner, boot, created_us, moment_ns, checksum = _LAYOUT.unpack(raw)
        if version != _VERSION or created_us > _CREATED_US_MAX:
            return None
        return cls(owner, created_us, boot, moment_ns, checksum, bool(flags & _SYNCED), bool(flags & _REPLACES))
