"""Attempts to be somebody else: nothing that is sent changes who one is.

Whatever is tried, the object's owner, as `stat` tells it, is the user who connected, and what is another's stays so.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import socket
import struct
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

from callers import FIRST_UID, Call, Caller, User, callers
from conftest import Daemon, daemons
from hostile import GREETING, Dropped, Peer, as_user, command, frame, message, ready, request
from mounts import needs_root
from test_many_users import open_folder

pytestmark = needs_root

ALICE, MALLORY = User(FIRST_UID + 1, FIRST_UID + 1), User(FIRST_UID + 2, FIRST_UID + 2)
NUMBERS = (b"0", str(ALICE.uid).encode())


class Scene(NamedTuple):
    """A daemon, and processes of root, of Alice, whose are the objects, and of Mallory, who wants them."""

    daemon: Daemon
    root: Caller
    alice: Caller
    mallory: Caller

    def owner(self, key: str) -> int | None:
        info = self.root.get("stat", key)
        return None if info is None else int(info.owner)


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    with open_folder() as folder, daemons(folder) as start:
        config = folder / "config.toml"
        rules = f'read = ["{ALICE.uid}"]\nwrite = ["{ALICE.uid}", "@{ALICE.gid}"]\nmanage = ["@{ALICE.gid}"]\n'
        config.write_text(f'creators = ["{ALICE.uid}", "@{ALICE.gid}"]\n[namespace.team]\n{rules}')
        daemon = start("--config", str(config), "--socket-mode", "0666")
        with callers(daemon.address, [User(0, 0), ALICE, MALLORY]) as (root, alice, mallory):
            yield Scene(daemon, root, alice, mallory)


@pytest.fixture
def hers(scene: Scene) -> Iterator[str]:
    """The key of an object of Alice's, which is the same afterwards, and hers."""
    scene.alice.get("put", b"alice's", "hers", replace=True)
    scene.alice.get("put", b"alice's", "hers", namespace="team", replace=True)
    yield "hers"
    for namespace in ("default", "team"):
        assert scene.root.get("get", "hers", namespace=namespace) == b"alice's"
        assert scene.root.get("stat", "hers", namespace=namespace).owner == ALICE.uid
        assert scene.root.get("stat", "hers", namespace=namespace).pinned is False


def connect(scene: Scene, **options: Any) -> Peer:
    """A connection of Mallory's, who may send what he likes."""
    with as_user(MALLORY.uid):
        return Peer(scene.daemon.address, **options)


def check_powerless(scene: Scene, peer: Peer, key: str, **forged: bytes) -> None:
    """What Mallory puts is Mallory's, what is Alice's he cannot change, and where she alone may be he may not."""
    scene.root.get("evict", "his")
    ask: Callable[..., list[bytes]] = lambda *frames, **options: peer.ask(*frames, **{**forged, **options})  # noqa: E731
    assert ask(b"put", b"his", b"mallory's")[4:5] == [b"created"]
    assert scene.owner("his") == MALLORY.uid
    for verb in (b"evict", b"touch", b"pin", b"unpin"):
        options = b'{"ttl":60}' if verb == b"touch" else b""
        assert ask(verb, key.encode(), options=options)[4:5] == [b"denied"], verb
    assert ask(b"put", key.encode(), b"forged", options=b'{"replace":true}')[4:5] == [b"denied"]
    hers = b'{"namespace":"team"}'
    for verb in (b"exists", b"get", b"stat", b"evict", b"verify"):
        assert b"denied" in ask(verb, key.encode(), options=hers), verb
    assert b"denied" in ask(b"create", b"forged")
    assert b"team" not in ask(b"namespaces")[3]


def test_without_any_attempt_one_is_who_connected(scene: Scene, hers: str) -> None:
    with connect(scene) as peer:
        check_powerless(scene, peer, hers)


NAMES = [
    "uid",
    "gid",
    "groups",
    "owner",
    "user",
    "pid",
    "peer",
    "as",
    "sudo",
    "principal",
    "Uid",
    "credentials",
    "process",
]


