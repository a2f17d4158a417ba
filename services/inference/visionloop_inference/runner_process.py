"""A runner's process: `python -m visionloop_inference.runner_process CONTROL [PAGE]`.

CONTROL is the descriptor of its end of the control channel, PAGE that of the memory which its
metrics go to. It imports the runner, and with it onnxruntime, at low priority: half a second of
work that a swap would otherwise take from the requests on the version that serves.
"""

import importlib
import sys

from visionloop_inference.control import Control
from visionloop_inference.garbage import settle_garbage_collector
from visionloop_inference.low_priority import at_low_priority
from visionloop_inference.worker_process import begin


def main() -> int:
    """Serves until the supervisor ends it, or ends."""
    begin("visionloop-inference-runner", sys.argv[2] if len(sys.argv) > 2 else None)
    runner = at_low_priority(lambda: importlib.import_module("visionloop_inference.runner"))
    settle_garbage_collector()
    runner.serve(Control.of_fd(int(sys.argv[1])))
    return 0


if __name__ == "__main__":
    sys.exit(main())
