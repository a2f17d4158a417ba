"""`visionloop doctor`: every installed program's own doctor, each as a process, in one report."""

import argparse
import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

from visionloop.cli.output import Output
from visionloop.cli.store import DEFAULT_FOLDER, store_url
from visionloop.cli.up import entry_point
from visionloop.doctor.findings import Finding, report
from visionloop.errors import ConfigurationError, VisionloopError
from visionloop.extras import require

PROGRAMS = {
    "inference": "visionloop-inference",
    "labeling": "visionloop-labeling",
    "training": "visionloop-train",
}
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
        environment = os.environ | {"VISIONLOOP_DATABASE": _database(options)}
        for name in _programs(options):  # all at once: torch alone takes seconds
            patient = _start(name, store_url(options), environment)
            patients.append(patient)
        found = [(patient.name, finding) for patient in patients for finding in patient.findings()]
    finally:
        for patient in patients:
            patient.process.kill()
    return report(found, output)


def _programs(options: argparse.Namespace) -> list[str]:
    """The programs to look at. Raises ConfigurationError for none."""
    chosen = []
    for extra, name in PROGRAMS.items():
        if options.program and extra not in options.program:
            continue
        try:
            require(extra)
        except ConfigurationError:
            if options.program:
                raise
            continue
        chosen.append(name)
    if not chosen:
        raise ConfigurationError(
            "none of the programs is installed here; install one: pip install "
            "'visionloop[inference]' (or labeling, training)"
        )
    return chosen


def _database(options: argparse.Namespace) -> str:
    """The URL of labeling-ingest's, which may hold a password: others on the machine see flags."""
    given: str | None = options.database
    return given or f"sqlite:///{DEFAULT_FOLDER.parent.resolve() / 'labeling.db'}"


def _start(name: str, store: str, environment: Mapping[str, str]) -> Patient:
    process = subprocess.Popen(
        [entry_point(name), "doctor", "--json", "--store", store],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    return Patient(name, process)


def _broken(words: str, code: int) -> Finding:
    return Finding.failed("doctor", VisionloopError(f"ended with exit code {code}: {words}"))
