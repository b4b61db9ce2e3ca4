"""The benchmark measures what it says: verdicts, tables and plots of given figures, and its smallest runs."""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench import clients, contest, plots, stock
from bench.party import OBJECTS, party
from bench.peer import Candidate, Missing, Peer
from bench.peers import FILE_CONNECTOR, LMDB, OURS, PEERS, REDIS
from bench.plot import Panel, Plot
from bench.rounds import Row, cell, grid, per_item, table

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
EXTRA = ("matplotlib", "lmdb", "diskcache", "redis", "pymemcache", "vineyard")
FEW = {name: PEERS[name] for name in (OURS, FILE_CONNECTOR)}
DATA = os.urandom(1000)


@contextmanager
def absent(_folder: str) -> Iterator[Peer]:
    raise Missing("nobody made it")
    yield


def row(work: str, who: str, *figures: float) -> Row:
    return Row(work, who, "µs", list(figures))


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT / "tests"), "COLUMNS": "200"}
    return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=60)


# -- what is shown


def test_a_goal_is_met_missed_or_not_measured() -> None:
    rows = [
        *(row("exists 1 KiB", who, *figures) for who, figures in {OURS: (1, 2, 9), FILE_CONNECTOR: (10, 11)}.items()),
        *(row("put 1 KiB", who, figure) for who, figure in {OURS: 8, FILE_CONNECTOR: 10, REDIS: 10}.items()),
    ]
    shown = {line.split(" | ")[0].strip("| "): line for line in contest.standing("tmpfs", rows).splitlines()}
    assert "0.35 × FileConnector: met (0.19)" in shown["exists 1 KiB"]
    assert "0.7 × Redis: not measured" in shown["exists 1 KiB"]
    assert "1 × FileConnector: met (0.80); 0.7 × Redis: **missed** (0.80)" in shown["put 1 KiB"]
    assert "0.6 × FileConnector: **missed** (0.80)" in contest.standing("disk", rows)


def test_every_goal_is_of_a_work_that_is_done() -> None:
    works = {work.title for work in contest.WORK}
    for goal in contest.GOALS:
        assert {goal.title, goal.against or goal.title} <= works, goal
        assert goal.whom in PEERS, goal


def test_a_cell_has_a_unit_that_suits_it() -> None:
    assert cell(row("", "", 0.5, 1.25, 2.5)) == "1.25 µs (0.50–2.50)"
    assert cell(row("", "", 1500, 250_000)) == "126 ms (1.50–250)"
    assert cell(row("", "", 3_000_000)) == "3.00 s (3.00–3.00)"


def test_a_table_and_a_grid_have_a_line_for_all() -> None:
    rows = [row("get, 1", "a", 1), row("get, 2", "a", 2), row("get, 2", "b", 4)._replace(against="a")]
    assert table(rows).count("\n") == 2 + len(rows)
    assert "| get, 2 | b | 4.0 µs | 4.0–4.0 | 2.00 × a |" in table(rows)
    assert grid("each", ["1", "2"], {"get": ["get, 1", "get, 2"]}, rows).splitlines() == [
        "| each | who | 1 | 2 |",
        "|---|---|---|---|",
        "| get | a | 1.00 µs (1.00–1.00) | 2.00 µs (2.00–2.00) |",
        "| get | b |  | 4.00 µs (4.00–4.00) |",
    ]


def made_up() -> list[Plot]:
    """Plots as the parts make them, of every candidate and size."""
    sizes = (*contest.SIZES, *contest.LARGEST)
    by_size = [row(f"{verb} {size}", who, 7) for verb in ("put", "get") for size in sizes for who in PEERS]
    by_clients = [row(f"{verb}, 4 clients", who, 2) for verb in ("put", "get") for who in clients.CANDIDATES]
    by_objects = [row(f"{verb}, of 1,000 objects", who, 3) for verb in ("put", "get") for who in stock.CANDIDATES]
    return [contest.plot("tmpfs", by_size), clients.plot(by_clients), stock.plot(by_objects)]


