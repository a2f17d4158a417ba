"""Any number of classes an image: metrics against scikit-learn, calibration, thresholds, tests."""

import tracemalloc

import numpy as np
import pytest
import sklearn.metrics
import torch
from numpy.typing import NDArray
from scipy.special import expit

from visionloop_training import intervals
from visionloop_training.config import GateConfig, LabelsConfig
from visionloop_training.data import SEVERAL, Item
from visionloop_training.evaluate import Scored
from visionloop_training.multi_label import evaluate as evaluate_module
from visionloop_training.multi_label import gate, ranking
from visionloop_training.multi_label.calibrate import FEW, calibrate
from visionloop_training.multi_label.evaluate import ScoredLabels, evaluate, jaccard
from visionloop_training.multi_label.paired import PairedScores
from visionloop_training.multi_label.thresholds import choose
from visionloop_training.verdict import Verdict

CLASSES = ("crack", "stain", "dust")
SOFT = GateConfig(policy="not-significantly-worse", alpha=0.05)
HARD = GateConfig(policy="non-inferior", margin=0.05, alpha=0.05)
Bools = NDArray[np.bool_]


def made_items(truth: Bools, groups: list[str] | None = None) -> tuple[Item, ...]:
    return tuple(
        Item(
            sha256=f"{n:064x}",
            label=SEVERAL,
            group=groups[n] if groups else f"group-{n}",
            attributes=(("half", "first" if n % 2 else "second"),),
            weight=1.0,
            labels=tuple(int(place) for place in np.flatnonzero(row)),
        )
        for n, row in enumerate(truth)
    )


@pytest.fixture(scope="module")
def scored() -> ScoredLabels:
    """400 images; some have no class, some scores tie."""
    random = np.random.default_rng(0)
    truth = random.random((400, 3)) < (0.5, 0.2, 0.05)
    logits = np.where(truth, 1.0, -1.0) + random.normal(size=truth.shape) * 1.5
    probabilities = expit(logits).round(2).astype(np.float32)
    return ScoredLabels(made_items(truth), probabilities, np.array([0.5, 0.4, 0.3]))


def test_the_numbers_are_scikit_learns(scored: ScoredLabels):
    truth, answers, chances = scored.truth, scored.answers, scored.probabilities
    found = evaluate(scored, CLASSES)
    expected = sklearn.metrics.average_precision_score(truth, chances, average=None)
    for column, scores in enumerate(found.classes.values()):
        assert scores.average_precision.value == pytest.approx(expected[column])
        true, said = truth[:, column], answers[:, column]
        assert scores.precision.value == pytest.approx(sklearn.metrics.precision_score(true, said))
        assert scores.recall.value == pytest.approx(sklearn.metrics.recall_score(true, said))
        assert scores.f1.value == pytest.approx(sklearn.metrics.f1_score(true, said))
        auroc = sklearn.metrics.roc_auc_score(true, chances[:, column])
        assert scores.auroc.value == pytest.approx(auroc)
        assert scores.support == true.sum()
    assert found.mean_average_precision.value == pytest.approx(expected.mean())
    for average, value in (("macro", found.macro_f1), ("micro", found.micro_f1)):
        expected_f1 = sklearn.metrics.f1_score(truth, answers, average=average)
        assert value.value == pytest.approx(expected_f1)
    exact = sklearn.metrics.accuracy_score(truth, answers)
    assert found.subset_accuracy.value == pytest.approx(exact)
    mean = sklearn.metrics.jaccard_score(truth, answers, average="samples", zero_division=1.0)
    assert found.jaccard.value == pytest.approx(mean)


def test_intervals_hold_the_value_and_are_neither_nothing_nor_everything(scored: ScoredLabels):
    found = evaluate(scored, CLASSES)
    of_classes = [c.average_precision for c in found.classes.values()]
    for interval in (
        *(found.mean_average_precision, found.macro_f1, found.micro_f1, found.jaccard, found.ece),
        *of_classes,
    ):
        assert interval.low < interval.value < interval.high
        assert interval.high - interval.low < 0.6
    # The rarer the class, the less is known of it.
    widths = [interval.high - interval.low for interval in of_classes]
    assert widths[0] < widths[2]


