"""Another process that changes a store's directory behind the daemon's back: `python outside.py FOLDER WORK NUMBER…`.

burst CREATED DELETED    creates so many empty files as fast as it can, then deletes so many of them
churn RATE SECONDS       creates and deletes, RATE changes a second, about as many of each; prints the rate it reached
steps COUNT              for every line of standard input does one change and prints `KEY yes|no`: what is true then
"""

from __future__ import annotations

import os
import sys
import time

_LIVE = 20_000


def _create(folder: int, name: bytes) -> None:
    os.close(os.open(name, os.O_CREAT | os.O_WRONLY, 0o644, dir_fd=folder))


def burst(folder: int, created: int, deleted: int) -> None:
    names = [b"burst-%030d" % number for number in range(created)]
    for name in names:
        _create(folder, name)
    for name in names[:deleted]:
        os.unlink(name, dir_fd=folder)


def churn(folder: int, rate: float, seconds: float) -> None:
    started = time.perf_counter()
    done = number = 0
    while (now := time.perf_counter() - started) < seconds:
        if done >= now * rate:
            time.sleep(0.0005)
            continue
        while done < now * rate:
            _create(folder, b"churn-%030d" % (number % (4 * _LIVE)))
            done += 1
            if number >= _LIVE:
                os.unlink(b"churn-%030d" % ((number - _LIVE) % (4 * _LIVE)), dir_fd=folder)
                done += 1
            number += 1
    print(done / (time.perf_counter() - started), flush=True)


def steps(folder: int, count: int) -> None:
    _create(folder, b".outside")
    for number, _ in zip(range(count), sys.stdin, strict=False):
        key = b"step-%d" % (number // 2)
        kind = number % 4
        if kind == 0:
            _create(folder, key)
        elif kind == 2:
            os.link(b".outside", key, src_dir_fd=folder, dst_dir_fd=folder)
        else:
            os.unlink(key, dir_fd=folder)
        print(key.decode(), "no" if number % 2 else "yes", flush=True)


if __name__ == "__main__":
    work = {"burst": burst, "churn": churn, "steps": steps}[sys.argv[2]]
    work(os.open(sys.argv[1], os.O_RDONLY), *map(int, sys.argv[3:]))
