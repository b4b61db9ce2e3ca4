"""storekeeper: a shared store of byte objects on one node. See `Client`; errors are in `storekeeper.errors`."""

from __future__ import annotations

from storekeeper.client import Client, ObjectInfo
from storekeeper.errors import StorekeeperError

__all__ = ["Client", "ObjectInfo", "StorekeeperError", "__version__"]
__version__ = "0.1.0"
