"""`visionloop doctor`: every installed program's own doctor, each as a process, in one report."""

import argparse
import json
import subprocess
from dataclasses import dataclass

from visionloop.cli.output import Output
from visionloop.cli.store import DEFAULT_FOLDER
from visionloop.cli.up import entry_point
from visionloop.doctor.findings import Finding, report
from visionloop.errors import ConfigurationError, VisionloopError
from visionloop.extras import require

SECONDS = 300.0  # a store that hangs is given up long before


@dataclass(frozen=True, slots=True)
class Patient:
    """A program whose doctor runs."""

    name: str
    process: "subprocess.Popen[str]"

    def findings(self) -> list[Finding]:
        """What it says of itself; one finding when it cannot even do that."""
        try:
            said, complaint = self.process.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return [Finding.failed("doctor", f"did not end within {SECONDS:.0f} s")]
        try:
            return [Finding.from_json(found) for found in json.loads(said)["findings"]]
        except (ValueError, KeyError):
            lines = complaint.strip().splitlines() or ["it said nothing"]
            words = lines[-1].removeprefix(f"{self.name}: ")
            code = self.process.returncode
            return [Finding.failed("settings", words) if code == 64 else _broken(words, code)]


def doctor(options: argparse.Namespace, output: Output) -> int:
    """Exit code 0 when nothing failed, else that of the first failure."""
    patients: list[Patient] = []
    try:
        for name, arguments in _programs(options).items():
            patients.append(_start(name, arguments))  # all at once: torch alone takes seconds
        found = [(patient.name, finding) for patient in patients for finding in patient.findings()]
    finally:
        for patient in patients:
            patient.process.kill()
    return report(found, output)


def _programs(options: argparse.Namespace) -> dict[str, list[str]]:
    """The programs to look at, each with its flags. Raises ConfigurationError for none."""
    store = options.store or DEFAULT_FOLDER.resolve().as_uri()
    default = DEFAULT_FOLDER.parent.resolve() / "labeling.db"
    database = options.database or f"sqlite:///{default}"
    flags = {
        "inference": ("visionloop-inference", ["--store", store]),
        "labeling": ("visionloop-labeling", ["--store", store, "--database", database]),
        "training": ("visionloop-train", ["--store", store]),
    }
    chosen = {}
    for extra, (name, arguments) in flags.items():
        if options.program and extra not in options.program:
            continue
        try:
            require(extra)
        except ConfigurationError:
            if options.program:
                raise
            continue
        chosen[name] = arguments
    if not chosen:
        raise ConfigurationError(
            "none of the programs is installed here; install one: pip install "
            "'visionloop[inference]' (or labeling, training)"
        )
    return chosen


def _start(name: str, arguments: list[str]) -> Patient:
    process = subprocess.Popen(
        [entry_point(name), "doctor", "--json", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    return Patient(name, process)


def _broken(words: str, code: int) -> Finding:
    return Finding.failed("doctor", VisionloopError(f"ended with exit code {code}: {words}"))
