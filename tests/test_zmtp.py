"""zmtp.py: golden bytes, any split, and garbage: it is parsed, or raises the one protocol error, and nothing else."""

from __future__ import annotations

import io
import os
import random

import pytest
import zmq
from hypothesis import given, settings
from hypothesis import strategies as st

from storekeeper import framing, zmtp
from storekeeper.errors import ProtocolError

GREETING = bytes.fromhex(
    "ff00000000000000017f" "0301" "4e554c4c" + "00" * 16 + "01" + "00" * 31  # as RFC 37 draws it, as-server set
)  # fmt: skip
READY_DEALER = bytes.fromhex("041c" "055245414459" "0b536f636b65742d54797065" "00000006" "4445414c4552")  # fmt: skip


def engine(
    socket_type: bytes = b"ROUTER", bytes_max: int = 100_000, frames_max: int = 64, *, trusting: bool = False
) -> zmtp.Engine:
    return zmtp.Engine(
        socket_type=socket_type,
        as_server=True,
        message_bytes_max=bytes_max,
        frames_max=frames_max,
        memory=(lambda size: io.BytesIO(bytes(size))) if trusting else None,
    )


def greeted(**bounds: int) -> zmtp.Engine:
    made = engine(**bounds)  # type: ignore[arg-type]
    made.receive(framing.greeting(as_server=False) + READY_DEALER)
    assert made.next_message() is None
    assert made.ready
    made.outgoing.clear()
    return made


def feed(to: zmtp.Engine, data: bytes, step: int) -> list[list[bytes]]:
    """Gives data in pieces, long frames through `room` as the listener does; returns the messages."""
    messages = []
    position = 0
    while position < len(data):
        room = to.room()
        if room is not None:
            size = min(step, len(room), len(data) - position)
            room[:size] = data[position : position + size]
            to.filled(size)
        else:
            size = min(step, len(data) - position)
            to.receive(data[position : position + size])
        position += size
        while (message := to.next_message()) is not None:
            messages.append([bytes(frame) for frame in message])
    return messages


def held_bytes(made: zmtp.Engine) -> int:
    return len(made._data) - made._position + made._message_bytes


def encoded(frames: list[bytes]) -> bytes:
    return b"".join(map(bytes, framing.encode_message(frames)))


def test_the_greeting_is_that_of_the_rfc() -> None:
    assert framing.greeting(as_server=True) == GREETING
    assert len(GREETING) == zmtp.GREETING_BYTES


def test_ready_is_that_of_the_rfc() -> None:
    assert framing.encode_ready(b"DEALER") == READY_DEALER


def test_messages_have_these_bytes() -> None:
    assert encoded([b""]) == b"\0\0"
    assert encoded([b"a", b"bc"]) == bytes.fromhex("010161" "00026263")  # fmt: skip
    assert encoded([b"x" * 255]) == b"\x00\xff" + b"x" * 255
    assert encoded([b"x" * 256]) == b"\x02" + (256).to_bytes(8, "big") + b"x" * 256
    long = b"y" * 9000
    assert encoded([long, b"z"]) == b"\x03" + (9000).to_bytes(8, "big") + long + b"\x00\x01z"
    assert encoded([b"z", long]) == b"\x01\x01z\x02" + (9000).to_bytes(8, "big") + long


def test_a_long_frame_is_passed_on_uncopied() -> None:
    long = b"y" * 9000
    assert any(buffer is long for buffer in framing.encode_message([b"a", long, b"b"]))


def test_a_frame_by_itself_has_the_same_bytes() -> None:
    for frame in (b"", b"a" * 255, b"a" * 256):
        assert b"".join(framing.encode_frame(frame, more=False)) == encoded([frame])


@pytest.mark.parametrize("step", [1, 2, 7, 64, 4096, 1 << 20])
def test_messages_arrive_whole_however_they_are_cut(step: int) -> None:
    messages = [[b""], [b"", b"a"], [b"x" * 255, b"y" * 256, b""], [b"z" * 8192], [b"k", b"w" * 8193, b"v" * 20_000]]
    assert feed(greeted(), b"".join(map(encoded, messages)), step) == messages


