"""LogSettings is for every process of the server, those that are started later included."""

import logging
from pathlib import Path

import grpc
import pytest
import tritonclient.grpc as triton
from support.bundles import publish_bundle
from support.control_plane import Plane, in_plane
from support.inference_server import running_server

from visionloop.repository import ModelRepository
from visionloop_inference.children import Child
from visionloop_inference.control import Control, Message
from visionloop_inference.link_loop import LinkLoop


def test_runners_that_are_started_later_log_as_was_asked_for(
    tmp_path: Path, repository: ModelRepository, store_of_models: str
) -> None:
    publish_bundle(repository, "cells", seed=1, golden=4, promote=True)
    with running_server(tmp_path / "server", store_of_models, "--front-ends=1") as server:
        server.serves(1)
        with grpc.insecure_channel(server.target) as channel:
            client = triton.service_pb2_grpc.GRPCInferenceServiceStub(channel)
            settings = triton.service_pb2.LogSettingsRequest()
            settings.settings["log_info"].bool_param = False
            client.LogSettings(settings)
        publish_bundle(repository, "cells", seed=2, golden=4, promote=True)
        server.serves(2)
        loaded = [f"cells version {version} is loaded" in server.text() for version in (1, 2)]
        assert loaded == [True, False]  # which a runner says


def test_a_runner_that_serves_is_told(
    tmp_path: Path,
    repository: ModelRepository,
    store_of_models: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    publish_bundle(repository, "cells", golden=4, promote=True)

    async def scenario(plane: Plane) -> None:
        assert await plane.settle()
        told: list[tuple[Child, Message]] = []
        monkeypatch.setattr(Child, "send", lambda child, said, fds=(): told.append((child, said)))
        plane.front_ends.log_level("ERROR")
        monkeypatch.undo()
        [runner] = plane.supervisor.models["cells"].versions[1].runners
        assert (runner.child, {"do": "log", "level": "ERROR"}) in told

    in_plane(tmp_path, store_of_models, scenario)


def test_a_process_that_is_told_obeys(caplog: pytest.LogCaptureFixture) -> None:
    ours, theirs = Control.pair()
    with caplog.at_level("INFO"):  # and back, afterwards
        ours.send({"do": "log", "level": "ERROR"})
        ours.send({"do": "close", "seconds": 0.0})
        LinkLoop(theirs).live()
        assert logging.getLogger().level == logging.ERROR
    ours.close()
