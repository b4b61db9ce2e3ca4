"""The command line of the client: the verbs on files, pipes and terminals.

Owns what users type and see, and the exit codes. Everything else is `Client`'s.
"""

from __future__ import annotations

import json
import os
import pwd
import sys
import time
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click

import storekeeper
from storekeeper import wire
from storekeeper.amounts import DURATIONS, SIZES, Amount, Owner
from storekeeper.client import TIMEOUT_S, Client
from storekeeper.errors import BatchFailed, StorekeeperError
from storekeeper.events import Event
from storekeeper.files import bar, contents, fetch, fetch_file
from storekeeper.listing import ObjectInfo, Selection
from storekeeper.traffic import Terms

F = TypeVar("F", bound=Callable[..., Any])

FOLLOW_S = 1.0
"""How often `events --follow` asks."""
ABSENT = 1
"""Exit status: something asked for is not there."""
STATUS_OF = {
    "bad_key": 65,  # EX_DATAERR
    "bad_request": 64,  # EX_USAGE
    "no_namespace": 64,
    "denied": 77,  # EX_NOPERM
    "wrong_server": 77,
    "quota": 73,
    "key_exists": 73,  # EX_CANTCREAT
    "not_an_object": 73,
    "disk_full": 74,  # EX_IOERR
    "disk_failed": 74,
    "corrupt": 74,
    "unreachable": 69,  # EX_UNAVAILABLE
    "store_away": 69,
    "timed_out": 75,  # EX_TEMPFAIL
    "stopping": 75,
    "busy": 75,
    "too_many": 75,
    "incomplete": 75,
    "protocol": 76,  # EX_PROTOCOL
    "bad_version": 76,
    "unknown_verb": 76,
}
"""Exit status by error code, of sysexits.h; 70 (EX_SOFTWARE) for all others."""

DURATION, SIZE = Amount(DURATIONS, "a duration"), Amount(SIZES, "a size")
OWNER = Owner()

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")


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


def _reports(command: F) -> F:
    """Turns an error of the store into one line and an exit status."""

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except StorekeeperError as error:
            _fail(str(error), _status_of(error))
        except KeyboardInterrupt:
            sys.exit(130)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(141)
        except OSError as error:
            _fail(f"{error.filename or ''}: {os.strerror(error.errno or 0)}".lstrip(": "), 74)

    return run  # type: ignore[return-value]


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
@_reports
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
            _print_json({"key": name, "size": size, "outcome": outcome, "durability": reached})
        else:
            click.echo(name)


@cli.command()
@click.argument("keys", nargs=-1, required=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="File to write, or a folder for many keys.")
@click.pass_obj
@_reports
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
            click.echo(f"storekeeper: no object {key!r}", err=True)
            missing = True
    sys.exit(ABSENT if missing else 0)


@cli.command()
@click.argument("keys", nargs=-1, required=True)
@click.option("--fresh", is_flag=True, help="Look at the directory in any case.")
@as_json
@click.pass_obj
@_reports
def exists(client: Client, keys: Sequence[str], fresh: bool, as_json: bool) -> None:
    """Tell whether there are objects KEYS; exit with 1 if any is missing."""
    keys = list(dict.fromkeys(keys))
    answers = client.exists_batch(keys, fresh=fresh)
    _tell(dict(zip(keys, answers, strict=True)), as_json, "yes", "no")


@cli.command()
@click.argument("keys", nargs=-1)
@selects
@click.option("--dry-run", is_flag=True, help="Only say what would be evicted.")
@as_json
@click.pass_obj
@_reports
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
        _tell(dict(zip(keys, answers, strict=True)), as_json, "would be evicted" if dry_run else "evicted", "absent")
    selection = Selection(prefix or "", owner, older_than, larger_than)
    began_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    infos = client.list_info(**_chosen(selection))
    evicted, refused = (len(infos), {}) if dry_run else _evict_all(client, infos, began_ns)
    size = sum(info.size for info in infos)
    if as_json:
        _print_json({"selected": len(infos), "bytes": size, "evicted": 0 if dry_run else evicted, "refused": refused})
    elif dry_run:
        for info in infos:
            click.echo(info.key)
        click.echo(f"{len(infos)} objects, {size} bytes would be evicted", err=True)
    else:
        click.echo(f"{evicted} of {len(infos)} objects evicted")
        for sentence, count in refused.items():
            click.echo(f"storekeeper: {count} objects: {sentence}", err=True)
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
@_reports
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
    for info in client.list_info(**_chosen(selection), fresh=fresh):
        if not long:
            click.echo(json.dumps(info.key) if as_json else info.key)
        elif as_json:
            _print_json({name: info._asdict()[name] for name in ("key", "size", "owner", "created")})
        else:
            click.echo(f"{info.size:>12} {_user(info.owner):<8} {_moment(info.created)} {info.key}")


