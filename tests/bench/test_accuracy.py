"""The accuracy bench's arithmetic: parts that leak nothing, honest intervals, records that last."""

from collections import Counter
from pathlib import Path

import pytest

from bench.accuracy import intervals, records
from bench.accuracy.__main__ import HEADLINE, SEEDS, summary
from bench.accuracy.likeness import groups
from bench.accuracy.records import Record, Records, configuration_of, key_of
from bench.accuracy.runs import Recipe, Task
from bench.accuracy.splits import KINDS, Kind, split
from bench.accuracy.subjects import digits, solar_cells

LABELS = ["good"] * 600 + ["bad"] * 200
ALIKE = [place // 4 for place in range(800)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_quarter_of_each_class_is_tested(kind: Kind) -> None:
    parts = split(kind, LABELS, ALIKE, seed=3)
    tested = Counter(label for label, part in zip(LABELS, parts, strict=True) if part == "test")
    assert tested["good"] == pytest.approx(150, abs=8)
    assert tested["bad"] == pytest.approx(50, abs=8)
    assert Counter(parts)["val"] == pytest.approx(60, abs=8)
    assert parts == split(kind, LABELS, ALIKE, seed=3)
    assert parts != split(kind, LABELS, ALIKE, seed=4)


def test_no_group_is_cut_by_the_grouped_split_and_most_are_by_the_plain_one() -> None:
    def cut(kind: Kind) -> int:
        parts = split(kind, LABELS, ALIKE, seed=0)
        return sum(len(set(parts[at : at + 4])) > 1 for at in range(0, 800, 4))

    assert cut("grouped") == 0
    assert cut("plain") > 100


@pytest.mark.parametrize("kind", KINDS)
def test_choosing_never_touches_the_test_part(kind: Kind) -> None:
    outer = split(kind, LABELS, ALIKE, seed=1)
    inner = split(kind, LABELS, ALIKE, seed=1, inner=True)
    assert [part is None for part in inner] == [part == "test" for part in outer]


def test_the_resampled_interval_is_the_wider_one() -> None:
    values = [0.90, 0.91, 0.89, 0.92, 0.90]
    usual, honest = intervals.student(values), intervals.resampled(values, 1968, 656)
    assert usual is not None
    assert honest is not None
    # 2.776 · 0.01140 / √5, and √(1 + 5/3) times that
    assert usual.high - 0.904 == pytest.approx(0.01416, abs=1e-5)
    assert honest.high - 0.904 == pytest.approx(0.01416 * (8 / 3) ** 0.5, abs=2e-5)
    assert intervals.student([0.9]) is None


def test_turned_pictures_are_one_group() -> None:
    cells = solar_cells().pictures[:40]
    assert len(set(groups([*cells, cells[0]]))) == len(set(groups(cells)))


def test_subjects_hold_each_file_once() -> None:
    for subject, size in ((digits(), 1797), (solar_cells(), 2624)):
        assert len({picture.sha256 for picture in subject.pictures}) == len(subject.pictures)
        assert len(subject.pictures) == size
        assert {picture.label for picture in subject.pictures} == set(subject.classes)


def run_of(seed: int, accuracy: float, recipe: Recipe = HEADLINE, **changes: object) -> Record:
    return {
        "subject": "solar-cells", "split": "plain", "seed": seed, "inner": False,
        "recipe": recipe.as_json(), "images": {"train": 1771, "val": 197, "test": 656},
        "accuracy": accuracy, "seconds": 60.0 + seed, "cpu_seconds": 110.0, "cold_cache": True,
        "configuration": "new", "machine": {"threads": 2},
    } | changes  # fmt: skip


def test_the_headline_is_judged_when_all_its_seeds_are_there() -> None:
    some = [run_of(seed, 0.90) for seed in SEEDS[:-1]]
    distracting = [
        run_of(4, 0.5, split="grouped"),
        run_of(4, 0.5, inner=True),
        run_of(4, 0.5, Recipe("fast")),
    ]
    assert summary(some + distracting, "new")["verdict"]["holds"] is None
    whole = summary([*some, *distracting, run_of(4, 0.91)], "new")
    assert whole["verdict"]["holds"] is True
    assert whole["mean_test_accuracy"] == pytest.approx(0.902)
    assert [run["seed"] for run in whole["per_seed"]] == list(SEEDS)
    assert summary([*some, run_of(4, 0.80)], "new")["verdict"]["holds"] is False


def test_what_a_recipe_gave_before_it_was_changed_does_not_count() -> None:
    before = run_of(0, 0.5, configuration="old")
    unnamed = run_of(1, 0.5)
    del unnamed["configuration"]  # as it was written before there was one
    now = [run_of(seed, 0.9) for seed in SEEDS]
    found = summary([before, unnamed, *now], "new")
    assert found["mean_test_accuracy"] == pytest.approx(0.9)
    told = records.lines(found["table"])
    assert sum("before the recipe was changed" in line and "50.00%" in line for line in told) == 2
    [line] = [line for line in told if "before" not in line]
    assert "5 seeds" in line
    assert configuration_of({"seed": 1, "a": 2}) == configuration_of({"seed": 2, "a": 2})
    assert configuration_of({"seed": 1, "a": 2}) != configuration_of({"seed": 1, "a": 3})
    assert configuration_of({"a": 2}, "pictures") != configuration_of({"a": 2}, "others")


def test_a_record_is_found_again_by_what_decides_it_only(tmp_path: Path) -> None:
    book, task = Records(tmp_path), Task("solar-cells", "plain", 0, inner=False)
    key = key_of(task, "pictures", {"config": {"a": 1}})
    book.keep(key, run_of(0, 0.9))
    assert book.find(key) == run_of(0, 0.9)
    assert book.all() == [run_of(0, 0.9)]
    for other in (
        key_of(task, "others", {"config": {"a": 1}}),
        key_of(task, "pictures", {"config": {"a": 2}}),
        key_of(Task("solar-cells", "plain", 1, inner=False), "pictures", {"config": {"a": 1}}),
    ):
        assert book.find(other) is None


def test_rows_are_told_in_a_line() -> None:
    (line,) = records.lines(records.table([run_of(0, 0.90), run_of(1, 0.92)]))
    assert "91.00%" in line
    assert "2 seeds, 60 s, 110 s of CPU" in line
    (line,) = records.lines(records.table([run_of(0, 0.90, cold_cache=False)]))
    assert "features shared, 110 s of CPU" in line


def test_experts_were_sure_of_most_cells() -> None:
    certain = Counter(round(picture.certainty, 3) for picture in solar_cells().pictures)
    assert set(certain) == {1.0, 0.333}
    assert certain[1.0] > 2000
