"""Where the demo writes: a folder of its own."""

import sys
from pathlib import Path

import pytest

from visionloop.demo import __main__ as demo


def test_a_folder_with_other_files_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "thesis.tex"
    mine.write_text("years of work")
    monkeypatch.setattr(sys, "argv", ["demo", "--output", str(tmp_path)])
    assert demo.main() == 64
    assert "holds files that are not of a demo" in capsys.readouterr().err
    assert mine.read_text() == "years of work"


def test_what_an_earlier_demo_left_goes(tmp_path: Path) -> None:
    output = tmp_path / "demo"
    demo._make_room(output)
    (output / "up.log").write_text("")
    (output / "report.json").write_text("{}")
    demo._make_room(output)
    assert list(output.iterdir()) == []
    demo._make_room(output)  # empty: as good as none
