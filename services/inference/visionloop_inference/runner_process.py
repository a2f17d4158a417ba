"""A runner's process: `python -m visionloop_inference.runner_process CONTROL [PAGE]`.

CONTROL is the descriptor of its end of the control channel, PAGE that of the memory which its
metrics go to. It imports the runner, and with it onnxruntime, at low priority: half a second of
work that a swap would otherwise take from the requests on the version that serves.
"""

import faulthandler
import importlib
import signal
import sys

from visionloop.telemetry import metrics
from visionloop.telemetry.logs import configure_logging
from visionloop.telemetry.pages import Page
from visionloop_inference.control import Control
from visionloop_inference.garbage import settle_garbage_collector
from visionloop_inference.low_priority import at_low_priority
from visionloop_inference.machine import die_first


def main() -> int:
    """Serves until the supervisor ends it, or ends."""
    # An interrupt at the terminal reaches every process of the group; the supervisor decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    faulthandler.enable()
    configure_logging("visionloop-inference-runner")
    if len(sys.argv) > 2:
        metrics.write_to(Page.shared(int(sys.argv[2])))
    die_first()
    runner = at_low_priority(lambda: importlib.import_module("visionloop_inference.runner"))
    settle_garbage_collector()
    runner.serve(Control.of_fd(int(sys.argv[1])))
    return 0


if __name__ == "__main__":
    sys.exit(main())
