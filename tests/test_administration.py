"""administration.py: namespaces, usage and status as a user meets them."""

from __future__ import annotations

import json
import os

import click
import pytest

from conftest import Run, tell
from storekeeper import administration
from storekeeper.cli import cli


def test_usage_says_what_was_not_looked_at_yet(capsys: pytest.CaptureFixture[str]) -> None:
    class Telling:
        def usage(self, *, fresh: bool, by: str | None) -> dict[str, int]:
            return {"objects": 5, "bytes": 30, "objects_not_sized": 2}

    command = administration.usage.callback
    assert command is not None
    with click.Context(cli, obj=Telling()).scope():
        command(by=None, fresh=False, as_json=False)
    assert capsys.readouterr().out == "5 objects, 30 bytes in 3 of them, the others were not looked at yet\n"


def test_namespaces_are_made_listed_filled_and_dropped(run: Run) -> None:
    tell(run, "namespace", "create", "lab", "--read", "*", "--bytes-max", "16K", "--ttl", "7d", "--shared")
    listed = json.loads(tell(run, "namespace", "ls", "--json"))
    assert set(listed) == {"default", "lab"}
    assert listed["lab"]["you_may"] == ["read", "write", "manage"]
    assert (listed["lab"]["bytes_max"], listed["lab"]["ttl_s"], listed["lab"]["owner_only"]) == (16384, 604_800, False)
    assert "lab      you may read, write, manage" in tell(run, "namespace", "ls")
    lab = ("--namespace", "lab")
    tell(run, *lab, "put", "--key", "k", "-", stdin=bytes(10_000))
    full = run(*lab, "put", "--key", "l", "-", stdin=bytes(10_000))
    assert full.returncode == 73
    assert b"namespace 'lab' may hold 16384 bytes" in full.stderr
    assert tell(run, *lab, "usage") == "1 objects, 10000 bytes\nnamespace_bytes_max: 12288 of 16384\n"
    by_name = json.loads(tell(run, "usage", "--by", "namespace", "--json"))["namespaces"]
    assert {name: part["bytes"] for name, part in by_name.items()} == {"default": 0, "lab": 10_000}
    by_user = json.loads(tell(run, "usage", "--by", "user", "--json"))["users"]
    assert by_user[str(os.geteuid())]["charged_bytes"] == 12288
    assert tell(run, "usage", "--by", "namespace").startswith("lab      1 objects, 10000 bytes\n")
    tell(run, "namespace", "create", "lab", status=73)
    tell(run, "namespace", "drop", "lab", status=64)  # not empty
    tell(run, *lab, "evict", "k")
    tell(run, "namespace", "drop", "lab")
    tell(run, "namespace", "drop", "lab", status=64)
    tell(run, "namespace", "create", "x", "--eviction", "lru", status=64)
    tell(run, "namespace", "create", "x", "--read", "no such user", status=64)