@pytest.mark.parametrize("step", [1, 3, 63, 64, 65, 1000])
def test_the_handshake_may_be_cut_anywhere(step: int) -> None:
    server, client = engine(), engine(b"DEALER")
    from_client = b"".join(client.outgoing)
    assert feed(server, from_client, step) == []
    from_server = b"".join(server.outgoing)
    client.outgoing.clear()
    feed(client, from_server, step)
    feed(server, b"".join(client.outgoing) + encoded([b"hello"]), step)
    assert server.ready
    assert client.ready


def test_two_ends_joined_by_a_wire_understand_each_other() -> None:
    ends = engine(), engine(b"DEALER")
    for _ in range(3):
        for one, other in (ends, ends[::-1]):
            data = b"".join(one.outgoing)
            one.outgoing.clear()
            assert feed(other, data, 10) == []
    assert all(end.ready for end in ends)
    assert feed(ends[1], encoded([b"to", b"client"]), 3) == [[b"to", b"client"]]


def test_a_long_frame_is_handed_out_as_it_was_received() -> None:
    made = greeted()
    made.receive(encoded([b"k", b"x" * 10_000]))
    message = made.next_message()
    assert message is not None
    assert type(message[0]) is bytes
    assert type(message[1]) is bytearray


@pytest.mark.parametrize("size", [8193, 100_000, (64 << 20) + 1])
def test_whoever_is_trusted_has_room_for_all_he_announces(size: int) -> None:
    made = greeted(bytes_max=1 << 40, trusting=True)
    head = encoded([b"x" * 9000])[:1] + size.to_bytes(8, "big")
    made.receive(head)
    assert made.next_message() is None
    data = os.urandom(1000) * (size // 1000 + 1)
    place, steps = 0, 0
    while place < size:
        room = made.room()
        assert room is not None
        room[:] = data[place : place + len(room)]
        place += len(room)
        made.filled(len(room))
        del room
        message = made.next_message()
        steps += 1
    assert steps == (1 if size <= 64 << 20 else 2)
    assert message == [data[:size]]
    assert message is not None
    assert type(message[0]) is bytes


def test_room_is_only_there_while_a_long_frame_arrives() -> None:
    made = greeted()
    assert made.room() is None
    made.receive(encoded([b"x" * 10_000])[:100])
    assert made.next_message() is None
    room = made.room()
    assert room is not None
    assert len(room) == 8192 + 9 - 100  # the rest of it when so much has come
    for left in (8192 + 9 - 100, 10_000 - 8192):
        assert made.next_message() is None
        room = made.room()
        assert room is not None
        assert len(room) == left
        room[:] = b"x" * len(room)
        made.filled(len(room))
    assert made.next_message() == [b"x" * 10_000]
    assert made.room() is None


@given(st.lists(st.binary(max_size=300), min_size=2, max_size=6), st.integers(0, 400))
@settings(max_examples=300, deadline=None)
def test_a_message_of_a_known_shape_is_taken_whole_or_left(frames: list[bytes], cut: int) -> None:
    prefix = framing.encode_prefix([b"SK01", b"exists"])
    message = [b"SK01", b"exists", *frames]
    data = encoded(message)
    made = greeted()
    made.receive(data[:cut] if cut < len(data) else data + encoded([b"next"]))
    fits = len(frames) == 3 and cut >= len(data) and all(len(frame) < 256 for frame in frames)
    taken = made.next_after(prefix)
    assert taken == (tuple(frames) if fits else None)
    if taken is None:
        made.receive(data[cut:] if cut < len(data) else b"")
        assert made.next_message() == message
    if cut >= len(data):
        assert made.next_message() == [b"next"]


def test_a_known_shape_is_not_seen_inside_another_message_nor_before_the_handshake() -> None:
    prefix = framing.encode_prefix([b"a"])
    inner = encoded([b"a", b"1", b"2", b"3"])
    made = greeted()
    made.receive(b"\x01\x01x")
    assert made.next_message() is None
    made.receive(inner)
    assert made.next_after(prefix) is None
    assert made.next_message() == [b"x", b"a", b"1", b"2", b"3"]
    fresh = engine()
    fresh.receive(framing.greeting(as_server=False))
    assert fresh.next_message() is None
    fresh.receive(inner)
    assert fresh.next_after(prefix) is None
    with pytest.raises(ProtocolError):
        fresh.next_message()


def test_a_ping_is_answered_with_its_context() -> None:
    made = greeted()
    assert feed(made, framing.encode_command(b"PING", b"\0\x0acontext") + encoded([b"m"]), 5) == [[b"m"]]
    assert made.outgoing == [framing.encode_command(b"PONG", b"context")]


def test_a_ping_between_the_frames_of_a_message_is_answered_too() -> None:
    made = greeted()
    data = encoded([b"a", b"b"])
    assert feed(made, data[:3] + framing.encode_command(b"PING", b"\0\0") + data[3:], 1) == [[b"a", b"b"]]
    assert made.outgoing == [framing.encode_command(b"PONG")]


def test_pong_subscribe_and_cancel_are_ignored() -> None:
    made = greeted()
    for name in (b"PONG", b"SUBSCRIBE", b"CANCEL"):
        assert feed(made, framing.encode_command(name, b"x"), 4) == []
    assert made.outgoing == []


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n",
        b"\xff" + b"\0" * 8 + b"\x7e",
        b"\xff" + b"\0" * 8 + b"\x7f\x01",  # ZMTP 2
        GREETING[:12] + b"CURVE".ljust(20, b"\0") + GREETING[32:],
        GREETING + encoded([b"before READY"]),
        GREETING + framing.encode_command(b"PING", b"\0\0"),
        GREETING + framing.encode_ready(b"PUB"),
        GREETING + framing.encode_ready(b""),
        GREETING + framing.encode_command(b"READY", b"\x05Sock"),
        GREETING + framing.encode_command(b"READY", b"\x00\0\0\0\0"),
        GREETING + framing.encode_command(b"READY", b"\x01a\xff\xff\xff\xffxx"),
        GREETING + framing.encode_command(b"ERROR", b"\x02no"),
        GREETING + b"\x04\x00",
        GREETING + b"\x06" + (1 << 40).to_bytes(8, "big"),
        GREETING + READY_DEALER + b"\x08\x00",
        GREETING + READY_DEALER + b"\x05\x00",
        GREETING + READY_DEALER + framing.encode_command(b"PING", b"\0"),
        GREETING + READY_DEALER + framing.encode_command(b"PING", b"\0\0" + b"c" * 17),
        GREETING + READY_DEALER + framing.encode_command(b"HELLO"),
        GREETING + READY_DEALER + b"\x01\x00" * 65,
    ],
)
@pytest.mark.parametrize("step", [1, 1000])
def test_a_breach_of_protocol_is_the_one_error(data: bytes, step: int) -> None:
    with pytest.raises(ProtocolError):
        feed(engine(), data, step)


