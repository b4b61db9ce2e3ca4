"""Every system call of every kind of request fails once: before its effect, after it, or by coming short.

A scenario is played once without a fault, to count its calls; then once for each call and each thing that may happen
to it, on a fresh store. Service, orders, coherence, index, disk and directory are the real ones; see seam.py.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import shutil
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from seam import (
    BEFORE,
    MODULES,
    SHORT,
    Broken,
    Call,
    Exchange,
    Fault,
    LinksBeforeItWrites,
    Rig,
    Seam,
    Setup,
    count,
    descriptors,
    faults_of,
    held,
    quick_folder,
)
from storekeeper.errors import BY_CODE
from storekeeperd.entries import MARKER
from storekeeperd.exits import StartError
from storekeeperd.home import TEMPORARY, Home

OLD, NEW = b"old bytes of it", b"the new bytes of it, which are some more"
PARTS = [b"first part, ", b"second part, ", b"third part"]

# -- scenarios


@dataclass(frozen=True)
class Scenario:
    """Requests, and what stands in the store before them.

    Attributes:
        before: objects that are there already; `team/` in front of those of that namespace.
        play: makes the requests.
        words: what is answered if nothing fails; `again`: and if it is all asked once more.
    """

    name: str
    before: dict[bytes, bytes]
    play: Callable[[Rig], object]
    words: list[bytes]
    again: list[bytes]

    def __str__(self) -> str:
        return self.name


def _play_all(rig: Rig) -> None:
    rig.put((b"a", NEW), (b"there", NEW), (b"b", OLD), (b"equal", OLD), (b"c", NEW[:7]))


def _read_all(rig: Rig) -> None:
    rig.ask(b"get", b"there", b"none")
    rig.ask(b"exists", b"there", b"none", fresh=True)
    rig.ask(b"stat", b"there")
    rig.fetch(b"there", 6)
    rig.ask(b"get", b"k", namespace="team")


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("put", {}, lambda rig: rig.put((b"k", NEW)), [b"created"], [b"same"]),
        Scenario(
            "put in a namespace",
            {},
            lambda rig: rig.put((b"k", NEW), namespace="team"),
            [b"created"],
            [b"same"],
        ),
        Scenario("put of the same", {b"k": NEW}, lambda rig: rig.put((b"k", NEW)), [b"same"], [b"same"]),
        Scenario(
            "replace",
            {b"k": OLD},
            lambda rig: rig.put((b"k", NEW), replace=True),
            [b"replaced"],
            [b"replaced"],
        ),
        Scenario("evict", {b"k": OLD}, lambda rig: rig.ask(b"evict", b"k"), [b"evicted"], [b"absent"]),
        Scenario(
            "batch",
            {b"there": OLD, b"equal": OLD},
            _play_all,
            [b"created", b"key_exists", b"created", b"same", b"created"],
            [b"same", b"key_exists", b"same", b"same", b"same"],
        ),
        Scenario("ranges", {}, lambda rig: rig.upload(b"k", PARTS), [b"created"], [b"same"]),
        Scenario(
            "ranges that replace",
            {b"team/k": OLD},
            lambda rig: rig.upload(b"k", PARTS, replace=True, namespace="team"),
            [b"replaced"],
            [b"replaced"],
        ),
        Scenario(
            "read",
            {b"there": OLD, b"team/k": NEW},
            _read_all,
            [b"ok", b"absent", b"yes", b"no", b"ok", b"ok", b"ok", b"ok", b"ok", b"ok", b"ok"],
            [b"ok", b"absent", b"yes", b"no", b"ok", b"ok", b"ok", b"ok", b"ok", b"ok", b"ok"],
        ),
    )
}

SETUPS = [
    Setup(durability, unnamed, inline=inline)
    for durability, unnamed, inline in itertools.product(("os", "disk"), (True, False), (True, False))
]
READS = [Setup(inline=False), Setup(inline=True), Setup(inline=True, nowait=False)]
WITH_MARKERS = [Setup("os", markers=True), Setup("disk", unnamed=False, markers=True)]


def _cases() -> Iterator[tuple[Scenario, Setup]]:
    for name, scenario in SCENARIOS.items():
        if name == "read":
            setups = READS
        elif name == "evict":
            setups = [Setup(inline=True), Setup(inline=False), Setup(markers=True)]
        else:
            setups = SETUPS + (WITH_MARKERS if name in ("put", "replace", "ranges") else [])
        yield from ((scenario, setup) for setup in setups)


CASES = list(_cases())

# -- what may be found


@dataclass(frozen=True)
class Finding:
    """Something that is not as it must be.

    Attributes:
        kind: which promise is broken.
        what: a sentence.
    """

    kind: str
    what: str


def _fail_if_any(found: list[tuple[Call | None, Fault | None, Finding]]) -> None:
    """Fails if there is a finding; says each kind of it once."""
    wrong: dict[str, str] = {}
    for call, fault, finding in found:
        place = f"{call.name} in {call.where} failed" if call else "nothing failed"
        wrong.setdefault(f"{finding.kind}, {place}", f"{fault}: {finding.what}")
    assert not wrong, "\n".join(f"{key}, as {example}" for key, example in wrong.items())


class Trial:
    """One playing of a scenario on a fresh store, with a fault or without, and all that is checked afterwards."""

    def __init__(
        self, scenario: Scenario, setup: Setup, store: Path, fault: Fault | None, over: Callable[[Seam], Any] | None
    ) -> None:
        self.scenario = scenario
        self.setup = setup
        self.store = store
        self.findings: list[Finding] = []
        self.seam = Seam(fault)
        self.words: list[bytes] = []
        before = descriptors()
        with self.seam.installed(over):
            try:
                self._run()
            except Exception:  # whatever it is, it is a finding
                self._find("broken", traceback.format_exc(limit=-4))
        if left := descriptors() - before:
            self._find("descriptor", f"still open after the end: {left}")
            for one in left:
                os.close(int(one.split()[0]))
        shutil.rmtree(store)

    def _find(self, kind: str, what: str) -> None:
        self.findings.append(Finding(kind, what))

    def _run(self) -> None:
        rig = Rig(self.store, self.setup)
        try:
            rig.scan()
            self._furnish(rig)
            open_before = descriptors()
            with self.seam.counted():
                self.scenario.play(rig)
                rig.settle()
            self.words = [word for exchange in rig.exchanges for word in exchange.words]
            rig.leave()
            if left := descriptors() - open_before:
                self._find("descriptor", f"left open: {left}")
            self._check_words(rig)
            self._check_truth(rig)
            self._check_litter("left")
            rig.come_to_rest()
            self._check_index(rig)
            self._check_afterwards(rig)
        finally:
            rig.close()

    def _furnish(self, rig: Rig) -> None:
        for name, payload in self.scenario.before.items():
            space, _, key = name.rpartition(b"/")
            rig.put((key, payload), namespace=space.decode() or "default")
        rig.exchanges.clear()

    def _check_words(self, rig: Rig) -> None:
        """Only words of success and typed errors are answered; a failed fsync is not followed by success."""
        for exchange in rig.exchanges:
            for word in [exchange.outcome, *exchange.words]:
                if word.decode() in BY_CODE and word != b"internal":
                    continue
                if word not in (b"ok", b"yes", b"no", b"absent", b"created", b"replaced", b"same", b"evicted"):
                    self._find("word", f"answered with {word!r}")
        fired = self.seam.fired
        failed = [
            word
            for word, right in zip(self.words, self.scenario.words, strict=False)
            if word != right and word.decode() in BY_CODE
        ]
        if fired is not None and fired.name in ("fsync", "fdatasync") and not failed:
            self._find("fsync", f"{fired.name} failed, and all the same: {self.words}")
        if self.seam.fault is not None and self.seam.fault.when == SHORT and self.words != self.scenario.words:
            self._find("short", f"not gone on with: {self.words}")

    def _check_truth(self, rig: Rig) -> None:
        """Every object is as the answers say: wholly old, wholly new or not there."""
        may = {name: {payload} for name, payload in self.scenario.before.items()}
        may_be: dict[bytes, set[bytes | None]] = {name: set(values) for name, values in may.items()}
        for exchange in rig.exchanges:
            space = exchange.options.get("namespace", "")
            spaces = exchange.payloads or [b""] * len(exchange.items)
            for (key, payload), word, got in zip(exchange.items, exchange.words, spaces, strict=False):
                name = space.encode() + b"/" + key if space else key
                now = may_be.setdefault(name, {None})
                may_be[name] = self._judge(exchange, name, payload, word, got, now)
        full = {  # "nothing was stored"
            exchange.options["namespace"].encode() + b"/" + key if "namespace" in exchange.options else key
            for exchange in rig.exchanges
            for (key, _), word in zip(exchange.items, exchange.words, strict=False)
            if exchange.verb == b"put" and word == b"disk_full"
        }
        for name, values in may_be.items():
            path = self.store / os.fsdecode(name)
            found = path.read_bytes() if path.exists() else None
            if found not in values:
                kind = "torn" if found not in (None, OLD, NEW, NEW[:7], b"".join(PARTS)) else "truth"
                self._find(kind, f"{name!r} holds {found!r}, by the answers {self.words} it may hold {values}")
            if name in full and found != self.scenario.before.get(name):
                self._find("stored", f"{name!r} was stored, and disk_full says that nothing was")
            if found is not None and path.stat().st_mode & 0o777 not in (0o400, 0o440):
                self._find("torn", f"{name!r} has mode {path.stat().st_mode:o}")

    def _judge(
        self, exchange: Exchange, name: bytes, payload: bytes | None, word: bytes, got: bytes, now: set[bytes | None]
    ) -> set[bytes | None]:
        """Returns what an object may be after an item was answered; finds what cannot be true."""
        match exchange.verb, word:
            case b"put", b"created" | b"replaced" | b"same":
                return {payload}
            case b"put", b"key_exists":
                if now <= {None, payload}:
                    self._find("truth", f"{name!r} is said to hold other bytes")
                return now
            case b"put", _:
                return {*now, payload}
            case b"evict", b"evicted" | b"absent":
                return {None}
            case b"evict", _:
                return {*now, None}
            case b"get", b"ok":
                if got not in now:
                    self._find("truth", f"get of {name!r} answers {got!r}, it is one of {now}")
            case b"get" | b"stat" | b"open", b"absent":
                if None not in now:
                    self._find("truth", f"{name!r} is there, {exchange.verb.decode()} says that it is not")
            case b"exists", b"yes" | b"no":
                if (word == b"yes") == (now == {None}):
                    self._find("truth", f"exists of {name!r} says {word!r}, it is one of {now}")
        return now

    def _check_litter(self, when: str) -> None:
        if left := os.listdir(self.store / TEMPORARY):
            self._find("litter", f"{when} among the private names: {left}")
        # A marker that could not be removed is told of, and the next evict of its object removes it.
        if not self.setup.markers or (when == "left" and b"disk_failed" in self.words):
            return
        there = held(self.store)
        for key in list(there):
            if key.endswith(MARKER) and key.removesuffix(MARKER) not in there:
                self._find("marker", f"{when} without an object: {key!r}")

    def _check_index(self, rig: Rig) -> None:
        """At rest the service says what the directory says."""
        if not rig.coherence.coherent:
            self._find("index", f"not coherent, in doubt: {rig.coherence.in_doubt}")
        for namespace in ("default", "team"):
            there = held(self.store, "" if namespace == "default" else namespace)
            there = {key: payload for key, payload in there.items() if payload or not key.endswith(MARKER)}
            listed = rig.ask(b"list", namespace=namespace)
            names = listed.payloads[0].split(b"\0")[:-1] if listed.payloads else []
            if listed.outcome != b"ok" or set(names) != set(there):
                self._find("index", f"list says {listed.outcome!r} {names}, there is {set(there)}")
            usage = rig.ask(b"usage", namespace=namespace).details
            if (usage.get("objects"), usage.get("bytes")) != (len(there), sum(map(len, there.values()))):
                self._find("index", f"usage says {usage}, there is {there}")
            keys = [*there, b"k", b"there", b"none"]
            words = rig.ask(b"exists", *keys, namespace=namespace).words
            if words != [b"yes" if key in there else b"no" for key in keys]:
                self._find("index", f"exists says {words} of {keys}, there is {set(there)}")

    def _check_afterwards(self, rig: Rig) -> None:
        """The store goes on, and what was asked for can be asked for again."""
        start = len(rig.exchanges)
        rig.put((b"later", NEW))
        got = rig.ask(b"get", b"later")
        rig.ask(b"evict", b"later")
        words = [word for exchange in rig.exchanges[start:] for word in exchange.words]
        if words != [b"created", b"ok", b"evicted"] or got.payloads != [NEW]:
            self._find("afterwards", f"put, get and evict answer {words} {got.payloads}")
        start = len(rig.exchanges)
        self.scenario.play(rig)
        words = [word for exchange in rig.exchanges[start:] for word in exchange.words]
        either = zip(words, self.scenario.words, self.scenario.again, strict=False)
        if len(words) != len(self.scenario.words) or any(word not in right for word, *right in either):
            self._find("afterwards", f"asked again, it answers {words}")
        rig.leave()
        if not self.findings:
            self._check_litter("when it was asked again, left")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    with quick_folder(tmp_path) as folder:
        yield folder


def trials(
    scenario: Scenario, setup: Setup, folder: Path, over: Callable[[Seam], Any] | None = None
) -> Iterator[tuple[Trial, Call | None, Fault | None]]:
    """Plays a scenario without a fault, then with every one there may be."""
    numbers = itertools.count(1)
    clean = Trial(scenario, setup, folder / "0", None, over)
    if clean.words != scenario.words:
        clean.findings.append(Finding("afterwards", f"without a fault it answers {clean.words}"))
    yield clean, None, None
    for call in clean.seam.calls:
        for fault in faults_of(call):
            trial = Trial(scenario, setup, folder / str(next(numbers)), fault, over)
            fired = trial.seam.fired
            if fired is None or fired.name != call.name:
                trial.findings.append(Finding("broken", "the calls are others than they were without the fault"))
            yield trial, fired, fault


@pytest.mark.parametrize(("scenario", "setup"), CASES, ids=str)
def test_whatever_call_fails_the_answer_is_true(scenario: Scenario, setup: Setup, folder: Path) -> None:
    found = []
    for trial, call, fault in trials(scenario, setup, folder):
        if fault is not None:
            count("faults injected")
        found += [(call, fault, finding) for finding in trial.findings]
    _fail_if_any(found)


# -- the start


@pytest.mark.parametrize("again", [False, True], ids=["first", "another"])
def test_a_start_that_fails_leaves_a_store_that_starts(again: bool, folder: Path) -> None:
    def start(store: Path, fault: Fault | None) -> tuple[Seam, str]:
        """Starts on a fresh store and stops; returns what went wrong at the start."""
        seam, error = Seam(fault), ""
        store.mkdir()
        with seam.installed():
            if again:
                Home(store, ("team",)).leave()
            before = descriptors()
            home = None
            try:
                with seam.counted():
                    home = Home(store, ("team",))
                    home.announce("ipc:///nowhere")
            except (StartError, OSError) as failure:  # an OSError is one of `announce`: the keeper gives up, too
                error = str(failure)
            if home is not None:
                home.leave()
            left = descriptors() - before
            for one in left:
                os.close(int(one.split()[0]))
            if left:
                found.append((seam.fired, fault, Finding("descriptor", f"left open: {left}")))
        return seam, error

    found: list[tuple[Call | None, Fault | None, Finding]] = []
    clean, error = start(folder / "0", None)
    assert not error
    for number, fault in enumerate([fault for call in clean.calls for fault in faults_of(call)], 1):
        store = folder / str(number)
        seam, error = start(store, fault)
        assert seam.fired, fault
        store_id = None if error or not again else (store / ".storekeeper/store").read_text()
        try:
            home = Home(store, ("team",))
        except StartError as failure:
            found.append((seam.fired, fault, Finding("start", f"{error or 'no error'}, then {failure}")))
            continue
        assert os.listdir(store / TEMPORARY) == []
        assert (store / "team").is_dir()
        if store_id is not None:
            assert (store / ".storekeeper/store").read_text() == store_id
        home.leave()
        count("faults injected")
    _fail_if_any(found)


# -- the campaign finds what is broken


class SwallowsErrorsOfFsync(Broken):
    def fsync(self, descriptor: int) -> None:
        with contextlib.suppress(OSError):
            self.seam.fsync(descriptor)


class ForgetsPrivateNames(Broken):
    def unlink(self, name: Any, dir_fd: int) -> None:
        if TEMPORARY.encode() not in os.fsencode(name):
            self.seam.unlink(name, dir_fd=dir_fd)


class LeavesDescriptors(Broken):
    """What was opened is not closed after an error."""

    def close(self, descriptor: int) -> None:
        if self.seam.fired is None:
            self.seam.close(descriptor)


class WritesOnce(Broken):
    """A write that comes short is taken for all."""

    def pwrite(self, descriptor: int, payload: Any, offset: int) -> int:
        self.seam.pwrite(descriptor, payload, offset)
        return len(payload)


@pytest.mark.parametrize(
    ("broken", "kind", "name", "setup"),
    [
        (SwallowsErrorsOfFsync, "fsync", "put", Setup("disk")),
        (ForgetsPrivateNames, "litter", "put", Setup(unnamed=False)),
        (LinksBeforeItWrites, "torn", "put", Setup("disk")),
        (LeavesDescriptors, "descriptor", "put", Setup()),
        (WritesOnce, "torn", "put", Setup()),
    ],
)
def test_the_campaign_finds_a_broken_daemon(
    broken: Callable[[Seam], Any], kind: str, name: str, setup: Setup, folder: Path
) -> None:
    found = {
        finding.kind for trial, _, _ in trials(SCENARIOS[name], setup, folder, broken) for finding in trial.findings
    }
    assert kind in found
    assert "broken" not in found


# -- the seam itself


def test_a_function_that_the_seam_does_not_know_is_counted_and_can_fail(tmp_path: Path) -> None:
    seam = Seam(Fault(2, BEFORE, errno.EIO))
    (tmp_path / "file").touch()
    with seam.counted():
        seam.truncate(tmp_path / "file", 3)
        with pytest.raises(OSError, match="Input/output error"):
            seam.truncate(tmp_path / "file", 5)
    assert [call.name for call in seam.calls] == ["truncate", "truncate"]
    assert (tmp_path / "file").stat().st_size == 3


def test_every_module_that_touches_a_store_is_seen_through_the_seam() -> None:
    names = {module.__name__.rpartition(".")[2] for module in MODULES}
    assert names >= {"disk", "reader", "publisher", "ground", "home", "folders", "lock", "papers", "features"}
