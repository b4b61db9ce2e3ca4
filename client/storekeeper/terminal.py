"""What the command line says, and the status it ends with: answers, sentences for failures, progress bars, JSON.

Owns how all of it looks, on a terminal and for scripts, and the exit codes; nothing of which commands there are, nor of
what they ask for.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import sys
import time
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any, NoReturn, TypeVar

import click

from storekeeper import ranges
from storekeeper.errors import BatchFailed, StorekeeperError
from storekeeper.listing import ObjectInfo

F = TypeVar("F", bound=Callable[..., Any])

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
BAR_BYTES_MIN = 16 * 1024 * 1024
"""Objects of so many bytes have a progress bar."""

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
"""The option of a command that has an answer for scripts."""


def reports(command: F) -> F:
    """Turns an error of the store into one line and an exit status."""

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except StorekeeperError as error:
            _fail(str(error), status_of(error))
        except KeyboardInterrupt:
            sys.exit(130)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(141)
        except OSError as error:
            _fail(f"{error.filename or ''}: {os.strerror(error.errno or 0)}".lstrip(": "), 74)

    return run  # type: ignore[return-value]


def tell(answers: dict[str, bool], as_json: bool, yes: str, no: str) -> NoReturn:
    """Prints the answer to each of many keys, in one of two words; ends with 1 if any is no."""
    if as_json:
        print_json(answers)
    else:
        for key, answer in answers.items():
            click.echo(f"{yes if answer else no} {key}")
    sys.exit(0 if all(answers.values()) else ABSENT)


def print_json(value: Any) -> None:
    """Prints a line for scripts."""
    click.echo(json.dumps(value))


def user(uid: int) -> str:
    """Returns the name of a user; the number if there is none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def row(info: ObjectInfo) -> str:
    """Returns an object as a line of a long listing."""
    return f"{info.size:>12} {user(info.owner):<8} {moment(info.created)} {info.key}"


def description(info: ObjectInfo) -> str:
    """Returns what is known of an object in a sentence."""
    lives = [f"expires in {info.expires_in:.0f} s"] if info.expires_in is not None else []
    lives += [f"ends with process {info.process}"] if info.process else []
    lives += ["pinned"] if info.pinned else []
    more = "".join(f", {life}" for life in lives)
    return f"{info.size} bytes, owner {user(info.owner)}, created {moment(info.created)}{more}"


def moment(created: float) -> str:
    """Returns a time, in seconds since the epoch, as it is written here."""
    return time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(created))


@contextlib.contextmanager
def bar(label: str, size: int, least: int = BAR_BYTES_MIN) -> Iterator[ranges.Progress]:
    """Gives a progress bar on standard error if that is a terminal and there is much to do."""
    if size < least or not sys.stderr.isatty():
        yield ranges.nothing
        return
    with click.progressbar(length=size, label=label, file=sys.stderr, width=0) as bar:
        yield bar.update


def status_of(error: StorekeeperError) -> int:
    """Returns the exit status of an error; of a failed batch that of its first failure."""
    if isinstance(error, BatchFailed):
        error = next(result for result in error.results if isinstance(result, StorekeeperError))
    return STATUS_OF.get(error.code, 70)


def complain(sentence: str) -> None:
    """Prints what went wrong on standard error."""
    click.echo(f"storekeeper: {sentence}", err=True)


def _fail(sentence: str, status: int) -> NoReturn:
    complain(sentence)
    sys.exit(status)
