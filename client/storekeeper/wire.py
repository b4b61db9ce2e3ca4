"""Requests and replies as lists of frames: what the README's wire table says, in code.

Pure: values in, values out; no socket, no clock. Owns the protocol version, the verbs with their options, the key
rule, the result words and the limits that both sides must know. How frames become bytes is `zmtp`'s business.

A request is  [empty,] VERSION, verb, id, options, argument…
A reply is    [empty,] VERSION, id, outcome, details, results, payload…

The empty frame is there when the request had one (a REQ socket sends it). `options` and `details` are JSON objects
or empty. `outcome` is "ok" or an error code; `results` holds one word per item, separated by single spaces.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from storekeeper.errors import (
    BadKey,
    BadRequest,
    ProtocolError,
    StorekeeperError,
    UnknownVerb,
    VersionMismatch,
    from_wire,
)

Frame = bytes | bytearray
"""A received frame: bytes when short, a bytearray when long (see framing.LONG_FRAME_BYTES)."""

VERSION = b"SK01"
OK = b"ok"

KEY_BYTES_MAX = 255
ID_BYTES_MAX = 32
OPTIONS_BYTES_MAX = 8192
MESSAGE_BYTES_MAX = 4 * 1024 * 1024
"""Payload bytes in one message; larger objects travel in ranges. The daemon's `status` tells its own limit."""
BATCH_ITEMS_MAX = 1024
"""Items in one request."""
DESCRIPTORS = (b"X-Descriptors", b"1")
"""The property of a ZMTP handshake by which a client says that answers may bring descriptors."""
RANGE_BYTES = 1024 * 1024
"""Bytes that a client asks for or sends per range: the fastest message size over ipc, measured."""

DURABILITIES = ("os", "disk")
MOMENT_NS_MAX = (1 << 63) - 1

TTL_S_MAX = 1_000_000_000
"""Seconds that an object may be told to live: 31 years."""
PROCESS = "process"
"""The lifetime of what ends with the process that put it."""
SORTS = ("name", "size", "created")
USAGES = ("user", "namespace")

_NAMESPACE: dict[str, type] = {"namespace": str}
_PUT: dict[str, type] = {
    **_NAMESPACE,
    "replace": bool,
    "durability": str,
    "before": int,
    "ttl": float,
    "lifetime": str,
}
OPTIONS: dict[bytes, dict[str, type]] = {
    b"exists": {**_NAMESPACE, "fresh": bool},
    b"get": _NAMESPACE,
    b"put": _PUT,
    b"evict": {**_NAMESPACE, "before": int},
    b"shelf": _NAMESPACE,
    b"stat": _NAMESPACE,
    b"verify": _NAMESPACE,
    b"touch": {**_NAMESPACE, "ttl": float, "lifetime": str},
    b"pin": _NAMESPACE,
    b"unpin": _NAMESPACE,
    b"list": {
        **_NAMESPACE,
        "prefix": str,
        "fresh": bool,
        "long": bool,
        "owner": int,
        "older_than": float,
        "larger_than": int,
        "sort": str,
        "reverse": bool,
        "after": str,
        "limit": int,
    },
    b"usage": {**_NAMESPACE, "fresh": bool, "by": str},
    b"events": _NAMESPACE,
    b"status": {},
    b"namespaces": {},
    b"create": {"settings": dict},
    b"drop": {},
    b"upload": {**_PUT, "size": int, "descriptor": bool},
    b"write": {},
    b"commit": {},
    b"abort": {},
    b"open": {**_NAMESPACE, "descriptor": bool},
    b"read": {},
    b"close": {},
}
"""Every verb and the options it takes."""

ARGUMENTS: dict[bytes, str] = {
    b"exists": "key…",
    b"get": "key…",
    b"put": "key payload, key payload…",
    b"evict": "key…",
    b"shelf": "nothing",
    b"stat": "key…",
    b"verify": "key…",
    b"touch": "key…",
    b"pin": "key…",
    b"unpin": "key…",
    b"list": "nothing, or a handle",
    b"usage": "nothing",
    b"events": "nothing, or mark…",
    b"status": "nothing",
    b"namespaces": "nothing",
    b"create": "name",
    b"drop": "name",
    b"upload": "key",
    b"write": "handle offset bytes",
    b"commit": "handle size",
    b"abort": "handle",
    b"open": "key",
    b"read": "handle offset length",
    b"close": "handle",
}
"""The arguments of every verb, as the README and error messages show them."""

_NO_OPTIONS: Mapping[str, Any] = {}


class Request(NamedTuple):
    """One request as the daemon sees it."""

    envelope: bool
    verb: bytes
    id: bytes
    options: Mapping[str, Any]
    arguments: list[Frame]


