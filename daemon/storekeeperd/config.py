"""Every setting and limit of the daemon, with its default.

Pure but for `load`, which reads one TOML file. Units stand in the names.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

from storekeeper import wire
from storekeeperd import namespaces
from storekeeperd.namespaces import BadSetting, Namespace, Quota


class ConfigError(ValueError):
    """The configuration breaks a rule; the message names the key and the rule."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds that keep one peer from harming the others.

    Attributes:
        message_bytes_max: payload bytes in one message, either way; larger objects travel in ranges.
        batch_items_max: items in one request.
        connections_max: connections at once.
        user_connections_max: connections of one user at once.
        handshake_timeout_s: how long a connection may take to greet.
        message_timeout_s: how long a message may take to arrive once it has begun.
        stall_timeout_s: how long answers may wait for a peer that does not read.
        peer_bytes_max: payload bytes a connection may owe or be owed before it is not read from any more.
        user_bytes_max: what all connections of a user may hold and be owed before only one of them is read from.
        peer_requests_max: requests of a connection under way before it is not read from any more.
        peer_handles_max: uploads, downloads and listings of a connection; at most one listing.
        user_handles_max: uploads, downloads and listings of one user.
        user_listings_max: listings of one user; each may hold the names of the whole store.
        handles_max: uploads, downloads and listings of all connections.
        handle_idle_s: how long an upload, download or listing may be left alone before it ends.
        list_names: names in one reply to `list`.
        inline_bytes_max: bytes of an object that the loop itself reads or writes; longer ones go to the pool.
        inline_slice_ms: how long the loop works on a batch before others have their turn.
        slow_disk_ms: a disk call on the loop that takes longer sends all of them to the pool for a while.
        descriptor_bytes_min: objects above this a client that takes descriptors fetches by one, not in a message.
        spin_us_max: how long the loop looks for the next request before it waits, while they lately came so soon.
        commit_delay_ms_max: how long a durable put may be held back so that others share its wait for the platter.
        commit_group_max: durable puts that share one; each is an open file meanwhile.
        pool_threads: threads that wait for the disk; a third each for reads, for the platter, for looks at names. One
            more commits groups of durable puts.
        lease_s: how long an object is not evicted to make room after it was read, or said to be there.
        shelves_bytes_max: memory of the shelves of all namespaces together.
        processes_max: processes at once whose end is waited for, because objects are tied to them.
        namespaces_max: namespaces of the store.
        events_max: events that are kept, in equal parts for all namespaces.
        stop_timeout_s: how long stopping waits for what is under way.
        rescan_delay_s: the least time from the end of one scan to the start of the next.
        audit_interval_s: how often the store is scanned though the watch hears of everything.
        scan_interval_s: how often it is scanned where changes can go unheard.
    """

    message_bytes_max: int = wire.MESSAGE_BYTES_MAX
    batch_items_max: int = wire.BATCH_ITEMS_MAX
    connections_max: int = 4096
    user_connections_max: int = 3072
    handshake_timeout_s: float = 5.0
    message_timeout_s: float = 30.0
    stall_timeout_s: float = 60.0
    peer_bytes_max: int = 16 * 1024 * 1024
    user_bytes_max: int = 256 * 1024 * 1024
    peer_requests_max: int = 256
    peer_handles_max: int = 16
    user_handles_max: int = 1024
    user_listings_max: int = 16
    handles_max: int = 4096
    handle_idle_s: float = 600.0
    list_names: int = 10_000
    inline_bytes_max: int = 256 * 1024
    inline_slice_ms: float = 2.0
    slow_disk_ms: float = 5.0
    descriptor_bytes_min: int = 1024 * 1024
    spin_us_max: float = 50.0
    commit_delay_ms_max: float = 2.0
    commit_group_max: int = 32
    pool_threads: int = 6
    lease_s: float = 2.0
    shelves_bytes_max: int = 256 * 1024 * 1024
    processes_max: int = 1024
    namespaces_max: int = 256
    events_max: int = 10_000
    stop_timeout_s: float = 5.0
    rescan_delay_s: float = 0.1
    audit_interval_s: float = 600.0
    scan_interval_s: float = 2.0


@dataclass(frozen=True, slots=True)
class StoreQuota:
    """How much the store may hold; 0: no bound. See ledger.Bounds.

    Attributes:
        bytes_max, objects_max: of all objects: bytes in whole blocks, with what is being written, and what is removed
            but still being read.
        user_bytes_max, user_objects_max: the same of each user's objects.
        object_bytes_max: bytes of one object.
        keep_free_bytes, keep_free_inodes: what the file system must have free after a put.
        users: bounds of some users instead of user_bytes_max and user_objects_max, by name or number.
    """

    bytes_max: int = 0
    objects_max: int = 0
    user_bytes_max: int = 0
    user_objects_max: int = 0
    object_bytes_max: int = 0
    keep_free_bytes: int = 0
    keep_free_inodes: int = 0
    users: Mapping[str, Quota] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Config:
    """What one daemon is told.

    Attributes:
        store: the directory it owns.
        address: where it listens, `ipc:///path`.
        namespaces: sub-folders of the store served beside the default namespace.
        socket_mode: permission bits of the socket file.
        idle_exit_s: exit after so long without a connection; 0 for never.
        watch: how changes are noticed: "auto" by the file system; "inotify": the watch hears of everything; "scan":
            no watch, only scans by the clock.
        ready_markers: keep the marker files of ProxyStore's FileConnector, so that unmodified ones read on.
        creators: users and groups that may make namespaces, beside root and whom the daemon runs as.
        quota: how much the store may hold.
        spaces: what some namespaces are told, by name; see namespaces.Namespace.
        limits: see `Limits`.
    """

    store: Path
    address: str
    namespaces: tuple[str, ...] = ()
    socket_mode: int = 0o600
    idle_exit_s: float = 0.0
    watch: str = "auto"
    ready_markers: bool = False
    creators: tuple[str, ...] = ()
    quota: StoreQuota = field(default_factory=StoreQuota)
    spaces: Mapping[str, Namespace] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)


WATCHES = ("auto", "inotify", "scan")

_LIMIT_MAX = 1 << 40
_AMOUNT_MAX = 1 << 60
_THREADS_MAX = 256
_DESCRIPTORS_KEPT = 44
"""Files that are nobody's connection nor handle: those at work, the loop's, the watcher's."""

