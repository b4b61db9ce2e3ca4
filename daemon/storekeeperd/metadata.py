"""What is kept with an object: the bytes of its one extended attribute.

Pure. Owns the layout, which is binary because it is read with every `get`: taken apart in a twentieth of JSON's time;
and short, because ext4 has room for 60 bytes in the inode itself: a longer value takes a block of its own and makes a
put ten times as dear (both measured).
"""

from __future__ import annotations

import struct
from typing import NamedTuple, Self

ATTRIBUTE = "user.storekeeper"

_LAYOUT = struct.Struct("<BBHIIQQQQQ")
_GLANCE = struct.Struct("<xB6xI8xQQQQ")
"""Of that what a read takes: flags, boot, moment, checksum, lifetime and process."""
_VERSION = 2
_SYNCED, _REPLACES, _PINNED, _UNPROVED = 1, 2, 4, 8
CREATED_US_MAX = 1 << 60  # 34,000 years: what a calendar can show
TTL_US_MAX = 1 << 53  # 285 years


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
    ttl_us: int = 0
    """How long after that moment it expires, in microseconds; 0 for never."""
    process: int = 0
    """The process it is tied to, of that boot (see processes.py); 0 for none."""
    pinned: bool = False
    """The daemon does not remove it of its own accord."""
    proved: bool = True
    """The checksum is one: False for files that no daemon put, but whose owner said something of them."""

    def pack(self) -> bytes:
        """Returns the bytes of the attribute."""
        flags = (
            _SYNCED * self.synced | _REPLACES * self.replaces | _PINNED * self.pinned | _UNPROVED * (not self.proved)
        )
        moment_ns, checksum = self.moment_ns, self.checksum
        return _LAYOUT.pack(
            _VERSION, flags, 0, self.owner, self.boot, self.created_us, moment_ns, checksum, self.ttl_us, self.process
        )

    @staticmethod
    def glance(raw: bytes) -> tuple[int | None, int, int, int]:
        """Returns what a read takes of it, for that hot path; that of an endless object if no daemon wrote the bytes.

        Returns:
            The checksum, None if it is none; when the object expires unless it is pinned, in milliseconds of its boot,
            0 for never; the process it is tied to, 0 for none; and that boot.
        """
        if len(raw) != _LAYOUT.size or raw[0] != _VERSION:
            return None, 0, 0, 0
        flags, boot, moment_ns, checksum, ttl_us, process = _GLANCE.unpack(raw)
        ends_ms = ((moment_ns // 1000 + ttl_us) // 1000 or 1) if ttl_us else 0
        return None if flags & _UNPROVED else checksum, ends_ms, process, boot

    @classmethod
    def unpack(cls, raw: bytes) -> Self | None:
        """Returns what the bytes of an attribute say; None if they are not as a daemon writes them."""
        if len(raw) != _LAYOUT.size:
            return None
        version, flags, _, owner, boot, created_us, moment_ns, checksum, ttl_us, process = _LAYOUT.unpack(raw)
        if version != _VERSION or created_us > CREATED_US_MAX or ttl_us > TTL_US_MAX:
            return None
        synced, replaces = bool(flags & _SYNCED), bool(flags & _REPLACES)
        pinned, proved = bool(flags & _PINNED), not flags & _UNPROVED
        return cls(owner, created_us, boot, moment_ns, checksum, synced, replaces, ttl_us, process, pinned, proved)
