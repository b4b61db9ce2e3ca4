"""What ZMTP 3.1 sends, as bytes: greeting, frames, commands. The other half, what it receives, is zmtp.py.

Pure. Owns the encoding; short frames are joined, long ones passed on uncopied. Section names in comments are those of
ZMTP 3.1 (rfc.zeromq.org/spec/37).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

LONG_FRAME_BYTES = 8192
"""Frames above this are sent uncopied, received into a buffer of their own, and handed out as bytearray."""

MORE, LONG, COMMAND = 0x01, 0x02, 0x04
"""Flags of a frame (section "Framing")."""

_SHORT_HEADS = tuple(tuple(bytes((flags, size)) for size in range(256)) for flags in (0, MORE))


def greeting(*, as_server: bool) -> bytes:
    """Returns the 64 bytes that each side sends first (section "Greeting")."""
    signature = b"\xff" + b"\0" * 7 + b"\x01\x7f"
    return signature + b"\x03\x01" + b"NULL".ljust(20, b"\0") + bytes([as_server]) + b"\0" * 31


def encode_frame(body: Any, *, more: bool) -> list[Any]:
    """Returns the buffers of one message frame: its head, and its body as given (section "Framing")."""
    size = len(body)
    if size < 256:
        return [_SHORT_HEADS[more][size], body]
    return [bytes([LONG | more]) + size.to_bytes(8, "big"), body]


def encode_message(frames: Sequence[Any]) -> list[Any]:
    """Returns a message as a list of buffers; short frames are joined, long ones are passed on uncopied."""
    more = _SHORT_HEADS[1]
    parts: list[Any] = []
    try:
        for frame in frames:
            parts.append(more[len(frame)])
            parts.append(frame)
        # Every head says that more follows; the last one must not.
        parts[-2] = _SHORT_HEADS[0][len(frames[-1])]
    except IndexError:  # some frame has more than 255 bytes
        return _encode_long_message(frames)
    return [b"".join(parts)]


def encode_prefix(frames: list[bytes]) -> bytes:
    """Returns the bytes of the first frames of a message of which more follow."""
    return b"".join(encode_message([*frames, b""]))[:-2]


def message_of_one_frame(before: list[bytes], after: list[bytes]) -> Callable[[bytes], bytes]:
    """Returns a function that encodes messages which differ in one short frame only: before, it, after."""
    head = encode_prefix(before)
    tail = b"".join(encode_message(after))
    more = _SHORT_HEADS[1]

    def encode(frame: bytes) -> bytes:
        return head + more[len(frame)] + frame + tail

    return encode


def _encode_long_message(frames: Sequence[Any]) -> list[Any]:
    buffers: list[Any] = []
    parts: list[Any] = []
    last = len(frames) - 1
    for position, frame in enumerate(frames):
        parts += encode_frame(frame, more=position < last)
        if len(frame) > LONG_FRAME_BYTES:
            long = parts.pop()
            buffers += (b"".join(parts), long)
            parts = []
    if parts:
        buffers.append(b"".join(parts))
    return buffers


def encode_command(name: bytes, data: bytes = b"") -> bytes:
    """Returns the bytes of a command frame (section "Framing"): PING, PONG, READY, ERROR…"""
    body = bytes([len(name)]) + name + data
    if len(body) < 256:
        return bytes([COMMAND, len(body)]) + body
    return bytes([COMMAND | LONG]) + len(body).to_bytes(8, "big") + body


def encode_ready(socket_type: bytes, properties: Iterable[tuple[bytes, bytes]] = ()) -> bytes:
    """Returns the READY command that ends the NULL handshake (section "The NULL security mechanism")."""
    metadata = b"".join(
        bytes([len(name)]) + name + len(value).to_bytes(4, "big") + value
        for name, value in (*properties, (b"Socket-Type", socket_type))
    )
    return encode_command(b"READY", metadata)
