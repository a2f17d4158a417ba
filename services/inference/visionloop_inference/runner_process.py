"""A runner's process: `python -m visionloop_inference.runner_process CONTROL [PAGE]`.

CONTROL is the descriptor of its end of the control channel, PAGE that of the memory which its
metrics go to. It imports the runner, and with it onnxruntime, at low priority: half a second of
work that a swap would otherwise take from the requests on the version that serves. Where its GPU is
lost it ends at once: what would be tidied up is on the card.
"""

import importlib
import logging
import os
import sys

from visionloop.errors import VisionloopError
from visionloop_inference.control import Control
from visionloop_inference.garbage import settle_garbage_collector
from visionloop_inference.low_priority import at_low_priority
from visionloop_inference.worker_process import begin

log = logging.getLogger(__name__)


def main() -> int:
    """Serves until the supervisor ends it, or ends."""
    begin("visionloop-inference-runner", sys.argv[2] if len(sys.argv) > 2 else None)
    runner = at_low_priority(lambda: importlib.import_module("visionloop_inference.runner"))
    settle_garbage_collector()
    try:
        runner.serve(Control.of_fd(int(sys.argv[1])))
    except VisionloopError as error:  # DeviceLostError; its module is imported late
        log.critical("the runner ends: %s", error)
        logging.shutdown()
        os._exit(error.exit_code)
    return 0


if __name__ == "__main__":
    sys.exit(main())
