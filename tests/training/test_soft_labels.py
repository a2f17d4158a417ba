"""Labels of which people are not sure: the loss learns all of them, measures count one class."""

from typing import Any, ClassVar

import pytest
import torch
from support.digits import rows
from support.training_site import FIRST, PROBE, Site, trigger
from torch import nn
from torch.nn import functional as F

from visionloop.snapshot import SnapshotClass, SnapshotRepository, blob_key
from visionloop_training import backbones, targets
from visionloop_training.batches import Slice
from visionloop_training.config import HeadConfig, load
from visionloop_training.data import Dataset, Item, dataset
from visionloop_training.distributed import Workers
from visionloop_training.heads import build_head, fit_head
from visionloop_training.learner import Learner
from visionloop_training.network import Network
from visionloop_training.recipe import optimisers
from visionloop_training.recipe.rates import Rates


def item(label: int, *probabilities: tuple[int, float]) -> Item:
    return Item("0" * 64, label, "g", (), 1.0, probabilities=probabilities)


ITEMS = [item(0), item(1, (0, 0.25), (1, 0.75)), item(2, (1, 0.5), (2, 0.5))]


def test_soft_labels_are_the_rows_of_a_matrix() -> None:
    soft = targets.soft(ITEMS, 3)
    assert soft is not None
    assert soft.tolist() == [[1, 0, 0], [0.25, 0.75, 0], [0, 0.5, 0.5]]
    assert targets.soft(ITEMS[:1] * 2, 3) is None  # certain labels cost nothing


def test_a_head_is_fitted_to_the_soft_labels_and_to_each_image_once() -> None:
    """The fit is that to each image once for each of its classes, weighed by the probability."""
    torch.manual_seed(0)
    x, weights = torch.randn(6, 3), torch.rand(6)
    items = [item(n % 3, (n % 3, 0.75), ((n + 1) % 3, 0.25)) for n in range(6)]
    truth, soft = torch.from_numpy(targets.one_class(items)), targets.soft(items, 3)
    assert soft is not None
    head, apart, rows_of = nn.Linear(3, 3), nn.Linear(3, 3), set[int]()
    head.register_forward_hook(lambda _, given, __: rows_of.add(len(given[0])))
    fit_head(head, (x, truth, weights), (x, truth), [0.1], soft=soft)
    assert rows_of == {6}
    images, classes = soft.nonzero(as_tuple=True)
    parts = x[images], classes, weights[images] * soft[images, classes]
    fit_head(apart, parts, (x, truth), [0.1])
    torch.testing.assert_close(head(x), apart(x), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("hidden", [[], [4]])
def test_a_head_learns_how_sure_people_are(hidden: list[int]) -> None:
    """Of images that look alike and are called 1 by three of four."""
    torch.manual_seed(0)
    head, x = build_head(2, 2, HeadConfig(hidden=hidden)), torch.zeros(8, 2)
    truth, val = torch.ones(8, dtype=torch.int64), torch.tensor([0, 1, 1, 1] * 2)
    soft = targets.soft([item(1, (0, 0.25), (1, 0.75))] * 8, 2)
    fit_head(head, (x, truth, torch.ones(8)), (x, val), [1e-3], soft=soft)
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


class Sent(torch.Tensor):
    """That keeps how many of its rows went to a device."""

    rows: ClassVar[list[int]] = []

    def to(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        self.rows.append(len(self))
        return super().to(*args, **kwargs).as_subclass(torch.Tensor)


def test_only_the_rows_of_a_slice_go_to_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all images times all classes it has no room."""
    backbone, pixels = backbones.build("squeezenet1_1", "none", None)
    network = Network(backbone, pixels.preprocessing(64, "squash"), 3, len(backbone.stages))
    config = load()
    data = Dataset("d", "s", tuple("abc"), tuple("abc"), tuple(ITEMS), (), ())
    soft = targets.soft(ITEMS, 3)
    assert soft is not None
    monkeypatch.setattr(targets, "soft", lambda *_: soft.as_subclass(Sent))
    learner = Learner(network, data, config, Workers())
    optimiser = optimisers.optimiser(network, config.fit, Rates(1e-3, 1.0, 1.0))
    learner.step(optimiser, [Slice(0, torch.randn(2, backbone.width), [2, 0])], 2, 0)
    assert Sent.rows == [2]


@pytest.mark.long
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
