"""metadata.py: what is kept with an object, in bytes."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from storekeeperd.metadata import Metadata

WHOLE = Metadata(1000, 1_700_000_000_123_456, 0xDEADBEEF, 42, 0xFFFFFFFFFFFFFFFF, True)


def test_what_is_packed_is_unpacked() -> None:
    assert Metadata.unpack(WHOLE.pack()) == WHOLE
    for flags in ({"synced": False}, {"replaces": True}, {"synced": False, "replaces": True}):
        assert Metadata.unpack(WHOLE._replace(**flags).pack()) == WHOLE._replace(**flags)


def test_it_fits_into_the_inode_of_ext4_with_room_for_more() -> None:
    assert len(WHOLE.pack()) == 52


def test_the_bytes_are_those_of_the_readme() -> None:
    assert WHOLE.pack().hex() == "02010000e8030000efbeadde40222018240a06002a00000000000000ffffffffffffffff" + 16 * "00"


@given(st.binary(max_size=80))
def test_whatever_stands_there_is_metadata_or_nothing(raw: bytes) -> None:
    kept = Metadata.unpack(raw)
    if kept is not None:
        assert Metadata.checksum_in(raw) == kept.checksum
    assert kept is None or (len(raw) == 52 and raw[0] == 2)


def test_another_version_says_nothing() -> None:
    chance = random.Random(1)
    for version in range(256):
        kept = Metadata.unpack(bytes([version]) + WHOLE.pack()[1:])
        assert (kept is not None) == (version == 2), chance


def test_the_checksum_is_found_without_the_rest() -> None:
    assert Metadata.checksum_in(WHOLE.pack()) == WHOLE.checksum
    assert Metadata.checksum_in(b"") is None
    assert Metadata.checksum_in(b"\x01" + WHOLE.pack()[1:]) is None
