"""`make images`: what it asks a builder for, and what it refuses."""

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
DIGEST = "python:3.12-slim-bookworm@sha256:" + "0" * 64


@pytest.fixture(scope="module")
def build() -> ModuleType:
    spec = importlib.util.spec_from_file_location("images_build", ROOT / "images" / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["images_build"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which docker is the first builder found."""
    (tmp_path / "docker").write_text("#!/bin/sh\n")
    (tmp_path / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")


@pytest.mark.usefixtures("docker")
def test_all_images_on_one_base(build: ModuleType) -> None:
    plan = build.Plan.of({"BASE_IMAGE": DIGEST, "BUILD_FLAGS": "--pull --label 'a=b c'"})
    assert plan.names == ("inference-cpu", "inference-cuda", "labeling-ingest", "training")
    command = plan.command("inference-cuda")
    assert command[:5] == ["docker", "build", "--pull", "--label", "a=b c"]
    assert f"BASE_IMAGE={DIGEST}" in command
    assert "VARIANT=cuda" in command
    assert f"--file={ROOT}/services/inference/Dockerfile" in command
    assert command[-2:] == ["--tag=visionloop/inference-cuda:0.1.0", str(ROOT)]


@pytest.mark.usefixtures("docker")
def test_names_and_tags(build: ModuleType) -> None:
    plan = build.Plan.of(
        {"BASE_IMAGE": DIGEST, "IMAGES": "training", "TAG": "rc1", "PREFIX": "registry.local/ml/"}
    )
    assert [plan.reference(name) for name in plan.names] == ["registry.local/ml/training:rc1"]


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({}, "BASE_IMAGE is missing; name a slim image"),
        ({"BASE_IMAGE": "python:3.12-slim"}, "BASE_IMAGE is 'python:3.12-slim'; name"),
        ({"BASE_IMAGE": DIGEST[:-1]}, "by its digest"),
        ({"BASE_IMAGE": DIGEST, "IMAGES": "inference"}, "IMAGES names 'inference'; there are: inf"),
        ({"BASE_IMAGE": DIGEST, "BUILDER": "kaniko"}, "BUILDER=kaniko is not here"),
        ({"BASE_IMAGE": DIGEST, "BUILDER": "/no/podman"}, "BUILDER=/no/podman is not here"),
    ],
)
@pytest.mark.usefixtures("docker")
def test_mistakes(build: ModuleType, environment: dict[str, str], said: str) -> None:
    with pytest.raises(build.MistakeError, match=said):
        build.Plan.of(environment)


def test_no_builder(build: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(build.MistakeError, match="none of docker, podman, buildah is here"):
        build.Plan.of({"BASE_IMAGE": DIGEST})


def test_storage_flags_are_those_of_the_questions_too(build: ModuleType) -> None:
    flags = ["--root=/s", "--storage-driver", "vfs", "--isolation", "chroot", "--pull-never"]
    assert build.storage_flags(flags) == ["--root=/s", "--storage-driver", "vfs"]
