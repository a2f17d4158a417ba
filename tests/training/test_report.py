"""The report's page: what it draws, what it shows of each image, what it says of the recipe."""

import importlib
import json

import numpy as np
import pytest
import sklearn.metrics
from support.training_site import Site

from visionloop_training.data import Blobs
from visionloop_training.report import plots, thresholds
from visionloop_training.report.thresholds import MOST, Curve, curve, curves, thinned
from visionloop_training.report.write import page


def bins(*images: int) -> list[dict[str, float]]:
    return [
        {
            "low": place / 15,
            "high": (place + 1) / 15,
            "images": n,
            "confidence": (place + 0.5) / 15,
            "accuracy": 1.0 if place % 2 else 0.5,
        }
        for place, n in enumerate(images)
    ]


@pytest.mark.parametrize(
    ("images", "found"),
    [
        ((30, 40), [30, 40]),
        ((1, 2, 30, 5, 6), [33, 11]),
        ((12, 3), [15]),  # what is left over joins the last
        ((1, 2), [3]),
        ((), []),
    ],
)
def test_no_dot_of_the_reliability_diagram_stands_for_a_handful(
    images: tuple[int, ...], found: list[int]
) -> None:
    told = bins(*images)
    together = plots.pooled(told)
    assert [dot["images"] for dot in together] == found
    for name, weight in (("hits", "accuracy"), ("confidence", "confidence")):
        whole = sum(b["images"] * b[weight] for b in told)
        parts = sum(d[name] * (1 if name == "hits" else d["images"]) for d in together)
        assert parts == pytest.approx(whole)


def test_the_diagram_has_an_interval_for_each_dot() -> None:
    drawn = plots.reliability([("test", bins(30, 40)), ("val", bins())])
    assert drawn.count("LineCollection") == 2  # one of two whiskers, one of none


def test_the_curves_are_scikit_learns() -> None:
    random = np.random.default_rng(3)
    truth = random.random(200) < 0.3
    probabilities = np.round(random.random(200) * 0.6 + 0.3 * truth, 2)  # with ties
    found = curve("crack", probabilities, truth)
    precision, recall, _ = sklearn.metrics.precision_recall_curve(truth, probabilities)
    np.testing.assert_allclose(found.precision, precision[-2::-1])
    np.testing.assert_allclose(found.recall, recall[-2::-1])
    alarms, hits, _ = sklearn.metrics.roc_curve(truth, probabilities, drop_intermediate=False)
    np.testing.assert_allclose(found.false_alarms, alarms[1:])
    np.testing.assert_allclose(found.recall, hits[1:])
    [thin] = thinned([found], points=20)
    assert len(thin.recall) == 20
    assert (thin.recall[0], thin.recall[-1]) == (found.recall[0], 1.0)


def test_classes_that_cannot_be_told_from_others_have_no_curve() -> None:
    rows = [
        {"labels": ["a", "b"], "probabilities": [0.9, 0.8, 0.1]},
        {"labels": ["a"], "probabilities": [0.6, 0.3, 0.1]},
    ]
    labels = [{"id": key, "name": key.upper()} for key in "abc"]
    assert [one.name for one in curves({"predictions": rows, "labels": labels})] == ["B"]
    single = [{"label": row["labels"][-1], "probabilities": row["probabilities"]} for row in rows]
    assert [one.name for one in curves({"predictions": single, "labels": labels})] == ["A", "B"]


def test_there_is_a_colour_for_each_line() -> None:
    assert len(set(plots.LINES)) == MOST


def test_the_page_shows_each_mistake_with_its_file_and_the_recipe(first_probe: Site) -> None:
    text = first_probe.store.get("models/reader/versions/1/report/report.json").data
    document = json.loads(text)
    answered = document["predictions"][0]
    other = next(one["id"] for one in document["labels"] if one["id"] != answered["label"])
    answered |= {"predicted": other, "source": "line-3/cell <7>.png"}
    shown = page(document, Blobs(first_probe.store, first_probe.cache / "blobs"))
    assert "cell &lt;7&gt;.png" in shown
    assert f'title="line-3/cell &lt;7&gt;.png sha256 {answered["sha256"]}"' in shown
    assert 'loading="lazy"' not in shown  # nothing is fetched, and paper would stay blank
    assert "<code>fit.epochs=0</code>" in shown
    assert "fit.momentum=" not in shown
    drawn = shown[shown.index('id="thresholds"') :]
    assert "</span>Digit 0 " in drawn[: drawn.index("</section>")]


def test_a_matrix_of_very_many_classes_is_left_to_the_json(
    first_probe: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A million cells would be a page that no browser opens."""
    text = first_probe.store.get("models/reader/versions/1/report/report.json").data
    blobs = Blobs(first_probe.store, first_probe.cache / "blobs")
    assert 'class="confusion"' in page(json.loads(text), blobs)
    # By name: the package has a function of the module's name.
    module = importlib.import_module("visionloop_training.report.write")
    monkeypatch.setattr(module, "_LARGEST_SHOWN", 2)
    shown = page(json.loads(text), blobs)
    assert 'class="confusion"' not in shown
    assert "The matrix of 3 classes is in report.json" in shown


def test_only_the_curves_that_are_drawn_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{place:02}" for place in range(30)]
    rows = [
        {"label": name, "probabilities": [float(name == other) for other in names]}
        for name in (*names, *names[20:])
    ]
    computed = []
    monkeypatch.setattr(
        thresholds, "curve", lambda name, *_: computed.append(name) or Curve(name, *[[]] * 3)
    )
    document = {"predictions": rows, "labels": [{"id": name, "name": name} for name in names]}
    assert [one.name for one in curves(document)] == computed == names[20 : 20 + MOST]
