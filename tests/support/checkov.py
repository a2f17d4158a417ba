"""Checkov's opinion of the renders: `python -m tests.support.checkov CHECKOV`.

Prints each finding's number and ends with 1 for one that tests/charts/checkov.yaml does not
justify, or for a justification that nothing needs any more. CHECKOV is the program, in a virtual
environment of its own because its dependencies are many and pinned (`make charts-checkov`).
"""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import yaml

CHARTS = Path(__file__).parents[1] / "charts"


def main() -> int:
    """Exit code 1 where the list of findings is not the justified one."""
    renders = sorted((CHARTS / "snapshots").glob("*.yaml"))
    found = findings(sys.argv[1], renders)
    justified = yaml.safe_load((CHARTS / "checkov.yaml").read_text(encoding="utf-8"))
    for check, number in sorted(found.items()):
        print(f"{check} {number:4d} {justified.get(check, 'NOT JUSTIFIED')}")  # noqa: T201
    for check in sorted(justified.keys() - found.keys()):
        print(f"{check}    0 nothing is found any more: remove the line")  # noqa: T201
    return int(justified.keys() != found.keys())


def findings(program: str, renders: list[Path]) -> Counter[str]:
    """How often each check failed."""
    files = [part for path in renders for part in ("--file", str(path))]
    done = subprocess.run(
        [program, *files, "--framework=kubernetes", "--skip-download", "--quiet", "--compact",
         "--output=json"],
        capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    reports = json.loads(done.stdout)
    reports = reports if isinstance(reports, list) else [reports]
    assert all(report["summary"]["parsing_errors"] == 0 for report in reports)
    return Counter(
        check["check_id"] for report in reports for check in report["results"]["failed_checks"]
    )


if __name__ == "__main__":
    sys.exit(main())
