"""Faults of ours, as callers may see them: an id, and nothing of the inside.

The id finds the traceback in the log.
"""

import logging
import uuid

from visionloop.errors import VisionloopError

log = logging.getLogger(__name__)


def shown(error: Exception, path: str) -> VisionloopError:
    """The error for the caller of this RPC: itself if it is meant to be read, else an incident."""
    if isinstance(error, VisionloopError):
        return error
    incident = uuid.uuid4().hex[:12]
    log.error("%s failed", path, exc_info=error, extra={"incident": incident})
    return VisionloopError(f"a fault of the server; its log has it as incident {incident}")
