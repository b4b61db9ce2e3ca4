"""Tells systemd how the daemon is: sd_notify(3), one datagram a message.

Owns nothing but the address of the manager's socket. A message that cannot be sent never stops the service.
"""

from __future__ import annotations

import os
import socket


class Manager:
    """The service manager that started this process, if one did.

    Takes NOTIFY_SOCKET out of the environment, so that programs started by this process do not speak for it.
    """

    def __init__(self) -> None:
        address = os.environ.pop("NOTIFY_SOCKET", "")
        # sd_notify(3): an absolute path, or an abstract socket written with "@".
        self._address = "\0" + address[1:] if address.startswith("@") else address

    def starting(self, timeout_s: float) -> None:
        """Says that the start may still take so long: a slow disk is no reason to be killed."""
        self._send("STATUS=starting", _extend(timeout_s))

    def ready(self, status: str) -> None:
        """Says that the daemon answers now."""
        self._send("READY=1", f"STATUS={_line(status)}")

    def status(self, status: str, extend_s: float = 0.0) -> None:
        """Says one line about how things are; and, with `extend_s`, that what is under way may take so much longer."""
        self._send(f"STATUS={_line(status)}", *([_extend(extend_s)] if extend_s else []))

    def stopping(self) -> None:
        """Says that the daemon is on its way out."""
        self._send("STOPPING=1")

    def _send(self, *assignments: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                sock.setblocking(False)
                sock.sendto("\n".join(assignments).encode("utf-8", "replace"), self._address)
        except OSError:
            pass


def _extend(timeout_s: float) -> str:
    """sd_notify(3), EXTEND_TIMEOUT_USEC: counted from the moment it is sent."""
    return f"EXTEND_TIMEOUT_USEC={round(timeout_s * 1_000_000)}"


def _line(text: str) -> str:
    return text.replace("\n", " ")
