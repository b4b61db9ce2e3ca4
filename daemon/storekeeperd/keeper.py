"""A running daemon: puts the parts together, pumps facts between them, starts and stops in the right order.

Owns the order of things. Start: lock the store, bind the socket, watch, begin to scan, serve. A turn of the loop: what
the watcher heard becomes questions, what workers finished goes to the service, what the service orders is carried
out, what it answers is sent. Stop: accept no more, finish what is under way, leave.
"""

from __future__ import annotations

import gc
import logging
import os
import resource
import signal
import threading
import time
from typing import Any

import storekeeperd
from storekeeperd.coherence import Coherence
from storekeeperd.config import Config, fit_descriptors
from storekeeperd.disk import Disk
from storekeeperd.endpoint import Endpoint, socket_path
from storekeeperd.home import Home
from storekeeperd.index import Index
from storekeeperd.jobs import Jobs
from storekeeperd.listener import Listener
from storekeeperd.loop import READ, Loop, Timer
from storekeeperd.scanner import Scanner
from storekeeperd.sdnotify import Manager
from storekeeperd.service import Service
from storekeeperd.watcher import OVERFLOW, Watcher, WatchRefused

log = logging.getLogger(__name__)

_TICK_S = 1.0
_LOOKS_PER_TURN = 512
_CHUNKS_PER_TURN = 4
_STOP_CHECK_S = 0.05
_REQUESTS_TO_YIELD = 8
_SIZING_NAMES = 256
_WATCH_AGAIN_S = 30.0
_SIZING_PAUSE_S = 0.01


