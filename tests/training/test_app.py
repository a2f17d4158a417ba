"""`visionloop-train` as people and Jobs run it: exit codes, words, JSON."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest
from support.training_site import FIRST, PROBE, Site

from visionloop.failpoints import ENVIRONMENT_VARIABLE
from visionloop_training.app import main
from visionloop_training.config import dump, load


def flags(site: Site, *more: str) -> list[str]:
    settings = [part for setting in PROBE for part in ("--set", setting)]
    where = ["--store", site.url, "--dataset", "digits", "--model", "reader"]
    return [*where, "--cache", str(site.cache), *settings, *more]


def program(site: Site, *more: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "visionloop_training", *flags(site, *more)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


@pytest.mark.long
@pytest.mark.kill
def test_a_job_killed_before_the_marker_leaves_nothing_half_visible(
    site: Site, capsys: pytest.CaptureFixture[str]
):
    site.write(FIRST)
    killed = program(site, **{ENVIRONMENT_VARIABLE: "publish.files_uploaded"})
    assert killed.returncode == -signal.SIGKILL
    uploaded = [stat.key for stat in site.store.list("models/reader/versions/1/")]
    assert "models/reader/versions/1/model.onnx" in uploaded
    assert "models/reader/versions/1/bundle.json" not in uploaded
    assert site.repository.versions("reader") == []
    assert site.repository.aliases("reader").aliases.stable is None

    assert main(flags(site, "--json")) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["version"], told["promoted"], told["verdict"]["passed"]) == (2, True, True)
    assert site.repository.versions("reader") == [2]
    assert site.repository.aliases("reader").aliases.stable == 2
    site.repository.fetch("reader", 2, site.folder / "fetched")


def test_people_get_a_summary_and_a_refusal_is_exit_65(site: Site, capsys):
    site.write({"0": 60, "1": 60, "2": 60})
    assert main(flags(site)) == 0
    told = capsys.readouterr().out
    assert "version 1 of reader" in told
    assert "promoted: stable is version 1" in told
    [page] = re.findall("^  report +file://(.*)$", told, re.MULTILINE)
    report = Path(unquote(page)).read_text()
    assert "No epoch was trained" in report  # and no curve of one point
    assert "epoch (0: linear probe)" not in report
    assert main(flags(site)) == 0
    assert "nothing new" in capsys.readouterr().out
    assert main(flags(site, "--set", "fit.probe_penalty=[1000.0]")) == 65
    answer = capsys.readouterr()
    assert "not promoted: stable is version 1" in answer.out
    assert "the gate refused version 2 of reader" in answer.err
    assert "visionloop models promote reader 2 --why" in answer.err


MISTAKES = [
    (["--set", "fit.epoch=1"], 64, "fit.epoch"),
    (["--set", "backbone.name=resnet5O"], 64, "resnet50"),
    (["--set", "backbone.weights=file:///w.pth"], 64, "no digest"),
    (["--set", "fit.freeze=nowhere"], 64, "features.0"),
    (["--preset", "quick"], 66, "balanced, best, demo, fast"),
    (["--config", "/nowhere.yaml"], 66, "/nowhere.yaml"),
    (["--dataset", "cells"], 66, "cells"),
    (["--model", "Not A Name"], 64, "Not A Name"),
    (["--snapshot", "sha256-ffff"], 66, "ffff"),
    (["--cache", "/proc/nowhere"], 64, "--cache /proc/nowhere"),
    (["--store", "/just/a/path"], 64, "file:///just/a/path"),
    (["--store", "ftp://host/x"], 64, "ftp"),
]


@pytest.mark.parametrize(("more", "code", "word"), MISTAKES)
def test_mistakes_are_one_clear_line(site: Site, capsys, more: list[str], code: int, word: str):
    site.write({"0": 10, "1": 10})
    assert main(flags(site, *more)) == code
    answer = capsys.readouterr()
    [line] = [text for text in answer.err.splitlines() if text.startswith("visionloop-train: ")]
    assert word in line
    assert "Traceback" not in answer.err
    assert answer.out == ""


def test_a_store_that_cannot_be_reached_is_exit_69(site: Site, capsys, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # discard: nobody listens
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very-secret")
    assert main(flags(site, "--store", "s3://bucket/prefix")) == 69
    said = capsys.readouterr().err
    assert "s3://bucket/prefix" in said
    assert "very-secret" not in said


def test_missing_flags_are_named_with_their_variable(capsys, monkeypatch):
    for name in ("STORE", "DATASET", "MODEL"):
        monkeypatch.delenv(f"VISIONLOOP_{name}", raising=False)
    assert main(["--store", "file:///tmp"]) == 64
    assert "--dataset is missing (or set VISIONLOOP_DATASET)" in capsys.readouterr().err


def test_the_effective_configuration_is_shown(capsys):
    assert main(["--show-config", "--preset", "demo", "--set", "seed=3"]) == 0
    shown = capsys.readouterr().out
    assert "seed: 3" in shown
    assert "policy: not-significantly-worse" in shown


@pytest.mark.parametrize(
    ("given", "meant"),
    [((), "balanced"), (("--preset", "none"), "none"), (("--preset", "fast"), "fast")],
)
def test_without_a_preset_balanced_is_taken(
    given: tuple[str, ...], meant: str, capsys, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("VISIONLOOP_PRESET", raising=False)
    assert main(["--show-config", *given]) == 0
    assert capsys.readouterr().out == dump(load(meant))


# Fine-tunes a little, on one thread: the same bits each time.
TUNED = tuple(
    part
    for setting in ("fit.epochs=3", "fit.freeze=0.5", "fit.batch_size=8", "fit.keep=last")
    for part in ("--set", setting)
)


@pytest.mark.long
@pytest.mark.kill
def test_a_job_that_was_killed_and_stopped_makes_the_same_model(
    site: Site, capsys: pytest.CaptureFixture[str]
):
    site.write({"0": 40, "1": 40})
    assert main(flags(site, *TUNED, "--no-promote")) == 0

    again = ("--no-promote", "--again")  # else the version that is there would do
    often = (*again, "--checkpoint-seconds=0.0001")
    killed = program(site, *TUNED, *often, **{ENVIRONMENT_VARIABLE: "checkpoint.saved:2"})
    assert killed.returncode == -signal.SIGKILL
    kept = [stat.key for stat in site.store.list("models/reader/checkpoints/")]
    assert any(key.endswith("latest.json") for key in kept)

    command = [sys.executable, "-m", "visionloop_training", *flags(site, *TUNED, *often)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as stopped:
        assert stopped.stderr is not None
        said = ""
        for line in stopped.stderr:
            said += line
            if "going on from the checkpoint of step" in line:
                stopped.send_signal(signal.SIGTERM)
        assert stopped.wait(timeout=300) == 85, said
    assert "run the same command again" in said

    # Killed after fitting: the checkpoint at its end is the first one that is saved here.
    killed = program(site, *TUNED, *again, **{ENVIRONMENT_VARIABLE: "checkpoint.saved"})
    assert killed.returncode == -signal.SIGKILL
    capsys.readouterr()
    assert main(flags(site, *TUNED, *again)) == 0
    assert "fitting was over, after step" in capsys.readouterr().err
    graphs = [site.repository.read("reader", number).files["model.onnx"] for number in (1, 2)]
    assert graphs[0].sha256 == graphs[1].sha256
    assert list(site.store.list("models/reader/checkpoints/")) == []


def test_help_does_not_wait_for_torch():
    code = "import sys, visionloop_training.app as a; a.parser(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_config_file_is_read(tmp_path: Path, capsys):
    (tmp_path / "c.yaml").write_text("seed: 42\n")
    assert main(["--show-config", "--config", str(tmp_path / "c.yaml")]) == 0
    assert "seed: 42" in capsys.readouterr().out


def test_what_builds_no_network_does_not_wait_for_the_libraries_of_networks_and_reports():
    """Together they take longer to import than torch, and most nights there is nothing new."""
    late = ("timm", "torchvision", "torch._dynamo", "matplotlib", "scipy.stats", "scipy.optimize")
    code = (
        "import sys, visionloop_training.pipeline, visionloop_training.assessment; "
        f"print([name for name in {late} if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