@cli.command()
@click.argument("keys", nargs=-1, required=True)
@as_json
@click.pass_obj
@_reports
def stat(client: Client, keys: Sequence[str], as_json: bool) -> None:
    """Show size, owner, age and lifetime of the objects KEYS."""
    missing = False
    for key in keys:
        info = client.stat(key)
        if info is None:
            click.echo(f"storekeeper: no object {key!r}", err=True)
            missing = True
        elif as_json:
            _print_json(info._asdict())
        else:
            lives = [f"expires in {info.expires_in:.0f} s"] if info.expires_in is not None else []
            lives += [f"ends with process {info.process}"] if info.process else []
            lives += ["pinned"] if info.pinned else []
            more = "".join(f", {life}" for life in lives)
            created = _moment(info.created)
            click.echo(f"{key}: {info.size} bytes, owner {_user(info.owner)}, created {created}{more}")
    sys.exit(ABSENT if missing else 0)


@cli.command()
@click.argument("keys", nargs=-1, required=True)
@click.option("--ttl", type=DURATION, help="Expire so long from now: 90, 30s, 15m, 12h, 7d. 0: never.")
@as_json
@click.pass_obj
@_reports
def touch(client: Client, keys: Sequence[str], ttl: float | None, as_json: bool) -> None:
    """Let the objects KEYS expire so long from now; exit with 1 if any is not there."""
    _tell({key: client.touch(key, ttl) for key in keys}, as_json, "touched", "absent")


@cli.command()
@click.argument("keys", nargs=-1, required=True)
@as_json
@click.pass_obj
@_reports
def pin(client: Client, keys: Sequence[str], as_json: bool) -> None:
    """Keep the objects KEYS from expiring and from being evicted to make room; exit with 1 if any is not there."""
    _tell({key: client.pin(key) for key in keys}, as_json, "pinned", "absent")


@cli.command()
@click.argument("keys", nargs=-1, required=True)
@as_json
@click.pass_obj
@_reports
def unpin(client: Client, keys: Sequence[str], as_json: bool) -> None:
    """Take the pins of the objects KEYS back; exit with 1 if any is not there."""
    _tell({key: client.unpin(key) for key in keys}, as_json, "unpinned", "absent")


@cli.command()
@click.argument("keys", nargs=-1, required=True)
@as_json
@click.pass_obj
@_reports
def verify(client: Client, keys: Sequence[str], as_json: bool) -> None:
    """Hold the objects KEYS against their checksums; exit with 1 if of any nothing can be told.

    A damaged one is moved into the quarantine, and the exit status is 74.
    """
    answers = {key: client.verify(key) is True for key in keys}
    _tell(answers, as_json, "whole", "unknown")


@cli.command()
@click.option(
    "--by", type=click.Choice(wire.USAGES), help="Show it by user, or by namespace, of all that you may read."
)
@click.option("--fresh", is_flag=True, help="See all that was done to the directory before, and look at every object.")
@as_json
@click.pass_obj
@_reports
def usage(client: Client, by: str | None, fresh: bool, as_json: bool) -> None:
    """Show how many objects and bytes the namespace holds, and what it and you may hold."""
    told = client.usage(fresh=fresh, by=by)
    if as_json:
        _print_json(told)
        return
    if by is None:
        click.echo(_sum(told))
    else:
        parts = {_user(int(owner)) if owner.isdigit() else owner: part for owner, part in told.get("users", {}).items()}
        parts = parts or told.get("namespaces", {})
        width = max(map(len, parts), default=0)
        for name, part in sorted(parts.items(), key=lambda item: -item[1]["charged_bytes"]):
            click.echo(f"{name:<{width}}  {_sum(part)}")
    for name, bound in told.get("bounds", {}).items():
        click.echo(f"{name}: {bound['used']} of {bound['bound']}")


@cli.group()
def namespace() -> None:
    """Make, remove and list namespaces."""


@namespace.command("ls")
@as_json
@click.pass_obj
@_reports
def list_namespaces(client: Client, as_json: bool) -> None:
    """List the namespaces that you may read, and what you may do there."""
    found = client.namespaces()
    if as_json:
        _print_json(found)
        return
    width = max(map(len, found), default=0)
    for name, told in found.items():
        may = ", ".join(told.pop("you_may"))
        settings = " ".join(f"{setting}={json.dumps(value)}" for setting, value in told.items())
        click.echo(f"{name:<{width}}  you may {may}  {settings}".rstrip())


