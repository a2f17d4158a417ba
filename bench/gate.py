"""Does the gate keep its promises? Simulated candidates of known quality, thousands of each.

    python -m bench.gate            # build/bench/gate.json, under a minute

A candidate and the stable version answer n test images; what they get right differs on a share of
them. Two numbers for each policy, size and true difference:

    test      the policy's paired test alone: exact, from the probability of every pair of counts
    gate      all checks of the gate (two classes, two slices, recent images): simulated

The promise: a model that is worse by exactly the margin passes `non-inferior` in at most alpha of
cases, whatever the share of disagreements. `not-significantly-worse` makes no such promise, and the
table shows what that costs.
"""

import json
import math
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from visionloop.telemetry import progress
from visionloop_training.config import GateConfig
from visionloop_training.sample_size import gains_needed
from visionloop_training.significance import (
    holm,
    lower_bound,
    mcnemar_worse,
    non_inferiority,
    visible,
)

OUTPUT = Path("build/bench/gate.json")
POLICIES = ("non-inferior", "not-significantly-worse")
SIZES = (60, 120, 200, 656, 2000)
BETTER = (0.0, 0.01, 0.02, 0.04)
DISAGREEMENT = 0.08  # share of images on which two versions of the demo's model differ, about
SHARES = (0.02, 0.05, 0.08, 0.12, 0.2)  # for the promise
FEW = (60, 80, 100, 150, 200, 316, 500, 1000, 2000)  # test images
CHANGED = (0, 1, 2, 3, 5)  # images that each version alone gets right
LOST = (0, 1, 3)
ROUNDS = 20_000

Flags = NDArray[np.bool_]
Counts = NDArray[np.int64]

# Shares of the images: 60 % of the first class, 40 % of the first slice, 30 % joined since.
_CLASS, _SLICE, _RECENT = (0.6, 0.4), (0.4, 0.6), (0.3, 0.7)


@dataclass(frozen=True, slots=True)
class Row:
    """How often candidates of one true difference pass."""

    policy: str
    images: int
    difference: float  # true, candidate less stable
    test: float
    gate: float
    smallest_visible_difference: float


def passes_test(b: Counts, c: Counts, n: int, config: GateConfig) -> Flags:
    """What the policy says of disagreements `b` (only the candidate right) and `c`."""
    if config.policy == "non-inferior":
        passed: Flags = non_inferiority(b, c, n, config.margin) < config.alpha
        return passed
    return mcnemar_worse(b, c) >= config.alpha


def exact_rate(n: int, difference: float, disagreement: float, config: GateConfig) -> float:
    """The chance that the policy's test passes, summed over all pairs of counts that matter."""
    most = min(n, int(n * disagreement + 8 * (n * disagreement) ** 0.5 + 10))
    b, c = np.meshgrid(np.arange(most + 1), np.arange(most + 1), indexing="ij")
    better = (disagreement + difference) / 2 / disagreement  # of a disagreement
    chance = binom.pmf(b + c, n, disagreement) * binom.pmf(b, b + c, better)
    return float((chance * passes_test(b, c, n, config)).sum())


def drawn(
    n: int, difference: float, disagreement: float, rounds: int, random: np.random.Generator
) -> Counts:
    """Disagreements, (rounds, 2 winners, 2 classes, 2 slices, 2 ages); the difference is the same
    everywhere."""
    winners = np.array([disagreement + difference, disagreement - difference]) / 2
    cells = np.einsum("w,c,s,r->wcsr", winners, _CLASS, _SLICE, _RECENT)
    chances = np.append(cells.ravel(), 1 - disagreement)
    counts: Counts = random.multinomial(n, chances, rounds)[:, :-1].reshape(rounds, *cells.shape)
    return counts


def passes_gate(counts: Counts, n: int, config: GateConfig) -> Flags:
    """(rounds,): the policy's test and the checks that can only refuse."""
    b, c = counts.sum(axis=(2, 3, 4)).T
    passed = passes_test(b, c, n, config)
    for family in ((3, 4), (2, 4)):  # the axes that are not of the family: classes, slices
        by_part = counts.sum(axis=family)  # (rounds, winners, parts)
        adjusted = holm(mcnemar_worse(by_part[:, 0], by_part[:, 1]))
        passed &= (adjusted >= config.alpha).all(axis=1)
    recent = counts[..., 0].sum(axis=(2, 3))
    passed &= mcnemar_worse(recent[:, 0], recent[:, 1]) >= config.alpha
    return passed


