"""The report's page: what it draws, what it shows of each image, what it says of the recipe."""

import json

import pytest
from support.training_site import Site

from visionloop_training.data import Blobs
from visionloop_training.report import plots
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
