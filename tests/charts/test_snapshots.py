"""What each value set renders, kept as text: what a changed chart changes in a cluster is seen.

UPDATE_SNAPSHOTS=1 (`make charts-snapshots`) writes them anew.
"""

import os
from pathlib import Path

import pytest
from support.charts import ValueSet, every_value_set, rendered_text, value_sets

pytestmark = pytest.mark.usefixtures("helm_program")
FOLDER = Path(__file__).parent / "snapshots"


def text_of(values: ValueSet) -> str:
    """The render without trailing blanks, which editors and git remove."""
    lines = [line.rstrip() for line in rendered_text(values).splitlines()]
    return "\n".join(line for line in lines if line) + "\n"


@every_value_set
def test_the_render_is_the_one_that_was_looked_at(values: ValueSet) -> None:
    path = FOLDER / f"{values.name}.yaml"
    if os.environ.get("UPDATE_SNAPSHOTS") == "1":
        FOLDER.mkdir(exist_ok=True)
        path.write_text(text_of(values), encoding="utf-8")
    assert path.exists(), "a new value set: run make charts-snapshots and look at the file"
    assert text_of(values) == path.read_text(encoding="utf-8")


def test_no_snapshot_is_left_over() -> None:
    names = {f"{values.name}.yaml" for values in value_sets()}
    assert {path.name for path in FOLDER.glob("*.yaml")} == names
