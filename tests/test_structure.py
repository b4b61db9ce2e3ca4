"""The house rules: who imports whom, what stands in the README, what the modules say of themselves."""

from __future__ import annotations

import ast
import dataclasses
import re
import sys
import tomllib
from pathlib import Path

import click
import pytest

import storekeeper
import storekeeper.cli
import storekeeperd
import storekeeperd.cli
from storekeeper import errors, framing, wire
from storekeeperd import config, home

ROOT = Path(__file__).parent.parent
CLIENT = ROOT / "client" / "storekeeper"
DAEMON = ROOT / "daemon" / "storekeeperd"
MODULES = sorted([*CLIENT.glob("*.py"), *DAEMON.glob("*.py")])
README = (ROOT / "README.md").read_text("utf-8")

PURE = {
    "storekeeper.errors",
    "storekeeper.wire",
    "storekeeper.framing",
    "storekeeper.zmtp",
    "storekeeperd.operations",
    "storekeeperd.sight",
    "storekeeperd.index",
    "storekeeperd.coherence",
    "storekeeperd.growth",
    "storekeeperd.looks",
    "storekeeperd.doubts",
    "storekeeperd.deletes",
    "storekeeperd.echoes",
    "storekeeperd.sweep",
    "storekeeperd.rounds",
    "storekeeperd.barriers",
    "storekeeperd.accounts",
    "storekeeperd.turns",
    "storekeeperd.answers",
    "storekeeperd.transfers",
    "storekeeperd.handles",
    "storekeeperd.listings",
    "storekeeperd.orders",
    "storekeeperd.service",
    "storekeeperd.shelves",
    "storekeeperd.stock",
    "storekeeperd.objects",
    "storekeeperd.changes",
    "storekeeperd.foundations",
    "storekeeperd.outside",
    "storekeeperd.namespaces",
    "storekeeperd.access",
    "storekeeperd.ledger",
    "storekeeperd.lifetimes",
    "storekeeperd.uses",
    "storekeeperd.evictions",
    "storekeeperd.chronicle",
    "storekeeperd.selection",
    "storekeeperd.groups",
    "storekeeperd.rota",
    "storekeeperd.users",
    "storekeeperd.metadata",
    "storekeeperd.complaints",
    "storekeeperd.faults",
    "storekeeperd.config",
}
PURE_LIBRARY = {
    "__future__", "bisect", "collections", "collections.abc", "dataclasses", "difflib", "itertools", "json",
    "heapq", "logging", "math", "pathlib", "struct", "tomllib", "typing", "uuid",
}  # fmt: skip


def name_of(path: Path) -> str:
    return f"{path.parent.name}.{path.stem}"


