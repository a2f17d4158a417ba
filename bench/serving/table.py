"""serving.json as Markdown, for docs/measurements.md.

python -m bench.serving.table [FILE]
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.serving.options import Options
from bench.serving.report import COLUMNS, shown


def markdown(document: Mapping[str, Any]) -> str:
    """The machine, the table, the verdicts and what was skipped."""
    machine, options = document["machine"], document["options"]
    parts = [
        f"Measured {machine['at'][:10]} on {machine['cores']} cores ({machine['cpu']}), Python "
        f"{machine['python']}, onnxruntime {machine['onnxruntime']}, visionloop "
        f"{machine['visionloop']}; tensors sent by {document['generator']}; medians of "
        f"{options['pairs']} rounds of at least {options['seconds']:g} s.",
        _table(COLUMNS, [[shown(row[name]) for name in COLUMNS] for row in document["rows"]]),
        _table(
            ("must show", "outcome", "numbers"),
            [[v["claim"], v["outcome"], v["numbers"]] for v in document["verdicts"]],
        ),
    ]
    if document["skipped"]:
        parts.append("\n".join(f"- {what}: {why}" for what, why in document["skipped"].items()))
    return "\n\n".join(parts)


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rule = ["---"] * len(head)
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |"
        for line in (head, rule, *lines)
    )


def main() -> int:
    """Prints it."""
    file = Path(sys.argv[1]) if sys.argv[1:] else Options().output / "serving.json"
    if not file.exists():
        sys.stderr.write(f"{file} is not there; make bench-serving writes it\n")
        return 66
    print(markdown(json.loads(file.read_text())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