@pytest.mark.parametrize("name", NAMES)
def test_no_option_says_who_one_is(scene: Scene, hers: str, name: str) -> None:
    with connect(scene) as peer:
        for value in (0, ALICE.uid, "0", "root", str(ALICE.uid), [0], {"uid": 0}, True, None):
            options = json.dumps({name: value, "replace": True}).encode()
            for verb, *arguments in (
                (b"put", b"optional", b"x"), (b"put", hers.encode(), b"x"), (b"upload", b"optional"),
            ):  # fmt: skip
                told = peer.ask(verb, *arguments, options=options)
                assert told[2] == b"bad_request" or told[4:5] == [b"bad_request"], (value, told)
            plain = json.dumps({name: value}).encode()
            for verb in (b"evict", b"touch", b"pin", b"unpin", b"drop", b"create"):
                told = peer.ask(verb, hers.encode(), options=plain)
                assert told[2] != b"ok" or told[4] in (b"denied", b"bad_request"), (value, told)
        check_powerless(scene, peer, hers)
    assert scene.owner("optional") is None


def test_settings_of_a_namespace_cannot_name_its_maker(scene: Scene) -> None:
    for name in ("owner", "maker", "uid", "creator"):
        settings: dict[str, Any] = {name: 0}
        code, told = scene.alice.do("create_namespace", "forged", **settings)
        assert code == "bad_request", told
    assert "forged" not in scene.root.get("namespaces")


@pytest.mark.parametrize("id", [b"0", b"uid=0", b"root", NUMBERS[1], struct.pack("=iII", 1, 0, 0), bytes(32), b"\0"])
def test_no_request_id_says_who_one_is(scene: Scene, hers: str, id: bytes) -> None:
    with connect(scene) as peer:
        assert peer.ask(b"exists", b"k", id=id)[1] == id
        check_powerless(scene, peer, hers, id=id)


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("place", range(7))
def test_no_frame_says_who_one_is(scene: Scene, hers: str, place: int, number: bytes) -> None:
    """One more frame, at every place: it is refused, or is a key like others."""
    frames = [b"SK01", b"put", b"1", b"", b"framed", b"x"]
    frames.insert(place, number)
    with connect(scene) as peer:
        peer.send(message(*frames))
        assert peer.read()[2] != b"ok"
        check_powerless(scene, peer, hers)
    assert scene.owner("framed") is None


@pytest.mark.parametrize("verb", [b"put", b"evict", b"sudo", b"put;uid=0", b"PUT", b"put\0root"])
@pytest.mark.parametrize("version", [b"SK01", b"SK01 uid=0", b"SK01\0root", b"SK00", b"root", b""])
def test_no_version_and_no_verb_says_who_one_is(scene: Scene, hers: str, version: bytes, verb: bytes) -> None:
    with connect(scene) as peer:
        peer.send(
            message(version, verb, b"1", b"", hers.encode(), *([b"x"] if verb.lower().startswith(b"put") else []))
        )
        told = peer.read()
        assert told[2] != b"ok" or told[4] in (b"denied", b"key_exists"), told
        check_powerless(scene, peer, hers)


PROPERTIES = [
    b"User-Id",
    b"Identity",
    b"Uid",
    b"X-Uid",
    b"user",
    b"Resource",
    b"Peer-Address",
    b"Owner",
    b"Gid",
    b"Pid",
]


@pytest.mark.parametrize("name", PROPERTIES)
def test_no_property_of_the_handshake_says_who_one_is(scene: Scene, hers: str, name: bytes) -> None:
    for value in (b"0", b"root", b"", NUMBERS[1], struct.pack("=I", 0), b"\0\0\0\0\1"):
        with contextlib.suppress(Dropped), connect(scene, properties=[(name, value)]) as peer:
            check_powerless(scene, peer, hers)