def test_a_plot_has_the_medians_where_they_belong() -> None:
    size, crowd, objects = made_up()
    assert size.panels[0].lines[LMDB][0] == (100, 7)
    assert len(size.panels[0].lines[LMDB]) == len(contest.SIZES) + len(contest.LARGEST)
    assert [panel.title for panel in crowd.panels] == ["exists", "get", "put"]
    assert crowd.panels[1].lines[OURS] == [(4, 500_000)]
    assert objects.panels[2].lines[OURS] == [(1000, 3)]


def draw(folders: list[Path], drawn: list[Plot]) -> None:
    for folder in folders:
        plots.draw(folder, drawn)


def test_plots_are_svg_small_and_the_same_again(tmp_path: Path) -> None:
    if not importlib.util.find_spec("matplotlib"):
        pytest.skip("needs matplotlib, of the extra `bench`")
    folders, drawn = (
        [tmp_path / "first", tmp_path / "again"],
        [*made_up(), Plot("none", "", "", "", [Panel("", {}, {})])],
    )
    # In a process of its own: matplotlib keeps the files of its fonts open as long as it lives.
    process = multiprocessing.get_context("fork").Process(target=draw, args=(folders, drawn))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    process.close()
    first, again = (sorted(folder.iterdir()) for folder in folders)
    assert [file.name for file in first] == sorted(f"{plot.name}.svg" for plot in drawn)
    for file, same in zip(first, again, strict=True):
        data = file.read_bytes()
        assert b"<svg" in data[:400]
        assert len(data) < 60_000, file
        assert b"<dc:date>" not in data
        assert (OURS.encode() in data) == (file.stem != "none")
        assert same.read_bytes() == data


def test_the_readme_shows_every_plot() -> None:
    names = {plot.name for plot in made_up()} | {contest.plot(where, []).name for where in contest.places()}
    assert set(re.findall(r"\(tests/bench/figures/([\w-]+)\.svg\)", README)) == names


def test_without_matplotlib_it_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(SystemExit, match="matplotlib"):
        plots.canvas()


def test_what_is_measured_needs_nothing_of_the_extra_to_be_imported() -> None:
    absent = "; ".join(f"sys.modules[{name!r}] = None" for name in EXTRA)
    done = run("-c", f"import sys; {absent}; import bench.__main__")
    assert done.returncode == 0, done.stderr


def test_every_option_and_part_stands_in_the_readme(tmp_path: Path) -> None:
    for option in set(re.findall(r"--[a-z]+", run("-m", "bench", "--help").stdout)) - {"--help"}:
        assert f"`{option}" in README, option
    code = "import bench.__main__ as b, argparse; o = argparse.Namespace(rounds=1, objects=1, requests=1, full=False)"
    titles = run("-c", f"{code}; print(*(part.title for part in b._parts(o)), sep='\\n')").stdout.splitlines()
    words = re.findall(r"`([^`]+)`", README.split("a part of them: ")[1].split(".")[0])
    assert titles
    for title in titles:
        assert any(word in title for word in words), title
    for word in words:
        assert any(word in title for title in titles), word


def test_figures_go_where_they_are_told_to(tmp_path: Path) -> None:
    file = tmp_path / "file.md"
    begin, end = re.findall(r"<!-- .*figures.* -->", README)
    file.write_text(f"before\n{begin}\nold\n{end}\nafter\n")
    done = run("-m", "bench", "--only", "no such part", "--into", str(file), "--json", str(tmp_path / "figures.json"))
    assert done.returncode == 0, done.stderr
    written = file.read_text()
    assert written.startswith(f"before\n{begin}\nMeasured by `make bench BENCH='--only \"no such part\"'` on ")
    assert written.endswith(f"{end}\nafter\n")
    assert '"rows": []' in (tmp_path / "figures.json").read_text()


# -- what is measured


@pytest.mark.parametrize("name", [name for name in PEERS if name != "memcpy"])
def test_what_one_put_another_gets_once_it_is_served(name: str, tmp_path: Path) -> None:
    folder = str(tmp_path)
    try:
        with PEERS[name].serve(folder):
            with PEERS[name].join(folder) as peer:
                key = peer.put(DATA)
                assert peer.get(key) == DATA
            with PEERS[name].join(folder) as peer:
                assert peer.get(key) == DATA
                assert peer.exists and peer.evict
                assert peer.exists(key)
                if peer.put_batch and peer.get_batch:
                    assert len(peer.get_batch(peer.put_batch([DATA, b"other"]))) == 2
                if peer.view:
                    assert peer.view(key) == (DATA[0], DATA[-1])
                if peer.proxy:
                    assert peer.proxy(DATA) == DATA
                peer.evict(key)
                assert not peer.exists(key)
    except Missing as why:
        pytest.skip(str(why))