class Reply(NamedTuple):
    """One reply as the client sees it."""

    id: bytes
    details: dict[str, Any]
    words: list[str]
    payloads: list[Any]


class Refused(Exception):  # not an error of its own, it carries one
    """A request that was not understood, with what is needed to say so to its sender."""

    def __init__(self, envelope: bool, request_id: bytes, error: StorekeeperError) -> None:
        super().__init__(str(error))
        self.envelope = envelope
        self.id = request_id
        self.error = error


def check_key(key: Frame) -> None:
    """Raises `BadKey`, naming the rule, unless the bytes are a key.

    A key is a file name: 1–255 bytes of UTF-8, no "/", no NUL, and its first character is not a dot.
    """
    if not 1 <= len(key) <= KEY_BYTES_MAX:
        raise BadKey(f"a key has 1 to {KEY_BYTES_MAX} bytes, this one has {len(key)}")
    if key[0] == 0x2E:
        raise BadKey("a key must not start with a dot")
    if b"/" in key:
        raise BadKey('a key must not contain "/"')
    if b"\0" in key:
        raise BadKey("a key must not contain a NUL byte")
    try:
        key.decode("utf-8")
    except UnicodeDecodeError:
        raise BadKey("a key must be UTF-8") from None


def are_plain(keys: Sequence[Frame]) -> bool:
    """Returns whether many are surely all keys, by one look at all of them: ASCII, as nearly all are."""
    joined = b"/".join(keys)
    return (
        joined.isascii()
        and joined.count(b"/") == len(keys) - 1
        and b"\0" not in joined
        and not joined.startswith(b".")
        and b"/." not in joined
        and max(map(len, keys)) <= KEY_BYTES_MAX
        and min(map(len, keys)) > 0
    )


def is_key(name: bytes) -> bool:
    """Returns whether the bytes obey the key rule."""
    try:
        check_key(name)
    except BadKey:
        return False
    return True


def key_frame(key: str) -> bytes:
    """Returns the frame of a key; raises `BadKey`, naming the rule, if it is none."""
    if not isinstance(key, str):
        raise BadKey(f"a key is a str, not {type(key).__name__}")
    try:
        frame = key.encode("utf-8")
    except UnicodeEncodeError:
        raise BadKey("a key must be UTF-8") from None
    check_key(frame)
    return frame


def parse_number(frame: Frame, what: str) -> int:
    """Returns the non-negative decimal number of a frame; raises `BadRequest` that names `what`."""
    if not (1 <= len(frame) <= 18 and frame.isdigit()):
        raise BadRequest(f"{what} must be a decimal number of 1 to 18 digits")
    return int(frame)


def parse_options(verb: bytes, raw: Frame) -> Mapping[str, Any]:
    """Returns the options of a request, checked against the verb's; raises `BadRequest` that names the rule."""
    if not raw:
        return _NO_OPTIONS
    if len(raw) > OPTIONS_BYTES_MAX:
        raise BadRequest(f"options must not exceed {OPTIONS_BYTES_MAX} bytes")
    try:
        options = json.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError):
        raise BadRequest("options must be empty or a JSON object in UTF-8") from None
    if not isinstance(options, dict):
        raise BadRequest("options must be a JSON object")
    known = OPTIONS[verb]
    for name, value in options.items():
        kind = known.get(name)
        if kind is None:
            takes = ", ".join(known) or "none"
            raise BadRequest(f"{verb.decode()} has no option {name[:40]!r}; it takes {takes}")
        if type(value) is not kind and not (kind is float and type(value) is int):
            raise BadRequest(f"option {name} must be of type {kind.__name__}")
    if len(options) > ("namespace" in options):
        _check_values(options)
    return options


def _check_values(options: Mapping[str, Any]) -> None:
    """Raises `BadRequest` for values that are of the right type, but not allowed."""
    if not 0 <= options.get("before", 0) <= MOMENT_NS_MAX:
        raise BadRequest(f"option before is a moment of CLOCK_BOOTTIME in nanoseconds, at most {MOMENT_NS_MAX}")
    if options.get("durability", "os") not in DURABILITIES:
        raise BadRequest(f"option durability must be one of {', '.join(DURABILITIES)}")
    if not 0 <= options.get("ttl", 0) <= TTL_S_MAX:  # nor NaN
        raise BadRequest(f"option ttl is a number of seconds, at most {TTL_S_MAX}; 0 for no end")
    if options.get("lifetime", PROCESS) != PROCESS:
        raise BadRequest(f"option lifetime must be {PROCESS!r}, or be left out")
    if options.get("sort", "name") not in SORTS:
        raise BadRequest(f"option sort must be one of {', '.join(SORTS)}")
    if options.get("by", "user") not in USAGES:
        raise BadRequest(f"option by must be one of {', '.join(USAGES)}")
    for name in ("size", "owner", "older_than", "larger_than", "limit"):
        if not 0 <= options.get(name, 0) <= MOMENT_NS_MAX:
            raise BadRequest(f"option {name} must not be negative, nor more than {MOMENT_NS_MAX}")


def decode_request(frames: Sequence[Frame]) -> Request:
    """Returns the request that the frames of one message hold.

    Raises:
        Refused: the message is no request; carries the typed error and what is needed to answer it.
    """
    envelope = not frames[0]
    start = 1 if envelope else 0
    if len(frames) - start < 4:
        request_id = bytes(frames[start + 2][:ID_BYTES_MAX]) if len(frames) - start == 3 else b""
        rule = "a request has at least 4 frames: version, verb, id, options"
        raise Refused(envelope, request_id, BadRequest(rule))
    version, verb, long_id, raw = frames[start : start + 4]
    request_id = bytes(long_id[:ID_BYTES_MAX])
    if len(long_id) > ID_BYTES_MAX:
        rule = f"a request id has at most {ID_BYTES_MAX} bytes"
        raise Refused(envelope, request_id, BadRequest(rule))
    if version != VERSION:
        rule = f"the first frame must be {VERSION.decode()}, the protocol version"
        raise Refused(envelope, request_id, VersionMismatch(rule))
    verb = bytes(verb[:16])
    if verb not in OPTIONS:
        known = ", ".join(v.decode() for v in OPTIONS)
        raise Refused(envelope, request_id, UnknownVerb(f"unknown verb; the daemon knows {known}"))
    try:
        options = parse_options(verb, raw) if raw else _NO_OPTIONS
    except BadRequest as error:
        raise Refused(envelope, request_id, error) from None
    return Request(envelope, verb, request_id, options, list(frames[start + 4 :]))


def encode_request(verb: bytes, request_id: bytes, options: Mapping[str, Any], arguments: Iterable[Any]) -> list[Any]:
    """Returns the frames of a request, without the empty frame."""
    return [VERSION, verb, request_id, _json(options) if options else b"", *arguments]


def encode_reply(
    envelope: bool,
    request_id: bytes,
    results: bytes = b"",
    payloads: Sequence[Any] = (),
    details: Mapping[str, Any] | None = None,
) -> list[Any]:
    """Returns the frames of an answer to a request that was understood."""
    frames = [VERSION, request_id, OK, _details(details) if details else b"", results, *payloads]
    return [b"", *frames] if envelope else frames


def _details(details: Mapping[str, Any]) -> bytes:
    durability = details.get("durability")  # of every put, and mostly alone: not encoded anew each time
    return _DURABILITIES[durability] if durability and len(details) == 1 else _json(details)


def encode_refusal(envelope: bool, request_id: bytes, error: StorekeeperError) -> list[Any]:
    """Returns the frames of an answer that refuses a whole request."""
    details = _json({"message": str(error), "retry": error.retry})
    frames = [VERSION, request_id, error.code.encode(), details]
    return [b"", *frames] if envelope else frames


def decode_reply(frames: Sequence[Any]) -> Reply:
    """Returns the reply that the frames of one message hold.

    Raises:
        ProtocolError: the frames are no reply.
        StorekeeperError: the daemon refused the whole request; the typed error it named.
    """
    try:
        version, request_id, outcome, raw = (bytes(frame) for frame in frames[:4])
        details = json.loads(raw) if raw else {}
        if version != VERSION or not isinstance(details, dict):
            raise ValueError
        code = outcome.decode("ascii")
        words = bytes(frames[4]).decode("ascii").split() if len(frames) > 4 else []
    except (ValueError, RecursionError):
        raise ProtocolError("the daemon's answer is not a reply of this protocol") from None
    if outcome != OK:
        raise from_wire(code, str(details.get("message", "")))
    return Reply(request_id, details, words, list(frames[5:]))


def reply_id(frames: Sequence[Any]) -> bytes:
    """Returns the request id that a reply answers, empty if the frames hold none."""
    return bytes(frames[1]) if len(frames) > 1 else b""


_encoder = json.JSONEncoder(separators=(",", ":"))  # made once: json.dumps would make one at every call


def _json(value: Mapping[str, Any]) -> bytes:
    return _encoder.encode(value).encode()


_DURABILITIES = {durability: _json({"durability": durability}) for durability in DURABILITIES}
"""Details of a put's answer, nearly always all of them."""