@pytest.mark.parametrize("kind", [b"REQ", b"DEALER", b"ROUTER", b"REP", b"PAIR", b"PUB", b"SERVER", b"ROOT", b""])
def test_no_socket_type_says_who_one_is(scene: Scene, hers: str, kind: bytes) -> None:
    with connect(scene, greet=False) as peer:
        try:
            peer.send(GREETING + ready((b"Identity", b"0"), kind=kind))
            peer.read_handshake()
            check_powerless(scene, peer, hers)
        except Dropped:
            assert kind not in (b"REQ", b"DEALER")


@pytest.mark.parametrize("mechanism", [b"PLAIN", b"CURVE", b"GSSAPI", b"ROOT"])
def test_no_mechanism_says_who_one_is(scene: Scene, hers: str, mechanism: bytes) -> None:
    greeting = GREETING.replace(b"NULL" + bytes(16), mechanism.ljust(20, b"\0"))
    hello = command(b"HELLO", b"\4root\0")
    with connect(scene, greet=False) as peer, pytest.raises(Dropped):
        peer.send(greeting + hello + ready() + request(b"put", b"mechanical", b"x"))
        peer.read_handshake()
        peer.wait_dropped()
        raise Dropped
    assert scene.owner("mechanical") is None


@pytest.mark.parametrize("name", [b"HELLO", b"WELCOME", b"INITIATE", b"READY", b"USER", b"PING", b"SUBSCRIBE"])
def test_no_command_after_the_handshake_says_who_one_is(scene: Scene, hers: str, name: bytes) -> None:
    with connect(scene) as peer:
        try:
            peer.send(command(name, b"\0\0\4root\0" if name != b"READY" else ready((b"User-Id", b"0"))[8:]))
            check_powerless(scene, peer, hers)
        except Dropped:
            pass


def test_the_routing_id_of_another_is_not_his_connection(scene: Scene, hers: str) -> None:
    """Root and Alice have theirs; Mallory says he is both, and gets neither their rights nor their answers."""
    same = [(b"Identity", b"the same")]
    with Peer(scene.daemon.address, properties=same) as roots:
        with as_user(ALICE.uid):
            alices = Peer(scene.daemon.address, properties=same)
        with alices, connect(scene, properties=same) as peer:
            roots.send(request(b"get", hers.encode(), id=b"root's", options=b'{"namespace":"team"}'))
            alices.send(request(b"get", hers.encode(), id=b"alice's", options=b'{"namespace":"team"}'))
            check_powerless(scene, peer, hers)
            assert roots.read()[1] == b"root's"
            assert alices.read()[1] == b"alice's"
            for verb, argument in ((b"read", b"0"), (b"close", b"0"), (b"abort", b"0")):
                peer.ask(verb, argument)
            check_powerless(scene, peer, hers)


@pytest.mark.parametrize(
    "envelope",
    [(b"root",), (b"root", b""), (b"\0" + bytes(4), b""), (b"", b""), (b"the same", b"", b""), (b"", b"root")],
)
def test_no_envelope_says_who_one_is(scene: Scene, hers: str, envelope: tuple[bytes, ...]) -> None:
    with connect(scene) as peer:
        peer.send(message(*envelope, b"SK01", b"put", b"1", b"", b"enveloped", b"x"))
        assert b"created" not in peer.read()
        check_powerless(scene, peer, hers)
        peer.send(frame(b"", more=True) + request(b"put", b"as-req", b"x"))  # the one that a REQ makes
        assert peer.read()[0] == b""
    assert scene.owner("enveloped") is None
    assert scene.owner("as-req") == MALLORY.uid
    scene.root.get("evict", "as-req")


def test_handles_of_others_are_not_ones_own(scene: Scene, hers: str) -> None:
    with as_user(ALICE.uid):
        alices = Peer(scene.daemon.address)
    with alices, connect(scene) as peer:
        opened = json.loads(alices.ask(b"open", hers.encode(), options=b'{"namespace":"team"}')[3])["handle"]
        begun = json.loads(alices.ask(b"upload", b"begun")[3])["handle"]
        for arguments in (
            (b"read", opened.encode(), b"0", b"1"), (b"close", opened.encode()), (b"write", begun.encode(), b"0", b"x"),
            (b"commit", begun.encode(), b"0"), (b"abort", begun.encode()), (b"list", begun.encode()),
        ):  # fmt: skip
            assert b"bad_handle" in peer.ask(*arguments), arguments
        assert alices.ask(b"commit", begun.encode(), b"0")[4:5] == [b"created"]
    assert scene.owner("begun") == ALICE.uid
    scene.root.get("evict", "begun")