def test_the_contest_is_of_those_who_can_be_had(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    works = [contest.Work(verb, "1 KiB", 5) for verb in ("put", "get", "exists", "proxy", "evict")]
    rows = contest.contest(str(tmp_path), 2, candidates=FEW | {"absent": Candidate(absent)}, works=works)
    assert [(row.work, row.candidate) for row in rows] == [(work.title, name) for work in works for name in FEW]
    assert all(len(row.figures) == 2 and min(row.figures) > 0 for row in rows)
    assert capsys.readouterr().out == "absent is left out: nobody made it\n\n"
    assert not os.listdir(tmp_path)


def test_the_largest_objects_are_left_out_without_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(contest.LARGEST, "256 MiB", 1 << 16)
    monkeypatch.setitem(contest.LARGEST, "1 GiB", 1 << 60)
    rows = contest.contest(str(tmp_path), 1, True, FEW, [contest.Work("put", "1 KiB", 1)])
    assert [row.work for row in rows if row.candidate == OURS] == ["put 1 KiB", "put 256 MiB", "get 256 MiB"]
    assert capsys.readouterr().out.startswith("objects of 1 GiB are left out: they need ")


def test_clients_begin_together_and_everything_is_counted(tmp_path: Path) -> None:
    rows = clients.clients(str(tmp_path), 1, (2,), FEW, seconds=0.005)
    found = {(row.work, row.candidate): row.median for row in rows}
    for verb in ("exists", "get", "put", clients.MIXED):
        assert all(found[f"{verb}, 2 clients", name] > 0 for name in FEW)
        assert found[f"{verb}, 2 clients: server’s CPU", OURS] >= 0
        assert (f"{verb}, 2 clients: server’s CPU", FILE_CONNECTOR) not in found
    assert not os.listdir(tmp_path)


def test_all_members_of_a_party_work_at_once(tmp_path: Path) -> None:
    works = {"sleep": lambda peer, keys, times: time.sleep(0.1 * times * (len(keys) == OBJECTS))}
    with party(3, PEERS[FILE_CONNECTOR], str(tmp_path), works) as crowd:
        assert crowd.do("sleep", 1) >= 0.1
        crowd.start("sleep", 5)
        assert crowd.is_busy
        took = crowd.finish()
        assert len(took) == 3
        assert max(one.began_s for one in took) < min(one.ended_s for one in took)


def test_a_member_that_dies_is_noticed_at_once(tmp_path: Path) -> None:
    began_s = time.monotonic()
    with (
        pytest.raises(EOFError),
        party(2, PEERS[FILE_CONNECTOR], str(tmp_path), {"die": lambda *_: os._exit(3)}) as crowd,
    ):
        crowd.do("die", 1)
    with pytest.raises(EOFError), party(2, Candidate(absent), str(tmp_path), {}):
        pass
    assert time.monotonic() - began_s < 10


def test_writers_and_idle_clients_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "_CALLS_MIN", 10)
    beside = clients.beside_writers(str(tmp_path), 1, writers=2, puts=1)
    assert len(beside) == 4
    assert all(row.median > 0 for row in beside)
    assert len(clients.idle(str(tmp_path), 1, 0.05)) == 2
    assert not os.listdir(tmp_path)


def test_a_store_is_filled_step_by_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stock, "_SETTLES_S", 0.0)
    rows = stock.stock(str(tmp_path), 1, (20, 40), FEW)
    assert {row.work for row in rows} >= {
        "exists, of 20 objects",
        "put, of 40 objects",
        "exists, first time, of 20 objects",
    }
    assert len(rows) == 4 * 2 * len(FEW)


def test_a_figure_is_microseconds_for_each_item() -> None:
    assert 1000 <= per_item(lambda: time.sleep(0.01), 10) < 50_000