class Keeper:
    """One daemon on one store.

    Args:
        config: what it is told.

    Raises:
        StartError: it cannot start; nothing is left behind.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        limits = fit_descriptors(config.limits, _raise_descriptor_limit())
        self._started = time.monotonic()
        self._home = Home(config.store, config.namespaces)
        try:
            # Announced before anybody can connect: who finds nobody at the address waits, and starts no second daemon.
            self._home.announce(f"ipc://{socket_path(config.address)}")
            self._endpoint = Endpoint(config.address, config.socket_mode)
        except BaseException:
            self._home.leave()
            raise
        self.address = self._endpoint.address
        features = self._home.features
        self._disk = Disk(
            config.store,
            self._home.private,
            unnamed_files=features.unnamed_files,
            attributes=features.attributes,
            read_nowait=features.read_nowait,
            inline_bytes_max=limits.inline_bytes_max,
        )
        prefixes = [b"", *(name.encode() + b"/" for name in config.namespaces)]
        self._loop = Loop(self._pump)
        self._watcher = Watcher(config.store, prefixes)
        self._scanner = Scanner(self._disk, prefixes, self._loop.wake)
        self._jobs = Jobs(self._disk, limits, self._loop.wake)
        self._index = Index()
        self._coherence = Coherence(self._index)
        self._service = Service(limits, self._index, self._coherence, namespaces=config.namespaces, status=self._status)
        self._listener = Listener(self._loop, self._service, limits, self._endpoint.socket, self._watch_idleness)
        self._manager = Manager()
        self._watching = False
        self._watch_again_at = 0.0
        self._rescan_at = 0.0
        self._to_size: list[bytes] = []
        self._requests = 0
        self._idle: Timer | None = None
        self._stop_by: float | None = None

    # -- life

    def run(self) -> None:
        """Serves until `stop` or a SIGTERM or SIGINT. Leaves nothing behind."""
        try:
            if threading.current_thread() is threading.main_thread():
                self._loop.on_signals((signal.SIGTERM, signal.SIGINT), lambda _: self._begin_stop())
            self._say_what_lacks()
            self._arm()
            self._tick()
            self._watch_idleness()
            log.info("serving %s on %s", self.config.store, self.address)
            self._manager.ready(self._summary())
            _spare_collections()
            self._loop.run()
        finally:
            self._leave()

    def stop(self) -> None:
        """Makes `run` end soon, as a SIGTERM does. Thread-safe."""
        # A little before the time is up, so that leaving fits into it too.
        self._stop_by = time.monotonic() + 0.9 * self.config.limits.stop_timeout_s
        self._loop.wake()

    def _begin_stop(self) -> None:
        if self._stop_by is None:
            self.stop()

    def _leave(self) -> None:
        self._manager.stopping()
        stop_by = self._stop_by or time.monotonic()
        self._listener.close()
        self._pump_jobs()  # closing the connections ordered the release of what they held
        self._endpoint.close()
        self._jobs.close(max(0.1, stop_by - time.monotonic()))
        for job in self._jobs.done():
            self._service.finished(job)
        self._pump_jobs()
        self._scanner.close(0.1)
        self._loop.close()
        self._watcher.close()
        self._disk.close()
        self._home.leave()

    # -- a turn

    def _pump(self) -> None:
        if self._stop_by is not None:
            self._proceed_to_stop(self._stop_by)
        if self._scanner.running:
            self._take_scanned()
        if self._jobs.unfinished:
            self._jobs.go_on()
        for job in self._jobs.done():
            self._service.finished(job)
        self._listener.go_on()
        self._pump_jobs()
        looks = self._service.ask_disk(_LOOKS_PER_TURN)
        if looks:
            self._pump_jobs()
        if looks == _LOOKS_PER_TURN or self._jobs.unfinished:
            self._loop.wake()
        if self._coherence.wants_scan and not self._service.store_away and self._stop_by is None:
            self._start_scan()
        taken = self._listener.requests - self._requests
        self._requests += taken
        if taken >= _REQUESTS_TO_YIELD:
            # Clients that pipeline are ready to send more: let them, and the next turn takes more at a time. Measured
            # on two cores: a quarter less CPU per request. Never after a lone request, whose sender would wait.
            os.sched_yield()

    def _pump_jobs(self) -> None:
        service = self._service
        jobs = service.jobs
        while jobs or service.replies:
            while jobs:
                job = jobs.popleft()
                if self._jobs.start(job):
                    service.finished(job)
            self._listener.deliver()

    def _hear(self, _: int = 0) -> None:
        names, losses = self._watcher.take()
        self._service.hints(names)
        for reason in losses:
            log.warning("changes may have gone unseen (%s): scanning the store", reason)
            self._coherence.lost(reason)
            if reason != OVERFLOW:
                self._watch_again_at = 0.0
                self._check_store(armed=False)

    def _proceed_to_stop(self, stop_by: float) -> None:
        self._service.stop()
        self._listener.stop_accepting()
        self._endpoint.close()
        quiet = not self._service.orders.under_way and not self._listener.owed
        if quiet or time.monotonic() >= stop_by:
            self._loop.stop()
        else:
            self._loop.call_later(_STOP_CHECK_S, self._loop.wake)

    # -- now and then

    def _tick(self) -> None:
        self._loop.call_later(_TICK_S, self._tick)
        self._listener.drop_mute(time.monotonic())
        self._listener.say_broken()
        self._coherence.retry_unanswered()
        self._check_store(armed=self._watching)
        self._manager.status(self._summary())

    def _check_store(self, *, armed: bool) -> None:
        """Sees whether the store's directory is still the one that is watched; watches it anew if not."""
        try:
            identity = self._home.identity()
            if identity is not None:
                self._home.furnish()
        except OSError as error:  # nothing can be told now; what was true a second ago is kept
            log.debug("cannot check %s: %s", self.config.store, error)
            return
        away = identity is None
        if away != self._service.store_away:
            self._service.store_away = away
            if away:
                log.error("%s is gone, or another directory stands there: refusing requests", self.config.store)
                self._coherence.lost("store away")
            else:
                log.warning("%s is back", self.config.store)
        if away or (not armed and time.monotonic() < self._watch_again_at):
            return
        if identity is not None and (identity != self._disk.root or not armed):
            self._disk.root = identity
            self._arm()
            self._coherence.lost("watching anew")

    def _arm(self) -> None:
        """Watches the directories. Without a watch the daemon serves on, and looks at the file for every answer."""
        if self._watching:
            self._loop.unwatch(self._watcher.descriptor)
        try:
            self._watcher.arm()
            self._watching = True
            self._loop.watch(self._watcher.descriptor, READ, self._hear)
        except WatchRefused as refused:
            self._watching = False
            self._watch_again_at = time.monotonic() + _WATCH_AGAIN_S
            log.error("not watching %s, every answer is looked up: %s", self.config.store, refused)
        self._coherence.watched = self._watching

    # -- scans

    def _start_scan(self) -> None:
        if self._scanner.running or time.monotonic() < self._rescan_at:
            return
        self._rescan_at = time.monotonic() + self.config.limits.rescan_delay_s
        self._coherence.begin_scan()
        self._scanner.start()

    def _take_scanned(self) -> None:
        for _ in range(_CHUNKS_PER_TURN):
            chunk = self._scanner.take()
            if chunk is None:
                return
            if isinstance(chunk, bool):
                self._coherence.end_scan(complete=chunk)
                self._sweep()
                return
            self._coherence.scanned(chunk)
        self._loop.wake()

    def _sweep(self) -> None:
        if self._coherence.sweep():
            self._loop.call_later(0, self._sweep)
        else:
            sizing = bool(self._to_size)
            self._to_size = self._index.names()
            if not sizing:
                self._loop.call_later(_SIZING_PAUSE_S, self._fill_sizes)

    def _fill_sizes(self) -> None:
        """Looks at a few names whose size is not known yet; goes on after a pause."""
        names = self._index.unsized(self._to_size[-_SIZING_NAMES:])
        del self._to_size[-_SIZING_NAMES:]
        self._service.hints(names)
        if self._to_size:
            self._loop.call_later(_SIZING_PAUSE_S if names else 0, self._fill_sizes)

    # -- idleness and status

    def _watch_idleness(self) -> None:
        idle_exit_s = self.config.idle_exit_s
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        if idle_exit_s and not self._listener.connections:
            self._idle = self._loop.call_later(idle_exit_s, self._begin_stop)

    def _summary(self) -> str:
        state = "store away" if self._service.store_away else "coherent" if self._coherence.coherent else "scanning"
        return f"{len(self._index)} objects, {self._index.known_bytes} bytes, {state}"

    def _say_what_lacks(self) -> None:
        features = self._home.features
        if not features.unnamed_files:
            log.warning("the file system has no unnamed files (O_TMPFILE): objects start under a private name")
        if not features.attributes:
            log.warning("the file system has no user attributes: owner and age of objects are those of their files")

    def _status(self) -> dict[str, Any]:
        features = self._home.features
        lacks = [
            name
            for name, there in (
                ("unnamed_files", features.unnamed_files),
                ("attributes", features.attributes),
                ("watch", self._watching),
            )
            if not there
        ]
        status = {
            "version": storekeeperd.__version__,
            "pid": os.getpid(),
            "store": os.fspath(self.config.store),
            "store_id": self._home.store_id,
            "address": self.address,
            "uptime_s": round(time.monotonic() - self._started, 3),
            "store_away": self._service.store_away,
            "foreign": self._scanner.foreign,
            "lacks": lacks,
            "connections": len(self._listener.connections),
            "accepted": self._listener.accepted,
            "refused": self._listener.refused,
            "requests": self._listener.requests,
            "jobs_inline": self._jobs.inline_jobs,
            "jobs_pool": self._jobs.pool_jobs,
            "longest_turn_ms": round(self._loop.longest_turn_s * 1000, 3),
        }
        self._loop.longest_turn_s = 0.0
        return status


def _spare_collections() -> None:
    """Makes the cycle collector rare and short: what is there now lives as long as the daemon, and little is cyclic."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def _raise_descriptor_limit() -> int:
    """Allows as many descriptors as the process may have, every connection is one; returns how many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard
