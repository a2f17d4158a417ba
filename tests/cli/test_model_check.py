"""What `visionloop models check` compares; with a running service it is tested in test_commands."""

from pathlib import Path

import pytest
from support.bundles import build_bundle

from visionloop.bundle import BundleLabel, ClassificationBundle, GoldenItem
from visionloop.cli.model_check import _difference
from visionloop.client import Recognition, ScoredLabel
from visionloop.errors import RefusedError

CLASSES = 1500  # a service answers with the best 1,000


@pytest.fixture
def bundle(tmp_path: Path) -> ClassificationBundle:
    labels = [BundleLabel(id=f"c{n}", name=f"class {n}") for n in range(CLASSES)]
    return build_bundle(tmp_path).model_copy(update={"labels": labels})


def answer(probabilities: dict[str, float]) -> Recognition:
    labels = tuple(ScoredLabel(*item) for item in ((id, id, p) for id, p in probabilities.items()))
    return Recognition("0", "cells", 1, labels)


def test_of_thousands_of_classes_those_that_were_answered_are_compared(
    bundle: ClassificationBundle,
) -> None:
    probabilities = [(CLASSES - n) / 2_000_000 for n in range(CLASSES)]
    item = GoldenItem(file="golden/0.jpg", probabilities=probabilities)
    told = {f"c{n}": probabilities[n] for n in range(1000)}
    assert _difference(bundle, item, answer(told)) == 0.0
    told["c7"] += 0.25
    assert _difference(bundle, item, answer(told)) == pytest.approx(0.25)


def test_a_class_of_another_stores_version_is_told(bundle: ClassificationBundle) -> None:
    item = GoldenItem(file="golden/0.jpg", probabilities=[0.0] * CLASSES)
    with pytest.raises(RefusedError, match=r"class 'dog', .* another store"):
        _difference(bundle, item, answer({"dog": 0.9}))
