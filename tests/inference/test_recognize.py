"""visionloop.v1.Recognition, asked of the real server."""

import asyncio
import hashlib
import io
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from PIL import Image
from support.bundles import (
    LABELS,
    NOT_SURE,
    answers,
    build_bundle,
    encoded,
    graph,
    of_several,
)
from support.inference_server import Server, running_server
from support.waiting import wait_for

from visionloop.bundle import Bundle, BundleLabel, ClassificationBundle, TensorOutput
from visionloop.calibration import Thresholds
from visionloop.client import Client
from visionloop.prediction_id import PredictionId
from visionloop.proto.v1 import recognition_pb2 as pb
from visionloop.proto.v1 import recognition_pb2_grpc
from visionloop_inference.datatypes import Answer, Tensor
from visionloop_inference.decoding import Decoded
from visionloop_inference.results import TURN, Classification, MultiLabel, Results

GRAPH = graph(1).SerializeToString()


def probabilities(result: pb.ImageResult) -> list[float]:
    """In the order of LABELS."""
    found = {label.class_id: label.probability for label in result.classification.labels}
    return [found[name] for name in LABELS]


def test_an_answer_that_is_no_number_is_an_error_of_its_image(tmp_path: Path) -> None:
    task = Classification(build_bundle(tmp_path, golden=1, before_ready=1))
    rows = np.asarray([[0.1, 0.7, 0.2], [np.nan, 0.5, 0.5]], np.float32)
    answer = Answer({"probabilities": Tensor("FP32", rows.shape, rows.tobytes())})
    decoded = [Decoded(np.zeros((1, 1, 3), np.uint8), 1, 1, "0" * 64)] * 2
    request = pb.RecognizeRequest(images=[pb.EncodedImage(id="a"), pb.EncodedImage(id="b")])
    response = asyncio.run(task.respond(request, decoded, answer))
    good, bad = response.results
    assert (good.status.code, good.classification.labels[0].class_id) == (0, LABELS[1])
    assert bad.status.code != 0
    assert "no number" in bad.status.message
    assert not bad.classification.labels
    assert not bad.prediction_id


def test_an_image_unlike_the_training_images_is_not_sure_however_probable(tmp_path: Path) -> None:
    old = build_bundle(tmp_path, golden=1, before_ready=1)
    distance = TensorOutput(name="distance", kind="distance", shape=[1])
    bundle = old.model_copy(update={"outputs": [*old.outputs, distance]})
    far = np.asarray([[0.1], [0.3], [np.nan]], np.float32)
    logits = np.asarray([[9.0, 1.0, 1.0], [2.0, -6.0, -6.0], [9.0, 8.9, 1.0]], np.float32)
    chances = np.asarray(
        [[0.99, 0.005, 0.005], [0.99, 0.005, 0.005], [0.5, 0.49, 0.01]], np.float32
    )
    answer = Answer(
        {
            "logits": Tensor("FP32", logits.shape, logits.tobytes()),
            "probabilities": Tensor("FP32", chances.shape, chances.tobytes()),
            "distance": Tensor("FP32", far.shape, far.tobytes()),
        }
    )
    decoded = [Decoded(np.zeros((1, 1, 3), np.uint8), 1, 1, "0" * 64)] * 3
    request = pb.RecognizeRequest(images=[pb.EncodedImage(id=name) for name in "abc"])

    def reasons(
        thresholds: Thresholds, bundle: ClassificationBundle = bundle
    ) -> list[tuple[bool, str]]:
        task = Classification(bundle.model_copy(update={"thresholds": thresholds}))
        response = asyncio.run(task.respond(request, decoded, answer))
        told = [r.classification for r in response.results]
        return [(one.not_sure, one.not_sure_reason) for one in told]

    low = (True, "low_probability")
    assert reasons(Thresholds(not_sure=NOT_SURE)) == [(False, ""), (False, ""), low]
    unfamiliar = (True, "unfamiliar")
    # What is no number is not known to be near.
    by_distance = [(False, ""), unfamiliar, unfamiliar]
    assert reasons(Thresholds(not_sure=NOT_SURE, distance=0.2)) == by_distance
    # Bundles of before there was a distance: energies are about -9, -2 and -9.6.
    by_energy = [(False, ""), unfamiliar, low]
    assert reasons(Thresholds(not_sure=NOT_SURE, energy=-5.0), old) == by_energy