@namespace.command()
@click.argument("name")
@click.option("--read", multiple=True, metavar="WHO", help="User, @group or * who may read. Repeatable. Default: you.")
@click.option("--write", multiple=True, metavar="WHO", help="Who may write, too. Repeatable. Default: you.")
@click.option("--manage", multiple=True, metavar="WHO", help="Who may manage it, too. Repeatable. Default: you.")
@click.option("--shared", is_flag=True, help="Who may write may evict and replace what others put, too.")
@click.option("--bytes-max", type=SIZE, help="Bytes it may hold: 4096, 64K, 10M, 2G.")
@click.option("--objects-max", type=click.IntRange(min=1), help="Objects it may hold.")
@click.option("--user-bytes-max", type=SIZE, help="Bytes each user may hold in it.")
@click.option("--user-objects-max", type=click.IntRange(min=1), help="Objects each user may hold in it.")
@click.option("--object-bytes-max", type=SIZE, help="Bytes of one object.")
@click.option("--ttl", "ttl_s", type=DURATION, help="Objects expire after so long: 90, 30s, 15m, 12h, 7d.")
@click.option("--durability", type=click.Choice(wire.DURABILITIES), help="Of what is put without saying.")
@click.option(
    "--eviction",
    type=click.Choice(["refuse", "lru", "expired-first"]),
    help="What happens when it is full. Default: refuse.",
)
@click.pass_obj
@_reports
def create(client: Client, /, name: str, shared: bool, **given: Any) -> None:
    """Make the namespace NAME, which you manage."""
    settings = {
        setting: list(value) if isinstance(value, tuple) else value for setting, value in given.items() if value
    }
    if shared:
        settings["owner_only"] = False
    client.create_namespace(name, **settings)


@namespace.command()
@click.argument("name")
@click.pass_obj
@_reports
def drop(client: Client, name: str) -> None:
    """Remove the namespace NAME, which must be empty."""
    client.drop_namespace(name)


@cli.command()
@click.option("-f", "--follow", is_flag=True, help="Go on with what happens from now on, until interrupted.")
@as_json
@click.pass_obj
@_reports
def events(client: Client, follow: bool, as_json: bool) -> None:
    """Show which objects the daemon, or another user than their owner, has evicted or replaced.

    Of each: when, what, why, size in bytes, owner, by whom or for whose put, and which object. Of the namespace; of all
    that you may read if that is the default one.
    """
    news = client.events()
    while True:
        for name in news.missed:
            click.echo(f"storekeeper: some events of namespace {name} are not kept any more", err=True)
        for event in news.events:
            if as_json:
                _print_json(event._asdict())
            else:
                click.echo(_line(event))
        if not follow:
            return
        time.sleep(FOLLOW_S)
        news = client.events(news.marks)


@cli.command()
@as_json
@click.pass_obj
@_reports
def status(client: Client, as_json: bool) -> None:
    """Show what the daemon says of itself."""
    told = client.status()
    if as_json:
        _print_json(told)
        return
    width = max(map(len, told))
    for name, value in told.items():
        shown = value if isinstance(value, str) else json.dumps(value)
        click.echo(f"{name:<{width}}  {shown}")


# -- parts


def _chosen(selection: Selection) -> dict[str, Any]:
    """Returns the keywords of a selection."""
    return selection._asdict()


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


def _sum(told: dict[str, Any]) -> str:
    unsized = told["objects_not_sized"]
    more = f" in {told['objects'] - unsized} of them, the others were not looked at yet" if unsized else ""
    return f"{told['objects']} objects, {told['bytes']} bytes{more}"


def _line(event: Event) -> str:
    size = "?" if event.size is None else event.size
    owner = "?" if event.owner is None else _user(event.owner)
    by = "-" if event.by is None else _user(event.by)
    name = event.key if event.namespace == "default" else f"{event.namespace}/{event.key}"
    return f"{_moment(event.when)} {event.what:<8} {event.why:<7} {size:>12} {owner:<8} {by:<8} {name}"


def _user(uid: int) -> str:
    """Returns the name of a user; the number if there is none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _tell(answers: dict[str, bool], as_json: bool, yes: str, no: str) -> None:
    if as_json:
        _print_json(answers)
    else:
        for key, answer in answers.items():
            click.echo(f"{yes if answer else no} {key}")
    sys.exit(0 if all(answers.values()) else ABSENT)


def _status_of(error: StorekeeperError) -> int:
    """The exit status of an error; of a failed batch that of its first failure."""
    if isinstance(error, BatchFailed):
        error = next(result for result in error.results if isinstance(result, StorekeeperError))
    return STATUS_OF.get(error.code, 70)


def _moment(created: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(created))


def _print_json(value: Any) -> None:
    click.echo(json.dumps(value))


def _fail(message: str, status: int) -> NoReturn:
    click.echo(f"storekeeper: {message}", err=True)
    sys.exit(status)
