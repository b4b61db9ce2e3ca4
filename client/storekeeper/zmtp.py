"""ZMTP 3.1 over a byte stream, without I/O: bytes in, messages out, both roles, NULL mechanism.

Owns the handshake, the parsing of frames, and the answers that the protocol itself demands (READY, PONG, ERROR).
Knows nothing of sockets, nor of what the messages say. Whatever comes in is either parsed or raises `ProtocolError`,
and nothing else. Memory is bounded: a message may not exceed `message_bytes_max` nor have more than `frames_max`
frames, and a long frame has its memory when its first 8 KiB are there: what a peer only announces costs no more. One
that is trusted is believed at once.

Section names in comments are those of ZMTP 3.1 (rfc.zeromq.org/spec/37).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from storekeeper import framing
from storekeeper.errors import ProtocolError
from storekeeper.framing import COMMAND, LONG, LONG_FRAME_BYTES, MORE

GREETING_BYTES = 64
COMMAND_BYTES_MAX = 4096

_PASSED_OVER = b"-"
"""Stands in an Overlong for a frame that was passed over; not empty, for an empty first frame has a meaning."""
_FIRST_ROOM_BYTES = LONG_FRAME_BYTES
_AT_ONCE_BYTES_MAX = 64 * 1024 * 1024
"""Announced bytes that a trusted peer is believed; more than any daemon sends by default."""
_FRAME_BYTES = 64
"""What a frame costs beside its bytes."""

_PEERS = {b"ROUTER": (b"REQ", b"DEALER", b"ROUTER"), b"DEALER": (b"REP", b"DEALER", b"ROUTER")}
"""Which socket types may talk to ours (section "Socket semantics")."""


def parse_metadata(data: bytes) -> dict[bytes, bytes]:
    """Returns the properties of a READY command, names in lower case; raises `ProtocolError`."""
    properties: dict[bytes, bytes] = {}
    position, end = 0, len(data)
    while position < end:
        name_end = position + 1 + data[position]
        value_start = name_end + 4
        value_end = value_start + int.from_bytes(data[name_end:value_start], "big")
        if name_end == position + 1 or value_end > end or value_start > end:
            raise ProtocolError("malformed READY metadata")
        properties[data[position + 1 : name_end].lower()] = data[value_start:value_end]
        position = value_end
    return properties


class Overlong(list[bytes | bytearray]):
    """What is left of a message that was over the bound: its first short frames. The connection goes on after it."""


class Memory(Protocol):
    """What a long frame is received into, and becomes bytes without a copy: an io.BytesIO."""

    def getbuffer(self) -> memoryview:
        """Returns all of it."""

    def getvalue(self) -> bytes:
        """Returns what it is now; nothing may look into it any more."""


class Engine:
    """One end of a ZMTP connection.

    Feed it what was received (`receive`, or `room` and `filled` while a long frame arrives), ask it for messages
    until it answers None, and send what it leaves in `outgoing` before anything of your own.

    Args:
        socket_type: what this end claims to be: b"ROUTER" or b"DEALER".
        as_server: the as-server bit of the greeting, which NULL ignores.
        message_bytes_max: the sum of all frames of a message that have more than 255 bytes; a message that has more
            is passed over as it arrives, never held, and handed out as `Overlong`.
        frames_max: frames in a message; more are a breach of protocol.
        properties: what else it says of itself in the handshake.
        memory: if the peer is trusted, what makes the memory of a long frame, as soon as that is announced; all frames
            are bytes then.

    Attributes:
        outgoing: buffers the protocol itself has to send; the caller empties it.
        ready: whether the handshake is complete.
        peer_properties: what the peer has said of itself, names in lower case; nothing of it is to be trusted.
    """

    def __init__(
        self,
        *,
        socket_type: bytes,
        as_server: bool,
        message_bytes_max: int,
        frames_max: int,
        properties: Sequence[tuple[bytes, bytes]] = (),
        memory: Callable[[int], Memory] | None = None,
    ) -> None:
        self.peer_properties: dict[bytes, bytes] = {}
        self._properties = properties
        self.outgoing: list[Any] = [framing.greeting(as_server=as_server)]
        self.ready = False
        self._socket_type = socket_type
        self._message_bytes_max = message_bytes_max
        self._frames_max = frames_max
        self._data = b""
        self._position = 0
        self._greeted = False
        self._frames: list[bytes | bytearray] = []
        self._message_bytes = 0
        # A long frame that is arriving: its buffer, how much of it is there, and whether more frames follow.
        self._long: bytearray | memoryview | None = None
        self._whole: Memory | None = None
        self._memory = memory
        self._long_bytes = 0
        self._long_filled = 0
        self._long_more = False
        # A message that is passed over: bytes still to come of its present frame, and whether more frames follow.
        self._overlong = False
        self._skip_bytes = 0

    def receive(self, data: bytes) -> None:
        """Takes in received bytes. Parsing happens in `next_message`, so that a caller may pause between messages."""
        if self._position < len(self._data):
            self._data = self._data[self._position :] + data
        else:
            self._data = data
        self._position = 0

    def room(self) -> memoryview | None:
        """Returns the part of a long frame that has not arrived yet, to be received into; None if there is none."""
        if self._long is None or self._position < len(self._data):
            return None
        return memoryview(self._long)[self._long_filled :]

    def filled(self, size: int) -> None:
        """Says that `size` bytes were received into `room()`."""
        self._long_filled += size

    def next_message(self) -> list[bytes | bytearray] | None:
        """Returns the frames of the next complete message, or None if more bytes are needed.

        Raises:
            ProtocolError: the peer broke the protocol; the connection is of no use any more.
        """
        if not self.ready and not self._shake_hands():
            return None
        if self._long is not None and not self._fill_long():
            return None
        if self._skip_bytes and not self._skip():
            return None
        if self._message_complete:
            return self._take_message()
        data = self._data
        end = len(data)
        position = self._position
        frames = self._frames
        append = frames.append
        while True:
            # Short message frames, the common case, are parsed here; all else in _next_frame.
            while position + 1 < end:
                flags = data[position]
                stop = position + 2 + data[position + 1]
                if flags > 1 or stop > end:  # 1 is MORE
                    break
                append(data[position + 2 : stop])
                position = stop
                if not flags:
                    self._position = position
                    self._check_frames(frames)
                    return self._take_message()
            self._position = position
            self._check_frames(frames)
            if not self._next_frame():
                return None
            if self._message_complete:
                return self._take_message()
            position = self._position

    @property
    def unparsed_bytes(self) -> int:
        """How much was received that no message was made of yet."""
        return len(self._data) - self._position

    @property
    def held_bytes(self) -> int:
        """About how much memory a message takes that is not complete yet; 0 between messages."""
        arriving = len(self._data) - self._position
        if self._frames or self._long is not None:
            arriving += self._message_bytes + _FRAME_BYTES * len(self._frames)
            arriving += len(self._long) if self._long is not None else 1
        return arriving

    def next_after(self, prefix: bytes) -> tuple[bytes, bytes, bytes] | None:
        """Returns the last three frames of the next message if it begins with given ones and has three more, all short.

        A way to take a message of a known shape for a third of the cost. Otherwise None, and nothing is taken: ask
        `next_message`, which says why.

        Args:
            prefix: the first frames, as `framing.encode_message` encodes them when more follow.
        """
        data = self._data
        start = self._position
        if not data.startswith(prefix, start) or self._frames or not self.ready:
            return None
        one = start + len(prefix)
        try:
            two = one + 2 + data[one + 1]
            three = two + 2 + data[two + 1]
            end = three + 2 + data[three + 1]
            if end > len(data) or data[one] != 1 or data[two] != 1 or data[three]:  # 1 is MORE
                return None
        except IndexError:
            return None
        self._position = end
        return data[one + 2 : two], data[two + 2 : three], data[three + 2 : end]

    def _check_frames(self, frames: list[bytes | bytearray]) -> None:
        if len(frames) > self._frames_max:
            raise ProtocolError(f"a message has at most {self._frames_max} frames")

    _message_complete = False

    def _take_message(self) -> list[bytes | bytearray]:
        frames = self._frames
        self._frames = []
        self._message_bytes = 0
        self._message_complete = False
        if self._overlong:
            self._overlong = False
            return Overlong(frames[:4])
        return frames

    def _shake_hands(self) -> bool:
        if not self._greeted:
            self._check_greeting()
            if len(self._data) < GREETING_BYTES:
                return False
            self._greeted = True
            self._position = GREETING_BYTES
            self.outgoing.append(framing.encode_ready(self._socket_type, [(b"Identity", b""), *self._properties]))
        while not self.ready:
            if not self._next_frame():
                return False
        return True

    def _check_greeting(self) -> None:
        """Refuses as early as the bytes allow (section "Greeting"; versions 1 and 2 are not spoken)."""
        data = self._data
        if data[:1] not in (b"", b"\xff") or (len(data) > 9 and not data[9] & 1):
            raise ProtocolError("no ZMTP signature")
        if len(data) > 10 and data[10] < 3:
            raise ProtocolError("ZMTP version 3.0 or later is required")
        if len(data) >= 32 and data[12:32].rstrip(b"\0") != b"NULL":
            raise ProtocolError("only the NULL mechanism is spoken here")

    def _next_frame(self) -> bool:
        """Parses one frame of any kind at the position; False if it is not complete yet."""
        data, position = self._data, self._position
        end = len(data)
        if end - position < 2:
            return False
        flags = data[position]
        if flags & ~(MORE | LONG | COMMAND) or (flags & COMMAND and flags & MORE):
            raise ProtocolError("reserved frame flags are set")
        if flags & LONG:
            if end - position < 9:
                return False
            size = int.from_bytes(data[position + 1 : position + 9], "big")
            body = position + 9
        else:
            size = data[position + 1]
            body = position + 2
        if flags & COMMAND:
            return self._take_command(body, size)
        if not self.ready:
            raise ProtocolError("a message before READY")
        return self._take_frame(body, size, bool(flags & MORE))

    def _take_command(self, body: int, size: int) -> bool:
        if size > COMMAND_BYTES_MAX:
            raise ProtocolError(f"a command has at most {COMMAND_BYTES_MAX} bytes")
        stop = body + size
        if stop > len(self._data):
            return False
        self._position = stop
        self._command(self._data[body:stop])
        return True

    def _take_frame(self, body: int, size: int, more: bool) -> bool:
        if len(self._frames) >= self._frames_max - more:
            raise ProtocolError(f"a message has at most {self._frames_max} frames")
        if self._overlong or self._message_bytes + size > self._message_bytes_max:
            self._overlong = True
            self._skip_bytes = size
            self._long_more = more
            self._frames.append(_PASSED_OVER)
            self._position = body
            return self._skip()
        if size > LONG_FRAME_BYTES:
            if self._memory is not None and size <= _AT_ONCE_BYTES_MAX:
                self._whole = self._memory(size)
                self._long = self._whole.getbuffer()
            else:  # announcing bytes without sending them costs no memory
                self._long = bytearray(min(size, _FIRST_ROOM_BYTES))
            self._long_bytes = size
            self._long_filled = 0
            self._long_more = more
            self._position = body
            return self._fill_long()
        stop = body + size
        if stop > len(self._data):
            return False
        self._frames.append(self._data[body:stop])
        self._message_bytes += size
        self._position = stop
        self._message_complete = not more
        return True

    def _fill_long(self) -> bool:
        """Moves what is there into the long frame that is arriving; True if that completes it."""
        frame = self._long
        assert frame is not None
        available = min(len(frame) - self._long_filled, len(self._data) - self._position)
        if available:
            stop = self._position + available
            frame[self._long_filled : self._long_filled + available] = memoryview(self._data)[self._position : stop]
            self._position = stop
            self._long_filled += available
        if self._long_filled < len(frame):
            return False
        if self._whole is not None:
            self._long = frame = None  # while anything looks into it, what it hands out would be a copy
            self._take_long(self._whole.getvalue())
            self._whole = None
            return True
        assert isinstance(frame, bytearray)
        if len(frame) < self._long_bytes:
            # Growing with what arrives would cost as much again as receiving: each step is memory that is new.
            self._long = bytearray(self._long_bytes)
            self._long[: len(frame)] = frame
            return self._fill_long()
        self._long = None
        self._take_long(frame if self._memory is None else bytes(frame))
        return True

    def _take_long(self, frame: bytes | bytearray) -> None:
        self._frames.append(frame)
        self._message_bytes += len(frame)
        self._message_complete = not self._long_more

    def _skip(self) -> bool:
        """Passes over what is there of a frame of an overlong message; True if that was all of it."""
        available = min(self._skip_bytes, len(self._data) - self._position)
        self._position += available
        self._skip_bytes -= available
        if self._skip_bytes:
            return False
        self._message_complete = not self._long_more
        return True

    def _command(self, body: bytes) -> None:
        name_end = 1 + (body[0] if body else 0)
        if name_end == 1 or name_end > len(body):
            raise ProtocolError("malformed command")
        name, data = body[1:name_end], body[name_end:]
        if not self.ready:
            if name == b"ERROR":
                raise ProtocolError(f"the peer refused the handshake: {data[1:].decode('ascii', 'replace')}")
            if name != b"READY":
                raise ProtocolError("a command other than READY in the handshake")
            self._take_ready(data)
        elif name == b"PING":
            # Section "Connection heartbeating": 2 bytes of time-to-live, then a context of at most 16 bytes.
            if not 2 <= len(data) <= 18:
                raise ProtocolError("malformed PING")
            self.outgoing.append(framing.encode_command(b"PONG", data[2:]))
        elif name not in (b"PONG", b"SUBSCRIBE", b"CANCEL"):
            raise ProtocolError("unknown command")

    def _take_ready(self, data: bytes) -> None:
        self.peer_properties = parse_metadata(data)
        peer = self.peer_properties.get(b"socket-type", b"")
        if peer not in _PEERS[self._socket_type]:
            reason = b"socket type not compatible"
            self.outgoing.append(framing.encode_command(b"ERROR", bytes([len(reason)]) + reason))
            raise ProtocolError("the peer's socket type does not fit")
        self.ready = True
