"""Events, end to end: real users, a real daemon, and what each of them is told of what became of his objects."""

from __future__ import annotations

import json
import pwd
import signal
import subprocess
import sys
import time
from collections.abc import Callable

from callers import FIRST_UID, User, callers
from conftest import Daemon, eventually
from mounts import needs_root
from storekeeper import Client, Event, News, administration

Hall = Callable[..., Daemon]

ANNA, BERT, MANAGER = (User(FIRST_UID + number, FIRST_UID + number) for number in (1, 2, 3))


def told(news: News) -> list[tuple[str, str, str, int | None, int | None]]:
    return [(event.key, event.what, event.why, event.owner, event.by) for event in news.events]


def waited(client: Client, count: int, after: News | None = None) -> News:
    """Waits until there are so many events more."""
    marks = after.marks if after else []
    eventually(lambda: len(client.events(marks).events) >= count)
    return client.events(marks)


@needs_root
def test_whose_put_has_driven_out_what(hall: Hall) -> None:
    daemon = hall('[namespace.default]\neviction = "lru"\nobjects_max = 4\nlow_mark = 0.5\n[limits]\nlease_s = 0.001\n')
    with callers(daemon.address, [ANNA, BERT]) as (anna, bert), daemon.client() as client:
        for key in ("a", "b", "c"):
            anna.get("put", b"12345", key)
            time.sleep(0.005)
        bert.get("put", b"1", "berts")
        waited(client, 2)
        expected = [(key, "evicted", "room", ANNA.uid, BERT.uid) for key in ("a", "b")]
        for reader in (anna, bert):
            news = reader.get("events")
            assert told(news) == expected
            assert [(event.namespace, event.number, event.size) for event in news.events] == [
                ("default", 1, 5),
                ("default", 2, 5),
            ]
            assert all(abs(event.when - time.time()) < 60 for event in news.events)
    log = daemon.log.read_text()
    for key in ("a", "b"):
        assert f"evicted '{key}' of uid {ANNA.uid}, 5 bytes: room for uid {BERT.uid}" in log


@needs_root
def test_what_a_manager_and_root_do_is_told_and_what_the_owner_does_is_not(hall: Hall) -> None:
    daemon = hall(f'[namespace.default]\nmanage = ["{MANAGER.uid}"]\n')
    with callers(daemon.address, [ANNA, MANAGER, User(0, 0)]) as (anna, manager, root):
        for key in ("a", "b", "c", "d"):
            anna.get("put", b"1", key)
        anna.get("put", b"2", "d", replace=True)
        anna.get("evict", "d")
        manager.get("put", b"manager's", "m")
        manager.get("put", b"again", "m", replace=True)
        manager.get("evict", "a")
        manager.get("put", b"x" * 5_000_000, "b", replace=True)  # in ranges
        root.get("evict", "c")
        root.get("put", b"root's", "b", replace=True)
        assert told(anna.get("events")) == [
            ("a", "evicted", "asked", ANNA.uid, MANAGER.uid),
            ("b", "replaced", "asked", ANNA.uid, MANAGER.uid),
            ("c", "evicted", "asked", ANNA.uid, 0),
            ("b", "replaced", "asked", MANAGER.uid, 0),
        ]


@needs_root
def test_what_expires_and_what_ends_with_its_process_is_told(hall: Hall) -> None:
    daemon = hall()
    with callers(daemon.address, [ANNA, BERT]) as (anna, bert), daemon.client() as client:
        anna.get("put", b"1", "expires", ttl=0.05)
        first = waited(client, 1)
        bert.get("put", b"1", "tied", lifetime="process")
        bert.end()
        second = waited(client, 1, first)
        assert told(first) == [("expires", "evicted", "expired", ANNA.uid, None)]
        assert told(second) == [("tied", "evicted", "process", BERT.uid, None)]
        assert told(anna.get("events")) == told(first) + told(second)


@needs_root
def test_a_namespace_that_is_made_anew_tells_its_readers_nothing_of_the_one_before(hall: Hall) -> None:
    daemon = hall('creators = ["*"]\n')
    with callers(daemon.address, [ANNA, BERT, User(0, 0)]) as (anna, bert, root):
        anna.get("create_namespace", "room")
        anna.get("put", b"1", "secret", namespace="room")
        root.get("evict", "secret", namespace="room")
        assert told(anna.get("events")) == [("secret", "evicted", "asked", ANNA.uid, 0)]
        marks = anna.get("events").marks
        assert bert.get("events") == News([], bert.get("events").marks, [])
        anna.get("drop_namespace", "room")
        bert.get("create_namespace", "room", read=["*"])
        assert bert.get("events", namespace="room").events == []
        assert anna.get("events", marks).missed == ["room"]  # it is another one


