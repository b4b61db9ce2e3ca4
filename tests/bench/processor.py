"""Owns what is known of the processor that others used: for how long a process ran, by the kernel's account."""

from __future__ import annotations

import os
from pathlib import Path


def ran_ns(pid: int) -> int:
    """Returns for how long all threads of a process ran, user and system, to the nanosecond (proc(5), schedstat)."""
    tasks = f"/proc/{pid}/task"
    return sum(int(Path(f"{tasks}/{task}/schedstat").read_text().split()[0]) for task in os.listdir(tasks))
