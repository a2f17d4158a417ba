"""One finding per check, and how findings are told: a table for people, JSON for machines."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

from visionloop.cli.output import Output
from visionloop.errors import ConfigurationError, VisionloopError


class Status(StrEnum):
    """A warning is for people; only a failure keeps a program from doing its work."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Finding:
    """`said` says what is so, and unless it is ok what to do. `exit_code` is a failure's."""

    check: str  # as "clock"
    status: Status
    said: str
    exit_code: int = 0

    @classmethod
    def ok(cls, check: str, said: str) -> Self:
        """All is well."""
        return cls(check, Status.OK, said)

    @classmethod
    def warning(cls, check: str, said: str) -> Self:
        """The program works, but not for ever or not as well as it could."""
        return cls(check, Status.WARNING, said)

    @classmethod
    def failed(cls, check: str, error: VisionloopError | str) -> Self:
        """The program cannot do its work. A text is a mistake of configuration."""
        told = error if isinstance(error, VisionloopError) else ConfigurationError(error)
        return cls(check, Status.FAILED, str(told), told.exit_code)

    def as_json(self) -> dict[str, Any]:
        """A plain dict."""
        return {
            "check": self.check,
            "status": str(self.status),
            "said": self.said,
            "exit_code": self.exit_code,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """What `as_json` gave."""
        return cls(value["check"], Status(value["status"]), value["said"], value["exit_code"])


class Findings:
    """Collects what the checks say; one that raises has failed, and the next one goes on."""

    def __init__(self) -> None:
        self._found: list[Finding] = []

    def __iter__(self) -> Iterator[Finding]:
        return iter(self._found)

    def add(self, *findings: Finding) -> None:
        """In the order of the report."""
        self._found.extend(findings)

    @contextmanager
    def checking(self, check: str) -> Iterator[None]:
        """A VisionloopError inside is the finding of `check`."""
        try:
            yield
        except VisionloopError as error:
            self.add(Finding.failed(check, error))


def report(found: Iterable[tuple[str, Finding]], output: Output) -> int:
    """Prints the findings, each with the program it is about; gives the exit code.

    0 when nothing failed, else that of the first failure.
    """
    rows = list(found)
    failures = [(program, finding) for program, finding in rows if finding.exit_code]
    output.result(
        {
            "ok": not failures,
            "findings": [{"program": program} | finding.as_json() for program, finding in rows],
        }
    )
    output.table(
        ["program", "check", "", "finding"],
        [[program, f.check, _shown(f.status), f.said] for program, f in rows],
    )
    _say_outcome(rows, failures, output)
    return failures[0][1].exit_code if failures else 0


def tell(program: str, findings: Findings, *, as_json: bool) -> int:
    """Prints what was found of one program; gives the exit code."""
    output = Output(as_json=as_json)
    code = report(((program, finding) for finding in findings), output)
    output.flush()
    return code


def _say_outcome(
    rows: Sequence[tuple[str, Finding]], failures: Sequence[tuple[str, Finding]], output: Output
) -> None:
    warnings = sum(finding.status is Status.WARNING for _, finding in rows)
    output.line()
    if failures:
        output.line(f"{len(failures)} of {len(rows)} checks failed; warnings: {warnings}")
    else:
        output.line(f"nothing stands in the way; checks: {len(rows)}, warnings: {warnings}")


def _shown(status: Status) -> str:
    return "FAILED" if status is Status.FAILED else str(status)
