"""Operations on the objects of a store, each carried out as a few system calls.

Carries out `operations`, on the loop or in a worker. Owns what changes and removes objects that are there, and which
descriptors are uploads, with their checksums; an upload or a download is closed when its owner says so. How objects are
opened and read is reader.py's, how a file gets its name publisher.py's, how many get theirs together commits.py's,
whether bytes are the right ones proofs.py's, the daemon's own folder `.storekeeper/` home.py's.

Every path is relative to the store's directory as ground.py opens it for a job: none leads into another directory.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

from storekeeper import wire
from storekeeper.errors import BadRequest, CorruptObject, StorekeeperError
from storekeeperd import checksums, entries, moments, sight
from storekeeperd.commits import Commits
from storekeeperd.features import prove_unwritable
from storekeeperd.ground import Ground, Stay
from storekeeperd.metadata import CREATED_US_MAX, Metadata
from storekeeperd.operations import (
    Begin,
    Close,
    Commit,
    Evict,
    Get,
    Look,
    Mark,
    Open,
    Operation,
    Outcome,
    Put,
    Read,
    Stat,
    Survey,
    Task,
    Verify,
    WouldWait,
    Write,
    failed,
)
from storekeeperd.proofs import Proofs, move_away
from storekeeperd.publisher import Publisher, check_owner, write_all
from storekeeperd.reader import Reader, place_of
from storekeeperd.refusals import typed
from storekeeperd.sight import ABSENT, UNSEEN
from storekeeperd.sights import Sights, is_object, is_ours, stat_file
from storekeeperd.syncs import Syncs

_ENDLESS = 1 << 62


class Disk:
    """The objects of one store. Thread-safe: every method is a few system calls on its own descriptors.

    Args:
        ground: the way into the store's directory.
        private: where temporary names are, relative to the store; an existing directory that only this daemon uses.
        unnamed_files: whether the file system has O_TMPFILE.
        attributes: whether it has user attributes.
        read_nowait: whether it can read from the page cache alone (RWF_NOWAIT).
        inline_bytes_max: longest read or comparison that is made without waiting.
        ready_markers: whether FileConnector's markers are kept.
        flush: whether every put is handed to the disk before it counts; for network file systems.
        commit_group_max: durable puts that share their waits for the platter.
        sync_together: whether these are left to the kernel together, where it offers that.
        boot: which boot of the machine this is.
    """

    def __init__(
        self,
        ground: Ground,
        private: str,
        *,
        unnamed_files: bool = True,
        attributes: bool = True,
        read_nowait: bool = True,
        inline_bytes_max: int = 256 * 1024,
        ready_markers: bool = False,
        flush: bool = False,
        commit_group_max: int = 32,
        sync_together: bool = True,
        boot: int | None = None,
    ) -> None:
        self._ground = ground
        boot = moments.boot() if boot is None else boot
        self._boot = boot
        self._sights = Sights(attributes=attributes, boot=boot)
        self._publisher = Publisher(
            private,
            unnamed_files=unnamed_files,
            attributes=attributes,
            ready_markers=ready_markers,
            flush=flush,
            boot=boot,
            sights=self._sights,
        )
        self._attributes = attributes
        self._syncs = Syncs(commit_group_max, together=sync_together)
        self._commits = Commits(self._publisher, commit_group_max, self._syncs, self._sights)
        self._proofs = Proofs(attributes=attributes, boot=boot, is_over=self._sights.is_over)
        self._reader = Reader(self._sights, self._proofs, read_nowait=read_nowait, inline_bytes_max=inline_bytes_max)
        self._checksums: dict[int, checksums.Running] = {}  # by descriptor of the upload
        self._inline_bytes_max = inline_bytes_max
        self.stay = ground.stay
        self._methods: dict[type, Callable[[Any, Stay, bool], Outcome]] = {
            Look: self._look,
            Survey: self._survey,
            Get: self._reader.get,
            Put: self._put,
            Evict: self._evict,
            Mark: self._mark,
            Verify: self._verify,
            Stat: self._reader.stat,
            Begin: self._begin,
            Write: self._write,
            Commit: self._commit,
            Open: self._reader.open,
            Read: self._reader.read,
            Close: self._close,
            Task: self._task,
        }

    def close(self) -> None:
        """Releases what the disk itself holds; to be called once."""
        self._publisher.close()
        self._syncs.close()

    def perform(self, operation: Operation, stay: Stay, *, wait: bool = True) -> Outcome:
        """Carries out an operation; every failure is an outcome with a typed error.

        Args:
            operation: what to do.
            stay: the store's directory, as long as the operations of a job last.
            wait: whether it may wait for the disk.

        Raises:
            WouldWait: `wait` is false and it would; nothing was changed.
        """
        try:
            return self._methods[type(operation)](operation, stay, wait)
        except StorekeeperError as error:
            return failed(error, self._seen(operation, stay))
        except OSError as error:
            return failed(typed(error), self._seen(operation, stay))

    def put_together(self, puts: list[Put], stay: Stay) -> list[Outcome]:
        """Carries out durable puts of different names as a group commit; waits for the disk. See commits.py."""
        return self._commits.put_all(puts, stay)

    def free(self) -> tuple[int, int]:
        """Returns bytes and inodes that the file system has free for whom the daemon runs as; raises a typed error."""
        try:
            found = os.statvfs(self._ground.path)
        except OSError as error:
            raise typed(error) from None
        return found.f_bavail * found.f_frsize, found.f_favail if found.f_files else _ENDLESS

    def scan(self, directory: bytes) -> Iterator[bytes]:
        """Reads a directory of objects: `b""` for the default namespace, `b"namespace/"` for others.

        Makes no system call per name, and none of the work: who takes the buffers does that (see entries.py).

        Yields:
            Buffers for `entries.take_apart`.

        Raises:
            StoreUnavailable: the store is not there.
            OSError: it cannot be read to its end; what was yielded is then no complete picture.
        """
        with self._ground.stay() as stay:
            place, _ = stay.place(directory)
            descriptor = os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=place)
            try:
                yield from entries.read(descriptor)
            finally:
                os.close(descriptor)

    # -- one method per operation

    def _look(self, operation: Look, stay: Stay, _: bool) -> Outcome:
        (seen,), recent, error = self._sights.look_at_all([operation.name], stay)
        if error is not None:
            raise error
        return Outcome(wire.OK, seen, recent=tuple(recent))

    def _survey(self, operation: Survey, stay: Stay, _: bool) -> Outcome:
        seen, recent, _error = self._sights.look_at_all(operation.names, stay, operation.known)
        return Outcome(wire.OK, payload=seen, recent=recent)

    def _put(self, operation: Put, stay: Stay, _: bool) -> Outcome:
        descriptor = self._publisher.begin(stay.root)
        try:
            write_all(descriptor, operation.payload, 0)
            return self._publisher.publish(descriptor, operation, checksums.of(operation.payload), stay)
        finally:
            self._publisher.discard(descriptor, stay)

    def _evict(self, operation: Evict, stay: Stay, _: bool) -> Outcome:
        there = place_of(operation.name, stay)
        if there is None:
            return Outcome(b"absent", ABSENT)
        place, name = there
        found = stat_file(name, place)
        if found is None:
            self._publisher.remove_marker(name, place)
            return Outcome(b"absent", ABSENT)
        word = b"absent"
        if is_object(name, found):  # a directory, link or fifo is not ours to remove
            word = self._may_evict(operation, name, place, found)
        if word == b"evicted":
            try:
                self._publisher.unpublish(name, place)
            except FileNotFoundError:
                word = b"absent"
        return Outcome(word, self._sights.look(name, place))

    def _may_evict(self, operation: Evict, name: bytes, place: int, found: os.stat_result) -> bytes:
        """Returns the word of an eviction, were it carried out; raises `Denied`."""
        if operation.origin.any_owner and not operation.before_ns and operation.only is None:
            return b"evicted"
        kept = self._sights.kept_with(name, place, found)
        if operation.only is not None and not self._is_still(operation.only, kept, found):
            return b"kept"
        check_owner(operation.origin, kept, found)
        newer = operation.before_ns and moments.is_newer(kept, found, operation.before_ns, self._boot)
        return b"absent" if newer else b"evicted"

    def _is_still(self, seen: int, kept: Metadata | None, found: os.stat_result) -> bool:
        """Returns whether an object is what was seen; when one of this boot expires is known exactly."""
        now = self._sights.of(kept, found)
        return seen == now or (kept is not None and kept.boot != self._boot and sight.is_same(seen, now))

    def _mark(self, operation: Mark, stay: Stay, _: bool) -> Outcome:
        descriptor, found = self._reader.open_object(operation, stay)
        if found is None:
            return Outcome(b"absent", ABSENT)
        try:
            if not self._attributes:
                raise BadRequest("the store's file system has no user attributes: nothing can be kept with an object")
            kept = self._proofs.kept(descriptor) if is_ours(found) else None
            if self._sights.is_over(kept):
                return Outcome(b"absent", self._seen(operation, stay))
            check_owner(operation.origin, kept, found)
            if kept is None:
                created_us = min(max(0, found.st_mtime_ns // 1000), CREATED_US_MAX)
                kept = Metadata(found.st_uid, created_us, self._boot, moments.now_ns(), 0, False, proved=False)
            self._publisher.mark(descriptor, moments.marked(kept, operation, self._boot))
            return Outcome(wire.OK, self._seen(operation, stay))
        finally:
            os.close(descriptor)

    def _verify(self, operation: Verify, stay: Stay, _: bool) -> Outcome:
        descriptor, found = self._reader.open_object(operation, stay)
        if found is None:
            return Outcome(b"absent", ABSENT)
        try:
            known = self._proofs.prove_file(descriptor)
            return Outcome(wire.OK if known else b"unknown", self._seen(operation, stay))
        except CorruptObject:
            move_away(descriptor, operation.name, stay)
            place, name = stay.place(operation.name)
            if stat_file(name, place) is None:
                self._publisher.remove_marker(name, place)
            raise
        finally:
            os.close(descriptor)

    def _begin(self, operation: Begin, stay: Stay, _: bool) -> Outcome:
        descriptor = self._publisher.begin(stay.root)
        self._checksums[descriptor] = checksums.Running()
        return Outcome(wire.OK, UNSEEN, number=descriptor)

    def _write(self, operation: Write, stay: Stay, _: bool) -> Outcome:
        write_all(operation.descriptor, operation.payload, operation.offset)
        self._checksums[operation.descriptor].wrote(operation.descriptor, operation.offset, operation.payload)
        return Outcome(wire.OK)

    def _commit(self, operation: Commit, stay: Stay, _: bool) -> Outcome:
        try:
            if operation.lent:
                _take_back(operation.descriptor)
            checksum = self._checksums[operation.descriptor].finish(operation.descriptor, operation.size)
            return self._publisher.publish(operation.descriptor, operation, checksum, stay)
        finally:
            self._forget(operation.descriptor, stay)

    def _close(self, operation: Close, stay: Stay, wait: bool) -> Outcome:
        # It may be the last one of a file that has no name any more, or never had one: then its bytes are freed now.
        # An object that has its name frees nothing, unless it is just losing it.
        if not wait and self._may_be_long(operation.descriptor):
            raise WouldWait
        self._forget(operation.descriptor, stay)
        return Outcome(wire.OK)

    def _task(self, operation: Task, _: Stay, wait: bool) -> Outcome:
        if not wait:
            raise WouldWait
        operation.run()
        return Outcome(wire.OK)

    def _may_be_long(self, descriptor: int) -> bool:
        try:
            found = os.fstat(descriptor)
        except OSError:
            return True
        return found.st_size > self._inline_bytes_max and (not found.st_nlink or descriptor in self._checksums)

    def _forget(self, descriptor: int, stay: Stay) -> None:
        """Closes an upload or a download. Its number may be another's a moment later: nothing of it may stay."""
        self._checksums.pop(descriptor, None)
        self._publisher.discard(descriptor, stay)

    # -- looking and reading

    def _seen(self, operation: Operation, stay: Stay) -> int:
        name = getattr(operation, "name", None)
        return UNSEEN if name is None else self._sights.look_again(name, stay)


def _take_back(descriptor: int) -> None:
    """Sees to it that nobody can write to an upload any more that its uploader has had a descriptor of."""
    try:
        prove_unwritable(descriptor)
    except BlockingIOError:
        raise BadRequest(
            "somebody can still write to the upload: close its descriptor, its copies and mappings before the commit; "
            "nothing was stored"
        ) from None
