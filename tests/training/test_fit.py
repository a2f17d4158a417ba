"""Fitting: repeatable, leaves frozen stages alone, and notices when it went wrong."""

import shutil
from collections.abc import Sequence

import pytest
import torch
from support.tiny_network import fitted, tiny_backbone
from support.training_site import Site, StopAfter

from visionloop.errors import ConfigurationError, RefusedError
from visionloop_training import fit as fit_module
from visionloop_training import heads
from visionloop_training.checkpoint import Checkpoint, Checkpoints
from visionloop_training.cores import usable_cores
from visionloop_training.distributed import Workers
from visionloop_training.recipe import collapse
from visionloop_training.stop import PreemptedError

# Everything that has a state or draws at random, in recipes that differ in as much as they can.
RECIPES = {
    "adamw, one-cycle": ("fit.learning_rate=1e-2",),
    "sgd, plateau, balanced": (
        "fit.optimiser=sgd",
        "fit.schedule=plateau",
        "fit.plateau_patience=0",
        "fit.sampler=balanced",
        "fit.loss=focal",
    ),
    "rmsprop, cosine, mixing": (
        "fit.optimiser=rmsprop",
        "fit.schedule=cosine",
        "fit.l1=1e-4",
        "fit.loss=bce",
        "mixing.mixup=0.2",
        "mixing.cutmix=1.0",
        "augment.trivial=true",
    ),
    "adam, frozen, mixup": (
        "fit.optimiser=adam",
        "fit.freeze=stem",
        "fit.schedule=constant",
        "mixing.mixup=0.2",
    ),
    "hidden layers, unfreezing, slices": (
        "head.hidden=[8]",
        "head.dropout=0.3",
        "head.batch_norm=true",
        "fit.probe_penalty=[1e-2]",
        "fit.unfreeze=[[1, 1.0], [2, block.0]]",
        "fit.slices=2",
        "fit.loss=mse",
    ),
    "bfloat16": ("fit.amp=bf16",),
}


