"""storekeeperd: the daemon that owns a directory of byte objects."""

from __future__ import annotations

__version__ = "0.1.0"
