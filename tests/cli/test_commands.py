"""The CLI against the real programs: what it prints, its JSON, its exit codes, its error lines."""

import csv
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.bundles import publish_bundle
from support.command_line import command, environment, result, visionloop
from support.file_bundles import publish_version, write_bundle

from visionloop.bundle import ClassificationBundle, MultiLabelBundle
from visionloop.calibration import LabelCalibration, LabelThresholds
from visionloop.cli import main
from visionloop.demo import solar_cells
from visionloop.demo.steps import Suite, suite_running, wait_until_served
from visionloop.objectstore import open_store
from visionloop.repository import ModelRepository
from visionloop.snapshot import SnapshotRepository

MODEL = "tiny"


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    """`visionloop up`, with two versions of a small real model in its store."""
    with suite_running(tmp_path_factory.mktemp("suite"), None) as running:
        repository = ModelRepository(open_store(running.store))
        publish_bundle(repository, MODEL, seed=1, promote=True)
        publish_bundle(repository, MODEL, seed=2)
        publish_bundle(repository, "waiting", seed=3)
        wait_until_served(running.inference, 1)
        yield running


def photographs(folder: Path, number: int, start: int = 0) -> list[solar_cells.Cell]:
    cells = solar_cells.load()[start : start + number]
    for cell in cells:
        (folder / cell.label).mkdir(parents=True, exist_ok=True)
        shutil.copy(cell.path, folder / cell.label / cell.path.name)
    return cells


def test_import_a_folder_twice_is_once(suite: Suite, tmp_path: Path) -> None:
    photographs(tmp_path, 12)
    flags = ("--dataset", "folders", "--target", suite.labeling)
    first = result("import", tmp_path, *flags)
    assert (first["rows"], first["accepted"], first["rejected"]) == (12, 12, [])
    again = result("import", tmp_path, *flags)
    assert (again["batch"], again["accepted"]) == (first["batch"], 12)
    exported = result("labels", "export", "folders", "--target", suite.labeling)
    assert len(exported) == 12
    said = visionloop("import", tmp_path, *flags, "--batch", "another-name")
    assert "12 were there already" in said


