"""Waits for the end of the processes that objects are tied to.

Owns their descriptors (pidfd_open(2)). Which process a peer is, the kernel says: the one that connected (SO_PEERPIDFD,
Linux 6.5; else its number from SO_PEERCRED).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

from storekeeper.errors import BadRequest, Busy
from storekeeperd.answers import Peer
from storekeeperd.loop import READ, Loop
from storekeeperd.processes import find, lives, number_of
from storekeeperd.sight import PID_MAX

_SHARE = 2
"""One user has no more than this part of all processes."""


class Deathwatch:
    """Processes whose end is waited for.

    Args:
        loop: where to wait.
        at_most: how many; each is a descriptor.
        ended: called with a process when it has ended.
    """

    def __init__(self, loop: Loop, at_most: int, ended: Callable[[int], None]) -> None:
        self._loop = loop
        self._at_most = at_most
        self._ended = ended
        self._watched: dict[int, int] = {}  # process -> descriptor
        self._users: dict[int, int] = {}  # process -> who tied something to it, of those since the start

    def __len__(self) -> int:
        return len(self._watched)

    def identify(self, peer: Peer) -> int:
        """Returns the process of a peer.

        Raises:
            BadRequest: it has ended, or cannot be told from here.
            Busy: the end of too many processes is waited for, or the daemon is out of descriptors.
        """
        if not peer.process:
            peer.process = self._find_peer(peer)
        process = peer.process
        if process in self._watched:
            return process
        if len(self._watched) >= self._at_most:
            raise Busy(f"objects are tied to {self._at_most} processes, as many as may be; try again in a moment")
        share = max(1, self._at_most // _SHARE)
        if sum(self._users.get(watched) == peer.uid for watched in self._watched) >= share:
            raise Busy(f"uid {peer.uid} has objects tied to {share} processes, as many as one user may; try again")
        self._users = {known: uid for known, uid in self._users.items() if known in self._watched}
        self._users[process] = peer.uid
        return process

    def watch(self, process: int) -> None:
        """Waits for the end of a process; `ended` is called at once, or soon, if it has ended by now."""
        if process in self._watched:
            return
        self._watched[process] = -1
        try:
            descriptor = os.pidfd_open(process & PID_MAX)
        except OSError:  # ESRCH: it has ended. Or there are no descriptors left: `tick` asks again
            self._ask(process)
            return
        self._watched[process] = descriptor
        self._loop.watch(descriptor, READ, lambda _: self._end(process))
        self._ask(process)  # its number may be another's by now

    def forget(self, process: int) -> None:
        """Waits for a process no longer."""
        descriptor = self._watched.pop(process, -1)
        if descriptor >= 0:
            self._loop.unwatch(descriptor)
            os.close(descriptor)

    def tick(self, is_tied: Callable[[int], bool]) -> None:
        """Gives up those that nothing is tied to; to be called every second."""
        for process, descriptor in list(self._watched.items()):
            if not is_tied(process):
                self.forget(process)
            elif descriptor < 0:
                del self._watched[process]
                self.watch(process)

    def close(self) -> None:
        """Waits for none any more."""
        for process in list(self._watched):
            self.forget(process)

    @staticmethod
    def _find_peer(peer: Peer) -> int:
        held = peer.carrier.process_descriptor()
        try:
            process = find(peer.pid)
            # The descriptor is of the process that connected: if that has its number now, it was nobody else's then.
            if process and (held < 0 or number_of(held) == peer.pid):
                return process
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                raise Busy("the daemon is out of descriptors; try again in a moment") from None
        finally:
            if held >= 0:
                os.close(held)
        raise BadRequest("the process that connected cannot be told or has ended: nothing can be tied to it")

    def _ask(self, process: int) -> None:
        if not lives(process):
            self._end(process)

    def _end(self, process: int) -> None:
        self.forget(process)
        self._ended(process)
