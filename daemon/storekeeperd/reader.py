"""How objects are read: opened by their names, told of, and given whole or in ranges.

Owns what may be opened, regular files and nothing else, and what is read at once or only where waiting is allowed. It
changes nothing, and keeps nothing: a descriptor that `open` gives belongs to whom it was given. What becomes of an
object whose bytes are not the right ones is disk.py's.
"""

from __future__ import annotations

import errno
import json
import os
from typing import Any

from storekeeper import wire
from storekeeperd import moments, sight
from storekeeperd.ground import Stay
from storekeeperd.operations import SEALED, Get, Mark, Open, Outcome, Read, Stat, Verify, WouldWait
from storekeeperd.proofs import Proofs
from storekeeperd.refusals import GONE
from storekeeperd.sight import ABSENT
from storekeeperd.sights import Sights, is_object, stat_file

READ_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC

_PROVEN_BYTES = 4 * 1024 * 1024
"""Objects up to this are proven whenever they are opened, as they are when they are fetched in a message."""
_PROVEN_INLINE_BYTES = 1024 * 1024
"""And up to this without waiting: that takes no longer than to hand it to a thread and back."""
_NOT_REGULAR = (errno.ELOOP, errno.ENXIO, errno.ENODEV)


class Reader:
    """Reads objects. Thread-safe. Its methods raise `OSError` and errors of the store as they are.

    Args:
        sights: how names are looked at.
        proofs: whether bytes are the right ones.
        read_nowait: whether the file system can read from the page cache alone (RWF_NOWAIT).
        inline_bytes_max: longest read that is made without waiting.
    """

    def __init__(self, sights: Sights, proofs: Proofs, *, read_nowait: bool, inline_bytes_max: int) -> None:
        self._sights = sights
        self._proofs = proofs
        self._read_nowait = read_nowait
        self._inline_bytes_max = inline_bytes_max

    def get(self, operation: Get, stay: Stay, wait: bool) -> Outcome:
        """Reads an object whole, if the budget allows; raises `WouldWait`, and `CorruptObject`."""
        descriptor, found = self.open_object(operation, stay)
        if found is None:
            return Outcome(b"absent", ABSENT)
        size = found.st_size
        try:
            budget = operation.budget
            if size > budget.bytes_max:
                return Outcome(b"large", size)
            if size > budget.bytes_left:
                return Outcome(b"later", size)
            payload = self._range(descriptor, 0, size, wait)
            if not self._proofs.prove_payload(descriptor, payload):
                return Outcome(b"absent", size)
            budget.bytes_left -= size
            return Outcome(wire.OK, size, payload, sealed=_is_sealed(found))
        finally:
            os.close(descriptor)

    def stat(self, operation: Stat, stay: Stay, _: bool) -> Outcome:
        """Tells of an object: size, owner, age and lifetime."""
        there = place_of(operation.name, stay)
        if there is None:
            return Outcome(b"absent", ABSENT)
        place, name = there
        found = stat_file(name, place)
        if found is None or not is_object(name, found):
            return Outcome(b"absent", ABSENT)
        seen = self._sights.describe(name, place, found)
        kept = self._sights.kept_with(name, place, found)
        created = kept.created_us / 1e6 if kept else found.st_mtime
        told: dict[str, Any] = {"size": found.st_size, "owner": sight.owner_of(seen), "created": created}
        if sight.is_pinned(seen):
            told["pinned"] = True
        if expires_ms := sight.expires_of(seen):
            told["expires_in"] = round((expires_ms - moments.now_ms()) / 1000, 3)
        if process := sight.process_of(seen):
            told["process"] = process & sight.PID_MAX
        return Outcome(wire.OK, seen, json.dumps(told).encode())

    def open(self, operation: Open, stay: Stay, wait: bool) -> Outcome:
        """Opens an object for ranges, proved if need be; raises `WouldWait`, and `CorruptObject`."""
        descriptor, found = self.open_object(operation, stay)
        if found is None:
            return Outcome(b"absent", ABSENT)
        size = found.st_size
        over = True
        try:
            kept = self._proofs.kept(descriptor)
            over = self._sights.is_over(kept)
            if over:
                return Outcome(b"absent", size)
            seen = self._sights.of(kept, found)
            if size <= _PROVEN_BYTES:
                over = not self._prove_short(descriptor, size, wait)
                if over:
                    return Outcome(b"absent", size)
            elif self._proofs.needs_reading(kept, found):
                if not wait:
                    raise WouldWait
                self._proofs.prove_file(descriptor)
            return Outcome(wire.OK, seen, SEALED if _is_sealed(found) else b"", number=descriptor)
        except BaseException:
            over = True
            raise
        finally:
            if over:
                os.close(descriptor)

    def read(self, operation: Read, _: Stay, wait: bool) -> Outcome:
        """Reads a range of an object that is open; raises `WouldWait`."""
        return Outcome(wire.OK, payload=self._range(operation.descriptor, operation.offset, operation.length, wait))

    def open_object(self, operation: Get | Open | Verify | Mark, stay: Stay) -> tuple[int, os.stat_result | None]:
        """Returns a descriptor of an object, and what it was when it was opened; -1 and None if there is none."""
        there = place_of(operation.name, stay)
        if there is None:
            return -1, None
        place, name = there
        if not getattr(operation, "known", False):
            there_is = stat_file(name, place)
            if there_is is None or not is_object(name, there_is):
                return -1, None
        try:
            descriptor = os.open(name, READ_FLAGS, dir_fd=place)
        except OSError as error:
            if error.errno in GONE or error.errno in _NOT_REGULAR:
                return -1, None
            raise
        try:
            found = os.fstat(descriptor)
        except OSError:
            os.close(descriptor)
            raise
        if is_object(name, found):
            return descriptor, found
        os.close(descriptor)
        return -1, None

    def _prove_short(self, descriptor: int, size: int, wait: bool) -> bool:
        if wait:
            return self._proofs.prove_short_file(descriptor, size, 0)
        if size > _PROVEN_INLINE_BYTES:
            raise WouldWait
        if self._read_nowait:
            try:
                return self._proofs.prove_short_file(descriptor, size, os.RWF_NOWAIT)
            except BlockingIOError:
                raise WouldWait from None
            except OSError as error:  # the store came back on another file system
                if error.errno != errno.EOPNOTSUPP:
                    raise
                self._read_nowait = False
        return self._proofs.prove_short_file(descriptor, size, 0)

    def _range(self, descriptor: int, offset: int, length: int, wait: bool) -> Any:
        if wait:
            return read_all(descriptor, offset, length)
        if length > self._inline_bytes_max:
            raise WouldWait
        if not length:
            return b""
        if not self._read_nowait:
            return read_all(descriptor, offset, length)
        payload = bytearray(length)
        try:
            read = os.preadv(descriptor, [payload], offset, os.RWF_NOWAIT)
        except BlockingIOError:
            raise WouldWait from None
        except OSError as error:  # the store came back on another file system
            if error.errno != errno.EOPNOTSUPP:
                raise
            self._read_nowait = False
            return read_all(descriptor, offset, length)
        if read < length:
            raise WouldWait
        return payload


def _is_sealed(found: os.stat_result) -> bool:
    """Returns whether a file never changes: nobody but us could write to it, and we never do once it has a name."""
    return found.st_uid == os.geteuid() and not found.st_mode & 0o222


def place_of(name: bytes, stay: Stay) -> tuple[int, bytes] | None:
    """Returns where an object is, as `Stay.place`; None if there is no folder for it."""
    try:
        return stay.place(name)
    except FileNotFoundError:
        return None


def read_all(descriptor: int, offset: int, length: int) -> bytes:
    """Returns `length` bytes of a file, fewer only at its end, however little the system gives at a time."""
    payload = os.pread(descriptor, length, offset)
    while len(payload) < length:
        part = os.pread(descriptor, length - len(payload), offset + len(payload))
        if not part:
            break
        payload += part
    return payload