def test_import_keeps_good_rows_and_names_bad_ones(suite: Suite, tmp_path: Path) -> None:
    cells = solar_cells.load()[40:44]
    half = tmp_path / "half.png"
    half.write_bytes(cells[0].path.read_bytes()[:3000])
    (tmp_path / "page.jpg").write_text("<html>not an image</html>")
    with (tmp_path / "t.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "kind", "panel", "module"])
        writer.writerow([cells[1].path, "defective", "p1", "mono"])  # line 2
        writer.writerow([half, "defective", "p1", "mono"])
        writer.writerow(["page.jpg", "defective", "p1", "mono"])
        writer.writerow([cells[2].path, "", "p1", "mono"])
        writer.writerow(["nowhere.png", "functional", "p1", "mono"])
        writer.writerow([cells[3].path, "functional", "p2", "poly"])  # line 7
        writer.writerow(["/dev/zero", "functional", "p2", "poly"])
        writer.writerow([cells[3].path, "functional", "x", "p2", "poly"])
    flags = ["--path-column", "file", "--label-column", "kind", "--group-column", "panel"]
    flags += ["--attribute-columns", "module", "--dataset", "rows", "--target", suite.labeling]
    report = result("import", tmp_path / "t.csv", *flags, code=65)
    assert (report["accepted"], report["unlabelled"]) == (3, 1)
    assert [(row["row"], row["reason"]) for row in report["rejected"]] == [
        (3, "truncated"),
        (4, "not_an_image"),
        (6, "unreadable_file"),
        (8, "too_many_bytes"),
        (9, "invalid_row"),
    ]
    exported = result("labels", "export", "rows", "--target", suite.labeling)
    assert [label["attributes"] for label in exported] == [{"module": "mono"}, {"module": "poly"}]


def test_import_soft_labels_and_weights(suite: Suite, tmp_path: Path) -> None:
    cells = solar_cells.load()[60:63]
    table = tmp_path / "t.csv"
    said = (",0.25,0.75,2", "good,0.5,0.5,", "good,,,")
    table.write_text(
        "path,label,good,cracked,trust\n"
        + "".join(f"{c.path},{s}\n" for c, s in zip(cells, said, strict=True))
    )
    flags = ["--probability-columns", "good,cracked", "--weight-column", "trust"]
    report = result("import", table, *flags, "--dataset", "soft", "--target", suite.labeling)
    assert (report["accepted"], report["unlabelled"]) == (3, 0)
    cut = result("snapshots", "create", "soft", "--target", suite.labeling)
    rows = SnapshotRepository(open_store(suite.store)).read("soft", cut["id"]).rows
    found = {row.source: (row.class_id, row.probabilities, row.weight) for row in rows}
    assert [found[str(cell.path)] for cell in cells] == [
        ("cracked", {"cracked": 0.75, "good": 0.25}, 2.0),
        ("good", {"cracked": 0.5, "good": 0.5}, 1.0),
        ("good", {}, 1.0),
    ]


def test_import_several_labels_a_cell_none_of_them_and_no_label(
    suite: Suite, tmp_path: Path
) -> None:
    cells = solar_cells.load()[44:48]
    table = tmp_path / "t.csv"
    said = ("crack|dirt", "dirt", "", "")
    table.write_text(
        "path,label\n" + "".join(f"{c.path},{s}\n" for c, s in zip(cells, said, strict=True))
    )
    flags = ["--task", "multi_label", "--label-separator", "|", "--target", suite.labeling]
    report = result("import", table, "--dataset", "waiting", *flags)
    assert (report["accepted"], report["unlabelled"]) == (4, 2)
    told = visionloop("import", table, "--dataset", "waiting", *flags)
    assert "2 came without a label and wait for one" in told
    report = result("import", table, "--dataset", "none", "--unannotated", "empty", *flags)
    assert (report["accepted"], report["unlabelled"]) == (4, 0)
    for dataset, nothing in (("waiting", []), ("none", ["", ""])):
        exported = visionloop("labels", "export", dataset, "--target", suite.labeling)
        rows = list(csv.DictReader(exported.splitlines()))
        assert [row["class_name"] for row in rows] == ["crack|dirt", "dirt", *nothing]
        told = result("labels", "export", dataset, "--target", suite.labeling)
        said = [one["annotation"] for one in told]
        assert [one["classes"] for one in said[:2]] == [["crack", "dirt"], ["dirt"]]
        assert [one["nothing_there"] for one in said[2:]] == [True for _ in nothing]
    said_wrong = visionloop(
        "import", table, "--dataset", "none", "--option", "label_separator=|", code=64
    )
    assert "--label-separator" in said_wrong


def test_a_folder_with_a_table_is_not_guessed_at(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "labels.csv").write_text("path,label\n")
    said = visionloop("import", tmp_path, "--dataset", "d", code=64)
    assert f"{tmp_path / 'labels.csv'}" in said
    assert "--format folder" in said


def test_import_tells_disputed_labels_and_files_that_are_no_rows(
    suite: Suite, tmp_path: Path
) -> None:
    cell = solar_cells.load()[60]
    for label in ("one", "two"):
        (tmp_path / label).mkdir()
        shutil.copy(cell.path, tmp_path / label)
    (tmp_path / "two" / "iphone.heic").write_bytes(b"x")
    flags = ["import", tmp_path, "--dataset", "disputes", "--target", suite.labeling]
    report = result(*flags)
    [dispute] = report["disputed"]
    assert (dispute["row"], dispute["reason"]) == (2, "label_conflict")
    assert 'labelled "one" before and "two" now' in dispute["message"]
    assert report["left_out"] == {".heic": 1}
    said = subprocess.run(
        command(*flags), capture_output=True, text=True, env=environment(), check=True
    )
    assert "row 2 (two/" in said.stderr
    assert "left out (1 .heic)" in said.stderr


def test_labels_export_as_csv(suite: Suite, tmp_path: Path) -> None:
    cell = solar_cells.load()[60]
    (tmp_path / "=cmd").mkdir()
    shutil.copy(cell.path, tmp_path / "=cmd")
    visionloop("import", tmp_path, "--dataset", "formula", "--target", suite.labeling)
    out = tmp_path / "labels.csv"
    visionloop("labels", "export", "formula", "-o", out, "--target", suite.labeling)
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["class_name"] for row in rows] == ["'=cmd"]
    archive = tmp_path / "labels.zip"
    flags = ("formula", "--format", "folder", "-o", archive, "--target", suite.labeling)
    told = result("labels", "export", *flags)
    assert (told["format"], told["bytes"]) == ("folder", archive.stat().st_size)
    names = zipfile.ZipFile(archive).namelist()
    assert any(name.startswith("formula/train/=cmd/") for name in names)
    # What was there stays.
    refused = visionloop(
        "labels", "export", "formula", "--snapshot", "latest", "-o", out, "--target",
        suite.labeling, code=66,
    )  # fmt: skip
    assert "no snapshot yet" in refused
    assert [row["class_name"] for row in csv.DictReader(out.open(newline=""))] == ["'=cmd"]
    missing = tmp_path / "none" / "x.csv"
    said = visionloop(
        "labels", "export", "formula", "-o", missing, "--target", suite.labeling, code=64
    )
    assert "cannot write" in said


