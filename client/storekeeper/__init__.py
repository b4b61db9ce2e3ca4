"""storekeeper: a shared store of byte objects on one node. See `Client`; errors are in `storekeeper.errors`.

The names are fetched when they are first used: the daemon needs the wire of this package at its start, and not pyzmq.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from storekeeper.client import Client
    from storekeeper.errors import StorekeeperError
    from storekeeper.events import Event, News
    from storekeeper.listing import ObjectInfo

__all__ = ["Client", "Event", "News", "ObjectInfo", "StorekeeperError", "__version__"]
__version__ = "0.1.0"

_HOMES = {
    "Client": "client",
    "Event": "events",
    "News": "events",
    "ObjectInfo": "listing",
    "StorekeeperError": "errors",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
