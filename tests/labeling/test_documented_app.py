"""docs/apps.md: its program that sends pictures to be labelled."""

import re
import runpy
from pathlib import Path

import pytest
from support.documented_commands import ROOT
from support.labeling_server import running_labeling
from support.pictures import noise

PAGE = ROOT / "docs" / "apps.md"


def test_the_program_sends_pictures_and_may_be_repeated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = re.search(r"<!-- worth a look -->\n```python\n(.*?)```", PAGE.read_text(), re.S)
    assert found
    (tmp_path / "cell.jpg").write_bytes(noise(1))
    with running_labeling(tmp_path / "server") as server:
        server.create_dataset("cells")
        code = found[1]
        for written, real in (
            ("127.0.0.1:8081", server.grpc_address),
            ('"cell.jpg"', repr(str(tmp_path / "cell.jpg"))),
        ):
            assert written in code
            code = code.replace(written, real)
        (tmp_path / "program.py").write_text(code)
        for _ in range(2):
            runpy.run_path(str(tmp_path / "program.py"))
    assert capsys.readouterr().out.split() == ["panel-7-cell-3", "accepted"] * 2
