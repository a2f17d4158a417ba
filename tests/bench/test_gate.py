"""The simulation of the gate decides as the gate does, and its promises hold at small size."""

from pathlib import Path

import numpy as np
import pytest

from bench import gate as simulation
from visionloop_training import gate
from visionloop_training.config import GateConfig
from visionloop_training.data import Item
from visionloop_training.evaluate import Scored, evaluate
from visionloop_training.verdict import Verdict

CLASSES = ("one", "two")


@pytest.mark.parametrize(
    ("policy", "difference"), [("non-inferior", 0.03), ("not-significantly-worse", -0.05)]
)
def test_it_decides_as_the_gate_does(policy: str, difference: float):
    config = GateConfig(policy=policy, margin=0.04)
    random = np.random.default_rng(0)
    counts = simulation.drawn(300, difference, 0.15, 12, random)
    expected = simulation.passes_gate(counts, 300, config)
    found = [_judged(one, 300, config).passed for one in counts]
    assert found == expected.tolist()
    assert len(set(found)) == 2  # else this compares little


def _judged(counts: np.ndarray, n: int, config: GateConfig) -> Verdict:
    """The gate's own verdict on test images with these disagreements (2, 2, 2, 2)."""
    places = [
        place for place, count in np.ndenumerate(counts) for _ in range(int(count))
    ]  # (winner, class, slice, age)
    rows = [(winner == 0, winner == 1, kind, site, age) for winner, kind, site, age in places]
    rows += [(True, True, i % 2, i % 2, i % 2) for i in range(n - len(rows))]
    labels = np.array([row[2] for row in rows])
    items = tuple(
        Item(f"{i:064x}", row[2], f"g{i}", (("site", f"s{row[3]}"),), 1.0)
        for i, row in enumerate(rows)
    )

    def answers(right: np.ndarray) -> Scored:
        return Scored(items, np.eye(2)[np.where(right, labels, 1 - labels)] * 0.8 + 0.1)

    mine = answers(np.array([row[0] for row in rows]))
    theirs = answers(np.array([row[1] for row in rows]))
    older = frozenset(items[i].sha256 for i, row in enumerate(rows) if row[4] == 1)
    opponent = gate.Opponent(1, theirs, CLASSES, frozenset(), older)
    return gate.decide(mine, evaluate(mine, CLASSES), CLASSES, frozenset(), opponent, config)


@pytest.mark.parametrize("margin", [0.005, 0.01, 0.05])
def test_models_worse_by_the_margin_pass_in_at_most_one_of_twenty(margin: float):
    config = GateConfig(policy="non-inferior", margin=margin)
    rates = [
        simulation.exact_rate(n, -margin, share, config)
        for n in (60, 100, 200, 656)
        for share in (0.01, 0.03, 0.05, 0.08, 0.2)
        if share >= margin
    ]
    assert max(rates) <= 0.05
    assert max(rates) > 0.04  # not bought by refusing everything


def test_exact_and_simulated_rates_agree():
    config = GateConfig(policy="non-inferior")
    counts = simulation.drawn(656, 0.02, 0.08, 4000, np.random.default_rng(1))
    b, c = counts.sum(axis=(2, 3, 4)).T
    simulated = simulation.passes_test(b, c, 656, config).mean()
    assert simulated == pytest.approx(simulation.exact_rate(656, 0.02, 0.08, config), abs=0.02)


def test_the_other_checks_cost_an_equal_model_little_and_never_help():
    random = np.random.default_rng(2)
    config = GateConfig(policy="not-significantly-worse")
    counts = simulation.drawn(656, 0.0, 0.08, 3000, random)
    b, c = counts.sum(axis=(2, 3, 4)).T
    alone = simulation.passes_test(b, c, 656, config)
    together = simulation.passes_gate(counts, 656, config)
    assert not (together & ~alone).any()
    assert alone.mean() - together.mean() < 0.12


def test_the_page_shows_the_margins_that_the_gate_takes():
    page = Path(__file__).parents[2] / "docs" / "promotion.md"
    _, _, rest = page.read_text(encoding="utf-8").partition("<!-- bench-gate-margins -->\n")
    shown, _, _ = rest.partition("<!-- end of bench-gate-margins -->")
    assert shown == simulation.smallest_margins() + "\n"
