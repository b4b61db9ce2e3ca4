"""The other end of workers.py: client processes that are told to stand still, go on and stop."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import workers

HANG_S = 120.0
"""How long anything may take that takes a second where nothing else runs."""


class Member:
    """One client process."""

    def __init__(self, *arguments: object, program: str = workers.__file__) -> None:
        command = [sys.executable, program, *map(str, arguments)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._hears, self._says = self.process.stdin, self.process.stdout

    def say(self, line: bytes = b"\n") -> None:
        with contextlib.suppress(BrokenPipeError):  # it has failed: `line` says so
            self._hears.write(line)

    def line(self) -> bytes:
        """Returns the next line it says."""
        ends = time.monotonic() + HANG_S
        said = b""
        while not said.endswith(b"\n"):
            assert select.select([self._says], [], [], max(0, ends - time.monotonic()))[0], "the worker hangs"
            part = self._says.read(1 << 20)
            assert part, f"the worker failed: exit status {self.process.wait(HANG_S)}; its traceback is above"
            said += part
        return said

    def end(self) -> None:
        """Ends it at once, if it has not ended by itself."""
        self.process.kill()
        self.process.wait()
        self._hears.close()
        self._says.close()


class Crew:
    """Workers that run at the same time."""

    def __init__(self, members: list[Member]) -> None:
        self.members = members

    def stand(self) -> list[dict[str, Any]]:
        """Lets them stand still between two calls; returns what each has to say."""
        for member in self.members:
            member.say()
        return [json.loads(member.line()) for member in self.members]

    def go(self) -> None:
        for member in self.members:
            member.say()


@contextlib.contextmanager
def crew(*commands: tuple[object, ...]) -> Iterator[Crew]:
    """Gives workers; they end with the block."""
    members: list[Member] = []
    try:
        for command in commands:
            members.append(Member(*command))
        yield Crew(members)
    finally:
        for member in members:
            member.end()


def memory(pid: int) -> int:
    """Returns the bytes of a process that are in memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()


def descriptors(pid: int) -> int:
    """Returns how many descriptors a process has right now."""
    return len(os.listdir(f"/proc/{pid}/fd"))
