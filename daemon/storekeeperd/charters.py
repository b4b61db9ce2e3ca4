"""What users and namespaces are told, by number: from the configuration, and from the store's own folder.

Owns the way from names in a file to rules of the service, and from a user's wish for a namespace to its folder. What
the rules are is namespaces.py's and access.py's, what stands in the folder home.py's.
"""

from __future__ import annotations

import logging
from collections.abc import Collection

from storekeeper.errors import BadRequest
from storekeeperd import namespaces
from storekeeperd.access import NOBODY, Rules, Who
from storekeeperd.config import Config
from storekeeperd.exits import EX_CONFIG, StartError
from storekeeperd.home import Home
from storekeeperd.ledger import Bounds
from storekeeperd.namespaces import DEFAULT, BadSetting, Namespace, Quota
from storekeeperd.principals import resolve, rules_of
from storekeeperd.service import Service

log = logging.getLogger(__name__)


class Charters:
    """The rules that the configuration has.

    Args:
        config: what it says.

    Attributes:
        creators: who may make namespaces.
        bounds: how much the store may hold.

    Raises:
        StartError: this system does not know somebody who is named there.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        quota = config.quota
        try:
            self.creators: Who = resolve(config.creators, "creators")
            users = {}
            for user, bound in quota.users.items():
                users.update(dict.fromkeys(resolve([user], f"quota.users.{user}").uids, bound))
            names = dict.fromkeys((DEFAULT, *config.namespaces, *config.spaces))
            self._rules = {name: rules_of(self._space(name), f"namespace.{name}.") for name in names}
        except BadSetting as error:
            raise StartError(str(error), EX_CONFIG) from None
        self.bounds = Bounds(
            Quota(quota.bytes_max, quota.objects_max),
            Quota(quota.user_bytes_max, quota.user_objects_max),
            users,
            quota.object_bytes_max,
            quota.keep_free_bytes,
            quota.keep_free_inodes,
        )

    @property
    def names(self) -> Collection[str]:
        """Names of the namespaces of the configuration, the default one included."""
        return self._rules.keys()

    def _space(self, name: str) -> Namespace:
        return self._config.spaces.get(name, Namespace())

    def proclaim(self, service: Service, home: Home) -> None:
        """Tells the service of all namespaces: those of the configuration, and those that users have made."""
        for name, rules in self._rules.items():
            service.set_space(name, self._space(name), rules)
        for name, settings in home.made.items():
            if name in self._rules:
                continue
            try:
                space = namespaces.parse(settings, f"namespace {name}: ")
                service.set_space(name, space, rules_of(space, f"namespace {name}: "))
            except BadSetting as error:
                # Maybe a user or group is gone. Nobody gets in who was not meant to.
                log.warning("%s: only root may use that namespace until this is mended", error)
                service.set_space(name, Namespace(), Rules(NOBODY, NOBODY, NOBODY))


def found(home: Home, name: str, space: Namespace | None) -> Rules:
    """Makes the folder of a namespace and keeps its settings, or removes both (None); returns its rules.

    Waits for the disk.

    Raises:
        BadSetting: this system does not know somebody who is named there.
        BadRequest, OSError, StoreUnavailable: as Home.found.
    """
    if space is None:
        home.found(name, None)
        return Rules()
    rules = rules_of(space, "")
    home.found(name, space.to_settings())
    return rules


def keep_lives(home: Home) -> None:
    """Notes that objects of the store may have lifetimes; raises `BadRequest` where none can be kept."""
    if not home.features.attributes:
        raise BadRequest("the store's file system has no user attributes: no object can be given a lifetime")
    home.keep_lives()
