"""Fitting: repeatable, leaves frozen stages alone, and notices when it went wrong."""

import pytest
import torch
from support.training_site import QUICK, Site

from visionloop.errors import RefusedError
from visionloop.snapshot import SnapshotRepository
from visionloop_training import backbones, recipe
from visionloop_training.checkpoint import Checkpoints
from visionloop_training.config import TrainingConfig, load
from visionloop_training.cores import usable_cores
from visionloop_training.data import Blobs, dataset
from visionloop_training.features import Features
from visionloop_training.fit import Fitted, fit
from visionloop_training.network import Network
from visionloop_training.stop import PreemptedError, Stop

BASE = (*QUICK, "backbone.name=resnet18", "backbone.weights=none", "fit.freeze=layer3.1")


def fitted(
    site: Site,
    *settings: str,
    checkpoints: Checkpoints | None = None,
    stop: Stop | None = None,
) -> Fitted:
    config: TrainingConfig = load(overrides=(*BASE, *settings))
    data = dataset(SnapshotRepository(site.store).read("digits", "latest"))
    torch.manual_seed(11)
    backbone, pixels = backbones.build(config.backbone.name, "none", None)
    preprocessing = pixels.preprocessing(64, "squash")
    frozen = backbone.freeze_point(config.fit.freeze)
    network = Network(backbone, preprocessing, len(data.class_ids), frozen)
    blobs = Blobs(site.store, site.folder / "blobs")
    features = Features(network, blobs, preprocessing, config.augment, site.folder / "cache")
    return fit(network, features, data, config, checkpoints, stop)


@pytest.fixture
def digits(site: Site) -> Site:
    site.write({"0": 40, "1": 40})
    return site


def test_the_same_seed_gives_the_same_weights_bit_for_bit(digits: Site):
    first, again = fitted(digits), fitted(digits)
    weights = [f.network.state_dict() for f in (first, again)]
    assert all(torch.equal(a, b) for a, b in zip(*(w.values() for w in weights), strict=True))
    assert torch.equal(first.val_logits, again.val_logits)
    other = fitted(digits, "seed=5")
    assert not torch.equal(first.network.head.weight, other.network.head.weight)


class StopAfter(Stop):
    """Told to stop after so many optimiser steps."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self._left = steps

    @property
    def told(self) -> bool:
        return self._left <= 0

    def check(self, where: str) -> None:
        super().check(where)
        self._left -= where.startswith("after step")


def test_a_run_that_was_stopped_goes_on_bit_for_bit(digits: Site):
    """12 steps in 3 epochs; stopped within one, at an epoch's end, at once after going on."""
    settings = ("fit.epochs=3", "fit.keep=best", "fit.learning_rate=1e-2")
    whole = fitted(digits, *settings)
    assert len(whole.history) == 4
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
    weights = [f.network.state_dict() for f in (whole, resumed)]
    assert all(torch.equal(a, b) for a, b in zip(*(w.values() for w in weights), strict=True))
    assert torch.equal(whole.val_logits, resumed.val_logits)
    assert resumed.kept_epoch == whole.kept_epoch
    assert [e.val_loss for e in resumed.history] == [e.val_loss for e in whole.history]


def test_frozen_stages_stay_and_the_others_learn(digits: Site):
    torch.manual_seed(11)
    before, _ = backbones.build("resnet18", "none", None)
    after = fitted(digits).network.backbone
    names = list(before.stage_names)
    border = names.index("layer3.1") + 1
    for index, name in enumerate(names[:-1]):
        pairs = zip(
            before.stages[index].parameters(), after.stages[index].parameters(), strict=True
        )
        same = [torch.equal(a, b) for a, b in pairs]
        assert all(same) if index < border else not any(same), name


def test_training_learns(digits: Site):
    run = fitted(digits, "fit.epochs=12", "fit.learning_rate=3e-4", "fit.dropout=0")
    losses = [epoch.train_loss for epoch in run.history[1:]]
    assert losses[-1] < 0.75 * losses[0]
    assert max(epoch.val_accuracy for epoch in run.history) >= 0.7  # guessing gives 0.5
    assert [epoch.epoch for epoch in run.history] == list(range(13))


def test_the_best_epoch_is_kept_and_patience_ends_the_run(digits: Site):
    settings = ("fit.keep=best", "fit.epochs=30", "fit.patience=2", "fit.learning_rate=3e-2")
    run = fitted(digits, *settings)
    losses = [epoch.val_loss for epoch in run.history]
    assert run.kept_epoch == losses.index(min(losses))
    assert len(losses) - 1 == run.kept_epoch + 2 < 30


def test_divergence_is_said_not_published(digits: Site):
    with pytest.raises(RefusedError, match=r"diverged.*lower\s+fit.learning_rate"):
        fitted(digits, "fit.learning_rate=1e30", "fit.clip_norm=1e30", "fit.epochs=5")


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


def test_rates_fall_from_stage_to_stage_and_norms_do_not_decay():
    config = load(overrides=("fit.body_ratio=0.5", "fit.layer_decay=0.8")).fit
    backbone, pixels = backbones.build("resnet18", "none", None)
    network = Network(backbone, pixels.preprocessing(64, "squash"), 2, frozen=7)
    groups = recipe.optimiser(network, config).param_groups
    rates = sorted({group["peak"] for group in groups}, reverse=True)
    assert rates == pytest.approx([1e-3, 5e-4, 4e-4])
    trained = sum(p.numel() for g in groups for p in g["params"])
    stages = backbone.stages[7:]
    assert trained == sum(p.numel() for m in (stages, network.head) for p in m.parameters())
    for group in groups:
        assert all((p.ndim > 1) == (group["weight_decay"] > 0) for p in group["params"])


def test_the_rate_rises_to_its_peak_and_falls_to_almost_nothing():
    shares = [recipe.rate_at(step, 100, 0.25) for step in range(101)]
    assert shares[0] == pytest.approx(0.04)
    assert max(shares) == shares[25] == pytest.approx(1.0)
    assert shares[100] == pytest.approx(1e-4)
    assert shares[:26] == sorted(shares[:26])
    assert shares[25:] == sorted(shares[25:], reverse=True)


@pytest.mark.parametrize(("quota", "expected"), [("100000 100000", 1), ("max 100000", None)])
def test_a_containers_quota_counts(tmp_path, quota: str, expected: int | None):
    (tmp_path / "cpu.max").write_text(quota)
    free = usable_cores(tmp_path / "nothing")
    assert usable_cores(tmp_path / "cpu.max") == (expected or free)