def test_near_duplicates_count_once():
    random = np.random.default_rng(1)
    truth = np.repeat(random.random((60, 2)) < 0.5, 5, axis=0)
    chances = np.repeat(random.random((60, 2)), 5, axis=0)
    groups = [f"scene-{n // 5}" for n in range(300)]
    thresholds = np.array([0.5, 0.5])

    def width(names: list[str] | None) -> float:
        scored = ScoredLabels(made_items(truth, names), chances, thresholds)
        found = evaluate(scored, CLASSES[:2]).mean_average_precision
        return found.high - found.low

    assert width(groups) > 1.7 * width(None)


@pytest.mark.parametrize("copies", [1, 20])
def test_a_perfect_score_on_few_images_proves_little(copies: int):
    truth = np.repeat(np.arange(12)[:, None] % 3 == np.arange(3), copies, axis=0)
    groups = [f"group-{n // copies}" for n in range(len(truth))]
    perfect = ScoredLabels(made_items(truth, groups), truth.astype(np.float32), np.full(3, 0.5))
    found = evaluate(perfect, CLASSES)
    numbers = {name: getattr(found, name) for name in ("mean_average_precision", "macro_auroc")}
    for name in ("macro_f1", "micro_f1", "jaccard", "subset_accuracy"):
        numbers[name] = getattr(found, name)
    for name, scores in found.classes.items():
        numbers |= {f"{name} {x}": getattr(scores, x) for x in ("average_precision", "auroc")}
    for name, interval in numbers.items():
        assert interval.value == interval.high == 1.0, name
        assert interval.low < 0.87, name


def test_a_class_that_no_image_has_leaves_the_mean_alone():
    truth = np.array([[True, False], [False, False], [True, False]])
    chances = np.array([[0.9, 0.3], [0.2, 0.1], [0.8, 0.7]])
    mean, by_class = ranking.with_intervals(chances, truth, np.arange(3))
    assert by_class[1] is None
    assert mean.value == by_class[0].value == 1.0
    assert ranking.with_intervals(chances, truth & False, np.arange(3))[0] is None


def test_each_class_gets_the_calibration_that_made_its_labels():
    random = np.random.default_rng(2)
    logits = random.normal(size=(8000, 3)) * 2
    temperatures, biases = np.array([0.5, 2.0, 1.0]), np.array([0.0, -1.0, 0.7])
    truth = random.random(logits.shape) < expit(logits / temperatures + biases)
    found = calibrate(logits, truth, LabelsConfig())
    assert found.temperatures == pytest.approx(temperatures, rel=0.12)
    assert found.biases == pytest.approx(biases, abs=0.1)
    assert found.ece_after < 0.02 < found.ece_before
    assert found.loss_after < found.loss_before
    assert found.few == [False] * 3


def test_a_rare_class_has_the_temperature_of_all_and_says_so():
    random = np.random.default_rng(3)
    logits = random.normal(size=(300, 2)) * 2
    truth = random.random(logits.shape) < expit(logits / 2.0)
    truth[:, 1] = False
    truth[: FEW - 1, 1] = True
    found = calibrate(logits, truth, LabelsConfig())
    assert found.few == [False, True]
    assert found.biases[1] == 0.0
    assert found.present[1] == 0.5


@pytest.mark.parametrize("n", [20, 300])
def test_a_val_split_without_a_mistake_makes_nothing_certain(n: int):
    truth = np.arange(n)[:, None] % 2 == np.array([0, 1])
    found = calibrate(np.where(truth, 9.0, -9.0), truth, LabelsConfig())
    chance = expit(9.0 / found.temperatures[0] + found.biases[0])
    assert chance == pytest.approx((n / 2 + 1) / (n / 2 + 2), abs=1e-3)


def test_thresholds_follow_their_rule():
    chances = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2])
    truth = np.array([1, 1, 0, 1, 1, 0, 0, 0], dtype=bool)
    best = choose(chances, truth, LabelsConfig(), few=False)
    assert best.threshold == pytest.approx(0.45)
    assert (best.precision, best.recall) == (pytest.approx(4 / 5), 1.0)
    strict = LabelsConfig(threshold="target_precision", target_precision=0.95)
    sure = choose(chances, truth, strict, few=False)
    assert (sure.threshold, sure.precision, sure.reached) == (pytest.approx(0.75), 1.0, True)
    never = choose(chances, ~truth, strict, few=False)
    assert not never.reached
    assert choose(chances, truth, strict, few=True).threshold == 0.5


