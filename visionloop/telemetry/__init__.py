"""What the programs say about themselves: logs, progress and metrics.

`logs` and `progress` need nothing but Python. `metrics` (every metric of the suite, declared once)
needs prometheus-client and `rpc` (the gRPC server metrics) needs grpc too, so they are imported by
their own names.
"""

from visionloop.telemetry.logs import configure_logging
from visionloop.telemetry.progress import Progress, progress

__all__ = ["Progress", "configure_logging", "progress"]
