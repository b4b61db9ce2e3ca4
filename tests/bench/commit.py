"""Durable puts: eight clients beside one, and what they share; a process per client."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.rounds import Row, take_turns
from conftest import Daemon

PUTS = 300
SMALL = 1024
_CLIENT = """
import os, sys
from storekeeper import Client
address, puts, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
data = [os.urandom(size) for _ in range(puts)]
with Client(address, timeout=120) as store:
    store.put(b"first", durability="disk")
    print("ready", flush=True)
    sys.stdin.readline()
    for one in data:
        store.put(one, durability="disk")
    print("done", flush=True)  # what comes after, the end of a process, is no put
    sys.stdin.readline()
"""


def durable(place: str, rounds: int) -> list[Row]:
    """Rates of durable puts of 1 KiB, by number of clients."""
    with tempfile.TemporaryDirectory(dir=place) as folder:
        daemon = Daemon(Path(folder) / "store", f"ipc://{folder}/s", "--log-level", "error").start()
        try:
            candidates = {
                f"{clients} clients" if clients > 1 else "1 client": lambda clients=clients: _rate(daemon, clients)
                for clients in (1, 2, 4, 8, 16)
            }
            return take_turns(rounds, candidates, "put 1 KiB, durable", "/s", "1 client")
        finally:
            daemon.end()


def _rate(daemon: Daemon, clients: int) -> float:
    command = [sys.executable, "-c", _CLIENT, daemon.address, str(PUTS), str(SMALL)]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(clients)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
    started = time.perf_counter()
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(b"go\n")
        process.stdin.flush()
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == b"done\n"
    took_s = time.perf_counter() - started
    for process in processes:
        process.communicate()
        assert process.returncode == 0
    return clients * PUTS / took_s
