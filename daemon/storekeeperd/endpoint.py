"""The socket file: where it may lie, who may take it over, and that it goes when the daemon goes.

Owns the path, its lock file `<path>.lock` and the bound socket until the listener takes it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from pathlib import Path

from storekeeperd.exits import EX_CANTCREAT, EX_CONFIG, EX_NOPERM, EX_TEMPFAIL, StartError

SOCKET_PATH_BYTES_MAX = 107
"""unix(7): sun_path has 108 bytes, one of them for NUL."""
_BACKLOG = 1024


def socket_path(address: str) -> Path:
    """Returns the path of an `ipc://` address, or of a plain path; raises `StartError` if there can be no socket."""
    if "://" in address and not address.startswith("ipc://"):
        raise StartError(f"{address}: the daemon listens on ipc:// addresses only", EX_CONFIG)
    path = Path(os.path.abspath(address.removeprefix("ipc://")))
    size = len(os.fsencode(path))
    if size > SOCKET_PATH_BYTES_MAX:
        raise StartError(
            f"the socket path has {size} bytes, at most {SOCKET_PATH_BYTES_MAX} are possible: {path}; "
            "choose a shorter one with --address",
            EX_CONFIG,
        )
    return path


class Endpoint:
    """A bound, listening Unix socket.

    A socket file that is there already is taken over only if nobody answers on it; the lock beside it keeps two
    daemons that start at once from taking it from each other.

    Args:
        address: `ipc:///path`.
        mode: permission bits of the socket file.

    Raises:
        StartError: the path is too long, taken or not writable.
    """

    def __init__(self, address: str, mode: int) -> None:
        self.path = socket_path(address)
        self.address = f"ipc://{self.path}"
        self._lock = -1
        self._inode = 0
        try:
            self.path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            self._take_lock()
            self._remove_dead()
            self.socket = self._bind(mode)
        except OSError as error:
            self.close()
            status = EX_NOPERM if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS) else EX_CANTCREAT
            reason = os.strerror(error.errno or 0)
            raise StartError(f"cannot listen on {self.path}: {reason}", status) from None
        except StartError:
            self.close()
            raise

    def close(self) -> None:
        """Removes the socket file if it is still ours, and the lock. Does not close the socket."""
        if self._inode:
            try:
                if os.lstat(self.path).st_ino == self._inode:
                    self.path.unlink()
            except OSError:
                pass
            self._inode = 0
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _take_lock(self) -> None:
        self._lock = os.open(f"{self.path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StartError(f"{self.path}: another daemon listens there", EX_TEMPFAIL) from None

    def _remove_dead(self) -> None:
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                probe.settimeout(2.0)
                probe.connect(str(self.path))
        except FileNotFoundError:
            return
        except ConnectionRefusedError:
            if not self.path.is_socket():
                raise StartError(f"{self.path} is there and is not a socket", EX_CANTCREAT) from None
            self.path.unlink()
            return
        except (TimeoutError, BlockingIOError):  # its queue is full: somebody is there
            pass
        raise StartError(f"{self.path}: another process answers there", EX_TEMPFAIL)

    def _bind(self, mode: int) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        try:
            sock.bind(str(self.path))
            # Nobody can connect before listen(), so there is no moment at which the mode is too wide.
            os.chmod(self.path, mode)
            self._inode = os.lstat(self.path).st_ino
            sock.listen(_BACKLOG)
        except BaseException:
            sock.close()
            raise
        return sock