def test_datasets_are_listed_with_their_counts(suite: Suite, tmp_path: Path) -> None:
    photographs(tmp_path, 12, start=300)
    visionloop("import", tmp_path, "--dataset", "listed", "--target", suite.labeling)
    listed = {one["name"]: one for one in result("datasets", "list", "--target", suite.labeling)}
    assert (listed["listed"]["images"], listed["listed"]["labelled"]) == (12, 12)
    assert {one["name"] for one in listed["listed"]["classes"]} <= {"functional", "defective"}
    told = visionloop("datasets", "list", "--target", suite.labeling)
    [line] = [line.split() for line in told.splitlines() if line.startswith("listed ")]
    assert line[1:4] == ["classification", "12", "12"]


def test_snapshots_create_list_show_diff(suite: Suite, tmp_path: Path) -> None:
    service, store = ("--target", suite.labeling), ("--store", suite.store)
    photographs(tmp_path / "one", 30, start=100)
    visionloop("import", tmp_path / "one", "--dataset", "snaps", *service)
    before = result("snapshots", "create", "snaps", *service)
    assert before["created"] is True
    assert result("snapshots", "create", "snaps", *service)["created"] is False
    photographs(tmp_path / "two", 6, start=200)
    visionloop("import", tmp_path / "two", "--dataset", "snaps", *service)
    after = result("snapshots", "create", "snaps", *service)
    listed = result("snapshots", "list", "snaps", *store)
    assert [manifest["id"] for manifest in listed] == [before["id"], after["id"]]
    shown = result("snapshots", "show", "snaps", *store)
    assert shown["id"] == after["id"]
    assert sum(shown["split_images"].values()) == 36
    assert "functional" in visionloop("snapshots", "show", "snaps", before["id"][:20], *store)
    changes = result("snapshots", "diff", "snaps", before["id"], *store)
    assert len(changes["added"]) == 6
    assert changes["removed"] == []
    before_counts, after_counts = zip(*changes["class_counts"].values(), strict=True)
    assert (sum(before_counts), sum(after_counts)) == (30, 36)
    told = visionloop("snapshots", "diff", "snaps", before["id"], *store)
    assert "images added       6" in told
    assert set(after["left_out"].values()) == {0}
    assert shown["label_sources"]["test"] == {"import": shown["split_images"]["test"]}
    table = visionloop(
        "labels", "export", "snaps", "--snapshot", before["id"][:20], "--target", suite.labeling
    )
    assert table.count("\n") == 31


