"""The power goes at every moment of every kind of change, and the file system keeps whatever it may keep.

A scenario is played once, and every call of it is written down (seam.py). After each, a `Platter` says in which states
the store may be found. Each of them is made for real, a daemon starts on it, and is asked.

What a file system may do is what these assume, and no more:

* Bytes written since the last fsync of the file are there or not: none of them, some, all, or zeros in their place.
* Mode and attributes since then are there or not. But metadata of one file is ordered, as on ext4, xfs and btrfs: if
  a name that it got later is kept, they are (`ordered`).
* Names made, changed and removed since the last fsync of their folder are there or not, in any combination, even the
  two halves of one rename. But a name that was replaced is the old one or the new one. New folders likewise.
* What was covered by an fsync that succeeded is kept. What never had a name is gone.
"""

from __future__ import annotations

import itertools
import os
import shutil
import stat
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from seam import (
    CHANGING,
    READING,
    Broken,
    Created,
    Described,
    Entered,
    Exchange,
    LinksBeforeItWrites,
    MadeFolder,
    NotUnderstood,
    Recorder,
    Rig,
    Said,
    Seam,
    Setup,
    Sized,
    Step,
    Synced,
    SyncedFolder,
    Wrote,
    count,
    quick_folder,
)
from storekeeperd.home import FOLDER, TEMPORARY, Home

OLD, NEW = b"old bytes of it", b"the new bytes of it, which are some more"
PARTS = [b"first part, ", b"second part, ", b"third part"]

# -- what may be on the platter

Name = tuple[str, str]