def table(rounds: int = ROUNDS) -> list[Row]:
    """All policies, sizes and differences; the first difference is the margin's."""
    random = np.random.default_rng(0)
    rows: list[Row] = []
    for policy in POLICIES:
        config = GateConfig(policy=policy)
        for n in progress(SIZES, description=policy, unit="sizes"):
            for difference in (-config.margin, *BETTER):
                counts = drawn(n, difference, DISAGREEMENT, rounds, random)
                half = n * DISAGREEMENT / 2
                rows.append(
                    Row(
                        policy=policy,
                        images=n,
                        difference=difference,
                        test=exact_rate(n, difference, DISAGREEMENT, config),
                        gate=float(passes_gate(counts, n, config).mean()),
                        smallest_visible_difference=float(visible(half, half, n)),
                    )
                )
    return rows


def false_promotions() -> dict[str, float]:
    """Size and share of disagreements -> how often `non-inferior` passes at exactly the margin."""
    config = GateConfig(policy="non-inferior")
    return {
        f"{n} images, {share:.0%} disagreements": exact_rate(n, -config.margin, share, config)
        for n in SIZES
        for share in SHARES
    }


def markdown(rows: list[Row]) -> str:
    """The table of docs/promotion.md."""
    margin = GateConfig().margin
    heads = [f"{100 * d:+.0f}".replace("+0", "equal") for d in BETTER]
    lines = [
        f"| policy | test images | worse by the margin ({100 * margin:g}) | "
        + " | ".join(f"{head} points" if head != "equal" else head for head in heads)
        + " | sees from |",
        "| --- | ---: | ---: | " + " | ".join("---:" for _ in heads) + " | ---: |",
    ]
    for policy in POLICIES:
        for n in SIZES:
            own = [row for row in rows if (row.policy, row.images) == (policy, n)]
            cells = [f"{100 * row.gate:.1f} %" for row in own]
            sight = f"{100 * own[0].smallest_visible_difference:.1f} points"
            lines.append(f"| `{policy}` | {n:,} | " + " | ".join(cells) + f" | {sight} |")
    return "\n".join(lines)


def smallest_margins() -> str:
    """The other table of docs/promotion.md: what so many test images can show at all."""
    config = GateConfig(policy="non-inferior")
    heads = [f"{k} : {k}" for k in CHANGED] + [f"gains for {lost} lost" for lost in LOST]
    lines = [
        "| test images | " + " | ".join(heads) + " |",
        "| ---: | " + " | ".join("---:" for _ in heads) + " |",
    ]
    for n in FEW:
        bounds = [float(lower_bound(k, k, n, config.alpha)) for k in CHANGED]
        cells = [f"{math.ceil(-1000 * bound) / 10:.1f}" for bound in bounds]
        cells += [str(gains_needed(n, lost, config.margin, config.alpha)) for lost in LOST]
        lines.append(f"| {n:,} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> int:
    """Writes the figures; 1 when a promise is broken."""
    started = time.perf_counter()
    rows, false = table(), false_promotions()
    alpha = GateConfig().alpha
    held = max(false.values()) <= alpha
    config = GateConfig()
    report = {
        "alpha": alpha,
        "margin": config.margin,
        "disagreement": DISAGREEMENT,
        "rounds": ROUNDS,
        "table": [asdict(row) for row in rows],
        "false_promotions_non_inferior": false,
        "largest_false_promotion": max(false.values()),
        "promise_held": held,
        "seconds": round(time.perf_counter() - started, 2),
    }
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    OUTPUT.write_text(json.dumps(report, indent=2) + "\n")
    sys.stdout.write(
        f"{markdown(rows)}\n\n{smallest_margins()}\n\n"
        "A model worse by exactly the margin passes `non-inferior` in at most "
        f"{100 * max(false.values()):.2f} % (promised: {100 * alpha:g} %); "
        f"{report['seconds']} s; {OUTPUT}\n"
    )
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
