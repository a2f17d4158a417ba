"""What the gate asks of a candidate by itself, whatever the stable version answers.

Closeness to the trained network, calibration, time and size against the limits that the
configuration sets, and how often this test split has decided already.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from visionloop_training.config import GateConfig
from visionloop_training.gate_checks import Check
from visionloop_training.intervals import Interval
from visionloop_training.parity import Parity

LATENCY = "latency"


@dataclass(frozen=True, slots=True)
class Costs:
    """What running a model takes; the stable version's where there is one."""

    candidate_bytes: int
    candidate_milliseconds: float  # median for one image
    stable_bytes: int | None = None
    stable_milliseconds: float | None = None


def budgets(
    ece: Interval, config: GateConfig, parity: Parity | None, costs: Costs | None
) -> list[Check]:
    """What the candidate must keep whatever the stable version does. `ece` is of the test split."""
    checks: list[Check] = []
    if parity is not None:
        # A difference beyond the limit has stopped the run before.
        found = parity.max_probability_difference
        words = (
            f"model.onnx follows the trained network within {found:.1g} of probability on "
            f"{parity.images} real images (limit {parity.limit:g})"
        )
        numbers = {"max_probability_difference": found, "limit": parity.limit}
        checks.append(Check("parity", True, words, numbers))
    passed = config.max_ece is None or ece.low <= config.max_ece
    words = f"calibration error {ece.value:.3f} (95 %: {ece.low:.3f} to {ece.high:.3f}), "
    words += _limit(config.max_ece, "{:g}")
    checks.append(
        Check(
            "calibration",
            passed,
            words,
            {"ece": ece.value, "low": ece.low, "high": ece.high, "limit": config.max_ece},
        )
    )
    if costs is not None:
        checks += [latency(costs, config), _size(costs, config)]
    return checks


def latency(costs: Costs, config: GateConfig) -> Check:
    """One image of the candidate against one of the stable version."""
    ours, theirs, limit = (
        costs.candidate_milliseconds,
        costs.stable_milliseconds,
        config.max_latency_ratio,
    )
    ratio = ours / theirs if theirs else None
    words = f"{ours:.3g} ms for one image"
    if ratio is not None:
        words += f", {ratio:.2f} times the stable version's {theirs:.3g} ms"
    words += f", {_limit(limit, '{:g} times')}"
    passed = limit is None or ratio is None or ratio <= limit
    numbers = {"milliseconds": ours, "stable_milliseconds": theirs, "ratio": ratio, "limit": limit}
    return Check(LATENCY, passed, words, numbers)


def _size(costs: Costs, config: GateConfig) -> Check:
    limit, size = config.max_megabytes, costs.candidate_bytes
    words = f"model.onnx has {size / 1e6:.3g} MB"
    if costs.stable_bytes is not None:
        words += f", the stable version's {costs.stable_bytes / 1e6:.3g} MB"
    words += f", {_limit(limit, '{:g} MB')}"
    passed = limit is None or size <= limit * 1e6
    numbers = {"bytes": size, "stable_bytes": costs.stable_bytes, "limit_megabytes": limit}
    return Check("size", passed, words, numbers)


def looks(before: Sequence[int], config: GateConfig) -> Check:
    """How often images of this test split have decided about the model already.

    Every decision on the same images is another chance for a worse model to pass by luck.
    """
    number, planned = len(before) + 1, config.planned_looks
    words = f"look {number} at this test split"
    if before:
        shown = ", ".join(str(version) for version in before[-5:])
        words += f" (after version{'s' * (len(before) > 1)} {'… ' * (len(before) > 5)}{shown})"
    if planned is None:
        words += "; alpha is not divided (gate.planned_looks)"
    elif number <= planned:
        words += f" of {planned} planned; alpha {config.alpha:g} / {planned}"
    else:
        words += (
            f", and {planned} were planned: what it says now is no longer news. Label new test "
            "images, or raise gate.planned_looks and accept the weaker promise"
        )
    passed = planned is None or number <= planned
    return Check(
        "looks", passed, words, {"look": number, "before": list(before), "planned": planned}
    )


def _limit(limit: float | None, form: str) -> str:
    return "no limit set" if limit is None else f"limit {form.format(limit)}"
