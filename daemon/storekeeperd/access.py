"""Who may do what: the rules of every namespace, held against who calls.

Pure. Owns the judgement. A caller is who the kernel says (user, group and supplementary groups of whoever connected);
nothing that is sent changes it. A right implies the lesser ones: who may manage may write, who may write may read.
Whose an object is decides disk.py, at the moment it is to be changed: `any_owner` says whether that matters.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from storekeeper.errors import Denied
from storekeeperd.answers import Peer

READ, WRITE, MANAGE = 1, 2, 4
_NAMES = {READ: "read", WRITE: "write", MANAGE: "manage"}


@dataclass(frozen=True, slots=True)
class Who:
    """Some users and groups, by number; or everybody."""

    everybody: bool = False
    uids: frozenset[int] = frozenset()
    gids: frozenset[int] = frozenset()

    def has(self, peer: Peer) -> bool:
        """Returns whether a caller is one of them."""
        return self.everybody or peer.uid in self.uids or peer.gid in self.gids or not self.gids.isdisjoint(peer.groups)


EVERYBODY = Who(everybody=True)
NOBODY = Who()


@dataclass(frozen=True, slots=True)
class Rules:
    """Who may do what in a namespace; as namespaces.Namespace."""

    read: Who = EVERYBODY
    write: Who = EVERYBODY
    manage: Who = NOBODY
    owner_only: bool = True


class Access:
    """The rules of all namespaces.

    Args:
        admins: users who may do everything: root, and whom the daemon runs as.
        creators: who else may make namespaces.

    Attributes:
        version: changes with the rules: what is known of a peer by an older one does not count.
    """

    def __init__(self, admins: Collection[int], creators: Who = NOBODY) -> None:
        self._admins = frozenset(admins)
        self._creators = creators
        self._rules: dict[bytes, Rules] = {}
        self.version = 0

    def set_rules(self, prefix: bytes, rules: Rules | None) -> None:
        """Sets the rules of a namespace; None if it is no more."""
        self.version += 1
        if rules is None:
            self._rules.pop(prefix, None)
        else:
            self._rules[prefix] = rules

    def rights(self, peer: Peer, prefix: bytes) -> int:
        """Returns what a caller may do in a namespace: READ, WRITE and MANAGE, added."""
        if peer.rights_version != self.version:
            peer.rights_version = self.version
            peer.rights.clear()
        known = peer.rights.get(prefix)
        if known is None:
            known = peer.rights[prefix] = self._judge(peer, self._rules.get(prefix, Rules()))
            if known and not prefix:
                peer.reads_default = self.version
        return known

    def check(self, peer: Peer, prefix: bytes, right: int) -> None:
        """Raises `Denied` unless a caller has a right in a namespace.

        Before anything is looked up: neither the answer nor its time tells what there is.
        """
        if not self.rights(peer, prefix) & right:
            name = prefix[:-1].decode("utf-8", "replace") or "default"
            raise Denied(f"uid {peer.uid} may not {_NAMES[right]} in namespace {name!r}; ask whoever manages it")

    def any_owner(self, peer: Peer, prefix: bytes) -> bool:
        """Returns whether a caller who may write may change what others own, too."""
        rules = self._rules.get(prefix)
        return bool(self.rights(peer, prefix) & MANAGE) or (rules is not None and not rules.owner_only)

    def is_admin(self, peer: Peer) -> bool:
        """Returns whether a caller may do everything."""
        return peer.uid in self._admins

    def may_create(self, peer: Peer) -> bool:
        """Returns whether a caller may make namespaces."""
        return self.is_admin(peer) or self._creators.has(peer)

    def _judge(self, peer: Peer, rules: Rules) -> int:
        if self.is_admin(peer) or rules.manage.has(peer):
            return READ | WRITE | MANAGE
        if rules.write.has(peer):
            return READ | WRITE
        return READ if rules.read.has(peer) else 0
