"""A running daemon: puts the parts together, pumps facts between them, starts and stops in the right order.

Owns the order of things. Start: lock the store, bind the socket, watch, begin to scan, serve. A turn of the loop: what
the reconciler heard becomes questions, what workers finished goes to the service, what the service orders is carried
out, what it answers is sent. Stop: accept no more, finish what is under way, leave.
"""

from __future__ import annotations

import logging
import math
import os
import resource
import signal
import threading
import time
from collections.abc import Collection
from typing import Any

import storekeeperd
from storekeeperd import garbage, moments
from storekeeperd.access import Access
from storekeeperd.charters import Charters, found, keep_lives
from storekeeperd.coherence import Coherence
from storekeeperd.config import Config, fit_descriptors
from storekeeperd.deathwatch import Deathwatch
from storekeeperd.disk import Disk
from storekeeperd.endpoint import Endpoint, socket_path
from storekeeperd.filesystem import find
from storekeeperd.home import TEMPORARY, Home
from storekeeperd.index import Index
from storekeeperd.jobs import Jobs
from storekeeperd.lifetimes import NEVER
from storekeeperd.listener import Listener
from storekeeperd.loop import Loop, Timer
from storekeeperd.namespaces import DEFAULT
from storekeeperd.outside import Outside
from storekeeperd.processes import lives
from storekeeperd.reconciler import Reconciler
from storekeeperd.scanner import Scanner
from storekeeperd.sdnotify import Manager
from storekeeperd.segment import Segment
from storekeeperd.service import Service
from storekeeperd.sizing import Sizing
from storekeeperd.watcher import Watcher

log = logging.getLogger(__name__)

