"""metadata.py: what is kept with an object, in bytes."""

from __future__ import annotations

import itertools
import random

from hypothesis import given
from hypothesis import strategies as st

from storekeeperd.metadata import TTL_US_MAX, Metadata

WHOLE = Metadata(1000, 1_700_000_000_123_456, 0xDEADBEEF, 42, 0xFFFFFFFFFFFFFFFF, True)
LIVING = WHOLE._replace(ttl_us=1, process=512, pinned=True)


def test_what_is_packed_is_unpacked() -> None:
    assert Metadata.unpack(WHOLE.pack()) == WHOLE
    for synced, replaces, pinned, proved in itertools.product((False, True), repeat=4):
        flagged = WHOLE._replace(synced=synced, replaces=replaces, pinned=pinned, proved=proved)
        assert Metadata.unpack(flagged.pack()) == flagged
    for life in ({"ttl_us": 1}, {"ttl_us": TTL_US_MAX}, {"process": 1}, {"process": 2**64 - 1}):
        assert Metadata.unpack(WHOLE._replace(**life).pack()) == WHOLE._replace(**life)


def test_it_fits_into_the_inode_of_ext4_with_room_for_more() -> None:
    assert len(WHOLE.pack()) == 52
    assert len(LIVING.pack()) == 52


def test_the_bytes_are_those_of_the_readme() -> None:
    assert WHOLE.pack().hex() == "02010000e8030000efbeadde40222018240a06002a00000000000000ffffffffffffffff" + 16 * "00"
    assert (
        LIVING.pack().hex() == WHOLE.pack().hex().replace("0201", "0205", 1)[:72] + "01000000000000000002000000000000"
    )


@given(st.binary(max_size=80))
def test_whatever_stands_there_is_metadata_or_nothing(raw: bytes) -> None:
    kept = Metadata.unpack(raw)
    if kept is not None:
        checksum, ends_ms, process, boot = Metadata.glance(raw)
        assert checksum == (kept.checksum if kept.proved else None)
        assert (ends_ms > 0, process, boot) == (kept.ttl_us > 0, kept.process, kept.boot)
        assert kept.ttl_us <= TTL_US_MAX
    assert kept is None or (len(raw) == 52 and raw[0] == 2)


def test_another_version_says_nothing() -> None:
    chance = random.Random(1)
    for version in range(256):
        kept = Metadata.unpack(bytes([version]) + WHOLE.pack()[1:])
        assert (kept is not None) == (version == 2), chance


def test_what_a_read_takes_is_found_without_the_rest() -> None:
    checksum, boot = WHOLE.checksum, WHOLE.boot
    living = LIVING._replace(moment_ns=5_000_000, ttl_us=7_000)
    assert Metadata.glance(WHOLE.pack()) == (checksum, 0, 0, boot)
    assert Metadata.glance(WHOLE._replace(pinned=True).pack()) == (checksum, 0, 0, boot)
    assert Metadata.glance(living.pack()) == (checksum, 12, living.process, boot)
    assert Metadata.glance(WHOLE._replace(moment_ns=0, ttl_us=1).pack()) == (checksum, 1, 0, boot)
    for raw in (b"", b"\x01" + WHOLE.pack()[1:], WHOLE.pack()[:36]):
        assert Metadata.glance(raw) == (None, 0, 0, 0)


def test_what_no_daemon_put_has_no_checksum() -> None:
    said = WHOLE._replace(proved=False)
    assert Metadata.glance(said.pack())[0] is None
    assert Metadata.unpack(said.pack()) == said


def test_a_longer_life_than_there_can_be_says_nothing() -> None:
    assert Metadata.unpack(WHOLE._replace(ttl_us=TTL_US_MAX + 1).pack()) is None
    assert Metadata.unpack(WHOLE._replace(created_us=(1 << 60) + 1).pack()) is None
