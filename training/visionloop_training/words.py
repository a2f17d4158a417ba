"""What a run tells people at its end, in a few lines. Tools read `--json`."""

from typing import TYPE_CHECKING, Any

from visionloop_training.search.table import table

if TYPE_CHECKING:
    from visionloop_training.result import Result
    from visionloop_training.triggers import Decision

_ALREADY = (
    "an earlier run made it of this snapshot with this configuration and judged it against the "
    "same version; nothing was trained, and %s (--again trains anyway)"
)
_STANDS = "that verdict stands"
_TIMED_AGAIN = "only the latency, for which alone it was refused, was measured again"


def told(model: str, result: "Result") -> str:
    """The whole answer."""
    if result.decision.lane is None:
        weighed = _weighed(result.decision)
        return f"{weighed}nothing new: {result.decision.reason}; --again trains anyway\n"
    if result.version is None:
        return "".join(f"{line}\n" for line in [*result.notes, *result.checked, "ready to train"])
    return _weighed(result.decision) + _trained(model, result)


def _weighed(decision: "Decision") -> str:
    """Each trigger on a line of its own; a cross stands before those that fired."""
    return "".join(
        f"  [{'x' if trigger.fired else ' '}] {trigger.name:<18} {trigger.words}\n"
        for trigger in decision.triggers
    )


def _trained(model: str, result: "Result") -> str:
    numbers = result.metrics
    lines = [
        f"version {result.version} of {model}, snapshot {result.snapshot[:19]}, "
        f"lane {result.summary['lane']}",
        _quality(numbers),
        f"  macro F1        {numbers['macro_f1']:.3f}",
        f"  calibration     ECE {result.summary['ece_before']:.3f} → "
        f"{result.summary['ece_after']:.3f} on val",
        f"  parity          {numbers['parity_max_abs_probability_difference']:.1e}",
    ]
    half = result.summary["half_precision"]
    if half is not None:
        lines.append(f"  half precision  {_half(half)}")
    if result.verdict:
        lines.append(f"  gate            {result.verdict.reason}")
    if result.already_judged:
        what = _TIMED_AGAIN if result.timed_again else _STANDS
        lines.append(f"  note            {_ALREADY % what}")
    lines += [f"  note            {note}" for note in result.notes]
    if result.searched:
        first, *others = table(result.searched)
        lines += [f"  search          {first}", *(f"{'':<18}{line}" for line in others)]
    stable = f"stable is version {result.stable}" if result.stable else "there is no stable version"
    lines.append(
        f"  {'promoted' if result.promoted else 'not promoted'}: {result.pinned or stable}"
    )
    if result.verdict and result.verdict.passed and result.verdict.mode == "manual":
        lines.append(f"  gate.mode is manual: visionloop models promote {model} {result.version}")
    lines.append(f"  report          {result.report}")
    seconds = ", ".join(f"{name} {value:.0f}" for name, value in result.timings.items())
    lines.append(f"  seconds         {seconds}")
    return "\n".join(lines) + "\n"


def _half(half: dict[str, Any]) -> str:
    """The 16-bit sibling, or why there is none."""
    if half["reason"]:
        return f"none: {half['reason']}"
    return (
        f"{half['max_probability_difference']:.1e} from model.onnx on {half['images']} images "
        f"(limit {half['limit']:g})"
    )


def _quality(numbers: dict[str, float]) -> str:
    """Accuracy, or mean average precision where an image may have several classes."""
    name, words = "accuracy", "test accuracy   "
    if name not in numbers:
        name, words = "mean_average_precision", "test mAP        "
    if name not in numbers:
        return "  test mAP        - (no test image has a class)"
    return (
        f"  {words}{numbers[name]:.1%} "
        f"(95 %: {numbers[f'{name}_low']:.1%} … {numbers[f'{name}_high']:.1%}, "
        f"{numbers['test_images']:.0f} images)"
    )