def test_models_promote_predict_rollback(suite: Suite) -> None:
    store, target = ("--store", suite.store), ("--target", suite.inference)
    image = solar_cells.load()[0].path
    listed = [(row["model"], row["version"]) for row in result("models", "list", *store)]
    assert listed == [(MODEL, 1), (MODEL, 2), ("waiting", 1)]
    assert "no stable version" in visionloop("models", "show", "waiting", *store, code=66)
    move = result("models", "promote", MODEL, "2", "--why", "a test", *store)
    assert (move["version"], move["why"]) == (2, "a test")
    wait_until_served(suite.inference, 2)
    move = result("models", "rollback", MODEL, "--why", "second thoughts", "--who", "me", *store)
    assert (move["version"], move["previous"], move["who"]) == (1, 2, "me")
    shown = result("models", "show", MODEL, "1", *store)
    assert [entry["version"] for entry in shown["history"]] == [1, 2, 1]
    assert "stable" in visionloop("models", "list", *store)
    wait_until_served(suite.inference, 1)
    answer = result("predict", image, "--top-k", "1", *target)[0]
    assert (answer["model"], answer["version"], len(answer["labels"])) == (MODEL, 1, 1)


def test_models_pin_and_history(tmp_path: Path) -> None:
    url = (tmp_path / "store").as_uri()
    repository = ModelRepository(open_store(url))
    store = ("--store", url)
    publish_bundle(repository, MODEL, seed=1, promote=True)
    publish_bundle(repository, MODEL, seed=2)
    assert "nobody" in visionloop("models", "history", "nobody", *store, code=66)
    why = ("--why", "the audit", "--who", "ada")
    said = visionloop("models", "pin", MODEL, *why, *store)
    assert said == f"{MODEL}: pin keeps stable at version 1\n"
    assert "stable (pinned)" in visionloop("models", "list", *store)
    for verb in (("promote", MODEL, "2"), ("rollback", MODEL)):
        said = visionloop("models", *verb, "--why", "x", *store, code=65)
        assert "pinned at version 1 by ada" in said
        assert "--unpin" in said
    move = result("models", "promote", MODEL, "2", "--unpin", "--why", "it is over", *store)
    assert (move["alias"], move["version"], move["previous"]) == ("stable", 2, 1)
    said = visionloop("models", "pin", MODEL, "--end", "--why", "x", *store, code=65)
    assert "is not pinned" in said
    moves = result("models", "history", MODEL, *store)
    assert [(m["alias"], m["version"], m["who"], m["why"]) for m in moves][1] == (
        *("pin", 1, "ada", "the audit"),
    )
    assert [m["alias"] for m in moves] == ["stable", "pin", "stable"]
    assert result("models", "history", MODEL, "--last", "1", *store) == moves[-1:]
    header, *rows = visionloop("models", "history", MODEL, *store).splitlines()
    assert header.split() == ["moved", "alias", "to", "from", "metric", "score", "who", "why"]
    assert len(rows) == 3
    assert "--last is 0" in visionloop("models", "history", MODEL, "--last", "0", *store, code=64)


def test_lists_name_the_metric_that_the_gate_compares(tmp_path: Path) -> None:
    url = (tmp_path / "store").as_uri()
    repository = ModelRepository(open_store(url))
    publish_version(repository, tmp_path / "cells", model="cells")
    several = several_classes(write_bundle(tmp_path / "panels", 1, model="panels"))
    repository.publish(several, tmp_path / "panels")
    rows = result("models", "list", "--store", url)
    assert [(row["model"], row["metric"], row["score"]) for row in rows] == [
        ("cells", "accuracy", 0.9),
        ("panels", "jaccard", 0.7125),
    ]
    repository.promote(
        *("panels", 1), expected=repository.aliases("panels"), who="ada", why="x",
        metrics=several.metrics,
    )  # fmt: skip
    _, row = visionloop("models", "history", "panels", "--store", url).splitlines()
    assert "  jaccard  0.7125  ada" in row


def several_classes(bundle: ClassificationBundle) -> MultiLabelBundle:
    """The same files as a model of several classes an image."""
    same = bundle.model_dump(exclude={"task", "calibration", "thresholds", "metrics"})
    calibration = LabelCalibration(
        temperatures=[1.0, 1.0], biases=[0.0, 0.0], ece_before=0.1, ece_after=0.05
    )
    return MultiLabelBundle(
        **same,
        calibration=calibration,
        thresholds=LabelThresholds(method="max_f1", present=[0.5, 0.5]),
        metrics={"mean_average_precision": 0.8, "jaccard": 0.7125},
    )


