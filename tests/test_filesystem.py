"""filesystem.py: what a directory lies on, and whether every change there is heard of."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

import pytest

from storekeeperd import filesystem
from storekeeperd.filesystem import FileSystem, find, kind_of_mount

MOUNTINFO = b"""\
21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
22 21 0:20 / /sys rw,nosuid - sysfs sysfs rw
36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue
37 21 0:40 / /with\\040space\\040-\\040x rw shared:7 master:2 propagate_from:3 - fuse.sshfs host:/ rw
221 21 0:41 / /data rw - lustre 10.0.0.1@o2ib:/fs rw
38 21 0:42 / - rw - nfs4 server:/ rw
39 21 0:43 / /odd rw - fuse.\xff odd rw
40 21 0:44 / /cut rw shared:1

"""


@pytest.mark.parametrize(
    ("mount_id", "kind"),
    [
        ("21", "ext4"),
        ("22", "sysfs"),
        ("36", "ext3"),
        ("37", "fuse.sshfs"),
        ("221", "lustre"),
        ("38", "nfs4"),
        ("39", "fuse.\ufffd"),
        ("2", None),
        ("40", None),
        ("99", None),
        ("", None),
    ],
)
def test_a_mounts_type_is_the_first_field_after_the_lone_hyphen(mount_id: str, kind: str | None) -> None:
    assert kind_of_mount(mount_id, MOUNTINFO) == kind


def test_nothing_is_mounted_in_an_empty_table() -> None:
    assert kind_of_mount("21", b"") is None


def test_a_line_that_ends_at_its_hyphen_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut(mount_id: str, _: bytes) -> str | None:
        return kind_of_mount("40", b"40 21 0:44 / /cut rw -")

    monkeypatch.setattr(filesystem, "kind_of_mount", cut)
    assert find(tmp_path).kind


def test_memory_is_a_local_file_system() -> None:
    if not os.path.ismount("/dev/shm"):
        pytest.skip("/dev/shm is not mounted")
    assert find(Path("/dev/shm")) == FileSystem("tmpfs", local=True, network=False)


def test_proc_is_not_known_to_be_local() -> None:
    assert find(Path("/proc")) == FileSystem("proc", local=False, network=True)


def test_the_kind_is_as_the_system_tells_it(tmp_path: Path) -> None:
    asked = subprocess.run(["stat", "-f", "-c", "%t", tmp_path], capture_output=True, text=True, check=True)
    descriptor = os.open(tmp_path, os.O_PATH)
    try:
        assert filesystem._magic(descriptor) == int(asked.stdout, 16)
    finally:
        os.close(descriptor)
    found = find(tmp_path)
    assert found.local == (int(asked.stdout, 16) in filesystem._LOCAL)
    table = Path("/proc/self/mountinfo").read_text()
    assert f" - {found.kind} " in table


def test_a_mount_below_is_found_though_another_is_mounted_over_it(tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    before = find(place)
    if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", place], capture_output=True).returncode:
        pytest.skip("cannot mount")
    try:
        (place / "below").mkdir()
        assert find(place / "below") == FileSystem("tmpfs", local=True, network=False)
        subprocess.run(["mount", "--bind", tmp_path, place / "below"], check=True)
        try:
            assert find(place / "below") == before
            assert find(place).kind == "tmpfs"
        finally:
            subprocess.run(["umount", place / "below"], check=True)
    finally:
        subprocess.run(["umount", place], check=True)


@pytest.mark.parametrize(
    ("magic", "expected"),
    [
        (0xEF53, FileSystem("ext", local=True, network=False)),
        (0x58465342, FileSystem("xfs", local=True, network=False)),
        (0x9123683E, FileSystem("btrfs", local=True, network=False)),
        (0x794C7630, FileSystem("overlay", local=False, network=False)),
        (0x6969, FileSystem("unknown", local=False, network=True)),  # NFS
        (0x0BD00BD0, FileSystem("unknown", local=False, network=True)),  # Lustre
        (0x65735546, FileSystem("unknown", local=False, network=True)),  # FUSE
        (0, FileSystem("unknown", local=False, network=True)),  # cannot be told
    ],
)
def test_what_is_not_known_to_be_local_counts_as_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, magic: int, expected: FileSystem
) -> None:
    monkeypatch.setattr(filesystem, "_magic", lambda _: magic)
    monkeypatch.setattr(filesystem, "_kind", lambda _: None)
    assert find(tmp_path) == expected


def test_a_statfs_that_fails_is_an_unknown_file_system() -> None:
    assert filesystem._magic(-1) == 0


def test_a_mount_that_cannot_be_found_is_no_failure() -> None:
    assert filesystem._kind(-1) is None


def test_a_directory_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        find(tmp_path / "gone")
    (tmp_path / "file").touch()
    with pytest.raises(OSError) as caught:
        find(tmp_path / "file")
    assert caught.value.errno == errno.ENOTDIR


def test_finding_leaves_no_descriptor_open(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        find(tmp_path)
    assert len(os.listdir("/proc/self/fd")) == before