def test_answers_are_those_of_onnxruntime(server: Server) -> None:
    images = [encoded(i) for i in range(12)]
    response = server.recognize(*images)
    assert (response.model, response.version) == ("cells", 1)
    expected = answers(GRAPH, images)["probabilities"]
    for result, row in zip(response.results, expected, strict=True):
        assert probabilities(result) == pytest.approx(row.tolist(), abs=1e-5)
        best = int(np.argmax(row))
        first = result.classification.labels[0]
        assert (first.class_id, first.name) == (LABELS[best], LABELS[best].title())
        scores = [label.probability for label in result.classification.labels]
        assert scores == sorted(scores, reverse=True)
        assert result.classification.threshold == NOT_SURE
        assert result.classification.not_sure == (scores[0] < NOT_SURE)
        assert result.status.code == 0


def test_both_answers_of_not_sure_occur(server: Server) -> None:
    images = [encoded(i) for i in range(40)]
    expected = answers(GRAPH, images)["probabilities"].max(axis=1)
    picked = [images[int(np.argmin(expected))], images[int(np.argmax(expected))]]
    assert expected.min() < NOT_SURE < expected.max()  # else this test shows nothing
    results = server.recognize(*picked).results
    assert [result.classification.not_sure for result in results] == [True, False]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"])
def test_every_format_is_taken(server: Server, kind: str) -> None:
    image = encoded(3, kind=kind)
    [result] = server.recognize(image).results
    expected = answers(GRAPH, [image])["probabilities"][0]
    assert probabilities(result) == pytest.approx(expected.tolist(), abs=1e-5)


def test_the_prediction_id_names_model_version_and_image(server: Server) -> None:
    image = encoded(5)
    results = server.recognize(image, image).results
    ids = [PredictionId.parse(result.prediction_id) for result in results]
    assert ids[0] != ids[1]
    for found in ids:
        assert (found.model, found.version) == ("cells", 1)
        assert hashlib.sha256(image).hexdigest().startswith(found.digest)


def test_a_bad_image_costs_its_neighbours_nothing(server: Server) -> None:
    good = encoded(1)
    bad = [b"", b"%PDF-1.4", good[: len(good) // 2], b"<svg xmlns='http://www.w3.org/2000/svg'/>"]
    sent = [good, *bad, good]
    request = pb.RecognizeRequest(
        images=[pb.EncodedImage(data=data, id=f"image {i}") for i, data in enumerate(sent)]
    )
    stub = server.channel.unary_unary(
        "/visionloop.v1.Recognition/Recognize",
        request_serializer=pb.RecognizeRequest.SerializeToString,
        response_deserializer=pb.RecognizeResponse.FromString,
    )
    results = stub(request, timeout=30).results
    assert [result.image_id for result in results] == [f"image {i}" for i in range(6)]
    invalid = grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert [result.status.code for result in results] == [0, *[invalid] * 4, 0]
    reasons = [result.status.reason for result in results]
    assert reasons[:2] == ["", "empty"]
    assert reasons[3] == "truncated"
    for result in results[1:5]:
        assert result.status.message
        assert not result.prediction_id
        assert not result.HasField("classification")
    assert probabilities(results[0]) == probabilities(results[5])


def test_only_bad_images_are_answered_too(server: Server) -> None:
    [result] = server.recognize(b"nothing").results
    assert result.status.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]


def test_width_and_height_are_those_after_orientation(server: Server) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees to show
    output = io.BytesIO()
    Image.open(io.BytesIO(encoded(2))).crop((0, 0, 100, 60)).save(output, "JPEG", exif=exif)
    [result] = server.recognize(output.getvalue()).results
    assert (result.width, result.height) == (60, 100)


def test_our_client_beside_nvidias(server: Server, tmp_path: Path) -> None:
    image = tmp_path / "image.jpg"
    image.write_bytes(encoded(6))
    with Client(server.target) as ours, triton.InferenceServerClient(server.target) as theirs:
        assert theirs.is_server_ready()
        [found] = ours.recognize(image)
    expected = answers(GRAPH, [encoded(6)])["probabilities"][0]
    assert found.labels[0].class_id == LABELS[int(np.argmax(expected))]


def test_top_k(server: Server) -> None:
    image = encoded(4)
    assert [
        len(server.recognize(image, top_k=k).results[0].classification.labels) for k in (0, 1, 2, 9)
    ] == [3, 1, 2, 3]


def test_concurrent_requests_get_their_own_answers(server: Server) -> None:
    images = [encoded(100 + i) for i in range(48)]
    expected = answers(GRAPH, images)["probabilities"]
    before = server.metric("visionloop_batch_rows_sum")
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(server.recognize, images))
    for response, row in zip(found, expected, strict=True):
        assert probabilities(response.results[0]) == pytest.approx(row.tolist(), abs=1e-5)
    assert server.metric("visionloop_batch_rows_sum") - before == len(images)


