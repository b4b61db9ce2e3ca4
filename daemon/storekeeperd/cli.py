"""The command line of the daemon: options and a file become a `Config`, failures a line and a status.

The composition root; what runs is keeper.py's.
"""

from __future__ import annotations

import contextlib
import dataclasses
import faulthandler
import json
import logging
import os
import queue
import sys
import threading
import time
from pathlib import Path
from typing import Any

import click

import storekeeperd
from storekeeper import address as addresses
from storekeeperd import config as settings
from storekeeperd.exits import EX_CONFIG, EX_NOINPUT, EX_OSERR, StartError
from storekeeperd.keeper import Keeper


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(storekeeperd.__version__, prog_name="storekeeperd")
def cli() -> None:
    """The daemon that owns a directory of byte objects and serves it to every process of this node."""


@cli.command()
@click.argument("store", required=False, type=click.Path(path_type=Path, readable=False))
@click.option("--address", help="Where to listen: ipc:///path. Default: the user's own socket; for root the node's.")
@click.option("--config", "config_file", type=click.Path(path_type=Path), help="TOML file with settings and limits.")
@click.option("--namespace", "namespaces", multiple=True, help="Serve this sub-folder of the store too. Repeatable.")
@click.option("--socket-mode", help="Permission bits of the socket file, octal. Default: 0600.")
@click.option("--idle-exit", type=click.FloatRange(min=0), help="Exit after so many seconds without a connection.")
@click.option(
    "--watch",
    type=click.Choice(settings.WATCHES),
    help="How changes are noticed: by the kind of file system (auto, the default), inotify alone, or scans alone.",
)
@click.option("--ready-markers", is_flag=True, help="Keep FileConnector's *.ready files beside the objects.")
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="Least severe messages shown.",
)
def serve(
    store: Path | None,
    address: str | None,
    config_file: Path | None,
    namespaces: tuple[str, ...],
    socket_mode: str | None,
    idle_exit: float | None,
    watch: str | None,
    ready_markers: bool,
    log_level: str,
) -> None:
    """Serve the directory STORE until SIGTERM or SIGINT.

    STORE is made if it is missing. An option given here outranks the file given by --config.
    """
    if sys.stderr is not None:
        faulthandler.enable()
    _log_to_stderr(log_level.upper())
    try:
        given: dict[str, Any] = settings.load(config_file) if config_file else {}
        if store is not None:
            given["store"] = store
        if address is not None:
            given["address"] = address
        if namespaces:
            given["namespaces"] = settings.check_namespaces(namespaces)
        if socket_mode is not None:
            given["socket_mode"] = settings.parse_mode(socket_mode)
        if idle_exit is not None:
            given["idle_exit_s"] = idle_exit
        if watch is not None:
            given["watch"] = watch
        if ready_markers:
            given["ready_markers"] = True
        keeper = Keeper(_config(given))
    except settings.ConfigError as error:
        _fail(str(error), EX_CONFIG)
    except StartError as error:
        _fail(str(error), error.status)
    except OSError as error:
        _fail(f"{error.filename or store}: {error.strerror}", EX_OSERR)
    try:
        keeper.run()
    except OSError as error:
        _fail(f"{error.filename or store}: {error.strerror}", EX_OSERR)
    finally:
        logging.shutdown()