def test_the_best_threshold_is_the_best_of_all():
    random = np.random.default_rng(4)
    chances = random.random(200).round(2)
    truth = random.random(200) < chances
    found = choose(chances, truth, LabelsConfig(), few=False)
    f1 = max(sklearn.metrics.f1_score(truth, chances >= limit) for limit in np.linspace(0, 1, 401))
    assert sklearn.metrics.f1_score(truth, chances >= found.threshold) == pytest.approx(f1)


def test_sign_flips_are_exact_where_they_can_be():
    three = PairedScores(np.array([-0.5, -0.2, -0.1, 0.0]), np.arange(4))
    assert three.worse() == 1 / 8  # all three minus: one of eight patterns is as low
    assert PairedScores(np.zeros(5), np.arange(5)).worse() == 1.0
    together = PairedScores(np.full(6, -0.5), np.array([0, 0, 0, 1, 1, 1]))
    assert together.worse() == 1 / 4  # two groups, not six images
    many = np.random.default_rng(5).normal(-0.1, 0.3, 400)
    assert PairedScores(many, np.arange(400)).worse() < 0.001
    assert PairedScores(-many, np.arange(400)).worse() > 0.999


def test_worse_models_pass_as_seldom_as_promised():
    """Worse by exactly the margin, by few large mistakes: at most 5 % pass; of equal ones most."""
    random, margin, n = np.random.default_rng(6), 0.03, 300
    steps = np.array([-1.0, -0.5, 0.0, 0.5])

    def passed(chances: list[float], rounds: int = 1500) -> float:
        drawn = random.choice(steps, (rounds, n), p=chances)
        found = [PairedScores(row, np.arange(n)).not_inferior(margin) < 0.05 for row in drawn]
        return float(np.mean(found))

    for worse in ([0.02, 0.06, 0.88, 0.04], [0.03, 0.0, 0.97, 0.0]):
        assert steps @ worse == pytest.approx(-margin)
        assert passed(worse) < 0.05
    assert passed([0.01, 0.04, 0.89, 0.06], 300) > 0.5


def test_where_nothing_differs_a_small_test_set_proves_nothing():
    few, many = (PairedScores(np.zeros(n), np.arange(n)) for n in (20, 2000))
    assert few.not_inferior(0.05) > 0.05
    assert many.not_inferior(0.05) < 0.05
    assert few.lower_bound(0.05) < -0.05


def verdict(
    truth: Bools,
    candidate: Bools,
    stable: Bools,
    config: GateConfig,
    *,
    names: tuple[str, ...] = CLASSES,
    seen: frozenset[str] = frozenset(),
    tested: frozenset[str] | None = frozenset(),
) -> Verdict:
    mine = ScoredLabels(made_items(truth), np.where(candidate, 0.9, 0.1), np.full(3, 0.5))
    opponent = gate.Opponent(4, stable, names, seen, tested)
    found = evaluate(mine, CLASSES)
    return gate.decide(mine, found, CLASSES, frozenset(), opponent, config)


@pytest.fixture(scope="module")
def truth() -> Bools:
    return np.random.default_rng(7).random((300, 3)) < 0.4


def test_the_better_model_passes_and_the_worse_is_refused(truth: Bools):
    wrong = truth ^ (np.random.default_rng(8).random(truth.shape) < 0.15)
    better = verdict(truth, truth, wrong, SOFT)
    assert (better.passed, better.score, better.candidate_accuracy) == (True, "jaccard", 1.0)
    assert better.stable_accuracy == pytest.approx(jaccard(truth, wrong).mean())
    assert better.only_candidate_right == (truth != wrong).any(axis=1).sum() == len(better.gained)
    assert verdict(truth, truth, wrong, HARD).passed
    for config in (SOFT, HARD):
        worse = verdict(truth, wrong, truth, config)
        assert not worse.passed
        assert "mean Jaccard index of" in worse.reason
    assert "sign flips p" in verdict(truth, wrong, truth, SOFT).reason


