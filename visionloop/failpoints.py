"""Named places where a test may kill the program, to prove that a restart loses nothing.

`failpoint("ingest.blob_stored")` does nothing unless VISIONLOOP_FAILPOINT names it; then the
process dies at once by SIGKILL, as in a power cut: no cleanup, no exit handlers. "name:3" dies at
the third pass.
"""

import os
import signal

ENVIRONMENT_VARIABLE = "VISIONLOOP_FAILPOINT"

_name, _, _pass = os.environ.get(ENVIRONMENT_VARIABLE, "").partition(":")
_passes_left = int(_pass or 1)


def failpoint(name: str) -> None:
    """Kills this process if the environment asks for it here."""
    global _passes_left
    if name != _name:
        return
    _passes_left -= 1
    if _passes_left <= 0:
        os.kill(os.getpid(), signal.SIGKILL)