def test_models_report_is_the_newest_versions_unless_another_is_named(tmp_path: Path) -> None:
    url = (tmp_path / "store").as_uri()
    repository = ModelRepository(open_store(url))

    def reported(number: int) -> Callable[[Path], None]:
        def change(folder: Path) -> None:
            (folder / "report").mkdir()
            (folder / "report" / "report.html").write_text(f"<p>version {number}: größer</p>")
            (folder / "report" / "report.json").write_text(f'{{"version": {number}}}')
            (folder / "report" / "predictions.parquet").write_bytes(b"PAR1")

        return change

    publish_bundle(repository, MODEL, seed=1, promote=True, change=reported(1))
    publish_bundle(repository, MODEL, seed=2, change=reported(2))
    publish_bundle(repository, "bare", seed=1)
    report = ("models", "report")
    assert visionloop(*report, MODEL, "--store", url) == "<p>version 2: größer</p>"
    assert visionloop(*report, MODEL, "stable", "--store", url) == "<p>version 1: größer</p>"
    assert result(*report, MODEL, "1", "--store", url) == {"version": 1}
    assert visionloop(*report, MODEL, "--predictions", "--store", url) == "PAR1"
    both = visionloop(*report, MODEL, "--predictions", "--json", "--store", url, code=64)
    assert "leave one of them out" in both
    said = visionloop(*report, "bare", "--store", url, code=66)
    assert "version 1 of 'bare' has no file report/report.html" in said
    assert "nobody" in visionloop(*report, "nobody", "--store", url, code=66)


def test_an_altered_version_is_not_promoted(tmp_path: Path) -> None:
    url = (tmp_path / "store").as_uri()
    repository = ModelRepository(open_store(url))
    publish_bundle(repository, MODEL, seed=1)
    graph = tmp_path / "store" / "models" / MODEL / "versions" / "1" / "model.onnx"
    graph.write_bytes(graph.read_bytes()[:-1] + b"x")
    said = visionloop("models", "promote", MODEL, "1", "--why", "x", "--store", url, code=65)
    assert "model.onnx" in said or "sha256" in said
    assert repository.aliases(MODEL).aliases.stable is None


def test_predict_names_the_bad_image_and_answers_the_good(suite: Suite, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_text("no")
    target = ("--target", suite.inference)
    answers = result("predict", bad, solar_cells.load()[0].path, *target, code=65)
    assert "image" in answers[0]["error"]
    assert answers[1]["error"] is None
    assert answers[1]["labels"]


def test_predict_takes_folders_and_writes_a_table(suite: Suite, tmp_path: Path) -> None:
    cells = photographs(tmp_path, 6)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "bad.jpg").write_text("no")
    written = visionloop("predict", tmp_path, "--csv", "--target", suite.inference, code=65)
    rows = list(csv.DictReader(written.splitlines()))
    files = [tmp_path / "bad.jpg", *(tmp_path / c.label / c.path.name for c in cells)]
    assert [row["image"] for row in rows] == sorted(map(str, files))
    bad, *good = rows
    assert "image" in bad["error"]
    assert bad["label"] == bad["probability_3"] == bad["not_sure"] == ""
    answers = result("predict", *(row["image"] for row in good), "--target", suite.inference)
    for row, answer in zip(good, answers, strict=True):
        first, _, third = answer["labels"]
        assert (row["label"], row["label_3"]) == (first["name"], third["name"])
        assert float(row["probability"]) == pytest.approx(first["probability"], abs=1e-6)
        assert row["not_sure"] == ("yes" if answer["not_sure"] else "no")
        assert (row["version"], row["error"]) == ("1", "")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["predict", "x.jpg", "--csv", "--json"], 64, "exclude each other"),
        (["predict", "/proc/self/fdinfo"], 64, "no image below"),
        (["predict", "nowhere.jpg"], 66, "nowhere.jpg"),
        (["import", "nowhere", "--dataset", "d"], 66, "nowhere is neither"),
        (["models", "list", "--store", "file:///proc/none/here"], 66, "/proc/none/here"),
        (["models", "list", "--store", "ftp://x"], 64, "file:///"),
        (["models", "list"], 66, "VISIONLOOP_STORE"),
        ([], 64, "visionloop --help"),
        (["predict", "x.jpg", "--nope"], 64, "--nope"),
        (["import", "x"], 64, "--dataset"),
        (["models", "promote", "m", "one", "--why", "x"], 64, "invalid int value: 'one'"),
        (["models", "list", "--store", "file://x/y"], 64, "three slashes"),
        (["predict", ""], 64, "is empty"),
        (["predict", "/dev/zero"], 64, "more than"),
        (["predict", __file__, "--target", "127.0.0.1:99999"], 64, "1 to 65535"),
        (["snapshots", "create", "x", "--target", "127.0.0.1:9"], 69, "127.0.0.1:9"),
        (["predict", __file__, "--target", "127.0.0.1:9", "--timeout", "2"], 69, "127.0.0.1:9"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str],
    code: int,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in os.environ.keys() - environment().keys():
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == code
    told = capsys.readouterr()
    [line] = told.err.splitlines()
    assert said in line
    assert told.out == ""