def test_a_peer_of_the_wrong_kind_is_told_so() -> None:
    made = engine()
    with pytest.raises(ProtocolError):
        feed(made, GREETING + framing.encode_ready(b"SUB"), 1000)
    assert made.outgoing[-1].startswith(b"\x04")
    assert b"ERROR" in made.outgoing[-1]


def test_a_message_over_the_bound_is_passed_over_and_the_next_one_arrives() -> None:
    for step in (1, 100, 1 << 20):
        made = greeted(bytes_max=5000)
        assert made.next_message() is None
        long = encoded([b"SK01", b"put", b"7", b"", b"k" * 3000, b"x" * 3000, b"y" * 20_000, b"z"])
        messages = feed(made, long + encoded([b"next"]), step)
        assert messages == [[b"SK01", b"put", b"7", b""], [b"next"]]


def test_what_is_over_the_bound_is_marked_and_never_held() -> None:
    made = greeted(bytes_max=5000)
    made.receive(b"\x01\x01a" + b"\x02" + (1 << 40).to_bytes(8, "big"))
    for _ in range(100):
        assert made.next_message() is None
        assert made.room() is None
        assert held_bytes(made) < 5000
        made.receive(bytes(10_000))
    made = greeted(bytes_max=5000)
    made.receive(encoded([b"x" * 6000]))
    assert type(made.next_message()) is zmtp.Overlong


