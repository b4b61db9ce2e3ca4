"""How much may be kept, and whose it is: room is reserved before a byte is written, and given back when it is known.

Pure. Owns what is reserved, and the bounds: of the store, of each namespace, of each user in both. What is there is the
index's to know; what is on its way, and what is removed but still being read, is reserved here. What is there and what
is reserved never exceed a bound together. An object is charged for whole blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from storekeeper.errors import Busy, QuotaExceeded, StorekeeperError
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
class _Bound:
    """One bound that holds for a user in a namespace.

    Attributes:
        whose, quota: whose bound it is, and what it is.
        bytes_max, objects_max: the same; endless where nothing is bounded.
        there, coming: what is held against it: what there is, and what is reserved.
    """

    whose: str
    quota: Quota
    bytes_max: int
    objects_max: int
    there: Totals
    coming: Totals


@dataclass(slots=True, eq=False)
class _Account:
    """What holds for one user in one namespace.

    Attributes:
        prefix, uid: what names of the namespace begin with, and the user.
        object_bytes_max: bytes of one object.
        bounds: the namespace's own is the last one: if it alone is in the way, room may be made.
        sums: what he has reserved there is counted in these: all, the namespace's, the user's, his there.
    """

    prefix: bytes
    uid: int
    object_bytes_max: int
    bounds: list[_Bound]
    sums: tuple[Totals, Totals, Totals, Totals]


@dataclass(slots=True, eq=False)
class Charge:
    """Room that is reserved.

    Attributes:
        account: for whom.
        bytes: how much, for one object.
    """

    account: _Account
    bytes: int


_PLAIN = Namespace()
_ENDLESS = 1 << 62


class Ledger:
    """Reservations over one index.

    Args:
        index: what is there.
        bounds: of the store.
        free: returns what the file system has free; called only if some of it is to be kept.
        known: returns whether all names of the store are known.

    Attributes:
        bounds_anything: whether there is any bound at all.
        counts: whether there is one on what is kept, so that every object is to be looked at soon.
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
        self._accounts: dict[tuple[bytes, int], _Account] = {}  # asked for with every put
        self._pairs: dict[bytes, tuple[Totals, Totals]] = {}  # what there is in a namespace, and what is reserved
        self._unseen = index.sums(b"", NOBODY)[2]  # objects that nobody has looked at
        self._keeps_free = False
        self.bounds_anything = self.counts = False
        self._judge()

    def set_space(self, prefix: bytes, space: Namespace | None) -> None:
        """Sets the bounds of a namespace; None if it is no more."""
        if space is None:
            self._spaces.pop(prefix, None)
        else:
            self._spaces[prefix] = space
        self._judge()

    def _judge(self) -> None:
        bounds, spaces = self._bounds, self._spaces.values()
        self._accounts.clear()
        self._keeps_free = bool(bounds.keep_free_bytes or bounds.keep_free_inodes)
        quotas = [bounds.quota, bounds.user_quota, *bounds.users.values()]
        quotas += [quota for space in spaces for quota in (space.quota, space.user_quota)]
        self.counts = any(quota != UNBOUNDED for quota in quotas)
        sizes = bounds.object_bytes_max or any(space.object_bytes_max for space in spaces)
        self.bounds_anything = bool(self.counts or self._keeps_free or sizes)

    def reserve(self, prefix: bytes, uid: int, size: int) -> Charge | None:
        """Reserves room for an object of a size in bytes; returns None where nothing is bounded.

        Raises:
            QuotaExceeded: a bound would be exceeded; nothing is reserved.
            Busy: it is not known yet how much there is.
        """
        if not self.bounds_anything:
            return None
        account = self._accounts.get((prefix, uid)) or self._account(prefix, uid)
        charge = charge_of(size)
        self._check(account, size, charge, 1)
        return self._enter(account, charge)

    def reserve_all(self, prefix: bytes, uid: int, sizes: Sequence[int]) -> list[Charge]:
        """Reserves room for many objects at once, where anything is bounded; returns none if not all of them fit.

        Then nothing is reserved, and `reserve` tells what is in the way of each. Those of one size share a charge: it
        is given back as often, and cannot `grow`.
        """
        account = self._accounts.get((prefix, uid)) or self._account(prefix, uid)
        bytes_of = {size: charge_of(size) for size in set(sizes)}
        each = list(map(bytes_of.__getitem__, sizes))
        charge, objects = sum(each), len(each)
        try:
            self._check(account, max(sizes), charge, objects)
        except StorekeeperError:
            return []
        for totals in account.sums:
            totals.charged_bytes += charge
            totals.objects += objects
        charges = {size: Charge(account, given) for size, given in bytes_of.items()}
        return list(map(charges.__getitem__, sizes))

    def hold(self, prefix: bytes, uid: int, size: int) -> Charge:
        """Counts an object as there that is removed, but still being read. Never refused: it was there."""
        return self._enter(self._account(prefix, uid), charge_of(size))

    def grow(self, charge: Charge | None, prefix: bytes, size: int) -> None:
        """Makes a reservation enough for an object of a size in bytes; raises as `reserve`, it stays as it is then."""
        if charge is None:
            self._check_size(self._account(prefix, NOBODY), size)
            return
        account = self._account(charge.account.prefix, charge.account.uid)  # its bounds may be others by now
        more = charge_of(size) - charge.bytes
        if more <= 0:
            self._check_size(account, size)
            return
        self._check(account, size, more, 0)
        for totals in account.sums:
            totals.charged_bytes += more
        charge.bytes += more

    def release(self, charge: Charge | None) -> None:
        """Gives a reservation back: its object is there, and counted, or is not to come. Once for each."""
        if charge is not None:
            given = charge.bytes
            for totals in charge.account.sums:
                totals.charged_bytes -= given
                totals.objects -= 1

    def used(self, prefix: bytes) -> tuple[int, int]:
        """Returns the charged bytes and the objects that a namespace holds, with what is reserved for it."""
        there, coming = self._pairs.get(prefix) or self._pair(prefix)
        return there.charged_bytes + coming.charged_bytes, there.objects + coming.objects

    def bounds_of(self, prefix: bytes, uid: int) -> dict[str, tuple[int, int]]:
        """Returns the bounds that hold for a user in a namespace, by name, and what is used of each."""
        told: dict[str, tuple[int, int]] = {}
        for bound in self._account(prefix, uid).bounds:
            there, coming, quota = bound.there, bound.coming, bound.quota
            if quota.bytes_max:
                told[f"{bound.whose}_bytes_max"] = quota.bytes_max, there.charged_bytes + coming.charged_bytes
            if quota.objects_max:
                told[f"{bound.whose}_objects_max"] = quota.objects_max, there.objects + coming.objects
        return told

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

    def _account(self, prefix: bytes, uid: int) -> _Account:
        account = self._accounts.get((prefix, uid))
        if account is None:
            bounds, space = self._bounds, self._spaces.get(prefix, _PLAIN)
            there, coming = self._index.sums(prefix, uid), self._sums(prefix, uid)
            quotas = (
                ("store", bounds.quota, 0),
                ("user", bounds.users.get(uid, bounds.user_quota), 2),
                ("namespace_user", space.user_quota, 3),
                ("namespace", space.quota, 1),
            )
            held = [
                _Bound(whose, one, one.bytes_max or _ENDLESS, one.objects_max or _ENDLESS, there[at], coming[at])
                for whose, one, at in quotas
                if one != UNBOUNDED
            ]
            most = min(bounds.object_bytes_max or _ENDLESS, space.object_bytes_max or _ENDLESS)
            account = self._accounts[prefix, uid] = _Account(prefix, uid, most, held, coming)
        return account

    def _check_size(self, account: _Account, size: int) -> None:
        if size > account.object_bytes_max:
            most, whose = account.object_bytes_max, "the store"
            if most != self._bounds.object_bytes_max:
                whose = f"namespace {_name(account.prefix)!r}"
            raise QuotaExceeded(f"an object of {whose} has at most {most} bytes, this one has {size}")

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

    def _check(self, account: _Account, size: int, charge: int, objects: int) -> None:
        if size > account.object_bytes_max:
            self._check_size(account, size)
        if self._keeps_free:
            self._check_free(charge, objects)
        if account.bounds and (self._unseen.objects or not self._known()):
            raise Busy("the store is being measured, which comes before anything more is put; try again in a moment")
        for bound in account.bounds:
            there, coming = bound.there, bound.coming
            if (
                there.charged_bytes + coming.charged_bytes + charge > bound.bytes_max
                or there.objects + coming.objects + objects > bound.objects_max
            ):
                raise _refusal(account, bound, charge)

    def _sums(self, prefix: bytes, uid: int) -> tuple[Totals, Totals, Totals, Totals]:
        """Returns what is reserved: in all, in a namespace, for a user, for him there."""
        return (
            self._all,
            self._of_space.setdefault(prefix, Totals()),
            self._of_user.setdefault(uid, Totals()),
            self._of_cell.setdefault((prefix, uid), Totals()),
        )

    def _pair(self, prefix: bytes) -> tuple[Totals, Totals]:
        pair = self._pairs[prefix] = self._index.sums(prefix, NOBODY)[1], self._sums(prefix, NOBODY)[1]
        return pair

    @staticmethod
    def _enter(account: _Account, charge: int) -> Charge:
        for totals in account.sums:
            totals.charged_bytes += charge
            totals.objects += 1
        return Charge(account, charge)


def _refusal(account: _Account, bound: _Bound, charge: int) -> QuotaExceeded:
    """Returns the error that says which bound is in the way."""
    quota = bound.quota
    used_bytes = bound.there.charged_bytes + bound.coming.charged_bytes
    if used_bytes + charge > bound.bytes_max:
        sentence = (
            f"may hold {quota.bytes_max} bytes in whole blocks and holds {used_bytes}: "
            f"{charge} more are too many; evict something"
        )
    else:
        used = bound.there.objects + bound.coming.objects
        sentence = f"may hold {quota.objects_max} objects and holds {used}; evict something"
    sentence = f"{_told(bound.whose, account.prefix, account.uid)} {sentence}"
    if bound.whose == "namespace":
        return SpaceFull(sentence, account.prefix, quota, charge)
    return QuotaExceeded(sentence)


def _told(whose: str, prefix: bytes, uid: int) -> str:
    """Returns whose bound it is, for a message."""
    names = {"store": "the store", "user": f"uid {uid}", "namespace": f"namespace {_name(prefix)!r}"}
    return names.get(whose, f"uid {uid} in namespace {_name(prefix)!r}")


def _name(prefix: bytes) -> str:
    return prefix[:-1].decode("utf-8", "replace") or "default"
