"""The command line of the client: the verbs on files, pipes and terminals.

Owns what users type and see, and the exit codes. Everything else is `Client`'s.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, TypeVar

import click

import storekeeper
from storekeeper import ranges, wire
from storekeeper.client import TIMEOUT_S, Client
from storekeeper.errors import BatchFailed, DaemonUnreachable, StorekeeperError

F = TypeVar("F", bound=Callable[..., Any])

ABSENT = 1
"""Exit status: something asked for is not there."""
STATUS_OF = {
    "bad_key": 65,  # EX_DATAERR
    "bad_request": 64,  # EX_USAGE
    "no_namespace": 64,
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

_BAR_BYTES_MIN = 16 * 1024 * 1024

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(storekeeper.__version__, prog_name="storekeeper")
@click.option("--address", help="Where the daemon is: ipc:///path. Default: $STOREKEEPER_ADDRESS, yours, the node's.")
@click.option("--namespace", default="default", show_default=True, help="Which part of the store.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, max=1_000_000, min_open=True, max_open=True),
    default=TIMEOUT_S,
    show_default=True,
    help="Seconds a request may take.",
)
@click.pass_context
def cli(context: click.Context, address: str | None, namespace: str, timeout: float) -> None:
    """Talk to a storekeeper daemon: a shared store of byte objects on this node.

    Exit status: 0 done; 1 something asked for is not there; 2 wrong usage; 64 to 76 as in sysexits.h.
    """
    try:
        context.obj = context.with_resource(Client(address, namespace, timeout=timeout))
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
    default="os",
    show_default=True,
    help="Survive the daemon (os) or also a power cut (disk).",
)
@as_json
@click.pass_obj
@_reports
def put(client: Client, files: Sequence[str], key: str | None, replace: bool, durability: str, as_json: bool) -> None:
    """Store FILES ('-' for standard input) and print their keys."""
    if key is not None and len(files) > 1:
        raise click.UsageError("--key names one object; give one file with it")
    for file in files:
        name = key if key is not None else None if file == "-" else os.path.basename(file)
        with _contents(file) as data, _bar(file, len(data)) as progress:
            name, outcome = client._traffic.put_one(data, name, replace, durability, progress)
            size = len(data)
        if as_json:
            _print_json({"key": name, "size": size, "outcome": outcome, "durability": durability})
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
            found = _fetch(client, key, sys.stdout.buffer)
        else:
            found = _fetch_file(client, key, output / key if into_folder else output)
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
@click.argument("keys", nargs=-1, required=True)
@as_json
@click.pass_obj
@_reports
def evict(client: Client, keys: Sequence[str], as_json: bool) -> None:
    """Remove the objects KEYS; exit with 1 if any was not there."""
    keys = list(dict.fromkeys(keys))
    answers = client.evict_batch(keys)
    _tell(dict(zip(keys, answers, strict=True)), as_json, "evicted", "absent")


@cli.command()
@click.argument("prefix", default="")
@click.option("-l", "--long", is_flag=True, help="Show size in bytes, owner and time of each.")
@click.option("--fresh", is_flag=True, help="See all that was done to the directory before.")
@as_json
@click.pass_obj
@_reports
def ls(client: Client, prefix: str, long: bool, fresh: bool, as_json: bool) -> None:
    """List the keys that begin with PREFIX, sorted."""
    for key in client.list(prefix, fresh=fresh):
        if not long:
            click.echo(json.dumps(key) if as_json else key)
            continue
        info = client.stat(key)
        if info is None:  # it went since the listing
            continue
        if as_json:
            _print_json(info._asdict())
        else:
            click.echo(f"{info.size:>12} {info.owner:>6} {_moment(info.created)} {key}")


@cli.command()
@click.argument("keys", nargs=-1, required=True)
@as_json
@click.pass_obj
@_reports
def stat(client: Client, keys: Sequence[str], as_json: bool) -> None:
    """Show size, owner and age of the objects KEYS."""
    missing = False
    for key in keys:
        info = client.stat(key)
        if info is None:
            click.echo(f"storekeeper: no object {key!r}", err=True)
            missing = True
        elif as_json:
            _print_json(info._asdict())
        else:
            click.echo(f"{key}: {info.size} bytes, owner {info.owner}, created {_moment(info.created)}")
    sys.exit(ABSENT if missing else 0)


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
@click.option("--fresh", is_flag=True, help="See all that was done to the directory before, and look at every object.")
@as_json
@click.pass_obj
@_reports
def usage(client: Client, fresh: bool, as_json: bool) -> None:
    """Show how many objects and bytes the namespace holds."""
    told = client.usage(fresh=fresh)
    if as_json:
        _print_json(told)
        return
    unsized = told["objects_not_sized"]
    more = f" in {told['objects'] - unsized} of them, the others were not looked at yet" if unsized else ""
    click.echo(f"{told['objects']} objects, {told['bytes']} bytes{more}")


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


@contextlib.contextmanager
def _contents(file: str) -> Iterator[Any]:
    """Gives the bytes of a file, mapped, not read; standard input goes through a temporary file."""
    with contextlib.ExitStack() as stack:
        if file == "-":
            source: BinaryIO = stack.enter_context(tempfile.TemporaryFile())
            while block := sys.stdin.buffer.read(1 << 20):
                source.write(block)
            source.flush()
        else:
            source = stack.enter_context(open(file, "rb"))
        if os.fstat(source.fileno()).st_size:
            # Not closed here: an error on its way out may still hold a view of it.
            yield memoryview(mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_READ))
        else:
            yield source.read() if file != "-" else b""


def _fetch(client: Client, key: str, target: BinaryIO) -> bool:
    """Writes an object to a stream, in order; returns whether there was one."""
    waiting: dict[int, bytes] = {}
    place = 0

    def begin(_: int) -> ranges.Sink:
        if place:
            raise DaemonUnreachable(
                "the daemon went away in the middle of the object; what was written is not all of it"
            )
        waiting.clear()
        return keep

    def keep(start: int, part: memoryview) -> None:
        nonlocal place
        waiting[start] = bytes(part)
        while place in waiting:
            block = waiting.pop(place)
            target.write(block)
            place += len(block)

    size = _download(client, key, begin)
    target.flush()
    return size is not None


def _fetch_file(client: Client, key: str, path: Path) -> bool:
    """Writes an object to a file that appears whole or not at all; returns whether there was one."""
    if path.exists() and not path.is_file():  # a device, a fifo: written into, not replaced
        with open(path, "wb") as stream:
            return _fetch(client, key, stream)
    path = path.resolve()  # through a link, not over it
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".storekeeper-", delete=False) as file:
        try:
            size = _download(client, key, lambda _: lambda start, part: _write_at(file.fileno(), part, start))
            if size is None:
                os.unlink(file.name)
                return False
            umask = os.umask(0)
            os.umask(umask)
            os.fchmod(file.fileno(), 0o666 & ~umask)
            os.rename(file.name, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(file.name)
            raise
    return True


def _download(client: Client, key: str, begin: ranges.Begin) -> int | None:
    info = client.stat(key) if sys.stderr.isatty() else None
    with _bar(key, info.size if info else 0) as progress:
        return client._traffic.fetch(key, begin, progress)


def _write_at(descriptor: int, part: memoryview, start: int) -> None:
    while part:
        written = os.pwrite(descriptor, part, start)
        start += written
        part = part[written:]


@contextlib.contextmanager
def _bar(label: str, size: int) -> Iterator[ranges.Progress]:
    """Gives a progress bar on standard error if that is a terminal and the object is large."""
    if size < _BAR_BYTES_MIN or not sys.stderr.isatty():
        yield ranges.nothing
        return
    with click.progressbar(length=size, label=label, file=sys.stderr, width=0) as bar:
        yield bar.update


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
