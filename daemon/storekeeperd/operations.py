"""What the service orders and the disk carries out: plain values that cross from the one to the other.

Pure. An operation says what is to be done to the store; an `Outcome` is the fact that comes back. Every operation
that changes what a name is, or asks for it, ends with a look at that name, and its outcome carries what was seen:
that is the only way facts enter the index (see coherence.py).

A name is the path of an object relative to the store, as bytes: `key`, or `namespace/key`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

from storekeeper.errors import StorekeeperError
from storekeeperd.sight import UNSEEN


@dataclass(slots=True)
class Outcome:
    """A fact that comes back from the disk.

    Attributes:
        word: the result word of the wire, or the code of the error.
        seen: what a look at the name found (see sight.py), of a read its size in bytes, or ABSENT, or UNSEEN.
        payload: bytes for the client.
        number: a descriptor (Begin, Open) or a size in bytes (Open).
        recent: those of the names looked at (Look, Survey) whose file was written to a moment ago, and may be now.
        sealed: whether the object that was read whole (Get) never changes: nobody but us could write to its file.
        error: why it failed, if it did.
    """

    word: bytes
    seen: int = UNSEEN
    payload: Any = b""
    number: int = 0
    recent: Collection[bytes] = ()
    sealed: bool = False
    error: StorekeeperError | None = None


SEALED = b"sealed"
"""The payload of an Open of an object that never changes: its descriptor may be handed out, to be mapped."""


def failed(error: StorekeeperError, seen: int = UNSEEN) -> Outcome:
    """Returns the outcome of an operation that met an error."""
    # Where it was raised leads to frames, and these to the job that will hold the outcome: a cycle, with its payload.
    error.__traceback__ = error.__context__ = None
    return Outcome(error.code.encode(), seen, error=error)


class WouldWait(Exception):  # not an error: the same operation, made in a worker, succeeds
    """The operation would wait for the disk, or is too long for the loop; nothing was changed."""


@dataclass(slots=True)
class Budget:
    """How many payload bytes the reads of one reply may still bring; shared by the operations of one job."""

    bytes_left: int
    bytes_max: int


@dataclass(slots=True, frozen=True)
class Origin:
    """Who changes something.

    Attributes:
        uid: whose an object is that comes of it.
        any_owner: whether he may remove and replace what others own, too.
    """

    uid: int
    any_owner: bool = False


@dataclass(slots=True, frozen=True)
class Life:
    """How long an object lives that is put.

    Attributes:
        ttl_us: microseconds until it expires; 0 for never.
        process: the process it is tied to (see processes.py); 0 for none.
    """

    ttl_us: int = 0
    process: int = 0


ENDLESS = Life()


@dataclass(slots=True)
class Look:
    """Is there an object of that name?"""

    name: bytes


@dataclass(slots=True)
class Survey:
    """Which of many names are objects? The payload is a list: what was seen of each, as in `Outcome.seen`.

    `known` is what is known of each: None or a number below 0 if nothing is.
    """

    names: list[bytes]
    known: list[int | None] | None = None


@dataclass(slots=True)
class Get:
    """Read an object whole. Word `ok`, `absent`, `large` (over a message) or `later` (over this reply's budget).

    `known` says that it is an object by all that is known; else it is looked at before it is opened: to open a fifo
    would wake its writer.
    """

    name: bytes
    budget: Budget
    known: bool = False


@dataclass(slots=True)
class Put:
    """Publish an object. Word `created`, `replaced`, `same`, or `superseded`.

    What another one owns is not replaced, unless the origin may. `small` as in Evict, of what it may replace.
    `before_ns`: what was put after that moment, with `replace` itself, is not replaced, the word is then `superseded`
    (0: no such condition; see moments.py).
    """

    name: bytes
    payload: Any
    origin: Origin
    replace: bool
    durable: bool
    small: bool = True
    before_ns: int = 0
    life: Life = ENDLESS

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.payload)


@dataclass(slots=True)
class Evict:
    """Remove an object. Word `evicted` or `absent`.

    `small` says that the object is known to be short: removing a long one takes the file system a while. `before_ns`
    as in Put: what was put after that moment stays, the word is then `absent`. What another one owns is not removed,
    unless the origin may. With `only` it stays unless it is still what was seen then: the word is `kept`.
    """

    name: bytes
    small: bool
    origin: Origin
    before_ns: int = 0
    only: int | None = None


@dataclass(slots=True)
class Mark:
    """Change what is kept with an object, not its bytes. Word `ok` or `absent`; as Evict of whom it is.

    `ttl_us`: it expires so many microseconds from now (0: never). `pinned`: whether it is. `process`: which one it is
    tied to. None: as before.
    """

    name: bytes
    origin: Origin
    ttl_us: int | None = None
    pinned: bool | None = None
    process: int | None = None


@dataclass(slots=True)
class Verify:
    """Read an object and see whether its bytes are those that were put; if not, move it away.

    Word `ok`, `absent`, or `unknown` if nothing is kept with it that would tell.
    """

    name: bytes


@dataclass(slots=True)
class Stat:
    """Tell size, owner and age of an object; the payload is a JSON object."""

    name: bytes


@dataclass(slots=True)
class Begin:
    """Make an unnamed file for an upload; the outcome's number is its descriptor."""


@dataclass(slots=True)
class Write:
    """Write a range of an upload."""

    descriptor: int
    offset: int
    payload: Any


@dataclass(slots=True)
class Commit:
    """Publish an upload of `size` bytes and close its descriptor, whatever comes of it. Words as of Put.

    `lent`: its descriptor was handed out, too; nobody may be left then who can write to it.
    """

    name: bytes
    descriptor: int
    size: int
    origin: Origin
    replace: bool
    durable: bool
    before_ns: int = 0
    life: Life = ENDLESS
    lent: bool = False


@dataclass(slots=True)
class Open:
    """Open an object for ranged reading; the outcome's number is its descriptor, `seen` its size. `known` as in Get."""

    name: bytes
    known: bool = False


@dataclass(slots=True)
class Read:
    """Read a range of an opened object; shorter at its end."""

    descriptor: int
    offset: int
    length: int


@dataclass(slots=True)
class Close:
    """Close the descriptor of an upload that is given up, or of a download."""

    descriptor: int


@dataclass(slots=True)
class Task:
    """Do something that waits for the disk and concerns no object: `run`, whose errors are the outcome's."""

    run: Callable[[], None]


Change = Put | Evict | Commit | Verify | Mark
"""What changes a name, or may: one at a time of each."""

Operation = (
    Look | Survey | Get | Put | Evict | Mark | Verify | Stat | Begin | Write | Commit | Open | Read | Close | Task
)


@dataclass(slots=True, eq=False)
class Job:
    """Operations that are carried out in order, with what the service needs to take the outcomes back.

    Attributes:
        operations: what to do.
        tickets: one entry per operation, meaningful to the service alone.
        owner: the answer that it is for, None for the daemon's own work; says whose turn it is.
        outcomes: what came of it, in the same order; filled in by whoever carries it out.
    """

    operations: list[Operation]
    tickets: list[Any]
    owner: Any = None
    outcomes: list[Outcome] = field(default_factory=list)
