"""Everything a caller of storekeeper can catch.

Owns the closed set of errors: each has a wire code, says whether trying again can help, and its message is a
sentence that tells the user what to do. Absence is not an error: `get` answers None, `exists` and `evict` False.

    StorekeeperError
     +-- BadRequest            bad_request      the request breaks a rule of the wire; the message names the rule
     +-- UnknownVerb           unknown_verb
     +-- VersionMismatch       bad_version
     +-- BadKey                bad_key          the key breaks the key rule
     +-- NamespaceMissing      no_namespace
     +-- Denied                denied           the caller may not do that with this namespace or object
     +-- QuotaExceeded         quota            a limit on what is kept: of the store, a namespace or a user
     +-- KeyExists             key_exists       the key holds other bytes; put(..., replace=True) replaces them
     +-- NotAnObject           not_an_object    a directory, link, fifo… holds that name in the store
     +-- TooLarge              too_large        more than fits into one message
     +-- TooMany               too_many         a limit on a number of things
     +-- BadHandle             bad_handle       an upload, download or listing that this connection does not have
     +-- IncompleteUpload      incomplete       the bytes received are not the bytes announced
     +-- CorruptObject         corrupt          the object's bytes are not those that were put
     +-- DiskFull              disk_full
     +-- DiskFailed            disk_failed
     +-- StoreUnavailable      store_away       the store's directory is not there
     +-- Busy                  busy             the daemon has as many connections or files open as it may
     +-- DaemonStopping        stopping
     +-- InternalError         internal
     +-- BatchFailed           batch            some items of a batch failed; .results has each item's result
     +-- DaemonUnreachable     unreachable      nobody serves the address
     +-- TimedOut              timed_out        no answer before the deadline
     +-- WrongServer           wrong_server     somebody else serves the address than was expected
     +-- ClientClosed          closed
     +-- ProtocolError         protocol         the other end does not speak the protocol
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar


class StorekeeperError(Exception):
    """Base of every error of this package.

    Attributes:
        code: the word that stands for this error on the wire.
        retry: whether the same call, made again a little later, can succeed.
    """

    code: ClassVar[str] = "error"
    retry: ClassVar[bool] = False


class BadRequest(StorekeeperError):
    """The request breaks a rule of the wire: frame count, option name or type. The message names the rule."""

    code = "bad_request"


class UnknownVerb(StorekeeperError):
    """The daemon does not know that verb; it may be older than the client."""

    code = "unknown_verb"


class VersionMismatch(StorekeeperError):
    """The first frame is not a protocol version that the daemon speaks."""

    code = "bad_version"


class BadKey(StorekeeperError, ValueError):
    """The key breaks the key rule; the message names the part of it."""

    code = "bad_key"


class NamespaceMissing(StorekeeperError):
    """The daemon does not serve that namespace."""

    code = "no_namespace"


class Denied(StorekeeperError, PermissionError):
    """The caller may not do that: the namespace's rules or the object's owner forbid it; the message says which."""

    code = "denied"


class QuotaExceeded(StorekeeperError):
    """A limit on what is kept would be exceeded: the message says whose, what is used and what is allowed. Evict some.

    Reading and evicting go on.
    """

    code = "quota"


class KeyExists(StorekeeperError):
    """The key holds other bytes. Choose another key, or put with `replace=True`."""

    code = "key_exists"


class NotAnObject(StorekeeperError):
    """Something that is not a regular file (directory, link, fifo) holds that name in the store."""

    code = "not_an_object"


class TooLarge(StorekeeperError):
    """More bytes than fit into one message; use the ranged verbs, as `Client` does by itself."""

    code = "too_large"


class TooMany(StorekeeperError):
    """A limit on a number was reached: items of a batch, uploads or downloads of a connection."""

    code = "too_many"


class BadHandle(StorekeeperError):
    """The connection has no upload, download or listing of that handle."""

    code = "bad_handle"


class IncompleteUpload(StorekeeperError):
    """The bytes received are not as many as were announced; nothing was stored."""

    code = "incomplete"
    retry = True


class CorruptObject(StorekeeperError):
    """The object's bytes are not those that were put: it was moved to the quarantine. Put it again."""

    code = "corrupt"


class DiskFull(StorekeeperError):
    """No space or quota left where the store lies; nothing was stored. Free some and try again."""

    code = "disk_full"
    retry = True


class DiskFailed(StorekeeperError):
    """The file system refused a call; the message has its reason."""

    code = "disk_failed"


class StoreUnavailable(StorekeeperError):
    """The store's directory is not there, or another one stands in its place."""

    code = "store_away"
    retry = True


class Busy(StorekeeperError):
    """The daemon has as many connections, of this user or in all, or files open as it may. Try again in a moment."""

    code = "busy"
    retry = True


class DaemonStopping(StorekeeperError):
    """The daemon is stopping; the next one will answer."""

    code = "stopping"
    retry = True


class InternalError(StorekeeperError):
    """A fault of the daemon; its log has the details."""

    code = "internal"


class BatchFailed(StorekeeperError):
    """Some items of a batch failed.

    Attributes:
        results: one entry per item, in order: its result, or the StorekeeperError it met.
    """

    code = "batch"

    def __init__(self, message: str, results: Sequence[Any] = ()) -> None:
        super().__init__(message, results)
        self.results = list(results)

    def __str__(self) -> str:
        return str(self.args[0])


class DaemonUnreachable(StorekeeperError, ConnectionError):
    """Nobody serves the address. Start `storekeeperd`, or give the address of one that runs."""

    code = "unreachable"
    retry = True


class TimedOut(StorekeeperError, TimeoutError):
    """The daemon did not answer before the deadline; whether a put or evict was done is not known."""

    code = "timed_out"
    retry = True


class WrongServer(StorekeeperError):
    """The address's socket belongs to another user than was expected to serve it; nothing was sent there."""

    code = "wrong_server"


class ClientClosed(StorekeeperError):
    """The client was closed; make a new one."""

    code = "closed"


class ProtocolError(StorekeeperError):
    """The other end does not speak ZMTP 3 with the NULL mechanism, or not this protocol on top of it."""

    code = "protocol"


def _leaves(cls: type[StorekeeperError]) -> list[type[StorekeeperError]]:
    return [cls, *(leaf for sub in cls.__subclasses__() for leaf in _leaves(sub))]


BY_CODE: dict[str, type[StorekeeperError]] = {cls.code: cls for cls in _leaves(StorekeeperError)}


def from_wire(code: str, message: str) -> StorekeeperError:
    """Returns the error that a code and a sentence of the daemon stand for.

    A code that this version does not know becomes an `InternalError` that names it.
    """
    cls = BY_CODE.get(code)
    if cls is None:
        return InternalError(f"{code}: {message}")
    return cls(message)
