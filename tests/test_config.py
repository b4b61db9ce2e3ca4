"""config.py: settings, limits and what is said of wrong ones."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from storekeeper import wire
from storekeeperd import config
from storekeeperd.config import Config, ConfigError, Limits
from storekeeperd.namespaces import Namespace, Quota


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "config.toml"


def test_a_config_needs_only_a_store_and_an_address() -> None:
    made = Config(Path("/s"), "ipc:///a")
    assert made.namespaces == ()
    assert made.socket_mode == 0o600
    assert made.idle_exit_s == 0
    assert made.watch == "auto"
    assert made.ready_markers is False
    assert made.limits == Limits()


def test_the_defaults_are_those_of_the_wire_and_obey_their_own_rules() -> None:
    defaults = Limits()
    assert defaults.message_bytes_max == wire.MESSAGE_BYTES_MAX
    assert defaults.batch_items_max == wire.BATCH_ITEMS_MAX
    assert config.limits(dataclasses.asdict(defaults)) == defaults


def test_the_readme_tells_every_limit_with_its_default() -> None:
    readme = (Path(__file__).parent.parent / "README.md").read_text()
    for name, value in dataclasses.asdict(Limits()).items():
        assert f"| `{name}` | {value} |" in readme


def test_a_whole_file(file: Path) -> None:
    file.write_text(
        """
        store = "/srv/objects"
        address = "ipc:///run/x"
        namespaces = ["team-a", "é"]
        socket_mode = "0660"
        idle_exit_s = 1.5
        watch = "scan"
        ready_markers = true
        [limits]
        connections_max = 7
        slow_disk_ms = 2
        rescan_delay_s = 1
        audit_interval_s = 3600
        scan_interval_s = 0.5
        """
    )
    assert config.load(file) == {
        "store": "/srv/objects",
        "address": "ipc:///run/x",
        "namespaces": ("team-a", "é"),
        "socket_mode": 0o660,
        "idle_exit_s": 1.5,
        "watch": "scan",
        "ready_markers": True,
        "limits": Limits(
            connections_max=7, slow_disk_ms=2, rescan_delay_s=1, audit_interval_s=3600, scan_interval_s=0.5
        ),
    }


def test_an_empty_file_says_nothing(file: Path) -> None:
    file.write_text("")
    assert config.load(file) == {}


@pytest.mark.parametrize("watch", config.WATCHES)
def test_changes_are_noticed_in_one_of_three_ways(file: Path, watch: str) -> None:
    file.write_text(f"watch = '{watch}'")
    assert config.load(file) == {"watch": watch}


def test_a_scan_by_the_clock_is_rare_where_the_watch_hears_of_everything() -> None:
    defaults = Limits()
    assert (defaults.rescan_delay_s, defaults.audit_interval_s, defaults.scan_interval_s) == (0.1, 600.0, 2.0)


def test_a_whole_number_is_a_time_too(file: Path) -> None:
    file.write_text("idle_exit_s = 30")
    assert config.load(file) == {"idle_exit_s": 30}


def test_a_file_that_is_not_there_is_named(file: Path) -> None:
    with pytest.raises(ConfigError, match=r"config\.toml.*No such file"):
        config.load(file)


NO_TOML: list[bytes] = [b"store =", b"[limits", b"\xff\xfe", b"store = 1\nstore = 2"]


def test_a_file_that_is_not_toml_is_named(file: Path) -> None:
    for content in NO_TOML:
        file.write_bytes(content)
        with pytest.raises(ConfigError, match=r"config\.toml"):
            config.load(file)


WRONG_SETTINGS: list[tuple[str, str]] = [
    ("stoer = '/x'", "unknown setting stoer; did you mean store?"),
    ("zzzzzz = 1", "unknown setting zzzzzz$"),
    (
        "[limits]\nconnection_max = 1",
        r"unknown setting limits\.connection_max; did you mean limits\.connections_max",
    ),
    ("[limits]\nzzzzzz = 1", r"unknown setting limits\.zzzzzz$"),
    ("[other]\nx = 1", "unknown setting other"),
    ("store = 1", "store must be of type str"),
    ("address = ['ipc:///a']", "address must be of type str"),
    ("namespaces = 'a'", "namespaces must be of type list"),
    ("socket_mode = 0o660", "socket_mode must be of type str"),
    ("idle_exit_s = '1'", "idle_exit_s must be of type float"),
    ("idle_exit_s = true", "idle_exit_s must be of type float"),
    ("limits = 1", "limits must be of type dict"),
    ("watch = 'poll'", "watch must be one of auto, inotify, scan"),
    ("watch = ''", "watch must be one of auto, inotify, scan"),
    ("watch = true", "watch must be of type str"),
    ("ready_markers = 'yes'", "ready_markers must be of type bool"),
    ("ready_markers = 1", "ready_markers must be of type bool"),
    ("ready_marker = true", "unknown setting ready_marker; did you mean ready_markers?"),
    ("[limits]\naudit_interval_s = 0", r"limits\.audit_interval_s must be greater than 0"),
    ("[limits]\nscan_interval_s = -1.0", r"limits\.scan_interval_s must be greater than 0"),
    ("[limits]\nrescan_delay_s = '1'", r"limits\.rescan_delay_s must be of type float"),
    ("[limits]\npool_threads = 1.5", r"limits\.pool_threads must be of type int"),
    ("[limits]\npool_threads = true", r"limits\.pool_threads must be of type int"),
    ("[limits]\npool_threads = '4'", r"limits\.pool_threads must be of type int"),
    ("[limits]\nslow_disk_ms = '4'", r"limits\.slow_disk_ms must be of type float"),
    ("[limits]\npool_threads = 0", r"limits\.pool_threads must be greater than 0"),
    ("[limits]\npool_threads = -1", r"limits\.pool_threads must be greater than 0"),
    ("[limits]\nstop_timeout_s = nan", r"limits\.stop_timeout_s must be greater than 0"),
    ("socket_mode = 'rw'", "octal number"),
    ("socket_mode = '0999'", "octal number"),
    ("socket_mode = ''", "octal number"),
    ("socket_mode = '1000'", "between 0000 and 0777"),
    ("socket_mode = '-1'", "between 0000 and 0777"),
    ("namespaces = ['default']", "namespace 'default'"),
    ("namespaces = ['ok', '.storekeeper']", r"namespace '\.storekeeper'"),
    ("namespaces = ['a/b']", "namespace 'a/b'"),
    ("namespaces = ['']", "namespace ''"),
]


def test_a_wrong_setting_is_told_the_rule(file: Path) -> None:
    for content, rule in WRONG_SETTINGS:
        file.write_text(content)
        with pytest.raises(ConfigError, match=rule):
            config.load(file)


WRONG_SIZES: list[dict[str, int]] = [
    {"message_bytes_max": wire.RANGE_BYTES - 1},
    {"peer_bytes_max": wire.MESSAGE_BYTES_MAX - 1},
    {"message_bytes_max": Limits().peer_bytes_max + 1},
]


def test_a_message_holds_a_range_and_a_peer_holds_a_message() -> None:
    for settings in WRONG_SIZES:
        with pytest.raises(ConfigError, match=r"message_bytes_max ≤ peer_bytes_max"):
            config.limits(settings)


def test_the_least_message_is_one_range() -> None:
    made = config.limits({"message_bytes_max": wire.RANGE_BYTES, "peer_bytes_max": wire.RANGE_BYTES})
    assert made.message_bytes_max == made.peer_bytes_max == wire.RANGE_BYTES


MODES: list[tuple[str, int]] = [("0600", 0o600), ("660", 0o660), ("0", 0), ("0777", 0o777)]


def test_a_mode_is_an_octal_number() -> None:
    for text, mode in MODES:
        assert config.parse_mode(text) == mode


def test_limits_fit_the_descriptors_of_the_process() -> None:
    limits = config.Limits()
    assert config.fit_descriptors(limits, 20_000) == limits
    small = config.fit_descriptors(limits, 64)
    assert small.connections_max + small.handles_max <= 64
    assert small.connections_max >= 1


def test_numbers_that_are_none_are_refused(tmp_path: Path) -> None:
    for text in (
        "idle_exit_s = -5.0",
        "idle_exit_s = nan",
        "[limits]\nstop_timeout_s = inf",
        "[limits]\npool_threads = 1000",
        "namespaces = [1]",
    ):
        (tmp_path / "c.toml").write_text(text)
        with pytest.raises(ConfigError):
            config.load(tmp_path / "c.toml")


def test_a_namespace_is_named_like_a_key() -> None:
    assert config.check_namespaces(["team-a", "b", "team-a"]) == ("team-a", "b")
    with pytest.raises(ConfigError, match="named like a key"):
        config.check_namespaces(["x" * 256])
    with pytest.raises(ConfigError, match="named like a key"):
        config.check_namespaces(["not UTF-8 \udcff"])


# -- quotas and namespaces


def test_the_readme_shows_every_setting_of_quotas_and_namespaces(file: Path) -> None:
    readme = (Path(__file__).parent.parent / "README.md").read_text()
    (shown,) = [part for part in readme.split("```toml\n")[1:] if "[quota]" in part]
    shown = shown.split("```")[0]
    file.write_text(shown)
    settings = config.load(file)
    assert settings["namespaces"] == ("team-a", "scratch")
    assert settings["creators"] == ("@staff",)
    assert set(settings) == {each.name for each in dataclasses.fields(Config)}
    for kind, start in ((config.StoreQuota, "[quota]"), (Namespace, "[namespace.scratch]")):
        table = shown.split(start)[1].split("\n[")[0]
        told = {line.split("=")[0].strip() for line in table.splitlines() if "=" in line}
        assert told | {"users"} == {each.name for each in dataclasses.fields(kind)} | {"users"}


def test_quotas_of_the_store_its_users_and_some_of_them(file: Path) -> None:
    file.write_text(
        """
        [quota]
        bytes_max = 1
        objects_max = 2
        user_bytes_max = 3
        user_objects_max = 4
        object_bytes_max = 5
        keep_free_bytes = 6
        keep_free_inodes = 7
        [quota.users.alice]
        bytes_max = 8
        [quota.users.1000]
        objects_max = 9
        """
    )
    users = {"alice": Quota(8, 0), "1000": Quota(0, 9)}
    assert config.load(file) == {"quota": config.StoreQuota(1, 2, 3, 4, 5, 6, 7, users)}
    assert Config(Path("/s"), "ipc:///a").quota == config.StoreQuota()


def test_namespaces_with_settings_are_served(file: Path) -> None:
    file.write_text(
        """
        namespaces = ["plain", "lab"]
        creators = ["*"]
        [namespace.lab]
        read = ["*"]
        write = ["@lab"]
        owner_only = false
        [namespace.default]
        ttl_s = 5
        [namespace."é"]
        """
    )
    settings = config.load(file)
    assert settings["namespaces"] == ("plain", "lab", "é")
    assert settings["creators"] == ("*",)
    assert settings["spaces"] == {
        "lab": Namespace(write=("@lab",), owner_only=False),
        "default": Namespace(ttl_s=5),
        "é": Namespace(),
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("creators = 'x'", "creators must be of type list"),
        ("creators = [1]", "creators must be a list of users"),
        ("quota = 1", "quota must be of type dict"),
        ("[quota]\nbytes_mx = 1", r"unknown setting quota\.bytes_mx; did you mean quota\.bytes_max\?"),
        ("[quota]\nzzzzzz = 1", r"unknown setting quota\.zzzzzz$"),
        ("[quota]\nbytes_max = 1.5", r"quota\.bytes_max must be of type int"),
        ("[quota]\nbytes_max = true", r"quota\.bytes_max must be of type int"),
        ("[quota]\nusers = 1", r"quota\.users must be of type dict"),
        ("[quota]\nbytes_max = -1", "bytes_max must lie between 0 and"),
        ("[quota]\nkeep_free_inodes = 1152921504606846977", "keep_free_inodes must lie between 0 and"),
        ("[quota.users]\nalice = 1", r"quota\.users\.alice must be a table"),
        ("[quota.users.alice]\nbytes = 1", r"unknown setting quota\.users\.alice\.bytes; did you mean .*bytes_max\?"),
        ("[quota.users.alice]\nbytes_max = 'x'", r"quota\.users\.alice\.bytes_max must be of type int"),
        ("[quota.users.alice]\nobjects_max = -1", r"quota\.users\.alice\.objects_max must lie between 0 and"),
        ("namespace = 1", "namespace must be of type dict"),
        ("[namespace]\nlab = 1", r"namespace\.lab must be a table"),
        ("[namespace.lab]\nraed = []", r"unknown setting namespace\.lab\.raed; did you mean namespace\.lab\.read\?"),
        ("[namespace.lab]\nread = 1", r"namespace\.lab\.read must be a list"),
        ("[namespace.lab]\neviction = 'lru'", r"namespace\.lab\.eviction = 'lru' needs namespace\.lab\.bytes_max"),
        ("[namespace.lab]\nttl_s = -1", r"namespace\.lab\.ttl_s must lie between"),
        ("[namespace.lab]\ndurability = 'ram'", r"namespace\.lab\.durability must be one of os, disk"),
        ("[namespace.'a/b']", "namespace 'a/b': a namespace is named like a key"),
        ("[namespace.'.hidden']", "namespace '.hidden': a namespace is named like a key"),
        ("[limits]\nlease_s = 0", r"limits\.lease_s must be greater than 0"),
        ("[limits]\nprocesses_max = 1.5", r"limits\.processes_max must be of type int"),
        ("[limits]\nnamespaces_max = -1", r"limits\.namespaces_max must be greater than 0"),
    ],
)
def test_what_is_wrong_with_a_quota_or_a_namespace_is_named_by_its_key(file: Path, content: str, message: str) -> None:
    file.write_text(content)
    with pytest.raises(ConfigError, match=message):
        config.load(file)
