"""rota.py: whose turn it is."""

from __future__ import annotations

from storekeeperd.answers import Peer
from storekeeperd.operations import Job, Look
from storekeeperd.rota import Rota


class Owner:
    """An answer, as far as a rota looks at it."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer


def job(peer: Peer | None, name: str) -> Job:
    return Job([Look(name.encode())], [None], None if peer is None else Owner(peer))


def names(rota: Rota) -> list[str]:
    taken = []
    while rota:
        (look,) = rota.take().operations
        assert isinstance(look, Look)
        taken.append(look.name.decode())
    return taken


def test_jobs_of_one_connection_keep_their_order() -> None:
    rota, peer = Rota(), Peer(1, 1, 1)
    for number in range(4):
        rota.add(job(peer, str(number)))
    assert names(rota) == ["0", "1", "2", "3"]


def test_users_have_their_turn_one_after_the_other_and_so_have_connections_of_one_user() -> None:
    rota = Rota()
    one, two, other = Peer(1, 1, 1), Peer(1, 1, 2), Peer(2, 2, 3)
    for name in ("a1", "a2", "a3"):
        rota.add(job(one, name))
    for name in ("b1", "b2"):
        rota.add(job(two, name))
    for name in ("c1", "c2"):
        rota.add(job(other, name))
    rota.add(job(None, "ours"))
    assert rota.contenders == 4
    assert names(rota) == ["a1", "c1", "ours", "a2", "c2", "b1", "a3", "b2"]
    assert not rota
    assert rota.contenders == 0


def test_a_job_that_was_begun_stays_before_those_of_its_connection_but_others_come_first() -> None:
    rota, one, other = Rota(), Peer(1, 1, 1), Peer(2, 2, 2)
    for name in ("a1", "a2"):
        rota.add(job(one, name))
    rota.add(job(other, "b"))
    rota.put_back(rota.take())
    assert names(rota) == ["b", "a1", "a2"]


def test_who_had_nothing_waiting_comes_before_those_who_had_every_second_time() -> None:
    rota = Rota()
    flooders = [Peer(1, 1, number) for number in range(3)]
    for number, flooder in enumerate(flooders):
        for turn in range(10):
            rota.add(job(flooder, f"f{number}{turn}"))
    for _ in range(12):
        rota.take()
    for number in range(3):
        rota.add(job(Peer(1, 1, 100 + number), f"new{number}"))
    order = names(rota)
    assert order.index("new0") <= 1
    assert [name for name in order[:6] if name.startswith("new")] == ["new0", "new1", "new2"]
    assert sum(name.startswith("f") for name in order[:6]) == 3