def test_credentials_that_are_sent_along_are_not_ones_own(scene: Scene, hers: str) -> None:
    """SCM_CREDENTIALS: root may send anybody's. Who connected counts."""
    with connect(scene) as peer:
        forged = [(socket.SOL_SOCKET, socket.SCM_CREDENTIALS, struct.pack("=iII", os.getpid(), 0, 0))]
        for uid in (0, ALICE.uid):
            forged = [(socket.SOL_SOCKET, socket.SCM_CREDENTIALS, struct.pack("=iII", os.getpid(), uid, uid))]
            peer.socket.sendmsg([request(b"evict", hers.encode())], forged)
            assert peer.read()[4:5] == [b"denied"]
        descriptor = array.array("i", [peer.socket.fileno()])
        peer.socket.sendmsg([request(b"evict", hers.encode())], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptor)])
        assert peer.read()[4:5] == [b"denied"]
        check_powerless(scene, peer, hers)


# -- who connected, and who is there now


def test_who_becomes_another_stays_on_a_connection_who_made_it(scene: Scene) -> None:
    with callers(scene.daemon.address, [MALLORY]) as (caller,):
        caller.get("put", b"x", "before")
        caller.get("become", ALICE.uid, ALICE.gid)
        caller.get("put", b"x", "after")
        caller.get("let_go")
        caller.get("put", b"x", "anew")
        assert [scene.owner(key) for key in ("before", "after", "anew")] == [MALLORY.uid, MALLORY.uid, ALICE.uid]
        assert caller.do("evict", "before")[0] == "denied"
        caller.get("become", MALLORY.uid, MALLORY.gid)
        assert caller.get("evict", "anew") is True  # that connection is Alice's
        caller.get("let_go")
        assert caller.get("evict", "before") is True
        assert caller.get("evict", "after") is True


def test_groups_are_those_of_the_moment_of_connecting(scene: Scene) -> None:
    with callers(scene.daemon.address, [MALLORY]) as (caller,):
        assert caller.do("put", b"x", "grouped", namespace="team")[0] == "denied"
        caller.get("become", MALLORY.uid, MALLORY.gid, ALICE.gid)
        assert caller.do("put", b"x", "grouped", namespace="team")[0] == "denied"
        caller.get("let_go")
        assert caller.get("put", b"x", "grouped", namespace="team") == "grouped"
        caller.get("become", MALLORY.uid, MALLORY.gid)
        assert caller.get("evict", "grouped", namespace="team") is True  # he was in it when he connected
        caller.get("let_go")
        assert caller.do("get", "grouped", namespace="team")[0] == "denied"


def test_a_forked_child_that_becomes_another_is_that_one(scene: Scene) -> None:
    with callers(scene.daemon.address, [User(0, 0)]) as (caller,):
        caller.get("put", b"x", "parent's")  # the parent has a connection, and the child its copy
        calls = [Call("default", "put", (b"x", "child's")), Call("default", "evict", ("parent's",))]
        done, denied = caller.get("as_child", MALLORY, calls)
        assert done == ("ok", "child's")
        assert denied[0] == "denied"
        assert (scene.owner("parent's"), scene.owner("child's")) == (0, MALLORY.uid)
        assert caller.get("evict_batch", ["parent's", "child's"]) == [True, True]


def test_a_connection_that_is_handed_on_is_whose_it_was(scene: Scene, hers: str) -> None:
    """Who gets Mallory's socket from him, root for one, acts as Mallory there."""
    with connect(scene) as peer:
        with as_user(ALICE.uid):
            check_powerless_now = peer.ask(b"evict", hers.encode())
        assert check_powerless_now[4:5] == [b"denied"]
        check_powerless(scene, peer, hers)