def test_an_endless_message_ends() -> None:
    made = greeted(frames_max=10)
    with pytest.raises(ProtocolError, match="10 frames"):
        feed(made, encoded([b""] * 11), 1)
    assert feed(greeted(frames_max=10), encoded([b""] * 10), 1) == [[b""] * 10]
    with pytest.raises(ProtocolError, match="10 frames"):
        feed(greeted(frames_max=10), encoded([b"x" * 300] * 11), 50)


@given(st.lists(st.lists(st.binary(max_size=600), min_size=1, max_size=6), max_size=6), st.integers(1, 700))
@settings(max_examples=300, deadline=None)
def test_any_messages_survive_any_cut(messages: list[list[bytes]], step: int) -> None:
    assert feed(greeted(), b"".join(map(encoded, messages)), step) == messages


def test_garbage_is_parsed_or_refused_and_nothing_else(request: pytest.FixtureRequest) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    good = GREETING + READY_DEALER + encoded([b"SK01", b"exists", b"1", b"", b"key"]) + encoded([b"x" * 9000])
    good += framing.encode_command(b"PING", b"\0\0ctx") + encoded([b"a"] * 5)
    for _ in range(request.config.getoption("--cases")):
        data = bytearray(good)
        kind = chance.randrange(4)
        if kind == 0:
            data = bytearray(chance.randbytes(chance.randrange(300)))
        elif kind == 1:
            for _ in range(chance.randrange(1, 8)):
                data[chance.randrange(len(data))] = chance.randrange(256)
        elif kind == 2:
            cut = chance.randrange(len(data))
            del data[cut : cut + chance.randrange(1, 40)]
        else:
            data[chance.randrange(64, len(data)) :] = chance.randbytes(chance.randrange(200))
        made = engine(bytes_max=20_000, frames_max=16)
        try:
            messages = feed(made, bytes(data), chance.choice((1, 17, 1 << 16)) if len(data) < 400 else 1 << 16)
        except ProtocolError:
            continue
        assert all(len(message) <= 16 for message in messages)
        assert held_bytes(made) <= len(data)


@pytest.mark.parametrize("kind", [zmq.DEALER, zmq.REQ])
def test_stock_sockets_agree(kind: int) -> None:
    """The real libzmq, byte for byte through our engine."""
    import socket
    import tempfile

    with tempfile.TemporaryDirectory() as folder, zmq.Context() as context, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{folder}/s")
        listener.listen()
        listener.settimeout(10)
        with context.socket(kind) as peer:
            peer.linger = 0
            peer.connect(f"ipc://{folder}/s")
            peer.send_multipart([b"one", b"x" * 70_000])
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(10)
                made = engine()
                message = None
                while message is None:
                    for buffer in made.outgoing:
                        connection.sendall(buffer)
                    made.outgoing.clear()
                    made.receive(connection.recv(10_000))
                    message = made.next_message()
                envelope = [b""] if kind == zmq.REQ else []
                assert message == [*envelope, b"one", b"x" * 70_000]
                for buffer in framing.encode_message([*envelope, b"two", b"y" * 70_000]):
                    connection.sendall(buffer)
                assert peer.recv_multipart() == [b"two", b"y" * 70_000]
