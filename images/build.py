"""`make images`: builds the images with docker, podman or buildah, and says how large they are.

Settings come from the environment, as make passes them: BASE_IMAGE (by digest), IMAGES, TAG,
PREFIX, BUILDER and BUILD_FLAGS. Standard library only: it needs no virtual environment.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUILDERS = ("docker", "podman", "buildah")
DIGEST = re.compile(r"@sha256:[0-9a-f]{64}$")


@dataclass(frozen=True, slots=True)
class Image:
    """One image of the suite, and what its Dockerfile is given."""

    dockerfile: str
    arguments: tuple[str, ...] = ()


IMAGES = {
    "inference-cpu": Image("services/inference/Dockerfile", ("VARIANT=cpu",)),
    "inference-cuda": Image("services/inference/Dockerfile", ("VARIANT=cuda",)),
    "labeling-ingest": Image("services/labeling_ingest/Dockerfile"),
    "training": Image("training/Dockerfile"),
}


class MistakeError(Exception):
    """Something that whoever called make must change; the message says what."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to build, by what, on what."""

    builder: str
    base: str
    names: tuple[str, ...]
    tag: str
    prefix: str  # before the name, as "visionloop/" or "registry.internal/visionloop/"
    flags: tuple[str, ...]

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> "Plan":
        """Raises MistakeError for values that cannot work."""
        names = tuple(environment.get("IMAGES", "").split()) or tuple(IMAGES)
        for name in names:
            if name not in IMAGES:
                raise MistakeError(f"IMAGES names {name!r}; there are: {', '.join(IMAGES)}")
        return cls(
            builder=_builder(environment.get("BUILDER", "")),
            base=_base(environment.get("BASE_IMAGE", "")),
            names=names,
            tag=environment.get("TAG") or version(),
            prefix=environment.get("PREFIX") or "visionloop/",
            flags=tuple(shlex.split(environment.get("BUILD_FLAGS", ""))),
        )

    def command(self, name: str) -> list[str]:
        """The builder's command line for one image."""
        image = IMAGES[name]
        arguments = [
            f"BASE_IMAGE={self.base}",
            f"VERSION={version()}",
            f"REVISION={revision()}",
            *image.arguments,
        ]
        return [
            self.builder,
            "build",
            *self.flags,
            *(word for argument in arguments for word in ("--build-arg", argument)),
            f"--file={ROOT / image.dockerfile}",
            f"--tag={self.reference(name)}",
            str(ROOT),
        ]

    def reference(self, name: str) -> str:
        """The image's name with its tag."""
        return f"{self.prefix}{name}:{self.tag}"

    def size(self, name: str) -> str:
        """What the builder says of it, unpacked."""
        query = {
            "docker": ["image", "inspect", "--format={{.Size}}"],
            "podman": ["image", "inspect", "--format={{.Size}}"],
            "buildah": ["images", *storage_flags(self.flags), "--format={{.Size}}"],
        }
        said = _output([self.builder, *query[Path(self.builder).name], self.reference(name)])
        return f"{int(said) / 1e6:.0f} MB" if said.isdigit() else said


def main() -> int:
    """Exit code 0 when all were built."""
    try:
        plan = Plan.of(os.environ)
        for name in plan.names:
            sys.stdout.write(f"{shlex.join(plan.command(name))}\n")
            sys.stdout.flush()
            if subprocess.run(plan.command(name), check=False).returncode != 0:
                raise MistakeError(f"{name} was not built; what {plan.builder} said is above")
        for name in plan.names:
            sys.stdout.write(f"{plan.reference(name)}  {plan.size(name)}\n")
    except MistakeError as mistake:
        sys.stderr.write(f"make images: {mistake}\n")
        return 64
    return 0


def version() -> str:
    """That of the package."""
    text = (ROOT / "pyproject.toml").read_text()
    found = re.search(r'^version = "([^"]+)"', text, re.MULTILINE)
    return found[1] if found else "unknown"


def revision() -> str:
    """The commit, marked where files were changed since."""
    try:
        return _output(["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40"])
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def storage_flags(flags: Sequence[str]) -> list[str]:
    """Those of the build's flags that say where images are kept, for the questions afterwards."""
    kept = ("--root", "--runroot", "--storage-driver", "--storage-opt")
    return [
        word
        for before, word in zip(("", *flags), flags, strict=False)
        if word.startswith(kept) or before in kept
    ]


def _builder(wanted: str) -> str:
    names = (wanted,) if wanted else BUILDERS
    for name in names:
        if Path(name).name in BUILDERS and shutil.which(name):
            return name
    raise MistakeError(
        f"BUILDER={wanted} is not here; it is one of {', '.join(BUILDERS)}"
        if wanted
        else f"none of {', '.join(BUILDERS)} is here; install one (Debian: apt-get install buildah)"
    )


def _base(base: str) -> str:
    """A base that is named by digest, or one of this machine's own."""
    if base.startswith("localhost/") or DIGEST.search(base):
        return base
    said = f"BASE_IMAGE is {base!r}" if base else "BASE_IMAGE is missing"
    raise MistakeError(
        f"{said}; name a slim image with Python 3.11 or newer by its digest, as "
        "BASE_IMAGE=python:3.12-slim-bookworm@sha256:… (docker buildx imagetools inspect "
        "python:3.12-slim-bookworm shows it), so that the same sources give the same image"
    )


def _output(command: Sequence[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
