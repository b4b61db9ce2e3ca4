"""Client processes that put more than there is room for. A program of its own, so that each has an interpreter.

    python pressers.py press ADDRESS NAME SEED      puts without end; what `exists` says is there it fetches

Goes on until it is told a line; says what it did in one line of JSON. Whatever is wrong ends it with a traceback.
"""

from __future__ import annotations

import json
import random
import select
import sys
import time
from collections import Counter

from storekeeper import Client
from storekeeper.errors import BatchFailed

LEASE_S = 1.0
_LONGEST_S = 3600


def press(address: str, name: str, seed: str) -> Counter[str]:
    chance = random.Random(f"{name} {seed}")
    did: Counter[str] = Counter(put=0, asked=0, fetched=0, missed=0, late=0, large=0)
    ends = time.monotonic() + _LONGEST_S
    number = 0
    with Client(address, timeout=60) as client:
        while not select.select([0], [], [], 0)[0] and time.monotonic() < ends:
            number += 1
            kind = chance.random()
            if kind < 0.1:
                client.put(bytes((4 << 20) + 1), key=f"{name}-{number}")
                did["large"] += 1
            elif kind < 0.3:
                keys = [f"{name}-{number}-{item}" for item in range(chance.randrange(2, 20))]
                try:
                    client.put_batch([bytes(chance.randrange(20_000)) for _ in keys], keys=keys)
                except BatchFailed as failed:
                    raise failed.results[-1] from None
            else:
                client.put(bytes(chance.choice((0, 100, 5000, 70_000))), key=f"{name}-{number}")
            did["put"] += 1
            # Anything that anybody may have put: most of it is gone.
            key = f"p{chance.randrange(8)}-{max(1, number - chance.randrange(40))}"
            did["asked"] += 1
            began = time.monotonic()
            if client.exists(key):
                time.sleep(chance.random() * 0.05)
                found = client.get(key)
                if found is not None:
                    did["fetched"] += 1
                elif time.monotonic() < began + LEASE_S:
                    did["missed"] += 1
                else:
                    did["late"] += 1
    return did


def main() -> None:
    _, address, name, seed = sys.argv[1:]
    print(json.dumps(press(address, name, seed)), flush=True)


if __name__ == "__main__":
    main()
