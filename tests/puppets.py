"""Client processes that do what they are told, as the user they are told. Both ends.

    python puppets.py ADDRESS UID       takes lines of JSON, answers with lines of JSON

Raw requests keep their connection, so that handles can be held: `ask` on a line of a name.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from storekeeper import Client
from storekeeper.carriers import Carriers
from storekeeper.errors import BY_CODE, BatchFailed, StorekeeperError
from storekeeper.exchange import Exchange

TIMEOUT_S = 30.0


class Line:
    """A connection of its own, for handles: requests as they are, answers as they come."""

    def __init__(self, address: str) -> None:
        self._carrier = Carriers(address).take()
        self._exchange = Exchange(self._carrier, time.monotonic() + 600)

    def ask(self, verb: str, *arguments: str | bytes, **options: Any) -> tuple[str, dict[str, Any], list[bytes]]:
        """Returns the first result word, the details and the payloads; a refused item is raised."""
        frames = [part.encode() if isinstance(part, str) else part for part in arguments]
        reply = self._exchange.ask(verb.encode(), frames, options)
        if reply.details.get("errors"):
            raise BY_CODE[reply.words[0]](reply.details["errors"]["0"])
        return (reply.words or [""])[0], reply.details, [bytes(payload) for payload in reply.payloads]

    def open(self, key: str, **options: Any) -> str:
        """Returns a handle on an object."""
        word, details, _ = self.ask("open", key, **options)
        assert word == "ok", word
        return str(details["handle"])

    def upload(self, key: str, **options: Any) -> str:
        """Returns a handle on an upload."""
        return str(self.ask("upload", key, **options)[1]["handle"])

    def close(self) -> None:
        self._carrier.close()


class Puppet:
    """A client process of its own: its methods are those of `Client`, with sizes or bytes as data.

    Args:
        address: of the daemon.
        uid: who it is.
        namespace: which part of the store.
    """

    def __init__(self, address: str, uid: int | None = None, namespace: str = "default") -> None:
        command = [sys.executable, __file__, address, str(os.geteuid() if uid is None else uid), namespace]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._hears, self._says = self.process.stdin, self.process.stdout
        assert self.hear() == self.process.pid

    def say(self, verb: str, *arguments: Any, **options: Any) -> None:
        line = json.dumps([verb, arguments, options], default=_bytes)
        self._hears.write(line.encode() + b"\n")

    def hear(self) -> Any:
        """Returns what it answers, or raises what it met."""
        line = b""
        while not line.endswith(b"\n"):
            part = self._says.read(1 << 20)
            assert part, "the puppet failed; its traceback is above"
            line += part
        kind, told = json.loads(line)
        if kind != "ok":
            raise BY_CODE[kind](told)
        return told

    def __getattr__(self, verb: str) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            self.say(verb, *arguments, **options)
            return self.hear()

        return call

    def kill(self) -> None:
        """Ends it by SIGKILL."""
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        """Lets it exit by itself."""
        self._hears.close()
        self.process.wait(30)
        self._says.close()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._hears.close()
        self._says.close()


@contextmanager
def puppets(address: str) -> Iterator[Any]:
    """Gives a function that makes puppets; they end with the block."""
    with ExitStack() as stack:

        def make(uid: int | None = None, namespace: str = "default") -> Puppet:
            puppet = Puppet(address, uid, namespace)
            stack.callback(puppet.close)
            return puppet

        yield make


def _bytes(data: object) -> Mapping[str, str]:
    assert isinstance(data, bytes)
    return {"bytes": base64.b64encode(data).decode()}


def _data(part: Any) -> Any:
    if isinstance(part, dict) and set(part) == {"bytes"}:
        return base64.b64decode(part["bytes"])
    return [_data(item) for item in part] if isinstance(part, list) else part


class _Strings:
    """What a puppet is told to do."""

    def __init__(self, address: str, namespace: str) -> None:
        self.address, self.namespace = address, namespace
        self.client = Client(address, namespace, timeout=TIMEOUT_S)

    def call(self, verb: str, arguments: list[Any], options: dict[str, Any]) -> Any:
        own = getattr(self, f"do_{verb}", None)
        if own is not None:
            return own(*arguments, **options)
        result = getattr(self.client, verb)(*arguments, **options)
        return result.decode("latin-1") if isinstance(result, bytes) else result

    def do_put_size(self, size: int, **options: Any) -> str:
        return self.client.put(bytes(size), **options)

    def do_put_sizes(self, sizes: list[int], **options: Any) -> list[str]:
        """Returns for every item its key, or the code of what it met."""
        try:
            return list(self.client.put_batch([bytes(size) for size in sizes], **options))
        except BatchFailed as failed:
            return [item.code if isinstance(item, StorekeeperError) else item for item in failed.results]

    def do_exec(self) -> None:
        """Becomes another program in the same process, that sleeps."""
        os.execv(
            sys.executable, [sys.executable, "-c", "import time; print('[\"ok\", 0]', flush=True); time.sleep(60)"]
        )

    def do_fork_put(self, key: str, **options: Any) -> None:
        """Puts in a child, which then ends."""
        child = os.fork()
        if not child:
            try:
                self.client.put(b"a child's", key=key, **options)
            finally:
                os._exit(0)
        os.waitpid(child, 0)


def main() -> None:
    address, uid, namespace = sys.argv[1:]
    if int(uid) != os.geteuid():
        os.setgroups([])
        os.setgid(int(uid))
        os.setuid(int(uid))
    strings = _Strings(address, namespace)
    print(json.dumps(["ok", os.getpid()]), flush=True)
    for line in sys.stdin:
        verb, arguments, options = json.loads(line)
        try:
            answer = ["ok", strings.call(verb, _data(arguments), options)]
        except StorekeeperError as error:
            answer = [error.code, str(error)]
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