def imports_of(path: Path) -> set[str]:
    """Every module that a file imports, wherever in it; of our own packages module by module."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module
            if node.module in ("storekeeper", "storekeeperd"):
                found |= {f"{node.module}.{alias.name}" for alias in node.names}
            else:
                found.add(node.module)
    return found


def calls_of(path: Path) -> set[str]:
    """Every `name.attribute` that a file mentions."""
    tree = ast.parse(path.read_text("utf-8"))
    return {
        f"{node.value.id}.{node.attr}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    }


def test_the_client_never_imports_the_daemon() -> None:
    for path in CLIENT.glob("*.py"):
        assert not [name for name in imports_of(path) if name.startswith("storekeeperd")], path


def test_pure_modules_import_only_the_pure_library_and_each_other() -> None:
    for path in MODULES:
        if name_of(path) in PURE:
            foreign = imports_of(path) - PURE - PURE_LIBRARY
            assert not foreign, f"{path}: {foreign}"
    assert {name_of(path) for path in MODULES} >= PURE


def test_the_client_needs_nothing_but_pyzmq() -> None:
    for path in CLIENT.glob("*.py"):
        allowed = {"zmq", "storekeeper"} | (
            {"click"} if path.stem in ("cli", "administration", "terminal", "amounts", "__main__") else set()
        )
        outside = {name.split(".")[0] for name in imports_of(path)} - sys.stdlib_module_names - {"__future__"}
        assert outside <= allowed, f"{path}: {outside}"


def test_only_one_module_of_the_daemon_knows_watchdog_and_none_knows_zmq() -> None:
    for path in DAEMON.glob("*.py"):
        packages = {name.split(".")[0] for name in imports_of(path)}
        assert "zmq" not in packages, path
        assert "watchdog" not in packages or path.stem in ("watcher", "__main__"), path


FILE_CALLS = {
    f"os.{call}"
    for call in (
        "open", "link", "unlink", "rename", "replace", "lstat", "stat", "scandir", "listdir", "mkdir", "rmdir",
        "pwrite", "pread", "preadv", "write", "fsync", "fdatasync", "fchmod", "chmod", "setxattr", "getxattr",
        "truncate", "ftruncate", "fstat",
    )
}  # fmt: skip


def test_only_these_modules_touch_the_files_of_a_store() -> None:
    allowed = {
        "disk",
        "reader",
        "publisher",
        "commits",
        "syncs",
        "checksums",
        "proofs",
        "home",
        "folders",
        "lock",
        "papers",
        "features",
        "ground",
        "doctor",
        "scrub",
        "sights",
    }
    # These touch none of the store's: the socket file, what /proc tells, /dev/null in reserve, memory.
    allowed |= {"endpoint", "filesystem", "listener", "segment"}
    for path in DAEMON.glob("*.py"):
        if path.stem not in allowed:
            assert not calls_of(path) & FILE_CALLS, path


def test_only_the_listener_and_the_loop_own_sockets() -> None:
    allowed = {
        "listener",
        "connection",
        "loop",
        "endpoint",
        "sdnotify",
    }  # endpoint binds it, sdnotify sends one datagram
    for path in DAEMON.glob("*.py"):
        assert "socket" not in imports_of(path) or path.stem in allowed, path
        assert "select" not in imports_of(path) or path.stem in ("connection", "loop"), path


def test_nobody_imports_the_command_line_but_main() -> None:
    for path in MODULES:
        if path.stem != "__main__":
            assert not {"storekeeper.cli", "storekeeperd.cli"} & imports_of(path), path


def test_no_init_file_shadows_another_package() -> None:
    assert not (ROOT / "client" / "__init__.py").exists()
    assert not (ROOT / "daemon" / "__init__.py").exists()


def test_no_module_has_a_name_that_says_nothing() -> None:
    assert not {path.stem for path in MODULES} & {"utils", "util", "common", "helpers", "manager", "base", "misc"}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_says_what_it_owns(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_text("utf-8")))
    assert docstring
    if path.stem not in ("__init__", "__main__", "errors"):
        assert re.search(r"\b(Own|Owns|Pure|Carries out|composition root)\b", docstring), path


def test_the_top_level_is_as_agreed() -> None:
    import subprocess

    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    top = {name.split("/")[0] for name in listed.stdout.split()}
    agreed = {
        "pyproject.toml",
        "daemon",
        "client",
        "tests",
        "systemd",
        "README.md",
        "Makefile",
        "LICENSE",
        "CHANGELOG.md",
    }
    assert {name for name in top if not name.startswith(".")} == agreed


def test_versions_agree() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["version"] == storekeeper.__version__ == storekeeperd.__version__
    assert project["dependencies"][0].startswith("pyzmq")
    assert len(project["dependencies"]) == 1
    assert project["version"] in (ROOT / "CHANGELOG.md").read_text("utf-8")


# -- the README


def test_every_verb_its_arguments_and_options_stand_in_the_readme() -> None:
    for verb, options in wire.OPTIONS.items():
        rows = [line for line in README.splitlines() if line.startswith(f"| `{verb.decode()}` | ")]
        assert len(rows) == 1, verb
        cells = [cell.strip() for cell in rows[0].split("|")]
        assert cells[2] == wire.ARGUMENTS[verb], verb
        assert set(re.findall(r"`(\w+)`", cells[3])) == set(options), verb


def test_every_error_stands_in_the_readme_with_its_retry() -> None:
    for code, cls in errors.BY_CODE.items():
        if cls is errors.StorekeeperError:
            continue
        row = f"| `{code}` | `{cls.__name__}` | {'yes' if cls.retry else 'no'} | "
        assert README.count(row) == 1, row


def test_every_limit_stands_in_the_readme_with_its_default() -> None:
    for field in dataclasses.fields(config.Limits):
        assert f"| `{field.name}` | {field.default} | " in README, field.name
    for number in (wire.KEY_BYTES_MAX, wire.ID_BYTES_MAX, wire.OPTIONS_BYTES_MAX):
        assert str(number) in README


def test_every_setting_of_the_file_stands_in_the_readme() -> None:
    example = README.split("```toml")[1].split("```")[0]
    settings = tomllib.loads(example)
    assert set(settings) == set(config._FILE_KEYS)


@pytest.mark.parametrize("group", [storekeeper.cli.cli, storekeeperd.cli.cli], ids=["storekeeper", "storekeeperd"])
def test_every_command_and_option_has_help_and_stands_in_the_readme(group: click.Group) -> None:
    for name, command in {"": group, **group.commands}.items():
        assert command.help, name
        assert f"`{group.name and 'storekeeper'}" in README
        if name:
            assert re.search(rf"`storekeeperd? {name}\b", README), name
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.help, f"{name} {parameter.name}"
                long = next(option for option in parameter.opts if option.startswith("--"))
                assert f"`{long}" in README, f"{name} {long}"


def test_every_module_stands_in_the_source_tour() -> None:
    tour = README.split("## Source tour")[1]
    for path in MODULES:
        if path.stem != "__init__":
            assert f"`{path.name}`" in tour, path


def test_every_file_in_a_store_stands_in_the_readme() -> None:
    table = README.split("## Files in a store")[1].split("## Source tour")[0]
    assert home.FOLDER in table
    for name in ("lock", "store", "address", "tmp/", "socket", "starting", "log"):
        assert name in table


def test_the_bytes_in_the_readme_are_those_of_the_wire() -> None:
    arrows = [line for line in README.splitlines() if line.startswith(("→", "←"))]
    shown = [bytes.fromhex("".join(re.findall(r"\b[0-9a-f]{2}\b", line.split("   ")[0]))) for line in arrows]
    request = wire.encode_request(b"exists", b"7", {}, [b"k"])
    reply = wire.encode_reply(False, b"7", b"yes")
    assert shown == [b"".join(framing.encode_message(request)), b"".join(framing.encode_message(reply))]


def test_public_classes_and_functions_have_docstrings_that_say_something() -> None:
    for path in MODULES:
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
                docstring = ast.get_docstring(node)
                assert docstring, f"{path}: {node.name}"
                assert len(docstring) > 20, f"{path}: {node.name}"