def test_a_torn_alias_does_not_hide_the_other_models(tmp_path: Path) -> None:
    url = (tmp_path / "store").as_uri()
    repository = ModelRepository(open_store(url))
    for model in ("torn", "whole"):
        publish_bundle(repository, model, seed=1, promote=True)
    (tmp_path / "store/models/torn/aliases.json").write_text("{")
    listed = {row["model"]: row["alias"] for row in result("models", "list", "--store", url)}
    assert listed["whole"] == "stable"
    assert "unreadable" in listed["torn"]


def test_mistakes_are_json_for_machines(tmp_path: Path) -> None:
    for arguments in (["models", "list"], ["predict"], ["import", "x", "--dataset", "d"]):
        said = visionloop(*arguments, "--json", code=64 if arguments == ["predict"] else 66,
                          cwd=tmp_path)  # fmt: skip
        assert set(json.loads(said)["error"]) == {"reason", "message"}


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_a_full_disk_is_one_line(suite: Suite, flags: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "visionloop.cli", "models", "list", "--store", suite.store]
            + flags,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 69
    assert "No space left" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_mistakes_against_a_running_suite(suite: Suite) -> None:
    store, service = ("--store", suite.store), ("--target", suite.labeling)
    assert "nobody" in visionloop("snapshots", "create", "nobody", *service, code=66)
    assert "nobody" in visionloop("snapshots", "show", "nobody", *store, code=66)
    assert "nobody" in visionloop("snapshots", "list", "nobody", *store, code=66)
    assert "--why" in visionloop("models", "promote", MODEL, "1", "--why", " ", *store, code=64)
    assert "--why" in visionloop("models", "rollback", MODEL, "--why", "", *store, code=64)
    assert "99" in visionloop("models", "promote", MODEL, "99", "--why", "x", *store, code=66)
    assert "nobody" in visionloop("models", "rollback", "nobody", "--why", "x", *store, code=66)
    image = solar_cells.load()[0].path
    told = visionloop("predict", image, "--tls", "--target", suite.inference, code=69)
    assert "both sides speak TLS, or neither" in told
    said = visionloop(
        "predict",
        image,
        "--model",
        "nobody",
        "--target",
        suite.inference,
        code=66,
    )
    assert "nobody" in said


def test_check_compares_the_service_with_what_was_published(suite: Suite, tmp_path: Path) -> None:
    target = ("--target", suite.inference)
    [checked] = result("models", "check", MODEL, "--store", suite.store, *target)
    assert (checked["model"], checked["version"]) == (MODEL, 1)
    assert checked["images"] >= 1
    assert checked["difference"] <= checked["allowed"]

    other = f"file://{tmp_path / 'other'}"
    repository = ModelRepository(open_store(other))
    said = visionloop("models", "check", "--store", other, *target, code=66)
    assert "no model of this store is promoted" in said
    publish_bundle(repository, MODEL, seed=7, promote=True)
    said = visionloop("models", "check", "--store", other, *target, code=65)
    assert "away from the published ones" in said
    publish_bundle(repository, MODEL, seed=1, promote=True)
    said = visionloop("models", "check", MODEL, "--store", other, *target, code=65)
    assert "is version 2, but version 1 answered" in said
