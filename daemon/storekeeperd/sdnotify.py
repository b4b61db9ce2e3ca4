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

    def ready(self, status: str) -> None:
        """Says that the daemon answers now."""
        self._send("READY=1", f"STATUS={_line(status)}")

    def status(self, status: str) -> None:
        """Says one line about how things are."""
        self._send(f"STATUS={_line(status)}")

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


def _line(text: str) -> str:
    return text.replace("\n", " ")