@pytest.fixture
def digits(site: Site, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setattr(heads, "_STEPS", 40)  # of the first fit of hidden layers
    site.write({"0": 40, "1": 40})
    return site


def test_the_same_seed_gives_the_same_weights_bit_for_bit(digits: Site):
    first, again = fitted(digits), fitted(digits)
    weights = [f.network.state_dict() for f in (first, again)]
    assert all(torch.equal(a, b) for a, b in zip(*(w.values() for w in weights), strict=True))
    assert torch.equal(first.val_logits, again.val_logits)
    other = fitted(digits, "seed=5")
    assert not torch.equal(first.network.head.weight, other.network.head.weight)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_run_that_was_stopped_goes_on_bit_for_bit(digits: Site, recipe: str):
    """12 steps in 4 epochs; stopped within one, at an epoch's end, at once after going on."""
    settings = ("fit.epochs=4", "fit.keep=best", *RECIPES[recipe])
    whole = fitted(digits, *settings)
    assert len(whole.history) == 5
    taken = []
    for steps in (1, 3, 2, 1):
        checkpoints = Checkpoints(digits.store, "reader", "a-run", every_seconds=1e6)
        with pytest.raises(PreemptedError, match="run the same command again"):
            fitted(digits, *settings, checkpoints=checkpoints, stop=StopAfter(steps - 1))
        checkpoints.close()
        found = Checkpoints(digits.store, "reader", "a-run", 1e6).latest()
        assert found is not None
        taken.append(found.step)
    assert taken == [1, 4, 6, 7]
    checkpoints = Checkpoints(digits.store, "reader", "a-run", every_seconds=1e6)
    resumed = fitted(digits, *settings, checkpoints=checkpoints)
    checkpoints.close()
    weights = [f.network.state_dict() for f in (whole, resumed)]
    assert all(torch.equal(a, b) for a, b in zip(*(w.values() for w in weights), strict=True))
    assert torch.equal(whole.val_logits, resumed.val_logits)
    assert resumed.kept_epoch == whole.kept_epoch
    told = ("epoch", "train_loss", "val_loss", "learning_rate")
    for a, b in zip(whole.history, resumed.history, strict=True):
        assert [getattr(a, name) for name in told] == [getattr(b, name) for name in told]


@pytest.mark.parametrize("epochs", [0, 3])
def test_a_fit_that_was_over_is_not_done_again(
    digits: Site, epochs: int, monkeypatch: pytest.MonkeyPatch
):
    """Whatever came after it: not a step, not even the train images' features."""
    settings = (f"fit.epochs={epochs}", "fit.keep=best", "fit.freeze=stem")
    kept = Checkpoints(digits.store, "reader", "a-run", every_seconds=1e6)
    first = fitted(digits, *settings, checkpoints=kept)
    kept.close()

    def learns(*_: object) -> None:
        raise AssertionError("it trains again")

    monkeypatch.setattr(fit_module._Run, "probe", learns)
    monkeypatch.setattr(fit_module._Run, "fine_tune", learns)
    shutil.rmtree(digits.cache / "activations")
    kept = Checkpoints(digits.store, "reader", "a-run", every_seconds=1e6)
    again = fitted(digits, *settings, checkpoints=kept)
    kept.close()
    assert len(list((digits.cache / "activations").rglob("*.npy"))) == len(first.val_logits)
    weights = [f.network.state_dict() for f in (first, again)]
    assert all(torch.equal(a, b) for a, b in zip(*(w.values() for w in weights), strict=True))
    assert torch.equal(first.val_logits, again.val_logits)
    assert (again.history, again.kept_epoch) == (first.history, first.kept_epoch)
    assert (again.rates, again.probe_penalty) == (first.rates, first.probe_penalty)


def test_frozen_stages_stay_and_the_others_learn(digits: Site):
    before = tiny_backbone()
    after = fitted(digits, "fit.freeze=stem").network.backbone
    for index, name in enumerate(("stem", "block.0", "block.1")):
        pairs = zip(
            before.stages[index].parameters(), after.stages[index].parameters(), strict=True
        )
        same = [torch.equal(a, b) for a, b in pairs]
        assert all(same) if name == "stem" else not any(same), name


def test_a_stage_that_joins_later_stays_until_then(digits: Site):
    plan = "fit.unfreeze=[[1, block.0], [2, stem]]"
    before = tiny_backbone()
    first = fitted(digits, plan, "fit.epochs=1").network.backbone
    second = fitted(digits, plan, "fit.epochs=2").network.backbone
    for index, learns in enumerate([(False, False), (False, True), (True, True)]):
        for after, learned in zip((first, second), learns, strict=True):
            pairs = zip(
                before.stages[index].state_dict().values(),
                after.stages[index].state_dict().values(),
                strict=True,
            )
            assert all(torch.equal(a, b) for a, b in pairs) != learned, (index, learned)


@pytest.mark.parametrize(
    "settings",
    [
        ("fit.optimiser=sgd",),
        ("fit.optimiser=rmsprop", "fit.schedule=constant"),
        ("fit.optimiser=adam", "fit.schedule=cosine", "fit.loss=bce"),
        ("fit.loss=focal", "fit.sampler=balanced"),
        ("fit.loss=mse", "mixing.mixup=0.2", "fit.schedule=plateau"),
        ("head.hidden=[16]", "head.batch_norm=true", "fit.probe_penalty=[1e-2]"),
    ],
    ids=lambda settings: settings[0],
)
def test_every_recipe_learns(digits: Site, settings: tuple[str, ...]):
    rates = ("fit.learning_rate=1e-2", "fit.body_ratio=1")
    run = fitted(digits, "fit.epochs=12", "fit.dropout=0", *rates, *settings)
    losses = [epoch.train_loss for epoch in run.history[1:]]
    assert losses[-1] < 0.75 * losses[0]
    assert not run.failures


def test_the_best_epoch_is_kept_and_patience_ends_the_run(digits: Site):
    settings = ("fit.keep=best", "fit.epochs=30", "fit.patience=2", "fit.learning_rate=3e-2")
    run = fitted(digits, *settings)
    losses = [epoch.val_loss for epoch in run.history]
    assert run.kept_epoch == losses.index(min(losses))
    assert len(losses) - 1 == run.kept_epoch + 2 < 30


def test_processes_keep_the_epoch_that_the_leading_one_finds_best(digits: Site):
    """On another kind of machine the last digits of a loss are others; two that kept different
    epochs would answer for two different networks, and patience end one before the other."""
    losses = iter([0.9, 0.5, 0.4, 0.6, 0.7])

    class Follower(Workers):
        def leaders_numbers(self, numbers: Sequence[float]) -> list[float]:
            return [
                next(losses) if place == len(numbers) - 2 else n for place, n in enumerate(numbers)
            ]

    settings = ("fit.keep=best", "fit.epochs=9", "fit.patience=2")
    run = fitted(digits, *settings, workers=Follower())
    assert [epoch.val_loss for epoch in run.history] == [0.9, 0.5, 0.4, 0.6, 0.7]
    assert run.kept_epoch == 2


def test_divergence_is_said_not_published(digits: Site):
    with pytest.raises(RefusedError, match=r"diverged.*lower\s+fit.learning_rate"):
        fitted(digits, "fit.learning_rate=1e30", "fit.clip_norm=1e30", "fit.epochs=5")


RUNAWAY = ("fit.learning_rate=1e27", "fit.clip_norm=1e30", "fit.epochs=4", "fit.keep=best")


def test_divergence_is_cured_by_a_lower_rate(digits: Site, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(collapse, "LOWER", 1e-30)
    run = fitted(digits, *RUNAWAY)
    [failure] = run.failures
    assert (failure.learning_rate, failure.epoch) == (1e27, 1)
    assert "diverged" in failure.reason
    assert run.rates.head == pytest.approx(1e-3)
    calm = fitted(digits, *RUNAWAY, f"fit.learning_rate={run.rates.head!r}")
    weights = [f.network.state_dict() for f in (run, calm)]
    assert all(torch.equal(a, b) for a, b in zip(*(w.values() for w in weights), strict=True))


def test_a_run_that_began_again_goes_on_from_its_checkpoint(
    digits: Site, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(collapse, "LOWER", 1e-30)
    whole = fitted(digits, *RUNAWAY)
    checkpoints = Checkpoints(digits.store, "reader", "a-run", every_seconds=1e6)
    with pytest.raises(PreemptedError):
        fitted(digits, *RUNAWAY, checkpoints=checkpoints, stop=StopAfter(6))
    checkpoints.close()
    checkpoints = Checkpoints(digits.store, "reader", "a-run", every_seconds=1e6)
    resumed = fitted(digits, *RUNAWAY, checkpoints=checkpoints)
    checkpoints.close()
    assert resumed.failures == whole.failures
    assert torch.equal(whole.val_logits, resumed.val_logits)


def test_weights_that_are_no_numbers_are_never_saved(digits: Site, monkeypatch: pytest.MonkeyPatch):
    """A step's loss is read one step late, and a checkpoint must not be quicker than that."""

    class Watched(Checkpoints):
        def save(self, checkpoint: Checkpoint) -> None:
            saved.append(checkpoint)
            super().save(checkpoint)

    saved: list[Checkpoint] = []
    monkeypatch.setattr(collapse, "LOWER", 1e-30)
    checkpoints = Watched(digits.store, "reader", "a-run", 0.0)
    run = fitted(digits, *RUNAWAY, checkpoints=checkpoints)
    checkpoints.close()
    assert len(run.failures) == 1
    assert len(saved) > 8
    for checkpoint in saved:
        assert all(tensor.isfinite().all() for tensor in checkpoint.tensors.values())


def test_no_retries_means_none(digits: Site, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(collapse, "LOWER", 1e-30)
    with pytest.raises(RefusedError, match="diverged"):
        fitted(digits, *RUNAWAY, "fit.retries=0")


def test_the_probe_is_kept_where_fine_tuning_collapses_at_every_rate(
    digits: Site, monkeypatch: pytest.MonkeyPatch
):
    def collapsed(logits: torch.Tensor, labels: torch.Tensor) -> None:
        calls.append(None)
        if len(calls) <= 3:
            raise collapse.CollapsedError("training collapsed: as this test wants it")

    calls: list[None] = []
    monkeypatch.setattr(collapse, "check_alive", collapsed)
    run = fitted(digits, "fit.epochs=1")
    assert run.kept_epoch == 0
    assert [failure.epoch for failure in run.failures] == [1, 1, 1]
    rates = [failure.learning_rate for failure in run.failures]
    assert rates == pytest.approx([3e-4, 9e-5, 2.7e-5])
    probe = fitted(digits, "fit.epochs=0")
    assert torch.equal(run.val_logits, probe.val_logits)


def test_what_a_network_cannot_follow_is_said_before_any_work(digits: Site):
    with pytest.raises(ConfigurationError, match=r"no pixels to cut.*mixing\.mixup"):
        fitted(digits, "mixing.cutmix=1.0", "fit.freeze=stem")
    with pytest.raises(ConfigurationError, match=r"fit\.unfreeze: tiny has no stage 'blocks\.7'"):
        fitted(digits, "fit.unfreeze=[[1, blocks.7]]")


def test_a_constant_answer_is_said_not_published(site: Site):
    site.write({"0": 150, "1": 60})
    with pytest.raises(RefusedError, match=r"collapsed: all 42 val .* 12 of them .*balanced"):
        fitted(site, "fit.epochs=0", "fit.probe_penalty=[1e3]")


def test_nine_images_of_a_rare_class_prove_no_collapse(site: Site):
    site.write({"0": 170, "1": 45})
    run = fitted(site, "fit.epochs=0", "fit.probe_penalty=[1e3]")
    assert set(run.val_logits.argmax(1).tolist()) == {0}  # for the gate to judge


def test_balanced_weights_give_the_rare_class_its_say(site: Site):
    site.write({"0": 60, "1": 6})
    run = fitted(site, "fit.epochs=0", "fit.probe_penalty=[1e6]", "fit.class_weights=balanced")
    assert len(set(run.val_logits.argmax(1).tolist())) == 2


@pytest.mark.parametrize(("quota", "expected"), [("100000 100000", 1), ("max 100000", None)])
def test_a_containers_quota_counts(tmp_path, quota: str, expected: int | None):
    (tmp_path / "cpu.max").write_text(quota)
    free = usable_cores(tmp_path / "nothing")
    assert usable_cores(tmp_path / "cpu.max") == (expected or free)
