"""How much may be kept, and whose it is: room is reserved before a byte is written, and given back when it is known.

Pure. Owns what is reserved, and the bounds: of the store, of each namespace, of each user in both. What is there is the
index's to know; what is on its way, and what is removed but still being read, is reserved here. What is there and what
is reserved never exceed a bound together. An object is charged for whole blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from storekeeper.errors import Busy, QuotaExceeded
from storekeeperd.index import NOBODY, Index, Totals, charge_of
from storekeeperd.namespaces import UNBOUNDED, Namespace, Quota
from storekeeperd.sight import size_of

Free = tuple[int, int]
"""Bytes and inodes that the file system has free."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """Bounds of a whole store.

    Attributes:
        quota: of all objects.
        user_quota: of the objects of each user.
        users: of some users, instead of that, by number.
        object_bytes_max: bytes of one object; 0: no bound.
        keep_free_bytes, keep_free_inodes: what the file system must have free after a put.
    """

    quota: Quota = UNBOUNDED
    user_quota: Quota = UNBOUNDED
    users: Mapping[int, Quota] = field(default_factory=dict)
    object_bytes_max: int = 0
    keep_free_bytes: int = 0
    keep_free_inodes: int = 0


class SpaceFull(QuotaExceeded):
    """Only the bound of the namespace itself is in the way: room can be made, where that is its policy.

    Attributes:
        prefix: the namespace.
        quota: its bound.
        charge_bytes, objects: what does not fit.
    """

    def __init__(self, message: str, prefix: bytes, quota: Quota, charge_bytes: int, objects: int = 1) -> None:
        super().__init__(message)
        self.prefix = prefix
        self.quota = quota
        self.charge_bytes = charge_bytes
        self.objects = objects

    @property
    def is_lasting(self) -> bool:
        """Whether it does not fit even if there is nothing else."""
        quota = self.quota
        return bool(
            (quota.bytes_max and self.charge_bytes > quota.bytes_max)
            or (quota.objects_max and self.objects > quota.objects_max)
        )


@dataclass(slots=True, eq=False)
class Charge:
    """Room that is reserved.

    Attributes:
        prefix, uid: for whom: what names of the namespace begin with, and the user.
        bytes, objects: how much.
        sums: what it is counted in.
    """

    prefix: bytes
    uid: int
    bytes: int
    objects: int
    sums: tuple[Totals, ...]


_PLAIN = Namespace()


class Ledger:
    """Reservations over one index.

    Args:
        index: what is there.
        bounds: of the store.
        free: returns what the file system has free; called only if some of it is to be kept.
        known: returns whether all names of the store are known.

    Attributes:
        bounds_anything: whether there is any bound at all.
    """

    def __init__(
        self, index: Index, bounds: Bounds, free: Callable[[], Free], known: Callable[[], bool] = lambda: True
    ) -> None:
        self._index = index
        self._known = known
        self._bounds = bounds
        self._free = free
        self._spaces: dict[bytes, Namespace] = {}
        self._all = Totals()
        self._of_space: dict[bytes, Totals] = {}
        self._of_user: dict[int, Totals] = {}
        self._of_cell: dict[tuple[bytes, int], Totals] = {}
        # Asked for with every put: what holds for a user in a namespace, and what is reserved there.
        self._holds: dict[tuple[bytes, int], list[tuple[str, Quota, int]]] = {}
        self._reserved: dict[tuple[bytes, int], tuple[Totals, ...]] = {}
        self._anything = False  # that bounds the store or its users
        self.bounds_anything = False
        self._bounded: dict[bytes, bool] = {}
        self._judge()

    def set_space(self, prefix: bytes, space: Namespace | None) -> None:
        """Sets the bounds of a namespace; None if it is no more."""
        if space is None:
            self._spaces.pop(prefix, None)
        else:
            self._spaces[prefix] = space
        self._judge()

    def _judge(self) -> None:
        bounds = self._bounds
        self._holds.clear()
        self._keeps_free = bool(bounds.keep_free_bytes or bounds.keep_free_inodes)
        parts = (bounds.quota, bounds.user_quota, *bounds.users.values())
        self._anything = any(part != UNBOUNDED for part in parts)
        self._bounded = {
            prefix: space.quota != UNBOUNDED or space.user_quota != UNBOUNDED for prefix, space in self._spaces.items()
        }
        kept = bounds.object_bytes_max or bounds.keep_free_bytes or bounds.keep_free_inodes
        sizes = any(space.object_bytes_max for space in self._spaces.values())
        self.bounds_anything = bool(self.counts or kept or sizes)

    @property
    def counts(self) -> bool:
        """Whether there is any bound on what is kept, so that every object is to be looked at soon."""
        return self._anything or any(self._bounded.values())

    def reserve(self, prefix: bytes, uid: int, size: int) -> Charge | None:
        """Reserves room for an object of a size in bytes; returns None where nothing is bounded.

        Raises:
            QuotaExceeded: a bound would be exceeded; nothing is reserved.
            Busy: it is not known yet how much there is.
        """
        if not self.bounds_anything:
            return None
        self._check_size(prefix, size)
        charge = charge_of(size)
        if self._keeps_free:
            self._check_free(charge, 1)
        if self._anything or self._bounded.get(prefix):
            self._check(prefix, uid, charge, 1)
        return self._enter(prefix, uid, charge, 1)

    def hold(self, prefix: bytes, uid: int, size: int) -> Charge:
        """Counts an object as there that is removed, but still being read. Never refused: it was there."""
        return self._enter(prefix, uid, charge_of(size), 1)

    def grow(self, charge: Charge | None, prefix: bytes, size: int) -> None:
        """Makes a reservation enough for an object of a size in bytes; raises as `reserve`, it stays as it is then."""
        self._check_size(prefix, size)
        more = charge_of(size) - charge.bytes if charge is not None else 0
        if charge is None or more <= 0:
            return
        if self._keeps_free:
            self._check_free(more, 0)
        if self._anything or self._bounded.get(charge.prefix):
            self._check(charge.prefix, charge.uid, more, 0)
        self._add(charge.sums, more, 0)
        charge.bytes += more

    def release(self, charge: Charge | None) -> None:
        """Gives a reservation back: its object is there, and counted, or is not to come. Once for each."""
        if charge is not None:
            self._add(charge.sums, -charge.bytes, -charge.objects)

    def used(self, prefix: bytes) -> Totals:
        """Returns what a namespace holds, with what is reserved for it."""
        totals = self._index.totals(prefix)
        totals.add(self._of_space.get(prefix, Totals()))
        return totals

    def bounds_of(self, prefix: bytes, uid: int) -> dict[str, tuple[int, int]]:
        """Returns the bounds that hold for a user in a namespace, by name, and what is used of each."""
        told: dict[str, tuple[int, int]] = {}
        there, reserved = self._index.sums(prefix, uid), self._sums(prefix, uid)
        for whose, quota, at in self._held_against(prefix, uid):
            if quota.bytes_max:
                used = there[at].charged_bytes + reserved[at].charged_bytes
                told[f"{whose}_bytes_max"] = quota.bytes_max, used
            if quota.objects_max:
                told[f"{whose}_objects_max"] = quota.objects_max, there[at].objects + reserved[at].objects
        return told

    def _held_against(self, prefix: bytes, uid: int) -> list[tuple[str, Quota, int]]:
        """Returns what a put is held against: whose bound, what it is, and which of the sums counts.

        The namespace's own is the last one: if it alone is in the way, room may be made.
        """
        held = self._holds.get((prefix, uid))
        if held is None:
            bounds, space = self._bounds, self._spaces.get(prefix, _PLAIN)
            all_four = [
                ("store", bounds.quota, 0),
                ("user", bounds.users.get(uid, bounds.user_quota), 2),
                ("namespace_user", space.user_quota, 3),
                ("namespace", space.quota, 1),
            ]
            held = self._holds[prefix, uid] = [one for one in all_four if one[1] != UNBOUNDED]
        return held

    def is_under_way(self, prefix: bytes) -> bool:
        """Returns whether anything is reserved for a namespace: it will be there, or be given back, in a while."""
        reserved = self._of_space.get(prefix)
        return reserved is not None and (reserved.objects > 0 or reserved.charged_bytes > 0)

    def reserved(self) -> Totals:
        """Returns what is reserved in all."""
        return self._all

    @staticmethod
    def charge_of(seen: int) -> int:
        """Returns the bytes that an object is charged for, by its sight."""
        return charge_of(size_of(seen))

    # -- parts

    def _check_size(self, prefix: bytes, size: int) -> None:
        space, most = self._spaces.get(prefix), self._bounds.object_bytes_max
        if most and size > most:
            raise QuotaExceeded(f"an object of the store has at most {most} bytes, this one has {size}")
        if space is not None and space.object_bytes_max and size > space.object_bytes_max:
            name, most = _name(prefix), space.object_bytes_max
            raise QuotaExceeded(f"an object of namespace {name!r} has at most {most} bytes, this one has {size}")

    def _check_free(self, charge: int, objects: int) -> None:
        free_bytes, free_inodes = self._free()
        reserved, bounds = self._all, self._bounds
        left = free_bytes - reserved.charged_bytes - charge
        if bounds.keep_free_bytes and left < bounds.keep_free_bytes:
            raise QuotaExceeded(
                f"the file system has {free_bytes} bytes free, {reserved.charged_bytes} of them are reserved, and "
                f"{bounds.keep_free_bytes} are to be kept free: {charge} more are too many; evict something"
            )
        if bounds.keep_free_inodes and free_inodes - reserved.objects - objects < bounds.keep_free_inodes:
            raise QuotaExceeded(
                f"the file system has {free_inodes} inodes free, and {bounds.keep_free_inodes} are to be kept free: "
                "evict something"
            )

    def _check(self, prefix: bytes, uid: int, charge: int, objects: int) -> None:
        if not self._known() or self._index.sums(prefix, NOBODY)[2].objects:
            raise Busy("the store is being measured, which comes before anything more is put; try again in a moment")
        sums, reserved = self._index.sums(prefix, uid), self._sums(prefix, uid)
        for whose, quota, at in self._held_against(prefix, uid):
            there, coming = sums[at], reserved[at]
            used_bytes, used = there.charged_bytes + coming.charged_bytes, there.objects + coming.objects
            if quota.bytes_max and used_bytes + charge > quota.bytes_max:
                sentence = (
                    f"may hold {quota.bytes_max} bytes in whole blocks and holds {used_bytes}: "
                    f"{charge} more are too many; evict something"
                )
            elif quota.objects_max and used + objects > quota.objects_max:
                sentence = f"may hold {quota.objects_max} objects and holds {used}; evict something"
            else:
                continue
            sentence = f"{_told(whose, prefix, uid)} {sentence}"
            raise SpaceFull(sentence, prefix, quota, charge) if whose == "namespace" else QuotaExceeded(sentence)

    def _sums(self, prefix: bytes, uid: int) -> tuple[Totals, ...]:
        """Returns what is reserved: in all, in a namespace, for a user, for him there."""
        sums = self._reserved.get((prefix, uid))
        if sums is None:
            sums = self._reserved[prefix, uid] = (
                self._all,
                self._of_space.setdefault(prefix, Totals()),
                self._of_user.setdefault(uid, Totals()),
                self._of_cell.setdefault((prefix, uid), Totals()),
            )
        return sums

    def _enter(self, prefix: bytes, uid: int, charge: int, objects: int) -> Charge:
        sums = self._sums(prefix, uid)
        self._add(sums, charge, objects)
        return Charge(prefix, uid, charge, objects, sums)

    @staticmethod
    def _add(sums: tuple[Totals, ...], charge: int, objects: int) -> None:
        for totals in sums:
            totals.charged_bytes += charge
            totals.objects += objects


def _told(whose: str, prefix: bytes, uid: int) -> str:
    """Returns whose bound it is, for a message."""
    names = {"store": "the store", "user": f"uid {uid}", "namespace": f"namespace {_name(prefix)!r}"}
    return names.get(whose, f"uid {uid} in namespace {_name(prefix)!r}")


def _name(prefix: bytes) -> str:
    return prefix[:-1].decode("utf-8", "replace") or "default"
