"""Peers and the answers under way for them.

Pure. A `Peer` is one connection as the service sees it: who the kernel says it is, what it holds, what it is owed.
An `Answer` gathers the results of a request's items, which may come in any order, and says when it is complete.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from storekeeper import wire
from storekeeper.errors import StorekeeperError
from storekeeperd.users import User


@dataclass(slots=True, eq=False)
class Peer:
    """One connection.

    Attributes:
        uid, gid, pid, groups: who connected, from the kernel; `groups` are the supplementary ones.
        user: what all connections of that uid hold.
        owed_requests: requests taken and not answered yet.
        owed_bytes: payload bytes that these requests brought or will be answered with, at most; and a KiB for
            each item.
        handles: uploads, downloads and listings, by handle (see transfers.py).
        opening: handles that are about to be handed out.
        gone: the connection is closed; answers are of no use any more.
        carrier: the listener's own; the service does not look at it.
        begun: the answer that was begun last.
        rights, rights_version: what it may do in each namespace; see access.py.
        reads_default: the version of the rules by which it may read in the default namespace.
        passes_descriptors: whether it has said that answers may bring it descriptors.
        process: which process it is, if that was asked (see processes.py); 0 if not.
    """

    uid: int
    gid: int
    pid: int
    user: User = field(default_factory=lambda: User(-1))
    owed_requests: int = 0
    owed_bytes: int = 0
    handles: dict[bytes, Any] = field(default_factory=dict)
    opening: int = 0
    gone: bool = False
    carrier: Any = None
    begun: Answer | None = None
    groups: frozenset[int] = frozenset()
    rights: dict[bytes, int] = field(default_factory=dict)
    rights_version: int = -1
    reads_default: int = -1
    process: int = 0
    passes_descriptors: bool = False


ITEM_BYTES = 1024
"""What an item takes beside its payload: an operation, its outcome, and who waits for it."""


class WithDescriptor(list[Any]):
    """The frames of a reply that brings a descriptor: whoever sends it passes that on, too, if it can.

    Attributes:
        transfer: whose `descriptor` it is, a negative one once that is closed: its number may be another file's then.
    """

    transfer: Any


class Answer:
    """The answer to one request, item by item.

    Args:
        peer: who asked.
        request: what was asked.
        items: how many results it takes.
        cost_bytes: payload bytes that the peer is owed, or has brought, until it is answered.
        payloads: whether every item brings a payload frame.

    Attributes:
        lends: the transfer whose descriptor the reply brings, if it does.
    """

    __slots__ = (
        "cost_bytes",
        "details",
        "left",
        "lends",
        "payloads",
        "peer",
        "request",
        "words",
    )

    def __init__(
        self, peer: Peer, request: wire.Request, items: int, *, cost_bytes: int = 0, payloads: bool = False
    ) -> None:
        self.peer = peer
        self.request = request
        self.words: list[bytes] = [b""] * items
        self.payloads: list[Any] = [b""] * items if payloads else []
        self.details: dict[str, Any] = {}
        self.left = items
        self.lends: Any = None
        self.cost_bytes = cost_bytes + ITEM_BYTES * items
        peer.begun = self
        peer.owed_requests += 1
        peer.owed_bytes += self.cost_bytes
        # The user owes it until it is done, though the connection may be gone by then: else who comes and goes could
        # leave any amount of work behind.
        peer.user.held_bytes += self.cost_bytes

    def settle(self, position: int, word: bytes, payload: Any = b"") -> bool:
        """Takes the result of one item; returns True if it was the last one."""
        self.words[position] = word
        if self.payloads:
            self.payloads[position] = payload
        self.left -= 1
        return not self.left

    def fail(self, position: int, error: StorekeeperError) -> bool:
        """Takes the error of one item; returns True if it was the last one."""
        self.details.setdefault("errors", {})[str(position)] = str(error)
        return self.settle(position, error.code.encode())

    def abandon(self, error: StorekeeperError) -> list[Any]:
        """Ends what the peer is owed with a refusal of the whole request; later results are of no effect."""
        self.left = 0
        self._end()
        return wire.encode_refusal(self.request.envelope, self.request.id, error)

    def close(self) -> list[Any]:
        """Ends what the peer is owed for this request; returns the frames of the reply."""
        self._end()
        request = self.request
        frames = wire.encode_reply(request.envelope, request.id, b" ".join(self.words), self.payloads, self.details)
        if self.lends is None:
            return frames
        bringing = WithDescriptor(frames)
        bringing.transfer = self.lends
        return bringing

    def _end(self) -> None:
        peer = self.peer
        peer.owed_requests -= 1
        peer.owed_bytes -= self.cost_bytes
        peer.user.held_bytes -= self.cost_bytes
        if peer.begun is self:
            peer.begun = None