@pytest.mark.parametrize(
    ("fields", "code", "words"),
    [
        ({"model": "dogs"}, "NOT_FOUND", "model 'dogs' is not served here; served are cells"),
        ({"version": "2"}, "NOT_FOUND", "version '2' of model 'cells' is not loaded; loaded is 1"),
        ({"version": "canary"}, "NOT_FOUND", "there is no canary"),
        ({"version": "v1"}, "NOT_FOUND", "version 'v1'"),
        ({"top_k": 1001}, "INVALID_ARGUMENT", "top_k is 1001; the limit is 1000"),
        ({"routing_key": "x" * 1025}, "INVALID_ARGUMENT", "routing_key has 1025 characters"),
    ],
)
def test_wrong_requests_are_said(
    server: Server, fields: dict[str, object], code: str, words: str
) -> None:
    with pytest.raises(grpc.RpcError) as refusal:
        server.recognize(encoded(1), **fields)
    assert refusal.value.code() is grpc.StatusCode[code]
    assert words in refusal.value.details()


@pytest.mark.parametrize("several", [False, True])
def test_others_have_their_turns_while_many_classes_are_told(tmp_path: Path, several: bool) -> None:
    """Of several classes an image all that it shows are told, whatever top_k is."""
    bundle = build_bundle(tmp_path, golden=1, before_ready=1)
    labels = [BundleLabel(id=str(number), name=str(number)) for number in range(1000)]
    many = {"labels": labels}
    task: Results = Classification(bundle.model_copy(update=many))
    if several:
        multi_label = of_several(bundle)
        low = multi_label.thresholds.model_copy(update={"present": [0.0005] * len(labels)})
        task = MultiLabel(multi_label.model_copy(update=many | {"thresholds": low}))

    async def turns(count: int) -> int:
        """Of the event loop, while all classes of so many images are told."""
        rows = np.full((count, len(labels)), 0.001, np.float32)
        answer = Answer({"probabilities": Tensor("FP32", rows.shape, rows.tobytes())})
        decoded = [Decoded(np.zeros((1, 1, 3), np.uint8), 1, 1, "0" * 64)] * count
        request = pb.RecognizeRequest(images=[pb.EncodedImage()] * count, top_k=several)
        working = asyncio.ensure_future(task.respond(request, decoded, answer))
        counted = 0
        while not working.done():
            counted += 1
            await asyncio.sleep(0)
        return counted

    assert asyncio.run(turns(64)) - asyncio.run(turns(1)) == 64 * len(labels) // TURN


@pytest.mark.parametrize("fields", [{"model": "m" * 2**20}, {"version": "v" * 2**20}])
def test_a_name_of_a_megabyte_does_not_come_back(server: Server, fields: dict[str, str]) -> None:
    [answer] = list(stream(server, [one(encoded(1), **fields)]))
    assert answer.status.code == grpc.StatusCode.NOT_FOUND.value[0]
    assert len(answer.status.message) < 500


@pytest.mark.parametrize("version", ["", "stable", "1"])
def test_the_ways_to_name_the_version_that_serves(server: Server, version: str) -> None:
    assert server.recognize(encoded(1), version=version, model="cells").version == 1


