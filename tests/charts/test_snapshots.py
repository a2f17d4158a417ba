"""What each value set renders, kept as text: what a changed chart changes in a cluster is seen.

UPDATE_SNAPSHOTS=1 (`make charts-snapshots`) writes them anew.
"""

import os
import re
from pathlib import Path

import pytest
from support.charts import ValueSet, every_value_set, rendered_text, value_sets

pytestmark = pytest.mark.usefixtures("helm_program")
FOLDER = Path(__file__).parent / "snapshots"


DASHBOARD = re.compile(r"^  \S+\.json: \|-$")


def text_of(values: ValueSet) -> str:
    """The render without blanks at the ends of lines, and without what is in dashboards/ anyway."""
    lines: list[str] = []
    within = False
    for line in rendered_text(values).splitlines():
        within = within and line.startswith("    ")
        if line.strip() and not within:
            lines.append(line.rstrip())
        if DASHBOARD.match(line):
            within = True
    return "\n".join(lines) + "\n"


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
