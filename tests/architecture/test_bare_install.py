"""What an app gets by `pip install visionloop`: grpcio, protobuf, and a client that works."""

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder)
    python = folder / "bin" / "python"
    pip(python, "install", "--quiet", "--constraint", ROOT / "constraints.txt", ROOT)
    return python


def pip(python: Path, *arguments: str | Path) -> str:
    """This environment's pip at work in that of `python`, which has none of its own."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python]
    return subprocess.run(
        [*command, *arguments], stdout=subprocess.PIPE, text=True, check=True, timeout=300
    ).stdout


def run(python: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # PYTHONPATH or the working folder must not lend it the repository's own packages.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    return subprocess.run(
        [python, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=python.parent,
        env=environment,
        check=False,
    )


def test_only_grpcio_and_protobuf_come_along(bare_python: Path) -> None:
    listed = pip(bare_python, "list", "--format=freeze")
    names = {line.split("==")[0].split(" ")[0].replace("-", "_") for line in listed.splitlines()}
    assert names - {"typing_extensions"} == {"visionloop", "grpcio", "protobuf"}


def test_client_and_errors_import_and_name_the_target(bare_python: Path) -> None:
    code = """
import sys, visionloop, visionloop.errors, visionloop.client, visionloop.labeling_client
heavy = {"numpy", "PIL", "torch", "onnxruntime", "fastapi", "pydantic", "boto3"} & set(sys.modules)
assert not heavy, heavy
try:
    visionloop.client.Client("127.0.0.1:9", timeout=2).recognize(b"x")
except visionloop.errors.UnavailableError as error:
    print(error)
"""
    done = run(bare_python, "-c", code)
    assert done.returncode == 0, done.stderr
    assert "127.0.0.1:9" in done.stdout


@pytest.mark.parametrize(
    ("program", "arguments", "extra"),
    [
        ("visionloop", ["up"], "inference"),
        ("visionloop", ["models", "list"], "core"),
        ("visionloop", ["doctor"], "core"),
        ("visionloop", ["snapshots", "list"], "snapshots"),
        ("visionloop", ["models", "add", "model.onnx", "--model", "any"], "inference"),
        ("visionloop-inference", ["--store", "file:///nowhere"], "inference"),
        ("visionloop-labeling", ["--store", "file:///nowhere"], "labeling"),
        ("visionloop-train", ["--store", "file:///nowhere"], "training"),
    ],
)
def test_a_missing_extra_is_one_line(
    bare_python: Path, program: str, arguments: list[str], extra: str
) -> None:
    done = run(bare_python, str(bare_python.with_name(program)), *arguments)
    assert done.returncode == 64, done.stderr
    assert f"pip install 'visionloop[{extra}]'" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
