"""The command line of the client: the verbs on files, pipes and terminals.

Owns what users type for objects. How answers and failures look is terminal.py's, the commands on the store as a whole
are administration.py's; everything else is `Client`'s.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

import storekeeper
from storekeeper import administration, wire
from storekeeper.amounts import DURATION, OWNER, SIZE
from storekeeper.client import TIMEOUT_S, Client
from storekeeper.errors import BatchFailed, StorekeeperError
from storekeeper.files import contents, fetch, fetch_file
from storekeeper.listing import ObjectInfo, Selection
from storekeeper.terminal import ABSENT, as_json, bar, complain, description, print_json, reports, row, tell
from storekeeper.traffic import Terms

F = TypeVar("F", bound=Callable[..., Any])


def selects(command: F) -> F:
    """Adds the options that say which objects are meant."""
    for option in (
        click.option("--larger-than", type=SIZE, help="Of more bytes than this: 4096, 64K, 10M, 2G."),
        click.option("--older-than", type=DURATION, help="Put longer ago than this: 90, 30s, 15m, 12h, 7d."),
        click.option("--owner", type=OWNER, help="Of this user, by name or number."),
        click.option("--prefix", help="Whose keys begin so; empty for all."),
    ):
        command = option(command)
    return command


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(storekeeper.__version__, prog_name="storekeeper")
@click.option("--address", help="Where the daemon is: ipc:///path. Default: $STOREKEEPER_ADDRESS, yours, the node's.")
@click.option("--namespace", default="default", show_default=True, help="Which part of the store.")
@click.option("--server", help="Who is expected to serve the address: a user's name or number.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, max=1_000_000, min_open=True, max_open=True),
    default=TIMEOUT_S,
    show_default=True,
    help="Seconds a request may take.",
)
@click.pass_context
def cli(context: click.Context, address: str | None, namespace: str, server: str | None, timeout: float) -> None:
    """Talk to a storekeeper daemon: a shared store of byte objects on this node.

    Exit status: 0 done; 1 something asked for is not there; 2 wrong usage; 64 to 77 as in sysexits.h.
    """
    try:
        context.obj = context.with_resource(Client(address, namespace, timeout=timeout, server=server))
    except ValueError as error:  # not a number
        raise click.UsageError(str(error)) from None


for command in (administration.namespace, administration.usage, administration.events, administration.status):
    cli.add_command(command)


@cli.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(allow_dash=True))
@click.option("--key", help="Name of the object. Default: the file's name; a new UUID for '-'.")
@click.option("--replace", is_flag=True, help="Replace other bytes under that key, atomically.")
@click.option(
    "--durability",
    type=click.Choice(["os", "disk"]),
    help="Survive the daemon (os) or also a power cut (disk). Default: what the namespace says.",
)
@click.option("--ttl", type=DURATION, help="Expire after so long: 90, 30s, 15m, 12h, 7d. 0: never.")
@as_json
@click.pass_obj
@reports
def put(
    client: Client,
    files: Sequence[str],
    key: str | None,
    replace: bool,
    durability: str | None,
    ttl: float | None,
    as_json: bool,
) -> None:
    """Store FILES ('-' for standard input) and print their keys."""
    if key is not None and len(files) > 1:
        raise click.UsageError("--key names one object; give one file with it")
    for file in files:
        name = key if key is not None else None if file == "-" else os.path.basename(file)
        with contents(file) as data, bar(file, len(data)) as progress:
            name, outcome, reached = client._traffic.put_one(data, name, Terms(replace, durability, ttl), progress)
            size = len(data)
        if as_json:
            print_json({"key": name, "size": size, "outcome": outcome, "durability": reached})
        else:
            click.echo(name)


@cli.command()
@click.argument("keys", nargs=-1, required=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="File to write, or a folder for many keys.")
@click.pass_obj
@reports
def get(client: Client, keys: Sequence[str], output: Path | None) -> None:
    """Write the objects KEYS to standard output, one after the other, or to --output.

    A file appears whole or not at all.
    """
    into_folder = output is not None and output.is_dir()
    if output is not None and len(keys) > 1 and not into_folder:
        raise click.UsageError(f"{output} is no folder; many keys need one")
    missing = False
    for key in keys:
        wire.key_frame(key)  # before anything is made of it
        if output is None:
            found = fetch(client, key, sys.stdout.buffer)
        else:
            found = fetch_file(client, key, output / key if into_folder else output)
        if not found:
            complain(f"no object {key!r}")
            missing = True
    sys.exit(ABSENT if missing else 0)


@cli.command()
@click.argument("keys", nargs=-1, required=True)
@click.option("--fresh", is_flag=True, help="Look at the directory in any case.")
@as_json
@click.pass_obj
@reports
def exists(client: Client, keys: Sequence[str], fresh: bool, as_json: bool) -> None:
    """Tell whether there are objects KEYS; exit with 1 if any is missing."""
    keys = list(dict.fromkeys(keys))
    answers = client.exists_batch(keys, fresh=fresh)
    tell(dict(zip(keys, answers, strict=True)), as_json, "yes", "no")


@cli.command()
@click.argument("keys", nargs=-1)
@selects
@click.option("--dry-run", is_flag=True, help="Only say what would be evicted.")
@as_json
@click.pass_obj
@reports
def evict(
    client: Client,
    keys: Sequence[str],
    prefix: str | None,
    owner: int | None,
    older_than: float | None,
    larger_than: int | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Remove the objects KEYS; exit with 1 if any was not there.

    Or, without KEYS, all that --prefix, --owner, --older-than and --larger-than select together. What is put after the
    command began is left alone.
    """
    chosen = prefix, owner, older_than, larger_than
    if bool(keys) == any(value is not None for value in chosen):
        raise click.UsageError("give KEYS, or say by options which objects are meant")
    if keys:
        keys = list(dict.fromkeys(keys))
        answers = client.exists_batch(keys) if dry_run else client.evict_batch(keys)
        tell(dict(zip(keys, answers, strict=True)), as_json, "would be evicted" if dry_run else "evicted", "absent")
    selection = Selection(prefix or "", owner, older_than, larger_than)
    began_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    infos = client.list_info(**selection._asdict())
    evicted, refused = (len(infos), {}) if dry_run else _evict_all(client, infos, began_ns)
    size = sum(info.size for info in infos)
    if as_json:
        print_json({"selected": len(infos), "bytes": size, "evicted": 0 if dry_run else evicted, "refused": refused})
    elif dry_run:
        for info in infos:
            click.echo(info.key)
        click.echo(f"{len(infos)} objects, {size} bytes would be evicted", err=True)
    else:
        click.echo(f"{evicted} of {len(infos)} objects evicted")
        for sentence, count in refused.items():
            complain(f"{count} objects: {sentence}")
    sys.exit(77 if refused else 0)