_TICK_S = 1.0
_TICKS_TO_GIVE_BACK = 30
"""Memory is given back once in so many, though the daemon does not fall idle."""
_LOOKS_PER_TURN = 512
_STOP_CHECK_S = 0.05
_REQUESTS_TO_YIELD = 8
_START_S = 60.0
_SCAN_STEP_S = 10.0


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
        self._manager = Manager()
        self._manager.starting(_START_S)
        charters = Charters(config)
        self._home = Home(config.store, tuple(name for name in charters.names if name != DEFAULT))
        try:
            # Announced before anybody can connect: who finds nobody at the address waits, and starts no second daemon.
            self._home.announce(f"ipc://{socket_path(config.address)}")
            self._endpoint = Endpoint(config.address, config.socket_mode)
        except BaseException:
            self._home.leave()
            raise
        self.address = self._endpoint.address
        features = self._home.features
        network = find(config.store).network
        self._disk = Disk(
            self._home.ground,
            TEMPORARY,
            unnamed_files=features.unnamed_files,
            attributes=features.attributes,
            read_nowait=features.read_nowait,
            inline_bytes_max=limits.inline_bytes_max,
            ready_markers=config.ready_markers,
            flush=network,
            commit_group_max=limits.commit_group_max,
        )
        self._loop = Loop(self._pump, limits.spin_us_max / 1e6)
        self._deathwatch = Deathwatch(self._loop, limits.processes_max, self._end_process)
        self._jobs = Jobs(self._disk, limits, self._loop.wake, inline=not network)
        self._index = Index()
        self._coherence = Coherence(self._index)
        self._service = Service(
            limits,
            self._index,
            self._coherence,
            status=self._status,
            outside=self._outside(charters.names),
            access=Access({0, os.geteuid()}, charters.creators),
            bounds=charters.bounds,
        )
        self._service.keeps_lives = self._home.keeps_lives
        self._service.lends = features.leases
        charters.proclaim(self._service, self._home)
        prefixes = list(self._service.prefixes.values())
        watcher = Watcher(config.store, prefixes, self._coherence.echoes)
        self._sizing = Sizing(
            self._loop, self._index, self._coherence, lambda: watcher.behind, self._service.minds_every_object
        )
        self._reconciler = Reconciler(
            config,
            self._loop,
            self._home,
            watcher,
            Scanner(self._disk, prefixes, self._loop.wake),
            self._service,
            self._index,
            self._coherence,
            self._sizing,
        )
        self._listener = Listener(self._loop, self._service, limits, self._endpoint.socket, self._watch_idleness)
        self._requests = self._requests_at_tick = 0
        self._busy_ticks = 1
        self._idle: Timer | None = None
        self._stop_by: float | None = None
        self._alarm: Timer | None = None
        self._group_timer: Timer | None = None
        self._alarm_ms = NEVER
        self._group_due = math.inf

    def _outside(self, fixed: Collection[str]) -> Outside:
        """Returns what the service asks of the rest."""
        return Outside(
            free=self._disk.free,
            identify=self._deathwatch.identify,
            lives=lives,
            keep_lives=lambda: keep_lives(self._home),
            found=lambda name, space: found(self._home, name, space),
            fixed=lambda: fixed,
            leaving=lambda name: self._reconciler.release(name, self._service.prefixes.values()),
            founded=lambda: self._reconciler.follow(self._service.prefixes.values()),
            now_s=time.time,
            wake=self._loop.wake,
            make_shelf=Segment,
            monotonic_s=time.monotonic,
        )

    # -- life

    def run(self) -> None:
        """Serves until `stop` or a SIGTERM or SIGINT. Leaves nothing behind."""
        try:
            if threading.current_thread() is threading.main_thread():
                self._loop.on_signals((signal.SIGTERM, signal.SIGINT), lambda _: self._begin_stop())
            self._say_what_lacks()
            self._reconciler.start()
            self._tick()
            self._watch_idleness()
            log.info("serving %s on %s", self.config.store, self.address)
            self._manager.ready(self._summary())
            garbage.spare()
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
        self._service.shelves.close()
        self._reconciler.close(0.1)
        self._deathwatch.close()
        self._loop.close()
        self._disk.close()
        self._home.leave()

    # -- a turn

    def _pump(self) -> None:
        if self._stop_by is not None:
            self._proceed_to_stop(self._stop_by)
        self._reconciler.turn()
        for job in self._jobs.done():
            self._service.finished(job)
        due = self._service.turn(moments.now_ms())
        # Before anybody is listened to: a `close` must not end a descriptor that still waits to be handed over.
        self._listener.deliver()
        self._listener.go_on()
        self._jobs.begin_turn()  # only now: what came before must not take its slice
        self._pump_jobs()
        self._reconciler.listen()
        looks = self._service.ask_disk(_LOOKS_PER_TURN)
        self._pump_jobs()
        self._service.barriers.proceed()
        self._pump_jobs()
        self._service.shelves.judge()
        lifetimes = self._service.lifetimes
        if lifetimes.begun or lifetimes.alarm_ms != self._alarm_ms:
            self._watch_ends()
        if self._jobs.due != self._group_due:
            self._watch_group()
        more = looks == _LOOKS_PER_TURN or self._jobs.unfinished or due
        if more or self._service.barriers.unheard or self._sizing.wanted:
            self._loop.wake()
        taken = self._listener.requests - self._requests
        self._requests += taken
        self._loop.expectant = taken > 0
        if taken >= _REQUESTS_TO_YIELD:
            # Clients that pipeline are ready to send more: let them, and the next turn takes more at a time. Measured
            # on two cores: a quarter less CPU per request. Never after a lone request, whose sender would wait.
            os.sched_yield()

    def _pump_jobs(self) -> None:
        service, jobs = self._service, self._service.jobs
        waited = self._jobs.go_on()
        while jobs or waited or service.replies:
            if waited:
                service.finished(waited)
            while jobs:
                job = jobs.popleft()
                if self._jobs.start(job):
                    service.finished(job)
            self._listener.deliver()
            waited = self._jobs.go_on()

    def _watch_group(self) -> None:
        """Sees to it that durable puts that are held back for others go out in time."""
        if self._group_timer is not None:
            self._group_timer.cancel()
        self._group_due, self._group_timer = self._jobs.due, None
        if self._group_due < math.inf:
            self._group_timer = self._loop.call_later(self._group_due - time.monotonic(), self._loop.wake)

    def _watch_ends(self) -> None:
        """Sees to it that objects end when they do: at their moment, or with their process."""
        lifetimes = self._service.lifetimes
        while lifetimes.begun:
            self._deathwatch.watch(lifetimes.begun.pop())
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        # While the store is away nothing ends, however long it is due.
        self._alarm_ms = NEVER if self._service.store_away else lifetimes.alarm_ms
        if self._alarm_ms != NEVER:
            delay_s = max(0.0, (self._alarm_ms - moments.now_ms()) / 1000)
            self._alarm = self._loop.call_later(delay_s, self._ring)

    def _ring(self) -> None:
        self._alarm, self._alarm_ms = None, NEVER  # the turn does the rest, and sets it anew

    def _end_process(self, process: int) -> None:
        self._service.lifetimes.end_process(process)
        self._loop.wake()

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
        self._listener.drop_stalled(time.monotonic())
        self._listener.say_dropped()
        self._service.transfers.handles.expire(time.monotonic())
        self._service.complaints.tick()
        self._service.evictions.tick()
        self._service.shelves.tick()
        self._deathwatch.tick(self._service.lifetimes.is_tied)
        self._tidy_up()
        self._reconciler.tick()
        self._manager.status(self._summary(), _SCAN_STEP_S if self._coherence.scanning else 0.0)

    def _tidy_up(self) -> None:
        garbage.tick(idle=not self._service.orders.under_way)
        if self._listener.requests != self._requests_at_tick or self._service.orders.under_way:
            self._requests_at_tick = self._listener.requests
            self._busy_ticks += 1
            if self._busy_ticks % _TICKS_TO_GIVE_BACK:
                return
        elif not self._busy_ticks:
            return
        else:
            self._busy_ticks = 0
            garbage.fall_idle()
            return
        garbage.give_back()

    # -- idleness and status

    def _watch_idleness(self) -> None:
        idle_exit_s = self.config.idle_exit_s
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        if idle_exit_s and not self._listener.connections:
            self._idle = self._loop.call_later(idle_exit_s, self._begin_stop)

    def _summary(self) -> str:
        whole = self._index.whole
        return f"{whole.objects} objects, {whole.bytes} bytes, {self._reconciler.summary()}"

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
                ("leases", features.leases),
                ("watch", self._coherence.watched),
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
            **self._reconciler.status(),
            "lacks": lacks,
            "connections": len(self._listener.connections),
            "accepted": self._listener.accepted,
            "processes": len(self._deathwatch),
            "refused": self._listener.refused,
            "broken": self._listener.broken,
            "stalled": self._listener.stalled,
            "requests": self._listener.requests,
            "jobs_inline": self._jobs.inline_jobs,
            "jobs_pool": self._jobs.pool_jobs,
            "longest_turn_ms": round(self._loop.longest_turn_s * 1000, 3),
        }
        self._loop.longest_turn_s = 0.0
        return status


def _raise_descriptor_limit() -> int:
    """Allows as many descriptors as the process may have, every connection is one; returns how many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard
