"""wire.py: requests and replies as frames, and everything that is refused."""

from __future__ import annotations

import json
import random
from collections.abc import Callable

import pytest

from storekeeper import errors, wire


def refusal(*frames: wire.Frame) -> wire.Refused:
    with pytest.raises(wire.Refused) as caught:
        wire.decode_request(frames)
    return caught.value


# -- golden frames


def test_a_request_in_frames() -> None:
    frames = wire.encode_request(b"exists", b"7", {"namespace": "n", "fresh": True}, [b"k", b"l"])
    assert frames == [b"SK01", b"exists", b"7", b'{"namespace":"n","fresh":true}', b"k", b"l"]
    assert wire.decode_request(frames) == wire.Request(
        envelope=False, verb=b"exists", id=b"7", options={"namespace": "n", "fresh": True}, arguments=[b"k", b"l"]
    )


def test_a_request_without_options_has_an_empty_frame_for_them() -> None:
    frames = wire.encode_request(b"status", b"", {}, [])
    assert frames == [b"SK01", b"status", b"", b""]
    assert wire.decode_request(frames) == wire.Request(False, b"status", b"", {}, [])


def test_a_request_of_a_req_socket_has_an_envelope() -> None:
    assert wire.decode_request([b"", b"SK01", b"get", b"1", b"", b"k"]) == wire.Request(True, b"get", b"1", {}, [b"k"])


def test_a_reply_in_frames() -> None:
    frames = wire.encode_reply(False, b"7", b"ok absent", [b"bytes", b""], {"handle": 3})
    assert frames == [b"SK01", b"7", b"ok", b'{"handle":3}', b"ok absent", b"bytes", b""]
    assert wire.decode_reply(frames) == wire.Reply(b"7", {"handle": 3}, ["ok", "absent"], [b"bytes", b""])


def test_a_reply_to_an_envelope_has_one() -> None:
    assert wire.encode_reply(True, b"7", b"yes") == [b"", b"SK01", b"7", b"ok", b"", b"yes"]


def test_a_refusal_in_frames() -> None:
    frames = wire.encode_refusal(False, b"7", errors.DiskFull("free some space"))
    assert frames == [b"SK01", b"7", b"disk_full", b'{"message":"free some space","retry":true}']
    assert wire.encode_refusal(True, b"7", errors.DiskFull("free some space")) == [b"", *frames]


def test_a_refusal_is_raised_as_its_error() -> None:
    with pytest.raises(errors.NamespaceMissing, match=r"^no such$"):
        wire.decode_reply(wire.encode_refusal(False, b"7", errors.NamespaceMissing("no such")))


def test_a_refusal_without_a_message_is_still_its_error() -> None:
    with pytest.raises(errors.BadHandle):
        wire.decode_reply([b"SK01", b"7", b"bad_handle", b""])


def test_an_outcome_of_a_newer_daemon_is_named() -> None:
    with pytest.raises(errors.InternalError, match="from_the_future"):
        wire.decode_reply([b"SK01", b"7", b"from_the_future", b""])


def test_a_reply_without_results_has_no_words() -> None:
    assert wire.decode_reply([b"SK01", b"7", b"ok", b""]) == wire.Reply(b"7", {}, [], [])


NO_REPLIES: list[list[bytes]] = [
    [],
    [b"SK01"],
    [b"SK01", b"7", b"ok"],
    [b"SK02", b"7", b"ok", b""],
    [b"", b"SK01", b"7", b"ok", b""],
    [b"SK01", b"7", b"ok", b"{"],
    [b"SK01", b"7", b"ok", b"[1]"],
    [b"SK01", b"7", b"ok", b"[" * 100_000],
    [b"SK01", b"7", b"ok", b"\xff"],
    [b"SK01", b"7", b"\xff", b""],
    [b"SK01", b"7", b"ok", b"", b"\xff"],
]


def test_what_is_no_reply_is_a_protocol_error() -> None:
    for frames in NO_REPLIES:
        with pytest.raises(errors.ProtocolError):
            wire.decode_reply(frames)


def test_the_id_of_a_reply_is_found_without_decoding_it() -> None:
    assert wire.reply_id([b"SK01", bytearray(b"7"), b"?"]) == b"7"
    assert wire.reply_id([b"SK01"]) == b""
    assert wire.reply_id([]) == b""


def test_long_arguments_arrive_as_they_were_received() -> None:
    payload = bytearray(10_000)
    assert wire.decode_request([b"SK01", b"put", b"1", b"", b"k", payload]).arguments[1] is payload


def test_every_verb_has_its_arguments_described() -> None:
    assert wire.OPTIONS.keys() == wire.ARGUMENTS.keys()


def test_every_verb_is_understood() -> None:
    for verb in wire.OPTIONS:
        assert wire.decode_request([wire.VERSION, verb, b"1", b""]).verb == verb


# -- keys

GOOD_KEYS = [
    b"k",
    b"a.b",
    b"a b",
    b"-",
    b"~",
    b"\n",
    b"\\",
    b"x" * 255,
    "é".encode(),
    "键".encode() * 85,
    b"x..",
    b"\x7f",
]
BAD_KEYS: list[tuple[wire.Frame, str]] = [
    (b"", "1 to 255 bytes, this one has 0"),
    (b"x" * 256, "has 256"),
    (b"x" * 300, "has 300"),
    (b".", "dot"),
    (b"..", "dot"),
    (b".x", "dot"),
    (b".storekeeper", "dot"),
    (b"../x", "dot"),
    (b"a/b", '"/"'),
    (b"/", '"/"'),
    (b"a/../../b", '"/"'),
    (b"a\0b", "NUL"),
    (b"\0", "NUL"),
    (b"\xff", "UTF-8"),
    (b"ab\xc3", "UTF-8"),
    (b"\xed\xa0\x80", "UTF-8"),
    (b"\xc0\xaf", "UTF-8"),
    (bytearray(b"../x"), "dot"),
    (bytearray(b"a/b"), '"/"'),
    (bytearray(10_000), "has 10000"),
]


@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_a_key_is_nearly_any_file_name(kind: Callable[[bytes], wire.Frame]) -> None:
    for key in GOOD_KEYS:
        wire.check_key(kind(key))
        assert wire.is_key(key)
        assert wire.key_frame(key.decode()) == key


def test_what_is_no_key_is_told_the_rule() -> None:
    for key, rule in BAD_KEYS:
        assert not wire.is_key(bytes(key))
        with pytest.raises(errors.BadKey, match=rule):
            wire.check_key(key)


def test_the_same_rules_hold_for_a_key_as_text() -> None:
    for key in ("", ".x", "a/b", "é" * 128, "\0"):
        with pytest.raises(errors.BadKey):
            wire.key_frame(key)


def test_a_lone_surrogate_is_no_key() -> None:
    with pytest.raises(errors.BadKey, match="UTF-8"):
        wire.key_frame("a\ud800")


def test_a_key_that_is_no_text_is_told_so() -> None:
    for key in (b"k", 1, None):
        with pytest.raises(errors.BadKey, match=type(key).__name__):
            wire.key_frame(key)  # type: ignore[arg-type]


def test_many_that_are_plain_are_all_keys() -> None:
    assert wire.are_plain([b"k", b"a.b", bytearray(b"x" * 255)])
    for bad in (b"", b".k", b"a/b", b"/", b"a/.b", b"a\0", b"x" * 256, "é".encode()):
        for keys in ([bad, b"k"], [b"k", bad], [b"k", bad, b"l"], [bad]):
            assert not wire.are_plain(keys)


# -- numbers


def test_a_number_is_decimal_digits() -> None:
    assert wire.parse_number(b"0", "the size") == 0
    assert wire.parse_number(b"007", "the size") == 7
    assert wire.parse_number(bytearray(b"12"), "the size") == 12
    assert wire.parse_number(b"9" * 18, "the size") == 10**18 - 1


NO_NUMBERS: list[wire.Frame] = [
    b"", b"-1", b"+1", b" 1", b"1 ", b"1_0", b"0x1", b"1.0", b"9" * 19, "١".encode(), b"\xff", bytearray(10_000),
]  # fmt: skip


def test_what_is_no_number_is_refused_by_name() -> None:
    for frame in NO_NUMBERS:
        with pytest.raises(errors.BadRequest, match="the size must be a decimal number"):
            wire.parse_number(frame, "the size")


# -- options


RIGHT_OPTIONS: list[tuple[bytes, dict[str, object]]] = [
    (b"exists", {"fresh": False, "namespace": ""}),
    (b"put", {"replace": True, "durability": "disk", "namespace": "n"}),
    (b"upload", {"replace": False, "durability": "os"}),
    (b"list", {"prefix": "a"}),
    (b"get", {}),
]


def test_options_of_the_right_type_are_taken() -> None:
    for verb, options in RIGHT_OPTIONS:
        assert wire.parse_options(verb, json.dumps(options).encode()) == options
        assert wire.parse_options(verb, bytearray(json.dumps(options).encode())) == options


def test_no_options_are_an_empty_mapping() -> None:
    assert wire.parse_options(b"put", b"") == {}


def test_options_of_the_greatest_size_are_read() -> None:
    raw = b'{"prefix":"%s"}' % (b"x" * (wire.OPTIONS_BYTES_MAX - 13))
    assert len(raw) == wire.OPTIONS_BYTES_MAX
    assert len(wire.parse_options(b"list", raw)["prefix"]) == wire.OPTIONS_BYTES_MAX - 13
    assert "8192" in str(refusal(b"SK01", b"list", b"1", raw + b" ").error)


WRONG_OPTIONS: list[tuple[bytes, wire.Frame, str]] = [
    (b"put", b"{", "JSON object"),
    (b"put", b"nonsense", "JSON object"),
    (b"put", b"\xff\xfe\xfd", "JSON object"),
    (b"put", b"null", "JSON object"),
    (b"put", b"[]", "JSON object"),
    (b"put", b'"replace"', "JSON object"),
    (b"put", b"1", "JSON object"),
    (b"put", b"1" * 8000, "JSON object"),
    (b"put", b"[" * 8192, "JSON object"),
    (b"put", b'{"a":' * 1600, "JSON object"),
    (b"put", b'{"replace":1}', "replace must be of type bool"),
    (b"put", b'{"replace":"true"}', "replace must be of type bool"),
    (b"put", b'{"replace":null}', "replace must be of type bool"),
    (b"exists", b'{"fresh":0}', "fresh must be of type bool"),
    (b"get", b'{"namespace":1}', "namespace must be of type str"),
    (b"get", b'{"namespace":true}', "namespace must be of type str"),
    (b"get", b'{"namespace":null}', "namespace must be of type str"),
    (b"get", b'{"namespace":["n"]}', "namespace must be of type str"),
    (b"get", b'{"namespace":{"n":1}}', "namespace must be of type str"),
    (b"list", b'{"prefix":["a"]}', "prefix must be of type str"),
    (b"put", b'{"durability":"none"}', "durability must be one of os, disk"),
    (b"put", b'{"durability":1}', "durability must be of type str"),
    (b"put", b'{"fresh":true}', "put has no option 'fresh'; it takes namespace, replace, durability"),
    (b"status", b'{"namespace":"n"}', "status has no option 'namespace'; it takes none"),
    (b"get", bytearray(b'{"namespace":"%s"}' % (b"x" * 9000)), "8192 bytes"),
]


def test_wrong_options_are_told_the_rule() -> None:
    for verb, raw, rule in WRONG_OPTIONS:
        refused = refusal(b"SK01", verb, b"1", raw)
        assert isinstance(refused.error, errors.BadRequest)
        assert rule in str(refused.error)
        assert refused.id == b"1"


def test_a_very_long_name_of_an_option_is_not_sent_back_whole() -> None:
    refused = refusal(b"SK01", b"get", b"1", b'{"%s":1}' % (b"x" * 8000))
    assert len(str(refused.error)) < 200


# -- frames


TOO_FEW: list[list[bytes]] = [[b"SK01"], [b"SK01", b"get"], [b""], [b"", b"SK01"], [b"", b""]]


def test_too_few_frames_are_refused() -> None:
    for frames in TOO_FEW:
        refused = refusal(*frames)
        assert isinstance(refused.error, errors.BadRequest)
        assert "4 frames" in str(refused.error)
        assert refused.id == b""
        assert refused.envelope is (frames[0] == b"")


def test_a_request_that_lacks_only_its_options_is_answered_by_its_id() -> None:
    assert refusal(b"SK01", b"get", b"7").id == b"7"
    assert refusal(b"", b"SK01", b"get", b"7").id == b"7"
    assert refusal(b"SK01", b"get", b"7" * 99).id == b"7" * 32


def test_an_id_may_have_32_bytes_and_no_more() -> None:
    assert wire.decode_request([b"SK01", b"status", b"i" * 32, b""]).id == b"i" * 32
    refused = refusal(b"SK01", b"status", b"i" * 33, b"")
    assert isinstance(refused.error, errors.BadRequest)
    assert refused.id == b"i" * 32
    assert refusal(b"SK01", b"status", bytearray(10_000), b"").id == bytes(32)


VERSIONS: list[wire.Frame] = [b"SK00", b"SK02", b"sk01", b"SK01 ", bytearray(10_000)]


def test_another_version_is_refused() -> None:
    for version in VERSIONS:
        refused = refusal(version, b"get", b"7", b"", b"k")
        assert isinstance(refused.error, errors.VersionMismatch)
        assert "SK01" in str(refused.error)
        assert refused.id == b"7"


UNKNOWN_VERBS: list[wire.Frame] = [b"", b"GET", b"get ", b"\xff", b"x" * 17, b"x" * 8000, bytearray(b"x" * 10_000)]


def test_an_unknown_verb_is_refused_with_those_that_are_known() -> None:
    for verb in UNKNOWN_VERBS:
        refused = refusal(b"", b"SK01", verb, b"7", b"")
        assert isinstance(refused.error, errors.UnknownVerb)
        assert "exists, get, put" in str(refused.error)
        assert (refused.envelope, refused.id) == (True, b"7")
        assert len(str(refused.error)) < 300


# -- garbage

_PIECES: list[wire.Frame] = [
    b"", b"SK01", b"SK01", b"SK02", b"7", b"k", b"../x", b"\xff\xfe", b"{}", b"[" * 8192, b'{"a":' * 1000, b"null",
    b'{"namespace":"n"}', b'{"fresh":1}', b'{"durability":"disk"}', b'{"\\ud800":1}', b"1" * 8000, b"-0", b"NaN",
    b"\0", bytearray(10_000), bytearray(b"[" * 10_000), b"x" * 8192, *wire.OPTIONS,
]  # fmt: skip


def _frame(rng: random.Random) -> wire.Frame:
    kind = rng.random()
    if kind < 0.7:
        return rng.choice(_PIECES)
    if kind < 0.9:
        return rng.randbytes(rng.randrange(40))
    piece = bytearray(rng.choice(_PIECES)[:200])
    for _ in range(rng.randrange(4)):
        if piece:
            piece[rng.randrange(len(piece))] = rng.randrange(256)
    return bytes(piece)


def _frames(rng: random.Random) -> list[wire.Frame]:
    frames = [_frame(rng) for _ in range(rng.randrange(1, 8))]
    if rng.random() < 0.5:
        frames[:2] = [b"SK01", rng.choice(list(wire.OPTIONS))]
    return [b"", *frames] if rng.random() < 0.3 else frames


@pytest.fixture
def rng() -> random.Random:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    return random.Random(seed)


def test_garbage_is_a_request_or_refused(rng: random.Random, request: pytest.FixtureRequest) -> None:
    for _ in range(request.config.getoption("--cases")):
        frames = _frames(rng)
        try:
            decoded = wire.decode_request(frames)
        except wire.Refused as refused:
            assert len(refused.id) <= wire.ID_BYTES_MAX
            assert refused.envelope is (not frames[0])
            wire.encode_refusal(refused.envelope, refused.id, refused.error)
        else:
            assert decoded.verb in wire.OPTIONS
            assert type(decoded.verb) is type(decoded.id) is bytes
            assert decoded.options.keys() <= wire.OPTIONS[decoded.verb].keys()


def test_garbage_is_a_reply_or_a_typed_error(rng: random.Random, request: pytest.FixtureRequest) -> None:
    for _ in range(request.config.getoption("--cases")):
        frames = _frames(rng)
        if rng.random() < 0.5:
            frames[2:3] = [b"ok"]
        try:
            assert isinstance(wire.decode_reply(frames), wire.Reply)
        except errors.StorekeeperError:
            pass
