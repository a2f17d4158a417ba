"""How the process of a runner and that of a decoder begin: alike."""

import faulthandler
import signal

from visionloop.telemetry import metrics
from visionloop.telemetry.logs import configure_logging
from visionloop.telemetry.pages import Page
from visionloop_inference.machine import die_first


def begin(service: str, page: str | None) -> None:
    """Logs as `service`; `page` is the descriptor of the memory that metrics go to, as text."""
    # An interrupt at the terminal reaches every process of the group; the supervisor decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    faulthandler.enable()
    configure_logging(service)
    if page is not None:
        metrics.write_to(Page.shared(int(page)))
    die_first()
