"""Faults of the daemon itself: what nobody expected, told to the log and to the client under one id.

Pure but for the log and the id. Owns the sentence; nothing of the fault itself reaches a client.
"""

from __future__ import annotations

import logging
import uuid

from storekeeper.errors import InternalError

log = logging.getLogger(__name__)


def report(what: str, fault: BaseException) -> InternalError:
    """Logs an unexpected exception with its traceback; returns the error that names the place in the log.

    Args:
        what: what was being done, and for whom.
        fault: the exception.
    """
    number = uuid.uuid4().hex[:8]
    log.error("fault %s in %s", number, what, exc_info=fault)
    return InternalError(f"a fault of the daemon; its log tells more under 'fault {number}'")
