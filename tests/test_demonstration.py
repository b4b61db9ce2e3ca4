"""`make run`: what a newcomer sees."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

DEMONSTRATION = Path(__file__).parent / "demonstration.py"


def test_the_demonstration_shows_what_it_says_and_keeps_serving(tmp_path: Path) -> None:
    with open(tmp_path / "out", "wb") as out:
        process = subprocess.Popen(
            [sys.executable, str(DEMONSTRATION), str(tmp_path / "store")], stdout=out, stderr=out
        )
    try:
        deadline = time.monotonic() + 60
        while "status\n" not in (said := (tmp_path / "out").read_text()):
            assert time.monotonic() < deadline, said
            assert process.poll() is None, said
            time.sleep(0.05)
        for words in ("got 100 of producer-1's", "got 100 of producer-2's", "exists: False", "equal: True"):
            assert words in said
        export, *commands = re.findall(r"^  (export .*|/.*storekeeper .*)$", said, re.MULTILINE)
        address = export.split("=", 1)[1]
        get = shlex.split(commands[0])
        done = subprocess.run(
            [sys.executable, "-m", "storekeeper", *get[1:]],
            env={**os.environ, "STOREKEEPER_ADDRESS": address},
            capture_output=True,
            timeout=30,
        )
        assert done.stdout == b"Hello from the store.\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.wait()
