"""What the inference program finds out about itself."""

from pathlib import Path

import onnxruntime
import pytest
from support.bundles import publish_bundle

from visionloop.doctor.findings import Finding, Status
from visionloop.objectstore import open_store
from visionloop.repository import ModelRepository
from visionloop_inference.doctor import examine
from visionloop_inference.settings import parse


def examined(store: str, *flags: str) -> dict[str, Finding]:
    settings = parse(["--store", store, "--port=0", "--http-port=0", *flags], {})
    return {finding.check: finding for finding in examine(settings)}


def test_all_is_well(store_url: str, tmp_path: Path) -> None:
    repository = ModelRepository(open_store(store_url))
    publish_bundle(repository, "cells", seed=1, promote=True)
    publish_bundle(repository, "waiting", seed=2)
    found = examined(store_url, f"--cache={tmp_path}")
    assert not [finding for finding in found.values() if finding.status is Status.FAILED]
    assert found["models"].said == "to be served: cells stable 1"
    assert found["provider"].said == "a graph runs on cpu"
    assert {"onnxruntime", "driver", "store", "clock", "cache", "ports"} < set(found)


def test_nothing_to_serve_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    found = examined(f"file://{tmp_path}/store")
    assert found["models"].status is Status.WARNING
    assert "visionloop models promote" in found["models"].said


def test_a_model_that_is_named_and_not_there(tmp_path: Path) -> None:
    url = f"file://{tmp_path}/store"
    publish_bundle(ModelRepository(open_store(url)), "cells", seed=1)
    settings = parse(["--store", url, "--port=0", "--http-port=0", "--models=birds"], {})
    failed = [finding for finding in examine(settings) if finding.status is Status.FAILED]
    assert [(finding.check, finding.exit_code) for finding in failed] == [("models", 66)]
    assert "'birds', which has no version; there are: cells" in failed[0].said


def test_a_torn_version_is_found_before_it_is_served(tmp_path: Path) -> None:
    url = f"file://{tmp_path}/store"
    publish_bundle(ModelRepository(open_store(url)), "cells", seed=1, promote=True)
    (tmp_path / "store/models/cells/versions/1/bundle.json").write_text("{")
    settings = parse(["--store", url, "--port=0", "--http-port=0"], {})
    failed = [finding for finding in examine(settings) if finding.status is Status.FAILED]
    assert [(finding.check, finding.exit_code) for finding in failed] == [("models", 65)]


@pytest.mark.skipif(
    "CUDAExecutionProvider" in onnxruntime.get_available_providers(),
    reason="this onnxruntime is built for CUDA",
)
def test_a_gpu_that_is_asked_for_and_cannot_be_used(tmp_path: Path) -> None:
    found = examined(f"file://{tmp_path}", "--provider=cuda")
    assert found["driver"].status is Status.FAILED
    assert found["provider"].status is Status.FAILED
    assert "--provider cuda cannot be loaded" in found["provider"].said