def test_a_class_that_gets_worse_is_named_though_the_whole_is_as_good(truth: Bools):
    candidate, stable = truth.copy(), truth.copy()
    candidate[:40, 2] ^= True
    stable[40:80, 0] ^= True
    found = verdict(truth, candidate, stable, SOFT)
    checks = {check.name: check for check in found.checks}
    assert checks["not-significantly-worse"].passed
    assert checks["classes"].numbers["worse"] == ["dust"]
    assert not found.passed


def test_only_classes_that_both_know_are_compared(truth: Bools):
    """The stable version knows crack and dust in another order, and one that is gone."""
    stable = np.stack([truth[:, 2], truth[:, 0], ~truth[:, 1]], axis=1)
    found = verdict(truth, truth, stable, SOFT, names=("dust", "crack", "rust"))
    assert (found.candidate_accuracy, found.stable_accuracy) == (1.0, 1.0)
    assert (found.label_change.added, found.label_change.removed) == (["stain"], ["rust"])
    assert found.label_change.test_images_of_added == truth[:, 1].sum()
    alone = verdict(truth, truth, stable, SOFT, names=("a", "b", "c"))
    assert alone.reason.startswith("no test image can be compared with version 4")


def test_images_that_a_model_has_seen_take_no_part(truth: Bools):
    seen = frozenset(f"group-{n}" for n in range(100))
    found = verdict(truth, truth, truth, SOFT, seen=seen, tested=None)
    assert (found.images, found.excluded_images) == (200, 100)
    assert "is not known" in next(c for c in found.checks if c.name == "recent-images").words
    older = frozenset(f"{n:064x}" for n in range(250))
    recent = verdict(truth, truth, truth, SOFT, tested=older).checks[1].numbers
    assert (recent["recent"]["images"], recent["older"]["images"]) == (50, 250)


def test_a_first_model_must_beat_the_same_answer_for_all(truth: Bools):
    nothing = ScoredLabels(made_items(truth), np.full(truth.shape, 0.1), np.full(3, 0.5))
    found = gate.decide(nothing, evaluate(nothing, CLASSES), CLASSES, frozenset(), None, SOFT)
    assert not found.passed
    assert found.checks[0].name == "beats-commonest-answer"


def test_answers_are_compared_in_the_precision_that_serves():
    """A threshold that float32 cannot hold, and a probability that is its rounding."""
    chances = np.array([[0.3]], np.float32)
    scored = Scored(made_items(np.array([[True]])), chances)
    assert ScoredLabels.of(scored, [0.3]).answers.all()
    assert torch.tensor(0.3).item() != 0.3


def test_many_images_and_classes_take_little_more_than_their_probabilities(
    monkeypatch: pytest.MonkeyPatch,
):
    """100,000 images and 1,000 classes are 800 MB in float64: no array of that kind is made of all
    of them at once, neither in calibration nor in evaluation, where there were a dozen."""
    n, classes = 8_000, 40
    for module in (ranking, evaluate_module):
        for name, value in (("_WORK", 0), ("_FEWEST_DRAWS", 20), ("_AT_ONCE", 50_000)):
            monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(intervals, "_NUMBERS_AT_ONCE", 50_000)
    random = np.random.default_rng(9)
    truth = random.random((n, classes)) < 0.02
    logits = random.normal(size=(n, classes)).astype(np.float32) + 2 * truth - 3
    logits = logits.astype(np.float32)
    scored = ScoredLabels(made_items(truth), expit(logits), np.full(classes, 0.5))
    names = [str(place) for place in range(classes)]
    calibrate(logits[:100], truth[:100], LabelsConfig())  # imports, which are counted, too
    for work in (
        lambda: calibrate(logits, truth, LabelsConfig()),
        lambda: evaluate(scored, names),
    ):
        tracemalloc.start()
        work()
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 4 * 8 * n * classes


def test_one_image_of_a_class_says_little_of_its_average_precision():
    truth = np.zeros((1000, 1), dtype=bool)
    truth[99] = True
    _, [found] = ranking.with_intervals(-np.arange(1000.0)[:, None], truth, np.arange(1000))
    assert found.value == 0.01
    assert found.high > 0.5  # the next image of the class may be ranked first