@cli.command()
@click.argument("store", type=click.Path(path_type=Path, readable=False))
@click.option("--namespace", "namespaces", multiple=True, help="Examine this sub-folder too. Repeatable.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
def doctor(store: Path, namespaces: tuple[str, ...], as_json: bool) -> None:
    """List what the directory STORE holds that is not served, and say how it is watched.

    Changes nothing, and needs no running daemon. Exit status 1 if there is anything to say, else 0.
    """
    from storekeeperd.doctor import examine, how_watched  # a daemon's start needs none of it

    ill = False
    try:
        if not as_json:
            click.echo(how_watched(store))
        for finding in examine(store, namespaces):
            ill = True
            line = json.dumps(dataclasses.asdict(finding)) if as_json else f"{finding.name!r}: {finding.advice}"
            click.echo(line)
    except OSError as error:
        _fail(f"{error.filename or store}: {error.strerror}", EX_NOINPUT)
    sys.exit(1 if ill else 0)


@cli.command()
@click.argument("store", type=click.Path(path_type=Path, readable=False))
@click.option("--namespace", "namespaces", multiple=True, help="Scrub this sub-folder too. Repeatable.")
@click.option("--repair", is_flag=True, help="Move damaged objects into .storekeeper/quarantine.")
@click.option(
    "--rate", type=click.FloatRange(min=0), default=200.0, show_default=True, help="MiB read per second; 0: no bound."
)
@click.option("--restart", is_flag=True, help="Begin anew, though a scrub was interrupted.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object at the end.")
def scrub(store: Path, namespaces: tuple[str, ...], repair: bool, rate: float, restart: bool, as_json: bool) -> None:
    """Hold every object of the directory STORE against its checksum.

    A daemon may run meanwhile. One that was interrupted goes on where it stopped. Exit status 1 if anything is damaged
    or cannot be read, else 0.
    """
    from storekeeperd.scrub import Scrub  # a daemon's start needs none of it

    try:
        work = Scrub(store, namespaces, rate * 1024 * 1024, restart=restart)
        tally = work.tally
        if work.resumed and not as_json:
            click.echo(f"going on after {tally.after!r}; --restart begins anew")
        try:
            with click.progressbar(work.walk(), length=len(work), label="objects", file=sys.stderr) as names:
                for _ in names:
                    pass
        except KeyboardInterrupt:
            saved = work.save()
            note = "the same command goes on from here" if saved else "it could not be noted how far it came"
            click.echo(f"storekeeperd: interrupted after {tally.objects} objects; {note}", err=True)
            sys.exit(130)
        work.finish()
    except OSError as error:
        _fail(f"{error.filename or store}: {error.strerror}", EX_NOINPUT)
    fates = {name: work.repair(name) if repair else "--repair moves it away" for name in tally.damaged}
    if as_json:
        click.echo(json.dumps({**dataclasses.asdict(tally), "damaged": fates}))
    else:
        for name, fate in fates.items():
            click.echo(f"{name!r}: its bytes are not those that were put; {fate}")
        for name, reason in tally.unreadable.items():
            click.echo(f"{name!r}: cannot be read: {reason}")
        click.echo(
            f"{tally.objects} objects, {tally.bytes} bytes: {len(tally.damaged)} damaged, "
            f"{len(tally.unreadable)} unreadable, {tally.unknown} without a checksum"
        )
    sys.exit(1 if tally.damaged or tally.unreadable else 0)


class _Log(logging.Handler):
    """Hands lines to a thread that writes them: a standard error that nobody reads must not stop the daemon.

    Lines that find no room any more are dropped. The thread holds none of logging's locks while it writes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        self._lines: queue.Queue[bytes] = queue.Queue(1000)
        threading.Thread(target=self._write, name="storekeeperd-log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(queue.Full):
            self._lines.put_nowait(f"{self.format(record)}\n".encode("utf-8", "replace"))

    def close(self) -> None:
        deadline = time.monotonic() + 1.0
        while self._lines.unfinished_tasks and time.monotonic() < deadline:
            time.sleep(0.005)
        super().close()

    def _write(self) -> None:
        stderr = open(2, "wb", buffering=0, closefd=False)  # noqa: SIM115 - lives as long as the process
        while True:
            line = self._lines.get()
            with contextlib.suppress(OSError):
                stderr.write(line)
            self._lines.task_done()


def _log_to_stderr(level: str) -> None:
    if sys.stderr is not None:
        logging.basicConfig(level=level, handlers=[_Log()])


def _config(given: dict[str, Any]) -> settings.Config:
    if "store" not in given:
        raise settings.ConfigError("no store: name the directory on the command line, or as `store` in the file")
    given["store"] = Path(os.path.abspath(given["store"]))
    if "address" not in given:
        if os.geteuid() == 0:
            given["address"] = addresses.node_address()
        else:
            given["address"] = addresses.user_address()
            addresses.make_user_folder()
    return settings.Config(**given)


def _fail(message: str, status: int) -> None:
    click.echo(f"storekeeperd: {message}", err=True)
    sys.exit(status)
