"""Signals to the whole program: a SIGTERM for its group, and one while it starts."""

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.bundles import encoded, publish_bundle
from support.control_plane import FRONT_END, RUNNER
from support.inference_server import Server, running_server
from support.process_tree import running
from support.waiting import PATIENCE, wait_for

from visionloop.repository import ModelRepository

IMAGE = encoded(7)


@pytest.fixture
def server(tmp_path: Path, repository: ModelRepository, store_of_models: str) -> Iterator[Server]:
    publish_bundle(repository, seed=1, promote=True)
    with running_server(tmp_path / "server", store_of_models, "--front-ends=1") as running_one:
        yield running_one.ready()


def test_a_sigterm_for_the_whole_group_is_the_supervisors_alone(server: Server) -> None:
    [front_end] = running(server.process.pid, FRONT_END)
    [runner] = running(server.process.pid, RUNNER)
    for child in (front_end, runner):
        os.kill(child, signal.SIGTERM)
    assert server.recognize(IMAGE).version == 1
    assert running(server.process.pid, FRONT_END) == [front_end]
    assert server.terminate() == 0
    assert server.text().count("starting it again") == 0
    wait_for(lambda: not Path(f"/proc/{front_end}").exists())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_store_that_never_answers_does_not_hold_up_the_end_of_a_start(
    tmp_path: Path, number: int
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as store:
        server = Server(
            tmp_path / "server",
            "s3://models/here",
            AWS_ENDPOINT_URL=f"http://127.0.0.1:{store.getsockname()[1]}",
            AWS_ACCESS_KEY_ID="nobody",
            AWS_SECRET_ACCESS_KEY="nothing",
        )
        try:
            store.settimeout(PATIENCE)
            with store.accept()[0] as asked:
                assert asked.recv(1)
                server.process.send_signal(number)
                # Far below the minute for which a read from the store may hang, and its retries.
                assert server.process.wait(timeout=25) == 0, server.text()
        finally:
            server.close()
