"""The whole service with decoding processes: every way in, deaths, and the end."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton
from support.bundles import LABELS, answers, encoded, graph
from support.inference_server import Server, running_server
from support.process_tree import children, descriptors, is_alive, running, shared_mappings
from support.waiting import wait_for

GRAPH = graph(1).SerializeToString()
DECODER, FRONT_END = "visionloop_inference.decoder_process", "visionloop_inference.front_end"
FLAGS = ("--front-ends=2", "--decode-processes=2")
IMAGES = [encoded(number) for number in range(12)]
EXPECTED = answers(GRAPH, IMAGES)["probabilities"]
DECODED = "visionloop_stage_duration_seconds_count"


def up(server: Server, count: int = 2) -> list[int]:
    """Waits until so many decoders are linked to all front ends: 1 link each."""

    def all_linked() -> bool:
        found = running(server.process.pid, DECODER)
        return len(found) == count and all(
            arenas(pid) == len(running(server.process.pid, FRONT_END)) for pid in found
        )

    wait_for(all_linked, hint=f"{count} decoders with links to all front ends")
    return running(server.process.pid, DECODER)


def arenas(pid: int) -> int:
    return Path(f"/proc/{pid}/maps").read_text().count("/memfd:visionloop-rows")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, one_model: tuple) -> Iterator[Server]:
    with running_server(tmp_path_factory.mktemp("server"), one_model[0], *FLAGS) as running_one:
        up(running_one.ready())
        yield running_one


def is_right(response: object, numbers: list[int]) -> None:
    for result, number in zip(response.results, numbers, strict=True):
        assert result.status.code == 0, result
        found = {label.class_id: label.probability for label in result.classification.labels}
        row = [found[name] for name in LABELS]
        assert row == pytest.approx(EXPECTED[number].tolist(), abs=1e-5)


def test_every_way_in_gives_the_answers_of_threads_and_counts_once(server: Server) -> None:
    before = server.metric(DECODED, stage="decode")
    is_right(server.recognize(*IMAGES), list(range(12)))
    with triton.InferenceServerClient(server.target) as client:
        sent = triton.InferInput("pixels", [len(IMAGES)], "BYTES")
        sent.set_data_from_numpy(np.asarray(IMAGES, dtype=np.object_))
        found = client.infer("cells", [sent]).as_numpy("probabilities")
        np.testing.assert_allclose(found, EXPECTED, atol=1e-5)
    url = f"http://{server.address('http')}/v1/recognize"
    told = httpx.post(url, content=IMAGES[0], timeout=30).json()
    [result] = told["results"]
    assert (result["width"], result["height"]) == (160, 160)
    best = result["classification"]["labels"][0]
    assert best["class_id"] == LABELS[int(EXPECTED[0].argmax())]
    assert server.metric(DECODED, stage="decode") == before + 2 * len(IMAGES) + 1


def test_a_bad_image_costs_its_neighbours_nothing(server: Server) -> None:
    reason = {"reason": "not_an_image"}
    before = server.metric("visionloop_image_errors_total", **reason)
    first, bad, last = server.recognize(IMAGES[0], b"no image", IMAGES[1]).results
    assert (first.status.code, last.status.code) == (0, 0)
    assert bad.status.reason == "not_an_image"
    assert "these bytes are not an image" in bad.status.message
    assert server.metric("visionloop_image_errors_total", **reason) == before + 1


def test_it_is_the_decoders_who_decode_and_calls_that_end_leave_nothing(server: Server) -> None:
    found = running(server.process.pid, DECODER)
    for pid in found:
        os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(grpc.RpcError) as late:
            server.recognize(*IMAGES, timeout=0.5)
        assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    finally:
        for pid in found:
            os.kill(pid, signal.SIGCONT)
    is_right(server.recognize(*IMAGES), list(range(12)))
    wait_for(lambda: server.metric("visionloop_inflight_requests") == 0)


class Load:
    """Threads that ask without a pause, each with answers it knows."""

    def __init__(self, server: Server, threads: int = 4) -> None:
        self.errors: list[grpc.RpcError] = []
        self.answered = 0
        self._server = server
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(threads)
        self._asking = [self._pool.submit(self._ask, number) for number in range(threads)]

    def _ask(self, number: int) -> None:
        while not self._stop.is_set():
            numbers = [number % 12, (number + 5) % 12]
            try:
                is_right(
                    self._server.recognize(*(IMAGES[n] for n in numbers), timeout=20.0), numbers
                )
                self.answered += 1
            except grpc.RpcError as error:
                self.errors.append(error)
            number += 1

    def more(self, count: int = 20) -> None:
        aim = self.answered + count
        wait_for(lambda: self.answered >= aim, hint=f"{count} more answers; {self.errors[-1:]}")

    def __enter__(self) -> "Load":
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._pool.shutdown()
        for one in self._asking:
            one.result()  # wrong answers are raised here


@pytest.mark.kill
def test_a_decoder_that_is_killed_comes_back_and_costs_what_it_was_at(server: Server) -> None:
    victim, other = running(server.process.pid, DECODER)
    before = server.metric("visionloop_restarts_total", process="decoder")
    with Load(server) as load:
        load.more()
        os.kill(victim, signal.SIGKILL)
        wait_for(
            lambda: server.metric("visionloop_restarts_total", process="decoder") == before + 1
        )
        load.more()
        found = up(server)
        load.more()
    assert other in found
    assert victim not in found
    # A decoder is at one image, whoever asked.
    assert len(load.errors) <= 1
    for error in load.errors:
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert dict(error.trailing_metadata())["grpc-retry-pushback-ms"] == "100"
    assert "SIGKILL; starting it again" in server.text()


@pytest.mark.kill
def test_a_killed_front_end_leaves_nothing_in_the_decoders(server: Server) -> None:
    found = up(server)

    def held() -> list[tuple[int, int]]:
        return [(descriptors(pid), shared_mappings(pid)) for pid in found]

    before = held()
    victim = running(server.process.pid, FRONT_END)[0]
    os.kill(victim, signal.SIGKILL)
    wait_for(lambda: victim not in running(server.process.pid, FRONT_END))
    assert up(server) == found
    wait_for(lambda: held() == before, hint=f"what was held before: {before}, now {held()}")

    def answered() -> bool:
        try:
            is_right(server.recognize(IMAGES[0]), [0])
        except grpc.RpcError as error:
            assert error.code() is grpc.StatusCode.UNAVAILABLE  # noqa: PT017
            return False
        return True

    wait_for(answered)


def test_images_that_kill_decoders_never_stop_the_service(tmp_path: Path, one_model: tuple) -> None:
    """Each decoder dies of every 30th image, those that are started again too."""
    with running_server(
        tmp_path / "server",
        one_model[0],
        *FLAGS,
        "--restart-pause-seconds=0.2",
        VISIONLOOP_FAILPOINT="decoder.decode:30",
    ) as server:
        up(server.ready())
        with Load(server) as load:
            wait_for(lambda: server.metric("visionloop_restarts_total", process="decoder") >= 3)
            load.more()
        deaths = server.metric("visionloop_restarts_total", process="decoder")
        assert {error.code() for error in load.errors} == {grpc.StatusCode.UNAVAILABLE}
        assert len(load.errors) <= deaths + 2  # some deaths are not counted yet


def test_a_drain_answers_what_is_being_decoded_and_leaves_nobody(
    tmp_path: Path, one_model: tuple
) -> None:
    with running_server(tmp_path / "server", one_model[0], *FLAGS) as server:
        found = up(server.ready())
        for pid in found:
            os.kill(pid, signal.SIGSTOP)  # so that images are under way when it begins
        below = children(server.process.pid)
        with ThreadPoolExecutor(4) as pool:
            asked = [pool.submit(server.recognize, *IMAGES) for _ in range(4)]
            wait_for(lambda: server.metric("visionloop_inflight_requests") == 4)
            server.process.send_signal(signal.SIGTERM)
            wait_for(lambda: server.get("/readyz")[0] == 503)
            time.sleep(0.3)  # the quiet is over: it waits for its answers now
            assert server.process.poll() is None
            for pid in found:
                os.kill(pid, signal.SIGCONT)
            for one in asked:
                is_right(one.result(), list(range(12)))
        assert server.process.wait(timeout=30) == 0
        wait_for(lambda: not any(map(is_alive, below)), hint="the end of all children")


@pytest.mark.long
def test_a_killed_supervisor_leaves_no_decoder_behind(tmp_path: Path, one_model: tuple) -> None:
    with running_server(tmp_path / "server", one_model[0], *FLAGS) as server:
        found = up(server.ready())
        server.process.kill()
        server.process.wait()
        wait_for(lambda: not any(map(is_alive, found)), hint="the end of all decoders")


def test_by_default_a_machine_without_a_gpu_has_none(tmp_path: Path, one_model: tuple) -> None:
    with running_server(tmp_path / "server", one_model[0], "--front-ends=1") as server:
        is_right(server.ready().recognize(*IMAGES), list(range(12)))
        assert running(server.process.pid, DECODER) == []


def test_decoders_that_do_not_start_leave_decoding_to_threads(
    tmp_path: Path, one_model: tuple
) -> None:
    """As where the machine has no memory left for them."""
    broken = tmp_path / "site" / "sitecustomize.py"
    broken.parent.mkdir()
    broken.write_text(
        f"import os, sys\nif any('{DECODER}' in word for word in sys.orig_argv):\n    os._exit(3)\n"
    )
    path = os.pathsep.join([str(broken.parent), os.environ.get("PYTHONPATH", "")])
    with running_server(
        tmp_path / "server", one_model[0], *FLAGS, "--restart-pause-seconds=0.2", PYTHONPATH=path
    ) as server:
        server.ready()
        is_right(server.recognize(*IMAGES), list(range(12)))
        wait_for(lambda: "does not come up (decoder 0 exited with code 3" in server.text())
        assert server.terminate() == 0
