"""Makes a virtual environment smaller and ready to be read only, while an image is built.

    /opt/visionloop/bin/python slim.py [--apart nvidia torch] [--to /build/large]

Removes what no program reads (tests, headers, the 440 AWS services that are not S3), compiles the
rest, because a read-only root cannot keep bytecode, and moves packages that are large and seldom
change to a tree of their own, which the image takes as a layer of its own. Standard library only.
"""

import argparse
import compileall
import py_compile
import shutil
import sys
import sysconfig
from pathlib import Path

# Those that credentials come from, beside the store: roles of pods and single sign-on.
AWS_SERVICES = frozenset({"s3", "sts", "sso", "sso-oidc", "signin"})
HEADERS = ("pyarrow/include", "numpy/_core/include")


def main() -> int:
    """Works on the environment whose Python runs this; refuses the system's."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--apart", nargs="*", default=(), metavar="FOLDER", help="in site-packages")
    parser.add_argument("--to", type=Path, default=Path("/build/large"))
    options = parser.parse_args()
    if sys.prefix == sys.base_prefix:
        sys.stderr.write("slim.py: run it with the Python of a virtual environment\n")
        return 64
    packages = Path(sysconfig.get_path("purelib"))
    before = _bytes_in(packages)
    for folder in unread_folders(packages):
        shutil.rmtree(folder)
    # A layer's times are not those of the sources, so bytecode must not be checked against them.
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    compileall.compile_dir(packages, quiet=2, workers=0, invalidation_mode=mode)
    for name in options.apart:
        move_apart(packages / name, options.to)
    options.to.mkdir(parents=True, exist_ok=True)  # a COPY wants it, with something in it or not
    sys.stdout.write(f"slim.py: {before >> 20} MiB of packages, then {_bytes_in(packages) >> 20}\n")
    return 0


def unread_folders(packages: Path) -> list[Path]:
    """The folders that no program of ours reads, none inside another."""
    found = [path for path in packages.rglob("tests") if path.is_dir()]
    found += [path for name in HEADERS if (path := packages / name).is_dir()]
    found += [
        path
        for path in (packages / "botocore" / "data").glob("*/")
        if path.is_dir() and path.name not in AWS_SERVICES
    ]
    return [path for path in found if not any(parent in found for parent in path.parents)]


def move_apart(folder: Path, to: Path) -> None:
    """Moves a package to the same place below `to`; one that is not there is none of this image."""
    if folder.is_dir():
        target = to / folder.relative_to(sys.prefix)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(folder, target)


def _bytes_in(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())


if __name__ == "__main__":
    sys.exit(main())