def test_all_that_is_kept_is_told_in_as_many_answers_as_it_takes(client: Client) -> None:
    client.put_batch([b""] * 1200, [f"k{number:04}" for number in range(1200)], ttl=0.01)
    news = waited(client, 1200)
    assert sorted(event.key for event in news.events) == [f"k{number:04}" for number in range(1200)]
    assert [event.number for event in news.events] == list(range(1, 1201))
    assert news.missed == []
    assert client.events(news.marks) == News([], news.marks, [])


def test_a_client_of_a_namespace_is_told_of_that_alone(start_daemon: Callable[..., Daemon]) -> None:
    daemon = start_daemon("--namespace", "team")
    with daemon.client() as client, daemon.client(namespace="team") as team:
        client.put(b"1", "d", ttl=0.01)
        team.put(b"1", "t", ttl=0.01)
        assert {event.key for event in waited(client, 2).events} == {"d", "t"}
        assert [event.key for event in team.events().events] == ["t"]
        assert [event.key for event in client.events(namespace="default").events] == ["d"]
        assert [event.key for event in team.events(namespace="default").events] == ["d"]


def test_a_restart_is_noticed_and_nothing_after_it_is_lost(daemon: Daemon, client: Client) -> None:
    client.put(b"1", "before", ttl=0.01)
    news = waited(client, 1)
    daemon.kill()
    daemon.start()
    client.put_batch([b"1"] * 3, ["after1", "after2", "after3"], ttl=0.01)
    news = waited(client, 3, news)
    assert news.missed == ["default"]
    assert {event.key for event in news.events} == {"after1", "after2", "after3"}
    assert client.events(news.marks) == News([], news.marks, [])


# -- the command line


def shown(daemon: Daemon, *options: str) -> list[str]:
    command = [sys.executable, "-m", "storekeeper", "--address", daemon.address, *options]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()


@needs_root
def test_events_are_shown_with_names_of_users_where_they_have_any(hall: Hall) -> None:
    daemon = hall("[namespace.team]\n")
    with callers(daemon.address, [ANNA, BERT, User(0, 0)]) as (anna, bert, root):
        anna.get("put", b"12345", "a")
        bert.get("put", b"1", "b", namespace="team")
        root.get("evict", "a")
        root.get("put", b"22", "b", replace=True, namespace="team")
        anna.get("put", b"1", "c", ttl=0.01)
        with daemon.client() as client:
            waited(client, 3)
        by = pwd.getpwuid(0).pw_name
        lines = [line.split() for line in shown(daemon, "events")]
        assert [line[1:] for line in lines] == [
            ["evicted", "asked", "5", str(ANNA.uid), by, "a"],
            ["replaced", "asked", "1", str(BERT.uid), by, "team/b"],
            ["evicted", "expired", "1", str(ANNA.uid), "-", "c"],
        ]
        assert all(line[0].startswith(time.strftime("%Y-")) for line in lines)
        (line,) = shown(daemon, "--namespace", "team", "events", "--json")
        told = json.loads(line)
        assert abs(told.pop("when") - time.time()) < 60
        assert told == {
            "namespace": "team",
            "number": 1,
            "key": "b",
            "what": "replaced",
            "why": "asked",
            "size": 1,
            "owner": BERT.uid,
            "by": 0,
        }


def test_following_goes_on_over_a_restart_until_it_is_interrupted(daemon: Daemon, client: Client) -> None:
    client.put(b"1", "before", ttl=0.01)
    waited(client, 1)
    command = [sys.executable, "-m", "storekeeper", "--address", daemon.address, "events", "--follow"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as process:  # type: ignore[call-overload]
        try:
            assert process.stdout.readline().endswith(" before\n")
            client.put(b"1", "later", ttl=0.01)
            assert process.stdout.readline().endswith(" later\n")
            daemon.kill()
            daemon.start()
            client.put(b"1", "after", ttl=0.01)
            assert process.stdout.readline().endswith(" after\n")
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 130
            said = process.stderr.read().splitlines()
        finally:
            process.kill()
    assert said == ["storekeeper: some events of namespace default are not kept any more"]


def test_an_event_of_which_little_is_known_has_a_line_too() -> None:
    line = administration._line(Event("default", 1, 2.0, "k", "evicted", "asked", by=61_999))
    assert line.split()[1:] == ["evicted", "asked", "?", "?", "61999", "k"]


def test_an_event_is_a_small_value() -> None:
    event = Event("default", 1, 2.0, "k", "evicted", "expired")
    assert (event.size, event.owner, event.by) == (None, None, None)
