"""`make run`: a daemon on a directory, and a short live demonstration for somebody who sees it for the first time.

The process becomes the daemon; a child shows what it can do, prints what to try next, and ends.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from pathlib import Path

from storekeeper import Client
from storekeeper.directory import own_address


def say(text: str) -> None:
    print(text, flush=True)


def produce(address: str, name: str, count: int) -> None:
    with Client(address) as store:
        keys = store.put_batch([f"result {n} of {name}".encode() for n in range(count)])
        store.put("\n".join(keys).encode(), key=f"{name}-keys", replace=True)
        say(f"  {name} (pid {os.getpid()}): put {count} objects in one request")


def consume(address: str, name: str, producer: str) -> None:
    with Client(address) as store:
        while (listing := store.get(f"{producer}-keys")) is None:
            time.sleep(0.01)
        keys = listing.decode().split()
        objects = store.get_batch(keys)
        evicted = store.evict_batch([*keys, f"{producer}-keys"])
        say(f"  {name} (pid {os.getpid()}): got {len(objects)} of {producer}'s, first {objects[0]!r}")
        say(f"  {name} (pid {os.getpid()}): evicted {sum(evicted)}, so they are gone for everybody")


def demonstrate(directory: Path, address: str) -> None:
    with Client(address) as store:
        store._session.grace_s = 10.0
        say(f"\nA daemon serves {directory}. One file per object; {store.status()['objects']} of them now.\n")
        say("1. Four processes share it, two putting, two getting and evicting:")
        context = multiprocessing.get_context("spawn")
        workers = [
            context.Process(target=task, args=arguments)
            for task, arguments in (
                (produce, (address, "producer-1", 100)),
                (produce, (address, "producer-2", 100)),
                (consume, (address, "consumer-1", "producer-1")),
                (consume, (address, "consumer-2", "producer-2")),
            )
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()

        say("\n2. A file removed behind the daemon's back is noticed:")
        store.put(b"here today", key="fleeting", replace=True)
        say(f"  put 'fleeting'; exists: {store.exists('fleeting')}; now: rm {directory.name}/fleeting")
        removed = time.monotonic()
        (directory / "fleeting").unlink()
        while store.exists("fleeting"):
            pass
        say(f"  exists: False, {1000 * (time.monotonic() - removed):.1f} ms after the rm")

        say("\n3. A large object travels in ranges, so nobody's memory grows with it:")
        data = os.urandom(32 << 20)
        started = time.monotonic()
        store.put(data, key="large", replace=True)
        middle = time.monotonic()
        same = store.get("large") == data
        say(f"  32 MiB put in {middle - started:.2f} s, got in {time.monotonic() - middle:.2f} s, equal: {same}")
        store.evict("large")

        store.put(b"Hello from the store.\n", key="hello", replace=True)
        command = f"{Path(sys.executable).parent}/storekeeper"
        say(
            f"\nThe daemon keeps serving; Ctrl-C stops it. In another terminal:\n\n"
            f"  export STOREKEEPER_ADDRESS={address}\n"
            f"  {command} get hello\n"
            f"  {command} put README.md\n"
            f"  {command} ls -l\n"
            f"  {command} status\n"
        )


def main() -> None:
    directory = Path(sys.argv[1]).absolute()
    address = own_address(directory)
    sys.stdout.flush()
    if os.fork() == 0:
        demonstrate(directory, address)
        sys.stdout.flush()
        os._exit(0)
    daemon = [sys.executable, "-m", "storekeeperd", "serve", str(directory), "--address", address]
    os.execv(sys.executable, [*daemon, "--log-level", "warning"])


if __name__ == "__main__":
    main()