@cli.command()
@click.argument("prefix", default="")
@click.option("-l", "--long", is_flag=True, help="Show size in bytes, owner and time of each.")
@click.option("--owner", type=OWNER, help="Only of this user, by name or number.")
@click.option("--older-than", type=DURATION, help="Only put longer ago: 90, 30s, 15m, 12h, 7d.")
@click.option("--larger-than", type=SIZE, help="Only of more bytes: 4096, 64K, 10M, 2G.")
@click.option("--sort", type=click.Choice(wire.SORTS), default="name", show_default=True, help="In which order.")
@click.option("--reverse", is_flag=True, help="The last ones first.")
@click.option("--after", default="", help="Only keys after this one: the next page.")
@click.option("--limit", type=click.IntRange(min=1), help="No more than so many; cheap up to 10,000.")
@click.option("--fresh", is_flag=True, help="See all that was done to the directory before.")
@as_json
@click.pass_obj
@reports
def ls(
    client: Client,
    prefix: str,
    long: bool,
    owner: int | None,
    older_than: float | None,
    larger_than: int | None,
    sort: str,
    reverse: bool,
    after: str,
    limit: int | None,
    fresh: bool,
    as_json: bool,
) -> None:
    """List the keys that begin with PREFIX, sorted."""
    selection = Selection(prefix, owner, older_than, larger_than, sort, reverse, after, limit)
    if not long and selection == Selection(prefix):
        for key in client.list(prefix, fresh=fresh):
            click.echo(json.dumps(key) if as_json else key)
        return
    for info in client.list_info(**selection._asdict(), fresh=fresh):
        if not long:
            click.echo(json.dumps(info.key) if as_json else info.key)
        elif as_json:
            print_json({name: info._asdict()[name] for name in ("key", "size", "owner", "created")})
        else:
            click.echo(row(info))


