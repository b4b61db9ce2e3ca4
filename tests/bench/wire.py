"""The daemon's listener beside a libzmq ROUTER that echoes: requests per second, and server CPU per request."""

from __future__ import annotations

import multiprocessing
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import zmq

from bench.processor import ran_ns
from bench.rounds import Row
from conftest import Daemon

SPAWN = multiprocessing.get_context("spawn")
CLIENTS = 4
WINDOW = 32


def pipelined(rounds: int, requests: int) -> list[Row]:
    """Four clients ask `exists` as fast as they can."""
    with tempfile.TemporaryDirectory() as folder:
        daemon = Daemon(Path(folder) / "store", f"ipc://{folder}/s", "--log-level", "error").start()
        echo_address = f"ipc://{folder}/echo"
        echo = SPAWN.Process(target=_echo, args=(echo_address,), daemon=True)
        echo.start()
        with daemon.client() as client:
            client.put(b"x" * 1024, key="k" * 36)
        frames = [b"SK01", b"exists", b"12345678", b"", b"k" * 36]
        figures: dict[tuple[str, str], list[float]] = {}
        try:
            for _ in range(rounds):
                for name, address, pid in (
                    ("libzmq ROUTER echo", echo_address, echo.pid),
                    ("storekeeperd", daemon.address, daemon.pid),
                ):
                    rate, cpu = _round(address, pid or 0, frames, requests)
                    figures.setdefault((name, "rate"), []).append(rate)
                    figures.setdefault((name, "cpu"), []).append(cpu)
        finally:
            daemon.end()
            echo.kill()
            echo.join()
    against = "libzmq ROUTER echo"
    return [
        Row(work, name, unit, figures[name, kind], "" if name == against else against)
        for kind, work, unit in (("rate", "exists, requests/s", "/s"), ("cpu", "server CPU per exists", "µs"))
        for name in (against, "storekeeperd")
    ]


def _round(address: str, pid: int, frames: list[bytes], requests: int) -> tuple[float, float]:
    start, done = SPAWN.Event(), SPAWN.SimpleQueue()
    clients = [SPAWN.Process(target=_client, args=(address, frames, requests, start, done)) for _ in range(CLIENTS)]
    for client in clients:
        client.start()
    for _ in clients:
        _answer(clients, done)
    before_ns, started = ran_ns(pid), time.monotonic()
    start.set()
    for _ in clients:
        _answer(clients, done)
    took, cpu_ns = time.monotonic() - started, ran_ns(pid) - before_ns
    for client in clients:
        client.join()
    return CLIENTS * requests / took, cpu_ns / 1000 / (CLIENTS * requests)


def _answer(clients: list[Any], done: Any) -> None:
    """Waits for a word of a client; a client that died ends the benchmark."""
    deadline = time.monotonic() + 120
    while done.empty():
        assert time.monotonic() < deadline and not any(client.exitcode for client in clients), "a client died"
        time.sleep(0.0005)
    done.get()


def _client(address: str, frames: list[bytes], requests: int, start: Any, done: Any) -> None:
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.linger = 0
        socket.connect(address)
        socket.send_multipart(frames)
        socket.recv_multipart()
        done.put("ready")
        start.wait()
        sent = received = 0
        while received < requests:
            while sent < requests and sent - received < WINDOW:
                socket.send_multipart(frames)
                sent += 1
            socket.recv_multipart()
            received += 1
        done.put("done")


def _echo(address: str) -> None:
    with zmq.Context() as context, context.socket(zmq.ROUTER) as socket:
        socket.bind(address)
        while True:
            socket.send_multipart(socket.recv_multipart())


assert sys.platform == "linux"