@dataclass
class File:
    """One file: what of it is on the platter, and what may be."""

    durable: bytes = b""
    pending: list[Wrote | Sized] = field(default_factory=list)
    described: list[tuple[int, int, dict[str, bytes]]] = field(default_factory=lambda: [(0, 0o600, {})])

    def contents(self) -> set[bytes]:
        """Returns which bytes it may have after a power cut."""
        may = {self.durable}
        if self.pending:
            whole = self.whole()
            for end in range(1, len(self.pending) + 1):  # up to some write
                may.add(_applied(self.durable, self.pending[:end]))
            for one in self.pending:  # all but some write
                if isinstance(one, Wrote):
                    may.add(_applied(whole, [Wrote(one.node, one.offset, bytes(len(one.data)))]))
            may |= {whole[: len(whole) // 2], bytes(len(whole))}
        return may

    def whole(self) -> bytes:
        """Returns its bytes as everybody sees them."""
        return _applied(self.durable, self.pending)


def _applied(data: bytes, steps: list[Wrote | Sized]) -> bytes:
    held = bytearray(data)
    for step in steps:
        if isinstance(step, Sized):
            held = held[: step.size].ljust(step.size, b"\0")
        else:
            end = step.offset + len(step.data)
            held = held.ljust(end, b"\0")
            held[step.offset : end] = step.data
    return bytes(held)


@dataclass(frozen=True)
class State:
    """What is found after a power cut.

    Attributes:
        folders: those that are there, parents first.
        names: which file each name leads to.
        files: bytes, mode and attributes of each of these files.
        whole: none of its attributes are missing.
    """

    folders: tuple[str, ...]
    names: tuple[tuple[Name, int], ...]
    files: tuple[tuple[int, bytes, int, tuple[tuple[str, bytes], ...]], ...]
    whole: bool

    def make(self, store: Path) -> None:
        """Makes the store as it is found."""
        store.mkdir()
        for folder in self.folders:
            (store / folder).mkdir()
        paths: dict[int, list[Path]] = {}
        for (folder, name), node in self.names:
            paths.setdefault(node, []).append(store / folder / name)
        for node, data, mode, attributes in self.files:
            first, *others = paths[node]
            with open(first, "xb") as file:
                file.write(data)
                for attribute, value in attributes:
                    os.setxattr(file.fileno(), attribute, value)
                os.fchmod(file.fileno(), mode)
            for other in others:
                os.link(first, other)

    def content(self, name: Name) -> bytes | None:
        """Returns the bytes under a name; None if there is no such name."""
        node = dict(self.names).get(name)
        return next((data for number, data, *_ in self.files if number == node), None)


class Platter:
    """Follows the steps of a recorder, and says what may be found if the power goes now.

    Args:
        recorder: what was there at first.
        ordered: whether a name that is kept keeps the attributes that its file had by then.
    """

    def __init__(self, recorder: Recorder, *, ordered: bool = True) -> None:
        self._ordered = ordered
        self._number = 0
        self._files = {
            node: File(found.data, described=[(0, found.mode, found.attributes)])
            for node, found in recorder.found.items()
        }
        # What each name was since the last fsync of its folder, and since when: the first of it is kept for sure.
        self._names: dict[Name, list[tuple[int, int | None]]] = {
            name: [(0, node)] for name, node in recorder.names.items()
        }

        self._folders = dict.fromkeys(["."] + recorder.folders, True)  # whether it is there for sure
        self._parents: dict[str, str] = {}  # of the others

    def take(self, step: Step) -> None:
        """Takes the next step."""
        self._number += 1
        match step:
            case Created(node):
                self._files[node] = File()
            case Wrote(node) | Sized(node):
                self._files[node].pending.append(step)
            case Described(node, attribute, value):
                file = self._files[node]
                _, mode, attributes = file.described[-1]
                if attribute is None:
                    mode = value
                else:
                    attributes = {**attributes, attribute: value}
                file.described.append((self._number, mode, attributes))
            case Entered(name, node):
                self._names.setdefault(name, [(0, None)]).append((self._number, node))
            case Synced(node, data):
                file = self._files[node]
                file.durable, file.pending = file.whole(), []
                if not data:
                    file.described = file.described[-1:]
            case SyncedFolder(folder):
                for (place, _), values in self._names.items():
                    if place == folder:
                        del values[:-1]
                for made, parent in self._parents.items():
                    self._folders[made] = self._folders[made] or parent == folder
            case MadeFolder(folder, parent):
                assert folder not in self._folders, "a folder that is made twice is too much for this model"
                self._folders[folder], self._parents[folder] = False, parent

    def states(self) -> Iterator[State]:
        """Yields every state in which the store may be found; some of them more than once."""
        choices = [[True] if sure else [True, False] for sure in self._folders.values()]
        for chosen in itertools.product(*choices):
            folders = [folder for folder, there in zip(self._folders, chosen, strict=True) if there]
            yield from self._states_in([one for one in folders if self._parents.get(one, ".") in folders])

    def _states_in(self, folders: list[str]) -> Iterator[State]:
        names = [name for name in self._names if name[0] in folders]
        # If a name led to a file twice, the later time is the one that says more of its attributes.
        choices = [{node: number for number, node in self._names[name]}.items() for name in names]
        for chosen in itertools.product(*choices):
            kept = [(name, node, number) for name, (node, number) in zip(names, chosen, strict=True) if node]
            entered: dict[int, int] = {}
            private = {node for _, node, _ in kept} - {node for (place, _), node, _ in kept if place != TEMPORARY}
            for _, node, number in kept:
                entered[node] = max(entered.get(node, 0), number)
            may = [self._may_be(node, number, node in private) for node, number in entered.items()]
            for files in itertools.product(*may):
                yield State(
                    tuple(folders[1:]),
                    tuple((name, node) for name, node, _ in kept),
                    tuple(file for file, _ in files),
                    all(whole for _, whole in files),
                )

    def _may_be(self, node: int, entered: int, private: bool) -> list[tuple[Any, bool]]:
        file = self._files[node]
        # What has but a private name is removed at the start, whatever it holds.
        contents = {file.whole()} if private else file.contents()
        last = file.described[-1]
        described = [last]
        if not private:
            past = [one for one in file.described if one[0] <= entered]
            described = file.described[len(past) - 1 if past and self._ordered else 0 :]
        return [
            ((node, data, mode, tuple(sorted(attributes.items()))), (number, mode, attributes) == last)
            for data in sorted(contents)
            for number, mode, attributes in described
        ]


# -- what must be found


class Promises:
    """What each object may be after a power cut, by what was asked and answered before it."""

    def __init__(self, before: dict[bytes, bytes]) -> None:
        self.may: dict[bytes, list[bytes | None]] = {name: [payload] for name, payload in before.items()}
        self.ever: dict[bytes, set[bytes | None]] = {name: {payload} for name, payload in before.items()}
        self.os: set[bytes] = set()  # names of which something was asked with durability "os"

    def take(self, said: Any) -> None:
        """Takes a request, or an exchange: that request is answered now."""
        if isinstance(said, Exchange):
            for (key, payload), word in zip(said.items, said.words, strict=False):
                if said.verb == b"put":
                    self._answered(_name(key, said.options), payload, word, said.options["durability"])
            return
        verb, items, options = said
        for key, payload in items:
            name = _name(key, options)
            if verb in (b"put", b"evict"):
                self.may.setdefault(name, [None]).append(payload)
                self.ever.setdefault(name, {None}).add(payload)
            if options.get("durability") == "os":
                self.os.add(name)

    def _answered(self, name: bytes, payload: bytes | None, word: bytes, durability: str) -> None:
        if word == b"key_exists":
            self.may[name].pop()
        elif durability == "disk":
            self.may[name] = [payload]

    def copy(self) -> dict[bytes, tuple[bytes | None, ...]]:
        """Returns what each object may be."""
        return {name: tuple(dict.fromkeys(values)) for name, values in self.may.items()}


def _name(key: bytes, options: dict[str, Any]) -> bytes:
    return options["namespace"].encode() + b"/" + key if "namespace" in options else key


@dataclass(frozen=True)
class Finding:
    """A state that must not be, or out of which the daemon makes something that must not be.

    Attributes:
        kind: `lost`: what was acknowledged is not there; `torn`: bytes are served that nobody put; `served`: what is
            whole is not served as it is; `stuck`: what is torn cannot be replaced; `start`: the daemon does not start;
            `litter`: a private name is left.
        durability: `os` if the object was ever put so.
        what: a sentence.
    """

    kind: str
    durability: str
    what: str


CORRUPT = "corrupt"
"""The code of the refusal to serve what is torn."""


class Check:
    """A daemon starts on a state, and is asked for everything."""

    def __init__(self, store: Path, may: dict[bytes, tuple[bytes | None, ...]], promises: Promises, state: State):
        self.store = store
        self.may = may
        self.promises = promises
        self.state = state
        self.findings: list[Finding] = []
        try:
            rig = Rig(store, Setup(boot=2))
        except Exception:
            self._find("start", b"", traceback.format_exc(limit=-3))
            return
        try:
            rig.scan()
            if left := os.listdir(store / TEMPORARY):
                self._find("litter", b"", f"left among the private names: {left}")
            for name in may:
                self._ask_for(rig, name)
            self._list(rig)
        except Exception:
            self._find("start", b"", traceback.format_exc(limit=-3))
        finally:
            rig.leave()
            rig.close()

    def _find(self, kind: str, name: bytes, what: str) -> None:
        self.findings.append(Finding(kind, "os" if name in self.promises.os else "disk", what))

    def _is_whole(self, name: bytes, there: bytes | None) -> bool:
        return there in self.promises.ever[name]

    def _ask_for(self, rig: Rig, name: bytes) -> None:
        there, may = self.state.content(_split(name)), self.may[name]
        if there not in may and (len(may) == 1 or there is None or self._is_whole(name, there)):
            self._find("lost", name, f"{name!r} holds {there!r}, it may hold {may}")
            return
        options = {"namespace": "team"} if name.startswith(b"team/") else {}
        key = name.rpartition(b"/")[2]
        for exchange in (rig.ask(b"get", key, **options), rig.fetch(key, 7, **options)):
            word = exchange.words[0].decode()
            got = exchange.payloads[0] if word == "ok" else None if word == "absent" else word
            if there in may:
                if got != there and not (got == CORRUPT and not self.state.whole):
                    self._find("served", name, f"{name!r} is answered with {got!r}, it holds {there!r}")
            elif got not in (None, CORRUPT):
                self._find("torn", name, f"{name!r} is answered with {got!r}, it was one of {may}")
        exists = rig.ask(b"exists", key, **options).words
        if there in may and exists != [b"no" if there is None else b"yes"]:
            self._find("served", name, f"exists of {name!r} says {exists}, it holds {there!r}")
        if there not in may:
            words = rig.put((key, OLD), replace=True, durability="os", **options).words
            payloads = rig.ask(b"get", key, **options).payloads
            if words not in ([b"created"], [b"replaced"]) or payloads != [OLD]:
                self._find("stuck", name, f"{name!r} held {there!r}; replace answers {words}, get then {payloads}")

    def _list(self, rig: Rig) -> None:
        for namespace, folder in (("default", "."), ("team", "team")):
            listed = set(rig.ask(b"list", namespace=namespace).payloads[0].split(b"\0")[:-1])
            there = {
                os.fsencode(name): os.fsencode(os.path.normpath(os.path.join(place, name)))
                for (place, name), _ in self.state.names
                if place == folder and not name.endswith(".ready")
            }
            whole = {key for key, name in there.items() if self._is_whole(name, self.state.content(_split(name)))}
            if not whole <= listed <= set(there):
                self._find("served", b"", f"list says {listed}, there is {there}, whole of it {whole}")


def _split(name: bytes) -> Name:
    folder, key = os.path.split(os.fsdecode(name))
    return folder or ".", key


# -- scenarios


@dataclass(frozen=True)
class Scenario:
    """Requests, and what is on the platter before them; `prepare` is done to it first, by hand."""

    name: str
    before: dict[bytes, bytes]
    play: Callable[[Rig], object]
    prepare: Callable[[Rig], object] = lambda _: None

    def __str__(self) -> str:
        return self.name


def _evict_and_put(rig: Rig) -> None:
    rig.ask(b"evict", b"k")
    rig.put((b"k", NEW))


def _replace_twice(rig: Rig) -> None:
    rig.put((b"k", PARTS[0]), replace=True, durability="os")
    rig.put((b"k", NEW), replace=True)


def _put_twice(rig: Rig) -> None:
    rig.put((b"k", NEW), durability="os")
    rig.put((b"k", NEW))


SCENARIOS = [
    Scenario("put", {b"other": OLD}, lambda rig: rig.put((b"k", NEW))),
    Scenario("put in a namespace", {}, lambda rig: rig.put((b"k", NEW), namespace="team")),
    Scenario("replace", {b"k": OLD}, lambda rig: rig.put((b"k", NEW), replace=True)),
    Scenario("evict", {b"k": OLD}, lambda rig: rig.ask(b"evict", b"k")),
    Scenario("evict and put", {b"k": OLD}, _evict_and_put),
    Scenario(
        "batch",
        {b"there": OLD},
        lambda rig: rig.put((b"a", NEW), (b"there", NEW), (b"b", OLD), (b"c", PARTS[0])),
    ),
    Scenario("ranges", {}, lambda rig: rig.upload(b"k", PARTS)),
    Scenario(
        "ranges that replace", {b"team/k": OLD}, lambda rig: rig.upload(b"k", PARTS, replace=True, namespace="team")
    ),
    Scenario("replace twice", {b"k": OLD}, _replace_twice),
    Scenario("put twice", {}, _put_twice),
]
SETUPS = [
    Setup(durability, unnamed, markers)
    for durability, unnamed, markers in itertools.product(("disk", "os"), (True, False), (False,))
] + [Setup("disk", markers=True)]


@dataclass
class Report:
    """What came of a scenario."""

    states: int = 0
    points: int = 0
    calls: set[str] = field(default_factory=set)
    findings: list[Finding] = field(default_factory=list)


def record(
    store: Path, scenario: Scenario, setup: Setup, over: Callable[[Seam], Any] | None = None
) -> tuple[Recorder, Seam]:
    """Plays a scenario on a fresh store; returns what was written down."""
    store.mkdir()
    with Seam().installed():
        rig = Rig(store, setup)
        rig.scan()
        for name, payload in scenario.before.items():
            rig.put((name.rpartition(b"/")[2], payload), **({"namespace": "team"} if b"/" in name else {}))
        scenario.prepare(rig)
        recorder = Recorder(store)
        rig.said = recorder.said
    seam = Seam(recorder=recorder)
    with seam.installed(over):
        with seam.counted():
            scenario.play(rig)
        rig.close()
    return recorder, seam


def explore(
    folder: Path, scenario: Scenario, setup: Setup, over: Callable[[Seam], Any] | None = None, *, ordered: bool = True
) -> Report:
    """Finds every state after every step of a scenario, and starts a daemon on each."""
    recorder, seam = record(folder / "recorded", scenario, setup, over)
    report = Report(calls={call.name for call in seam.calls})
    promises, platter = Promises(scenario.before), Platter(recorder, ordered=ordered)
    known: set[Any] = set()
    with Seam().installed():
        for step in [None, *recorder.steps]:
            if isinstance(step, Said):
                promises.take(step.what)
            elif step is not None:
                platter.take(step)
            report.points += 1
            may = promises.copy()
            for state in platter.states():
                key = state, tuple(may.items())
                if key in known:
                    continue
                known.add(key)
                report.states += 1
                store = folder / str(report.states)
                state.make(store)
                findings = Check(store, may, promises, state).findings
                shutil.rmtree(store)
                report.findings += [
                    Finding(found.kind, found.durability, f"after {step}: {found.what}") for found in findings
                ]
    shutil.rmtree(folder / "recorded")
    return report


class Reports:
    """The reports of this module, each made when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made: dict[str, Report] = {}

    def of(self, scenario: Scenario, setup: Setup) -> Report:
        """Returns the report of a scenario."""
        key = f"{scenario} {setup}"
        if key not in self._made:
            report = self._made[key] = explore(self._folder, scenario, setup)
            count("states after a power cut", report.states)
            print(f"{key}: {report.states} states after {report.points} moments")
        return self._made[key]


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reports]:
    with quick_folder(tmp_path_factory.mktemp("power")) as folder:
        yield Reports(folder)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    with quick_folder(tmp_path) as folder:
        yield folder


@pytest.mark.parametrize("setup", SETUPS, ids=str)
@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
def test_what_was_acknowledged_is_there_after_a_power_cut(scenario: Scenario, setup: Setup, reports: Reports) -> None:
    report = reports.of(scenario, setup)
    assert report.states > 1
    wrong = [finding for finding in report.findings if finding.kind != "torn"]
    assert not wrong, f"{len(wrong)}, such as {wrong[0]}"


@pytest.mark.parametrize(
    "durability",
    [
        "disk",
        "os",
    ],
)
def test_bytes_that_nobody_put_are_not_served_after_a_power_cut(durability: str, reports: Reports) -> None:
    cases = [(scenario, setup) for scenario in SCENARIOS for setup in SETUPS]
    found = [finding for case in cases for finding in reports.of(*case).findings]
    wrong = [finding for finding in found if finding.kind == "torn" and finding.durability == durability]
    assert not wrong, f"{len(wrong)}, such as {wrong[0]}"


def _remove_folder(rig: Rig) -> None:
    (rig.store / "team").rmdir()


def _make_folder_again(rig: Rig) -> None:
    assert rig.home.check(quiet=True)
    rig.put((b"k", NEW), namespace="team")


def test_a_namespace_that_is_made_again_keeps_what_is_put_into_it(folder: Path) -> None:
    scenario = Scenario("made again", {}, _make_folder_again, _remove_folder)
    findings = explore(folder, scenario, Setup("disk")).findings
    assert not findings, f"{len(findings)}, such as {findings[0]}"


def test_a_start_that_the_power_ends_can_be_made_again(folder: Path) -> None:
    """The daemon's own folder is there already, and nothing else."""
    store = folder / "recorded"
    (store / FOLDER).mkdir(parents=True)
    recorder = Recorder(store)
    seam = Seam(recorder=recorder)
    with seam.installed(), seam.counted():
        home = Home(store, ("team",))
        home.announce("ipc:///nowhere")
    home.leave()
    platter, known = Platter(recorder), set()
    for step in [None, *recorder.steps]:
        if step is not None:
            platter.take(step)
        for state in platter.states():
            if state in known:
                continue
            known.add(state)
            made = folder / str(len(known))
            state.make(made)
            with Seam().installed():
                Home(made, ("team",)).leave()
            assert os.listdir(made / TEMPORARY) == []
    count("states after a power cut", len(known))


# -- the model


def test_the_model_understands_every_call_of_every_change(reports: Reports) -> None:
    calls = {call for scenario in SCENARIOS for setup in SETUPS for call in reports.of(scenario, setup).calls}
    assert calls <= READING | CHANGING
    assert {"open", "pwrite", "setxattr", "fchmod", "fsync", "link", "rename", "unlink", "mknod"} <= calls


def test_a_change_that_the_model_does_not_understand_is_refused(folder: Path) -> None:
    (folder / "store").mkdir()
    (folder / "store/file").touch()
    seam = Seam(recorder=Recorder(folder / "store"))
    with seam.counted(), pytest.raises(NotUnderstood, match="truncate"):
        seam.truncate(folder / "store/file", 3)
    with seam.counted(), pytest.raises(NotUnderstood, match="symlink"):
        seam.symlink("file", folder / "store/link")


def states_of(*steps: Step, ordered: bool = True, before: Recorder) -> set[tuple[tuple[str, bytes, int], ...]]:
    """Returns what may be found after some steps: name, bytes and mode of each file."""
    platter = Platter(before, ordered=ordered)
    for step in steps:
        platter.take(step)
    found = set()
    for state in platter.states():
        files = {node: (data, mode) for node, data, mode, _ in state.files}
        found.add(tuple(sorted((name, *files[node]) for (_, name), node in state.names)))
    return found


def test_a_power_cut_leaves_what_the_model_says(tmp_path: Path) -> None:
    empty = Recorder(tmp_path)
    new, wrote, mode = Created(1), Wrote(1, 0, b"abcd"), Described(1, None, 0o440)
    enter, leave, sync, folder = Entered((".", "k"), 1), Entered((".", "k"), None), Synced(1, False), SyncedFolder(".")
    torn = {b"", b"ab", b"\0\0\0\0", b"abcd"}
    assert states_of(new, wrote, before=empty) == {()}
    assert states_of(new, wrote, enter, before=empty) == {(), *((("k", data, 0o600),) for data in torn)}
    assert states_of(new, wrote, mode, enter, folder, before=empty) == {(("k", data, 0o440),) for data in torn}
    assert states_of(new, wrote, sync, enter, before=empty) == {(), (("k", b"abcd", 0o600),)}
    assert states_of(new, wrote, mode, sync, enter, folder, before=empty) == {(("k", b"abcd", 0o440),)}
    assert states_of(new, wrote, sync, enter, folder, leave, before=empty) == {(), (("k", b"abcd", 0o600),)}
    assert states_of(new, wrote, sync, enter, folder, leave, folder, before=empty) == {()}
    assert len(states_of(new, mode, enter, folder, before=empty)) == 1
    assert len(states_of(new, mode, enter, folder, before=empty, ordered=False)) == 2
    assert len(states_of(new, mode, Synced(1, True), enter, folder, before=empty, ordered=False)) == 2
    other = Entered((".", "j"), 1), Entered((".", "k"), None)
    assert len(states_of(new, enter, folder, *other, before=empty)) == 4  # both, either, neither


def test_a_new_folder_takes_what_is_in_it_along(tmp_path: Path) -> None:
    steps = MadeFolder("n", "."), Created(1), Entered(("n", "k"), 1), SyncedFolder("n")
    assert states_of(*steps, before=Recorder(tmp_path)) == {(), (("k", b"", 0o600),)}
    assert states_of(*steps, SyncedFolder("."), before=Recorder(tmp_path)) == {(("k", b"", 0o600),)}


def test_a_name_that_is_replaced_is_the_old_one_or_the_new_one(tmp_path: Path) -> None:
    (tmp_path / "k").write_bytes(b"old")
    before = Recorder(tmp_path)
    mode = stat.S_IMODE((tmp_path / "k").stat().st_mode)
    steps = Created(9), Wrote(9, 0, b"new"), Synced(9, False), Entered((".", "k"), 9)
    assert states_of(*steps, before=before) == {(("k", b"old", mode),), (("k", b"new", 0o600),)}


# -- the campaign finds what is broken


class SyncsNoFiles(Broken):
    def fsync(self, descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            self.seam.fsync(descriptor)


class SyncsNoFolders(Broken):
    def fsync(self, descriptor: int) -> None:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            self.seam.fsync(descriptor)


class SyncsTooEarly(Broken):
    """The file is synced when it is empty."""

    def open(self, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        descriptor: int = self.seam.open(path, flags, mode, dir_fd=dir_fd)
        if flags & (os.O_CREAT | os.O_TMPFILE) and flags & os.O_RDWR:
            self.seam.fsync(descriptor)
        return descriptor

    def fsync(self, descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            self.seam.fsync(descriptor)


class RemovesBeforeItLinks(Broken):
    """A replace that is no rename, but a removal and a link."""

    def rename(self, source: Any, target: Any, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        self.seam.unlink(target, dir_fd=dst_dir_fd)
        self.seam.link(source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)
        self.seam.unlink(source, dir_fd=src_dir_fd)


@pytest.mark.parametrize(
    ("broken", "name"),
    [
        (SyncsNoFiles, "put"),
        (SyncsNoFiles, "put twice"),
        (SyncsNoFolders, "put"),
        (SyncsNoFolders, "put in a namespace"),
        (SyncsNoFolders, "ranges that replace"),
        (SyncsTooEarly, "ranges"),
        (LinksBeforeItWrites, "put"),
        (LinksBeforeItWrites, "ranges"),
        (RemovesBeforeItLinks, "replace"),
    ],
)
def test_the_campaign_finds_a_broken_daemon(broken: Callable[[Seam], Any], name: str, folder: Path) -> None:
    scenario = next(scenario for scenario in SCENARIOS if scenario.name == name)
    kinds = {finding.kind for finding in explore(folder, scenario, Setup("disk"), broken).findings}
    assert "lost" in kinds
    assert "start" not in kinds