@cli.command()
@click.argument("keys", nargs=-1, required=True)
@as_json
@click.pass_obj
@reports
def stat(client: Client, keys: Sequence[str], as_json: bool) -> None:
    """Show size, owner, age and lifetime of the objects KEYS."""
    missing = False
    for key in keys:
        info = client.stat(key)
        if info is None:
            complain(f"no object {key!r}")
            missing = True
        elif as_json:
            print_json(info._asdict())
        else:
            click.echo(f"{key}: {description(info)}")
    sys.exit(ABSENT if missing else 0)


@cli.command()
@click.argument("keys", nargs=-1, required=True)
@click.option("--ttl", type=DURATION, help="Expire so long from now: 90, 30s, 15m, 12h, 7d. 0: never.")
@as_json
@click.pass_obj
@reports
def touch(client: Client, keys: Sequence[str], ttl: float | None, as_json: bool) -> None:
    """Let the objects KEYS expire so long from now; exit with 1 if any is not there."""
    tell({key: client.touch(key, ttl) for key in keys}, as_json, "touched", "absent")


@cli.command()
@click.argument("keys", nargs=-1, required=True)
@as_json
@click.pass_obj
@reports
def pin(client: Client, keys: Sequence[str], as_json: bool) -> None:
    """Keep the objects KEYS from expiring and from being evicted to make room; exit with 1 if any is not there."""
    tell({key: client.pin(key) for key in keys}, as_json, "pinned", "absent")


@cli.command()
@click.argument("keys", nargs=-1, required=True)
@as_json
@click.pass_obj
@reports
def unpin(client: Client, keys: Sequence[str], as_json: bool) -> None:
    """Take the pins of the objects KEYS back; exit with 1 if any is not there."""
    tell({key: client.unpin(key) for key in keys}, as_json, "unpinned", "absent")


@cli.command()
@click.argument("keys", nargs=-1, required=True)
@as_json
@click.pass_obj
@reports
def verify(client: Client, keys: Sequence[str], as_json: bool) -> None:
    """Hold the objects KEYS against their checksums; exit with 1 if of any nothing can be told.

    A damaged one is moved into the quarantine, and the exit status is 74.
    """
    answers = {key: client.verify(key) is True for key in keys}
    tell(answers, as_json, "whole", "unknown")


# -- parts


def _evict_all(client: Client, infos: Sequence[ObjectInfo], before_ns: int) -> tuple[int, dict[str, int]]:
    """Evicts objects that were there before a moment; returns how many, and how many were refused by each sentence."""
    evicted, refused = 0, dict[str, int]()
    keys = [info.key for info in infos]
    with bar("evicting", len(keys), 1) as progress:
        for start in range(0, len(keys), wire.BATCH_ITEMS_MAX):
            part = keys[start : start + wire.BATCH_ITEMS_MAX]
            try:
                results: Sequence[Any] = client._evict_before(part, before_ns)
            except BatchFailed as error:
                results = error.results
            for result in results:
                if isinstance(result, StorekeeperError):
                    refused[str(result)] = refused.get(str(result), 0) + 1
                else:
                    evicted += result
            progress(len(part))
    return evicted, refused
