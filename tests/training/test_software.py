"""A version says which programs made it: to the commit, where that is sure."""

import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest

from visionloop_training import software
from visionloop_training.export import exporter_versions


def git(root: Path, *arguments: str) -> str:
    who = ("-c", "user.name=Ada", "-c", "user.email=ada@localhost", "-c", "commit.gpgsign=false")
    asked = ["git", "-C", str(root), *who, *arguments]
    return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.skipif(shutil.which("git") is None, reason="needs the program git")
def test_a_checkout_is_named_by_its_commit_and_by_what_was_changed_since(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    assert software.commit(tmp_path) == ""
    git(tmp_path, "init", "--quiet")
    program = tmp_path / "training" / "program.py"
    program.parent.mkdir()
    program.write_text("learn()\n")
    assert software.commit(tmp_path) == ""  # nothing was committed yet
    git(tmp_path, "add", "training")
    git(tmp_path, "commit", "--quiet", "--message", "first")
    clean = f"+g{git(tmp_path, 'rev-parse', 'HEAD')[:12]}"
    assert software.commit(tmp_path) == clean
    (tmp_path / "notes").write_text("of no program of ours")
    assert software.commit(tmp_path) == clean
    program.write_text("learn(more)\n")
    assert software.commit(tmp_path) == f"{clean}.dirty"
    git(tmp_path, "checkout", "--quiet", "training")
    (program.parent / "new.py").write_text("")  # imported as well as any other
    assert software.commit(tmp_path) == f"{clean}.dirty"
    monkeypatch.setenv("PATH", str(tmp_path))  # no git
    assert software.commit(tmp_path) == ""


def test_what_can_change_a_result_is_recorded():
    assert software.code_version().startswith(version("visionloop"))
    found = software.libraries()
    assert found.items() >= exporter_versions().items()
    for name in ("onnx-ir", "onnxscript", "scipy", "torch"):
        assert found[name] == version(name)
