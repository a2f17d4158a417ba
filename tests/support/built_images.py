"""Our images, built for real with buildah on a Debian base made here, and programs run from them.

No registry and no container engine: the base comes from Debian's archive, images are kept in a
folder, and a program is started in its image's files as a pod would start it: uid 65532 without
capabilities, the root read-only, /tmp a tmpfs, nothing of this process's environment.
"""

import contextlib
import json
import os
import shutil
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias

import pytest

ROOT = Path(__file__).resolve().parents[2]
KEPT = ROOT / "build" / "images"  # the base outlives a run; Debian 12 changes seldom
NEEDED = ("buildah", "mmdebstrap", "unshare", "chroot")
# Whether images can be kept as layers: seconds and gigabytes less than whole copies of them.
OVERLAY = """
mkdir "$1/lower" "$1/upper" "$1/work" "$1/merged" &&
mount -t overlay overlay -o "lowerdir=$1/lower,upperdir=$1/upper,workdir=$1/work" "$1/merged"
"""
BASE = "localhost/visionloop-base:bookworm"
PREFIX = "localhost/visionloop/"
TAG = "test"
BUILT = ("inference-cpu", "labeling-ingest")
LARGE = ("inference-cuda", "training")  # gigabytes of CUDA
PATIENCE = 60.0
Mounts: TypeAlias = Mapping[str, Path]  # from a path in the image to a folder here
# A private view of the machine's mounts, gone with the program. `exec` all the way: signals reach
# the program itself.
START = """
set -e
root=$1; shift
mount --bind "$root" "$root"
for folder in $SCRATCH; do mkdir -p "$root$folder"; done
for pair in $MOUNTS; do mkdir -p "$root${pair#*:}"; done
mount -o remount,bind,ro "$root"
mount --bind /proc "$root/proc"
mount --rbind /dev "$root/dev"
for folder in $SCRATCH; do mount -t tmpfs -o mode=1777,size=1g tmpfs "$root$folder"; done
for pair in $MOUNTS; do mount --bind "${pair%%:*}" "$root${pair#*:}"; done
exec chroot "$root" /usr/bin/setpriv --reuid=65532 --regid=65532 --clear-groups --no-new-privs \
    --inh-caps=-all --bounding-set=-all /usr/bin/env -i "$@"
"""


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

    @property
    def environment(self) -> dict[str, str]:
        """What the image sets."""
        return dict(entry.split("=", 1) for entry in self.config["Env"])

    def command(self, program: list[str], environment: Mapping[str, str]) -> list[str]:
        """The process that runs `program` in the image's files."""
        variables = {**self.environment, **environment}
        return [
            *("unshare", "--mount", "--propagation", "private", "sh", "-c", START, "sh"),
            str(self.files),
            *(f"{name}={value}" for name, value in variables.items()),
            *program,
        ]

    def run(
        self, *program: str, mounts: Mounts = MappingProxyType({}), **environment: str
    ) -> "subprocess.CompletedProcess[str]":
        """Runs to the end."""
        return subprocess.run(
            self.command(list(program), environment),
            env=_mounted(["/tmp"], mounts),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    @contextlib.contextmanager
    def started(
        self,
        log: Path,
        program: list[str],
        environment: Mapping[str, str],
        *,
        scratch: Sequence[str] = ("/tmp",),
        mounts: Mounts = MappingProxyType({}),
    ) -> Iterator["subprocess.Popen[bytes]"]:
        """A process; the folders of `scratch` are new and can be written, those of `mounts` are
        ours. Killed at the end if it still runs."""
        with log.open("wb") as output:
            process = subprocess.Popen(
                self.command(program, environment),
                env=_mounted(scratch, mounts),
                stdout=output,
                stderr=output,
            )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()


def _is_safe(status: os.stat_result) -> bool:
    others = stat.S_IWOTH | stat.S_ISUID | stat.S_ISGID
    changeable = not stat.S_ISLNK(status.st_mode) and status.st_mode & others
    return (status.st_uid, status.st_gid) == (0, 0) and not changeable


def _mounted(scratch: Sequence[str], mounts: Mounts) -> dict[str, str]:
    """What START reads."""
    return {
        "PATH": os.environ["PATH"],
        "SCRATCH": " ".join(scratch),
        "MOUNTS": " ".join(f"{here}:{there}" for there, here in mounts.items()),
    }


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


def wait_until_ready(process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    """Until /readyz says so."""
    _wait(lambda: _status(port) == 200, process, log)


def _status(port: int) -> int:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def _wait(what: Callable[[], bool], process: "subprocess.Popen[bytes]", log: Path) -> None:
    end = time.monotonic() + PATIENCE
    while not what():
        assert process.poll() is None, f"it exited: {log.read_text()[-3000:]}"
        assert time.monotonic() < end, f"waited in vain: {log.read_text()[-3000:]}"
        time.sleep(0.05)


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
def built_large(storage: Storage) -> dict[str, BuiltImage]:
    """Those with CUDA, by name, unpacked."""
    return storage.built(LARGE)
