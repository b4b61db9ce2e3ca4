"""The verbs on namespaces: namespaces, create and drop.

Pure. Owns who may make and remove one, and that it is served only when its folder stands. What is told of one is
namespaces.py's; how folders are made folders.py's.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from storekeeper import wire
from storekeeper.errors import BadRequest, Denied, KeyExists, NamespaceMissing, TooMany
from storekeeperd import namespaces
from storekeeperd.access import MANAGE, READ, WRITE, Rules
from storekeeperd.answers import Answer, Peer
from storekeeperd.namespaces import DEFAULT, BadSetting
from storekeeperd.operations import Outcome, Task

if TYPE_CHECKING:
    from storekeeperd.service import Service


class Foundations:
    """The verbs on namespaces.

    Args:
        service: whose verbs they are, and who serves the namespaces.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._under_way: set[str] = set()
        self._waiting: deque[Callable[[], None]] = deque()  # one is carried out at a time
        self._held: Callable[[], None] | None = None  # a removal that waits for what is under way there

    def namespaces(self, peer: Peer, request: wire.Request) -> None:
        """Answers with the namespaces that the caller may read: what they are told, and what he may do there."""
        if request.arguments:
            raise BadRequest(f"namespaces takes as arguments: {wire.ARGUMENTS[request.verb]}")
        service, found = self._service, {}
        for name, prefix in service.prefixes.items():
            rights = service.access.rights(peer, prefix)
            if rights & READ:
                may = [word for right, word in ((READ, "read"), (WRITE, "write"), (MANAGE, "manage")) if rights & right]
                found[name] = {"you_may": may, **service.spaces[prefix].to_settings()}
        service.reply(peer, request, wire.OK, (), {"namespaces": found})

    def create(self, peer: Peer, request: wire.Request) -> None:
        """Makes a namespace. Who makes it manages it, and nobody else may anything unless the settings say so."""
        service = self._service
        name = self._name(peer, request)
        if not service.access.may_create(peer):
            raise Denied(f"uid {peer.uid} may not make namespaces; root may, and who is named in the setting creators")
        if name in service.prefixes or name in self._under_way:
            raise KeyExists(f"there is a namespace {name!r} already")
        if len(service.prefixes) + len(self._under_way) >= service.limits.namespaces_max:
            raise TooMany(f"a store has at most {service.limits.namespaces_max} namespaces")
        alone = [str(peer.uid)]
        settings = {"read": alone, "write": alone, "manage": [], **request.options.get("settings", {})}
        if isinstance(settings["manage"], list):  # else it is refused in a moment
            settings["manage"] = [*alone, *(who for who in settings["manage"] if who not in alone)]
        try:
            space = namespaces.parse(settings)
            if alone[0] not in space.manage:
                space = dataclasses.replace(space, manage=(*space.manage, *alone))
        except BadSetting as error:
            raise BadRequest(str(error)) from None
        if space.ttl_s:
            service.keep_lives()
        rules = Rules()

        def found() -> None:
            nonlocal rules
            try:
                rules = service.outside.found(name, space)
            except BadSetting as error:
                raise BadRequest(str(error)) from None

        self._carry_out(peer, request, name, found, lambda: service.set_space(name, space, rules))

    def drop(self, peer: Peer, request: wire.Request) -> None:
        """Removes a namespace that is empty."""
        service = self._service
        name = self._name(peer, request)
        prefix = service.prefixes.get(name)
        if prefix is None or name in self._under_way or not service.access.rights(peer, prefix):
            raise NamespaceMissing(f"no namespace {name[:64]!r} here")
        service.access.check(peer, prefix, MANAGE)
        if name in service.outside.fixed():
            raise Denied(f"namespace {name!r} stands in the daemon's configuration: remove it there")

        def found() -> None:
            service.outside.found(name, None)

        self._carry_out(peer, request, name, found, lambda: service.drop_space(name), leaves=True)

    def _name(self, peer: Peer, request: wire.Request) -> str:
        if len(request.arguments) != 1:
            raise BadRequest(f"{request.verb.decode()} takes as arguments: {wire.ARGUMENTS[request.verb]}")
        (name,) = request.arguments
        wire.check_key(name)
        text = bytes(name).decode()
        if text == DEFAULT:
            raise BadRequest("the default namespace is always there")
        return text

    def _carry_out(
        self, peer: Peer, request: wire.Request, name: str, run: Any, then: Any, *, leaves: bool = False
    ) -> None:
        """Does something in a worker, and what follows from it when it has succeeded.

        `leaves`: a folder is removed. Nothing is begun in the namespace from then on, and what is under way there ends
        first: else it would be carried out in another namespace, that is made under the name a moment later, by the
        rights of this one. Who watches the folder is told before, and afterwards what came of it.
        """
        service, answer = self._service, Answer(peer, request, 1)
        self._under_way.add(name)

        def begin() -> None:
            if leaves:
                service.leaving = name.encode() + b"/"
                self._held = run_it
                self.turn()
            else:
                run_it()

        def run_it() -> None:
            if leaves:
                service.outside.leaving(name)
            service.orders.order([Task(run)], [came], answer)

        def came(_: Task, outcome: Outcome) -> None:
            self._under_way.discard(name)
            if leaves:
                service.leaving = None
            if outcome.error is None:
                then()
            if outcome.error is None or leaves:
                service.outside.founded()
            service.settle(answer, 0, outcome)
            self._waiting.popleft()  # only now: of the next one other things are told
            if self._waiting:
                self._waiting[0]()

        self._waiting.append(begin)
        if len(self._waiting) == 1:
            self._waiting[0]()

    def turn(self) -> None:
        """Goes on with a removal if nothing is under way there any more; to be called when something has ended."""
        held, prefix = self._held, self._service.leaving
        if held is not None and prefix is not None and not self._service.orders.is_busy(prefix):
            self._held = None
            held()
