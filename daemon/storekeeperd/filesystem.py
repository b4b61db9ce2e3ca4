"""What kind of file system a directory lies on, and what that means for watching it.

Owns the table of file systems whose every change goes through this node's kernel, so that inotify(7) sees it. All
others, network file systems above all, may change unseen: there a scan by the clock is the truth, and the watch only
brings the changes made on this node sooner. Unknown ones count as such.
"""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

_LOCAL = {
    0xEF53: "ext",
    0x58465342: "xfs",
    0x9123683E: "btrfs",
    0x01021994: "tmpfs",
    0x858458F6: "ramfs",
    0xF2F52010: "f2fs",
    0x2FC12FC1: "zfs",
    0xCA451A4E: "bcachefs",
    0x3153464A: "jfs",
    0x52654973: "reiserfs",
    0x3434: "nilfs",
}
"""statfs(2) `f_type` of file systems that no other kernel, and no other layer, changes."""

_LAYERED = {0x794C7630: "overlay", 0x61756673: "aufs"}
"""Layers over local ones: a change made below the layer is seen by nobody, but a call waits for no network."""

_STATFS_BYTES = 256  # more than struct statfs has anywhere


@dataclass(frozen=True, slots=True)
class FileSystem:
    """One mounted file system.

    Attributes:
        kind: its type as mountinfo has it, such as `ext4` or `fuse.sshfs`; `unknown` if nobody can tell.
        local: whether every change to it is made through this kernel and this mount's inodes.
        network: whether a call may wait for another machine; taken to be so of all that are not known.
    """

    kind: str
    local: bool
    network: bool


def find(directory: Path) -> FileSystem:
    """Returns the file system that a directory lies on; raises `OSError` if the directory cannot be opened.

    The mount is found by its number (/proc/self/fdinfo, `mnt_id`): paths and device numbers mislead with bind mounts,
    mounts over mounts and btrfs subvolumes.
    """
    descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        magic = _magic(descriptor)
        kind = _kind(descriptor) or {**_LOCAL, **_LAYERED}.get(magic, "unknown")
    finally:
        os.close(descriptor)
    return FileSystem(kind, magic in _LOCAL, magic not in _LOCAL and magic not in _LAYERED)


def open_mounts() -> FileIO:
    """Returns the list of mounts as a file; a change of it shows as an exceptional condition: proc_pid_mounts(5)."""
    return FileIO("/proc/self/mountinfo")


def _magic(descriptor: int) -> int:
    """Returns statfs(2)'s `f_type`, which os.statvfs leaves out: the first word of the structure; 0 if it fails."""
    buffer = ctypes.create_string_buffer(_STATFS_BYTES)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.fstatfs(descriptor, buffer) != 0:
        return 0
    return ctypes.c_long.from_buffer(buffer).value & 0xFFFFFFFF


def _kind(descriptor: int) -> str | None:
    try:
        fields = Path(f"/proc/self/fdinfo/{descriptor}").read_text("ascii").split()
        return kind_of_mount(fields[fields.index("mnt_id:") + 1], Path("/proc/self/mountinfo").read_bytes())
    except (OSError, ValueError, IndexError):
        return None


def kind_of_mount(mount_id: str, mountinfo: bytes) -> str | None:
    """Returns the type of a mount as proc_pid_mountinfo(5) has it: the first field after the lone hyphen."""
    for line in mountinfo.splitlines():
        fields = line.split()
        if fields and fields[0] == mount_id.encode() and b"-" in fields[6:]:
            return fields[fields.index(b"-", 6) + 1].decode("utf-8", "replace")
    return None
