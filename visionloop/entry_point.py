"""How every program starts and fails: one line for a missing extra or a user's mistake."""

import importlib
import sys

from visionloop.disk_space import room_anywhere
from visionloop.errors import VisionloopError
from visionloop.extras import require


def run(program: str, extra: str, module: str) -> int:
    """Imports `module`, once its libraries are known to be there, and runs its `main() -> int`.

    Returns the exit code. A VisionloopError becomes one line on stderr and its exit code; only a
    fault of ours leaves a traceback.
    """
    try:
        require(extra)
        with room_anywhere({}):
            code: int = importlib.import_module(module).main()
    except VisionloopError as error:
        sys.stderr.write(f"{program}: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return code