@pytest.mark.parametrize("count", [0, 17])
def test_the_number_of_images_is_limited(server: Server, count: int) -> None:
    with pytest.raises(grpc.RpcError) as refusal:
        server.recognize(*[b"x"] * count)
    assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert refusal.value.details() == f"images: {count} given; send 1 to 16 in one request"


# --- streams


def stream(server: Server, requests: Iterable[pb.RecognizeRequest], timeout: float = 60.0):
    stub = recognition_pb2_grpc.RecognitionStub(server.channel)
    return stub.RecognizeStream(iter(requests), timeout=timeout)


def one(image: bytes, **fields: object) -> pb.RecognizeRequest:
    return pb.RecognizeRequest(images=[pb.EncodedImage(data=image)], **fields)


def test_a_stream_answers_in_order_and_goes_on_after_failures(server: Server) -> None:
    images = [encoded(i) for i in range(60)]
    sent = [one(image) for image in images]
    sent[7] = one(images[7], model="dogs")
    sent[20] = pb.RecognizeRequest()
    sent[33] = one(b"no image")
    answered = list(stream(server, sent))
    expected = answers(GRAPH, images)["probabilities"]
    assert len(answered) == len(sent)
    for place, (answer, row) in enumerate(zip(answered, expected, strict=True)):
        if place in (7, 20):
            code = grpc.StatusCode.NOT_FOUND if place == 7 else grpc.StatusCode.INVALID_ARGUMENT
            assert (answer.status.code, answer.HasField("response")) == (code.value[0], False)
            assert answer.status.reason == ("not_found" if place == 7 else "invalid_input")
            continue
        assert answer.status.code == 0
        [result] = answer.response.results
        if place == 33:
            assert result.status.reason == "not_an_image"
        else:
            assert probabilities(result) == pytest.approx(row.tolist(), abs=1e-5)


@pytest.mark.parametrize("priority", [0, 2])
def test_a_stream_waits_for_room_where_a_call_is_refused(
    tmp_path: Path, one_model: tuple[str, Bundle], priority: int
) -> None:
    """More is sent at once than the server may hold; every request is answered all the same."""
    flags = ("--queue-rows=2", "--max-images=2", "--decode-threads=1")
    with running_server(tmp_path, one_model[0], *flags) as server:
        server.ready()
        images = [encoded(i % 10) for i in range(80)]
        requests = [
            pb.RecognizeRequest(
                images=[pb.EncodedImage(data=i) for i in images[n : n + 2]], priority=priority
            )
            for n in range(0, 80, 2)
        ]
        answered = list(stream(server, requests))
        assert [answer.status.code for answer in answered] == [0] * 40
        # Of low priority it waits in line; of the normal one it comes again and again, and is
        # counted once.
        assert server.metric("visionloop_request_duration_seconds_count", model="cells") == 40
        assert server.metric("visionloop_rejected_total", reason="queue_full") == 0
        failed = {"model": "cells", "version": "1", "reason": "REJECTED"}
        assert server.metric("nv_inference_request_failure", **failed) == 0


def test_the_clients_stream_against_the_service(server: Server, tmp_path: Path) -> None:
    images = [encoded(i) for i in range(100)]
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(images[0][:200])
    expected = answers(GRAPH, images)["probabilities"]
    with Client(server.target, channels=2) as client:
        results = list(client.recognize_stream([*images, bad, tmp_path / "none.jpg"], top_k=1))
    for result, row in zip(results[:100], expected, strict=True):
        assert result.label is not None
        assert result.label.class_id == LABELS[int(np.argmax(row))]
    assert [type(result.error).__name__ for result in results[100:]] == [
        "ImageError",
        "NotFoundError",
    ]


def test_a_caller_who_leaves_a_stream_leaves_nothing_behind(server: Server) -> None:
    forever = threading.Event()

    def requests() -> Iterator[pb.RecognizeRequest]:
        yield from (one(encoded(n)) for n in range(50))
        forever.wait(60)

    call = stream(server, requests())
    for _ in range(3):
        assert next(call).status.code == 0
    call.cancel()
    forever.set()
    wait_for(lambda: server.metric("visionloop_inflight_requests") == 0)
    wait_for(lambda: server.metric("visionloop_queue_rows", model="cells") == 0)
    assert server.recognize(encoded(1)).version == 1