_FILE_KEYS: dict[str, type] = {
    "store": str,
    "address": str,
    "namespaces": list,
    "socket_mode": str,
    "idle_exit_s": float,
    "watch": str,
    "ready_markers": bool,
    "creators": list,
    "quota": dict,
    "namespace": dict,
    "limits": dict,
}


def fit_descriptors(limits: Limits, descriptors_max: int) -> Limits:
    """Returns limits that a process which may open so many files can keep: connections and handles are files."""
    free = max(3, descriptors_max - _DESCRIPTORS_KEPT)
    if limits.connections_max + limits.handles_max + limits.commit_group_max + limits.processes_max <= free:
        return limits
    group = min(limits.commit_group_max, max(1, free // 8))
    processes = min(limits.processes_max, max(1, free // 8))
    half = max(1, (free - group - processes) // 2)
    return dataclasses.replace(
        limits,
        connections_max=min(limits.connections_max, half),
        user_connections_max=min(limits.user_connections_max, max(1, half * 3 // 4)),
        user_handles_max=min(limits.user_handles_max, max(1, half * 3 // 4)),
        handles_max=min(limits.handles_max, half),
        commit_group_max=group,
        processes_max=processes,
    )


def parse_mode(text: str) -> int:
    """Returns the permission bits that an octal string such as "0660" says; raises `ConfigError`."""
    try:
        mode = int(text, 8)
    except ValueError:
        raise ConfigError(f'socket_mode must be an octal number such as "0660", not {text!r}') from None
    if not 0 <= mode <= 0o777:
        raise ConfigError("socket_mode must lie between 0000 and 0777")
    return mode


def check_namespaces(names: Sequence[Any]) -> tuple[str, ...]:
    """Returns names of namespaces, each once; raises `ConfigError` if one is no key, or is "default"."""
    for name in names:
        if not isinstance(name, str) or name == "default" or not wire.is_key(name.encode("utf-8", "surrogateescape")):
            raise ConfigError(f'namespace {name!r}: a namespace is named like a key, and not "default"')
    return tuple(dict.fromkeys(names))


def load(path: Path) -> dict[str, Any]:
    """Returns the settings of a TOML file, checked, as keywords for `Config`, limits as `Limits`.

    Raises:
        ConfigError: the file cannot be read or a setting is unknown or of the wrong type.
    """
    import tomllib  # here, and not above: most daemons are given no file, and a start is short

    try:
        settings = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: {error}") from None
    _check(settings, _FILE_KEYS, "")
    if "limits" in settings:
        settings["limits"] = limits(settings["limits"])
    if "socket_mode" in settings:
        settings["socket_mode"] = parse_mode(settings["socket_mode"])
    if "namespaces" in settings:
        settings["namespaces"] = check_namespaces(settings["namespaces"])
    if "creators" in settings:
        if not all(isinstance(who, str) for who in settings["creators"]):
            raise ConfigError('creators must be a list of users, "@group"s or "*"')
        settings["creators"] = tuple(settings["creators"])
    if "quota" in settings:
        settings["quota"] = store_quota(settings["quota"])
    if "namespace" in settings:
        settings["spaces"] = _spaces(settings.pop("namespace"))
        named = [name for name in settings["spaces"] if name != namespaces.DEFAULT]
        settings["namespaces"] = check_namespaces([*settings.get("namespaces", ()), *named])
    if settings.get("watch", "auto") not in WATCHES:
        raise ConfigError(f"watch must be one of {', '.join(WATCHES)}")
    if not 0 <= settings.get("idle_exit_s", 0) <= _LIMIT_MAX:
        raise ConfigError(f"idle_exit_s must lie between 0 and {_LIMIT_MAX}")
    return settings


_MAY_BE_NONE = ("spin_us_max",)


def limits(settings: dict[str, Any]) -> Limits:
    """Returns limits with some of them set; raises `ConfigError` for an unknown name, type or size."""
    hints = get_type_hints(Limits)
    _check(settings, hints, "limits.")
    for name, value in settings.items():
        if not 0 < value <= _LIMIT_MAX and not (name in _MAY_BE_NONE and value == 0):
            raise ConfigError(f"limits.{name} must be greater than 0 and at most {_LIMIT_MAX}")
    if settings.get("pool_threads", 1) > _THREADS_MAX:
        raise ConfigError(f"limits.pool_threads must be at most {_THREADS_MAX}")
    made = dataclasses.replace(Limits(), **settings)
    sizes = [wire.RANGE_BYTES, made.message_bytes_max, made.peer_bytes_max, made.user_bytes_max]
    if sizes != sorted(sizes):
        raise ConfigError(f"limits: {sizes[0]} ≤ message_bytes_max ≤ peer_bytes_max ≤ user_bytes_max must hold")
    return made


def store_quota(settings: dict[str, Any]) -> StoreQuota:
    """Returns a quota with some bounds set; raises `ConfigError` for an unknown name, type or size."""
    hints: dict[str, type] = {name: dict if name == "users" else int for name in get_type_hints(StoreQuota)}
    _check(settings, hints, "quota.")
    users: dict[str, Quota] = {}
    for user, bounds in settings.get("users", {}).items():
        where = f"quota.users.{user}"
        if not isinstance(bounds, dict):
            raise ConfigError(f"{where} must be a table of bytes_max and objects_max")
        _check(bounds, {"bytes_max": int, "objects_max": int}, f"{where}.")
        users[user] = Quota(**bounds)
    made = StoreQuota(**{**settings, "users": users})
    amounts = {name: getattr(made, name) for name in hints if name != "users"}
    for user, quota in users.items():
        amounts.update({f"users.{user}.bytes_max": quota.bytes_max, f"users.{user}.objects_max": quota.objects_max})
    for name, amount in amounts.items():
        if not 0 <= amount <= _AMOUNT_MAX:
            raise ConfigError(f"quota.{name} must lie between 0 and {_AMOUNT_MAX}")
    return made


def _spaces(settings: dict[str, Any]) -> dict[str, Namespace]:
    made = {}
    for name, told in settings.items():
        if not isinstance(told, dict):
            raise ConfigError(f"namespace.{name} must be a table")
        try:
            made[name] = namespaces.parse(told, f"namespace.{name}.")
        except BadSetting as error:
            raise ConfigError(str(error)) from None
    return made


def _check(settings: dict[str, Any], kinds: dict[str, type], prefix: str) -> None:
    for name, value in settings.items():
        kind = kinds.get(name)
        if kind is None:
            import difflib

            near = difflib.get_close_matches(name, kinds, 1)
            hint = f"; did you mean {prefix}{near[0]}?" if near else ""
            raise ConfigError(f"unknown setting {prefix}{name}{hint}")
        fits = (int, float) if kind is float else (kind,)
        if type(value) not in fits:
            raise ConfigError(f"{prefix}{name} must be of type {kind.__name__}")
