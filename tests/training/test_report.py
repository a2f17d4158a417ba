"""The report's page: what it draws, what it shows of each image, what it says of the recipe."""

import importlib
import io
import json
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import sklearn.metrics
from support.training_site import Site

from visionloop.snapshot import SnapshotRepository
from visionloop_training.data import Blobs, Item, dataset
from visionloop_training.evaluate import Scored
from visionloop_training.report import one_label, plots, predictions, thresholds
from visionloop_training.report.predictions import CLASSES
from visionloop_training.report.thresholds import MOST, Curve, curve, curves
from visionloop_training.report.write import page
from visionloop_training.stable import version


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
    thin = found.thinned(points=20)
    assert len(thin.recall) == 20
    assert (thin.recall[0], thin.recall[-1]) == (found.recall[0], 1.0)
    again = Curve.of(json.loads(json.dumps(thin.as_json())))
    assert again.class_id == "crack"
    np.testing.assert_allclose(again.precision, thin.precision, atol=1e-6)


def test_classes_that_cannot_be_told_from_others_have_no_curve() -> None:
    probabilities = np.array([[0.9, 0.8, 0.1], [0.6, 0.3, 0.1]], dtype=np.float32)
    several = np.array([[True, True, False], [True, False, False]])
    assert [one.class_id for one in curves("abc", probabilities, several)] == ["b"]
    single = np.array([1, 0])
    assert [one.class_id for one in curves("abc", probabilities, single)] == ["a", "b"]


def test_there_is_a_colour_for_each_line() -> None:
    assert len(set(plots.LINES)) == MOST


@pytest.fixture
def document(first_probe: Site) -> dict[str, Any]:
    """report.json of a version."""
    found: dict[str, Any] = json.loads(
        first_probe.store.get("models/reader/versions/1/report/report.json").data
    )
    return found


def test_the_page_shows_each_mistake_with_its_file_and_the_recipe(
    first_probe: Site, document: dict[str, Any]
) -> None:
    item = scored(first_probe).items[0]
    mistake = {"sha256": item.sha256, "source": "line-3/cell <7>.png", "probability": 0.75}
    mistake |= {"label": "1", "predicted": "0"}
    document["mistakes"] = {"total": 70, "worst": [mistake]}
    shown = page(document, Blobs(first_probe.store, first_probe.cache / "blobs"))
    assert "cell &lt;7&gt;.png" in shown
    assert f'title="line-3/cell &lt;7&gt;.png sha256 {item.sha256}"' in shown
    assert "(1 of 70)" in shown
    assert "Digit 0 75\N{NO-BREAK SPACE}%" in shown
    assert 'loading="lazy"' not in shown  # nothing is fetched, and paper would stay blank
    assert "<code>fit.epochs=0</code>" in shown
    assert "fit.momentum=" not in shown
    drawn = shown[shown.index('id="thresholds"') :]
    assert "</span>Digit 0 " in drawn[: drawn.index("</section>")]


def test_a_matrix_of_very_many_classes_is_left_to_the_json(
    first_probe: Site, document: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A million cells would be a page that no browser opens."""
    blobs = Blobs(first_probe.store, first_probe.cache / "blobs")
    assert 'class="confusion"' in page(document, blobs)
    # By name: the package has a function of the module's name.
    module = importlib.import_module("visionloop_training.report.write")
    monkeypatch.setattr(module, "_LARGEST_SHOWN", 2)
    shown = page(document, blobs)
    assert 'class="confusion"' not in shown
    assert "The matrix of 3 classes is in report.json" in shown


def test_only_the_curves_that_are_drawn_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{place:02}" for place in range(30)]
    truth = np.array([*range(30), *range(20, 30)])
    computed = []

    def curve(class_id: str, *_: object) -> Curve:
        computed.append(class_id)
        return Curve(class_id, *[np.ones(1)] * 3)

    monkeypatch.setattr(thresholds, "curve", curve)
    found = curves(names, np.eye(30, dtype=np.float32)[truth], truth)
    assert [one.class_id for one in found] == computed == names[20 : 20 + MOST]


def scored(site: Site) -> Scored:
    """The version's own answers to its test images."""
    data = dataset(SnapshotRepository(site.store).read("digits", "latest"))
    return version(site.store, "reader", 1, site.cache).answers(
        data.test, Blobs(site.store, site.cache / "blobs")
    )


def test_every_answer_is_in_the_table_and_the_surest_mistakes_are_in_the_report(
    first_probe: Site, document: dict[str, Any]
) -> None:
    found = scored(first_probe)
    key = f"models/reader/versions/1/report/{document['predictions']}"
    table = pq.read_table(io.BytesIO(first_probe.store.get(key).data))
    assert json.loads(table.schema.metadata[CLASSES]) == ["0", "1", "2"]
    rows = table.to_pylist()
    assert [row["sha256"] for row in rows] == [item.sha256 for item in found.items]
    assert [row["label"] for row in rows] == [str(label) for label in found.labels]
    assert [row["predicted"] for row in rows] == [
        str(best) for best in found.probabilities.argmax(axis=1)
    ]
    probabilities = np.array([row["probabilities"] for row in rows])
    np.testing.assert_allclose(probabilities, found.probabilities, atol=1e-6)
    wrong = [row for row in rows if row["label"] != row["predicted"]]
    wrong.sort(key=lambda row: -max(row["probabilities"]))
    told = document["mistakes"]
    assert told["total"] == len(wrong) > 0
    assert [one["sha256"] for one in told["worst"]] == [row["sha256"] for row in wrong]


def test_the_report_does_not_grow_with_the_test_set() -> None:
    """10,000 images of 200 classes, every tenth answered wrong, as report.json would name them."""
    class_ids = tuple(f"class-{place}" for place in range(200))
    truth = np.arange(10_000) % 200
    probabilities = np.full((10_000, 200), 0.5 / 199, dtype=np.float32)
    probabilities[np.arange(10_000), (truth + (np.arange(10_000) % 10 == 0)) % 200] = 0.5
    items = tuple(
        Item(f"{n:064x}", int(label), f"group-{n}", (), 1.0) for n, label in enumerate(truth)
    )
    found = Scored(items, probabilities)
    told = one_label._mistakes(found, class_ids)
    assert (told["total"], len(told["worst"])) == (1000, one_label.WORST)
    drawn = [one.as_json() for one in curves(class_ids, probabilities, found.labels)]
    assert len(json.dumps([told, drawn])) < 100_000
    assert one_label.answers(found, class_ids).num_rows == 10_000


def test_several_classes_an_image_are_lists_in_the_table() -> None:
    present = np.array([[True, False, True], [False, False, False], [False, True, False]])
    found = predictions.several_classes(present, ["a", "b", "c"])
    assert found.to_pylist() == [["a", "c"], [], ["b"]]
