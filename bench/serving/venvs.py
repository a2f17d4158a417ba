"""A virtual environment for each peer, so that none has to live with another's libraries."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from visionloop.errors import UnavailableError

INSTALL_SECONDS = 900


@dataclass(frozen=True, slots=True)
class Venv:
    """A folder with a Python that has exactly these packages and what they need."""

    folder: Path
    packages: tuple[str, ...]
    at_start: str = ""  # one line of Python, "import …", that every interpreter there runs first

    @property
    def python(self) -> Path:
        """Its interpreter. Not resolved: a resolved one would be the machine's own."""
        return self.folder.absolute() / "bin" / "python"

    def install(self) -> None:
        """Makes it, or makes it again when other packages are wanted.

        Raises UnavailableError with the installer's own words when that fails.
        """
        wanted = "\n".join((*self.packages, self.at_start)).strip()
        stamp = self.folder / "packages.txt"
        if stamp.exists() and stamp.read_text() == wanted:
            return
        print(f"installing {', '.join(self.packages)} into {self.folder}", flush=True)
        _run([sys.executable, "-m", "venv", "--clear", str(self.folder)])
        install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        _run([str(self.python), *install, *self.packages])
        if self.at_start:
            (libraries,) = self.folder.glob("lib/python*/site-packages")
            (libraries / "at_start.pth").write_text(self.at_start + "\n")
        stamp.write_text(wanted)

    def version(self, package: str) -> str:
        """The installed version of one package."""
        code = f"import importlib.metadata as m; print(m.version({package!r}))"
        done = subprocess.run(
            [str(self.python), "-c", code], capture_output=True, text=True, check=False
        )
        return done.stdout.strip() or "unknown"


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=INSTALL_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise UnavailableError(f"not installed within {INSTALL_SECONDS} s") from error
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if not line.startswith("WARNING")]
        raise UnavailableError(f"it cannot be installed: {' '.join(lines[-2:]) or 'pip failed'}")
