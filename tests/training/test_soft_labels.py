"""Labels of which people are not sure: the loss learns all of them, measures count one class."""

import pytest
import torch
from support.digits import rows
from support.training_site import FIRST, PROBE, Site, trigger
from torch import nn
from torch.nn import functional as F

from visionloop.snapshot import SnapshotClass, SnapshotRepository, blob_key
from visionloop_training import backbones, targets
from visionloop_training.batches import Slice
from visionloop_training.config import load
from visionloop_training.data import Dataset, Item, dataset
from visionloop_training.distributed import Workers
from visionloop_training.heads import fit_head
from visionloop_training.learner import Learner
from visionloop_training.network import Network
from visionloop_training.recipe import optimisers
from visionloop_training.recipe.rates import Rates


def item(label: int, *probabilities: tuple[int, float]) -> Item:
    return Item("0" * 64, label, "g", (), 1.0, probabilities=probabilities)


ITEMS = [item(0), item(1, (0, 0.25), (1, 0.75)), item(2, (1, 0.5), (2, 0.5))]


def test_the_loss_of_a_head_is_that_of_the_soft_labels() -> None:
    torch.manual_seed(0)
    logits, weights = torch.randn(3, 3), torch.tensor([1.0, 2.0, 0.5])
    soft = targets.soft(ITEMS, 3)
    assert soft is not None
    assert soft.tolist() == [[1, 0, 0], [0.25, 0.75, 0], [0, 0.5, 0.5]]
    whole = (F.cross_entropy(logits, soft, reduction="none") * weights).sum()
    truth = torch.from_numpy(targets.one_class(ITEMS))
    inputs, labels, shares = targets.for_head(ITEMS, logits, truth, weights)
    assert len(inputs) == 5
    parts = (F.cross_entropy(inputs, labels, reduction="none") * shares).sum()
    torch.testing.assert_close(parts, whole)


def test_certain_labels_cost_nothing() -> None:
    given = torch.ones(2, 3), torch.zeros(2, dtype=torch.int64), torch.ones(2)
    assert targets.soft(ITEMS[:1] * 2, 3) is None
    found = targets.for_head(ITEMS[:1] * 2, *given)
    assert all(one is other for one, other in zip(found, given, strict=True))


def test_a_head_learns_how_sure_people_are() -> None:
    """Of images that look alike and are called 1 by three of four."""
    items = [item(1, (0, 0.25), (1, 0.75))] * 8
    head, x = nn.Linear(2, 2), torch.zeros(8, 2)
    truth = torch.ones(8, dtype=torch.int64)
    fit_head(head, targets.for_head(items, x, truth, torch.ones(8)), (x, truth), [1e-3])
    assert torch.softmax(head(x[:1]), 1)[0, 1].item() == pytest.approx(0.75, abs=0.01)


def write(site: Site, name: str, **soft: dict[str, float]) -> None:
    """Two classes of digits; `soft` are the probabilities of each class's train images."""
    made, blobs = rows({"0": 40, "1": 40})
    labelled = [
        row.model_copy(update={"probabilities": soft.get(f"of_{row.class_id}", {})})
        if row.split == "train"
        else row
        for row in made
    ]
    for sha256, data in blobs.items():
        site.store.put(blob_key(sha256), data)
    classes = [SnapshotClass(id=digit, name=digit) for digit in "012"]
    SnapshotRepository(site.store).write(
        name, labelled, classes, {}, label_sequence=80, parent=None
    )


def test_the_loss_of_fine_tuning_is_that_of_the_soft_labels() -> None:
    torch.manual_seed(0)
    backbone, pixels = backbones.build("squeezenet1_1", "none", None)
    network = Network(backbone, pixels.preprocessing(64, "squash"), 3, len(backbone.stages))
    config = load(overrides=("fit.dropout=0.0", "fit.label_smoothing=0.0"))
    data = Dataset("d", "s", tuple("abc"), tuple("abc"), tuple(ITEMS), (), ())
    learner = Learner(network, data, config, Workers())
    inputs, soft = torch.randn(3, backbone.width), targets.soft(ITEMS, 3)
    assert soft is not None
    expected = F.cross_entropy(network.head(inputs), soft).detach()
    optimiser = optimisers.optimiser(network, config.fit, Rates(1e-3, 1.0, 1.0))
    loss = learner.step(optimiser, [Slice(0, inputs, [0, 1, 2])], 3, 0)
    torch.testing.assert_close(loss, expected)


def test_what_is_learned_is_the_soft_label(site: Site) -> None:
    """Turned round, they make a model that is wrong about the class that images count as."""
    write(site, "sure")
    write(site, "turned", of_0={"0": 0.1, "1": 0.9}, of_1={"0": 0.9, "1": 0.1})
    sure = site.train(*PROBE, dataset="sure").metrics["accuracy"]
    turned = site.train(*PROBE, dataset="turned", promote=False)
    assert turned.metrics["accuracy"] < 0.5 < sure
    head = site.train(*PROBE, dataset="turned", promote=False, lane="fast")
    assert head.metrics["accuracy"] < 0.5


def test_a_class_that_nobody_is_surest_of_is_not_learned(site: Site) -> None:
    write(site, "digits", of_0={"0": 0.6, "1": 0.2, "2": 0.2})
    data = dataset(SnapshotRepository(site.store).read("digits", "latest"))
    assert data.class_ids == ("0", "1")
    [soft] = {item.probabilities for item in data.train if item.label == 0}
    assert soft == ((0, pytest.approx(0.75)), (1, pytest.approx(0.25)))
    assert {item.probabilities for item in (*data.val, *data.test)} == {()}


def test_new_soft_labels_are_new_labels(probed: Site) -> None:
    made, _ = rows(FIRST)
    soft = [
        row.model_copy(update={"probabilities": {"0": 0.75, "1": 0.25}})
        if (row.class_id, row.split) == ("0", "train")
        else row
        for row in made
    ]
    classes = [SnapshotClass(id=digit, name=f"Digit {digit}") for digit in FIRST]
    SnapshotRepository(probed.store).write(
        "digits", soft, classes, {}, label_sequence=500, parent=None
    )
    found = probed.train(*PROBE, if_needed=True, check_only=True)
    assert trigger(found, "new_labels").value == 24
