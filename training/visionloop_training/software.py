"""The programs that a version is made with: ours, to the commit where that is known, and libraries.

A version's provenance names them, and a verdict stands only for a run with the same (see
`earlier_verdict`). Of a checkout that is used in place (`pip install --editable`) the package's
version says next to nothing, for it is the same for months; git knows the commit. In an installed
package, or an image, the version alone is the release.
"""

import functools
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

from visionloop_training.export import exporter_versions

_LIBRARIES = ("numpy", "onnxruntime", "pillow", "scipy", "timm", "torchvision")
_ROOT = Path(__file__).parents[2]  # in a checkout its top, in an installation no repository
_OURS = ("visionloop", "training")  # what a run may import of it
_COMMIT_DIGITS = 12
_PATIENCE_SECONDS = 10.0


@functools.cache
def code_version() -> str:
    """Of this suite: "0.1.0", of a checkout "0.1.0+g<commit>", and that with ".dirty" where our
    files are not as they were committed."""
    return importlib.metadata.version("visionloop") + commit(_ROOT)


def libraries() -> dict[str, str]:
    """The versions that can change a result."""
    found = {name: importlib.metadata.version(name) for name in _LIBRARIES}
    return {"python": platform.python_version(), **exporter_versions(), **found}


def commit(root: Path) -> str:
    """Of the checkout `root`, as in `code_version`; empty where it is none, or git does not tell
    (it is not installed, or the folder is somebody else's)."""
    if not (root / ".git").exists():
        return ""
    # Where git itself has started this (a hook), its variables name another repository.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    try:
        told = subprocess.run(
            ["git", "-C", str(root), "status", "--porcelain=v2", "--branch", "--", *_OURS],
            env={**environment, "GIT_OPTIONAL_LOCKS": "0"},
            capture_output=True,
            text=True,
            timeout=_PATIENCE_SECONDS,
            check=True,
        ).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return ""
    head = next((line.split()[-1] for line in told if line.startswith("# branch.oid ")), "")
    if not head.isalnum():  # "(initial)": nothing was committed yet
        return ""
    changed = any(not line.startswith("#") for line in told)
    return f"+g{head[:_COMMIT_DIGITS]}{'.dirty' if changed else ''}"
