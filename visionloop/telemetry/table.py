"""Writes docs/metrics.md from the declarations: `python -m visionloop.telemetry.table PATH`."""

import sys
from pathlib import Path

# Imported for what they declare.
from visionloop.telemetry import inference, labeling, metrics, rpc, training

_PROGRAMS = (inference, labeling, training, rpc)

_HEAD = """# Metrics

Every metric of the suite. Programs serve them at `GET /metrics` of their HTTP port, beside the
standard `process_*` and `python_*` ones. This page is generated from `visionloop/telemetry/`
(`python -m visionloop.telemetry.table docs/metrics.md`); a test keeps it current.

| metric | type | labels | program | what it says |
|---|---|---|---|---|
"""


def table() -> str:
    """The whole page."""
    rows = [
        f"| `{metric.name}` | {metric.kind} | "
        f"{', '.join(f'`{label}`' for label in metric.labels) or '–'} | "
        f"{metric.program} | {metric.help} |\n"
        for metric in metrics.declared()
    ]
    return _HEAD + "".join(rows)


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(table(), encoding="utf-8")
