"""visionloop.v1.Recognition, asked of the real server."""

import hashlib
import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from PIL import Image
from support.bundles import LABELS, NOT_SURE, answers, build_bundle, encoded, graph
from support.inference_server import Server

from visionloop.client import Client
from visionloop.prediction_id import PredictionId
from visionloop.proto.v1 import recognition_pb2 as pb
from visionloop_inference import recognition
from visionloop_inference.datatypes import Answer, Tensor
from visionloop_inference.decoding import Decoded

GRAPH = graph(1).SerializeToString()


def probabilities(result: pb.ImageResult) -> list[float]:
    """In the order of LABELS."""
    found = {label.class_id: label.probability for label in result.classification.labels}
    return [found[name] for name in LABELS]


def test_an_answer_that_is_no_number_is_an_error_of_its_image(tmp_path: Path) -> None:
    bundle = build_bundle(tmp_path, golden=1, before_ready=1)
    rows = np.asarray([[0.1, 0.7, 0.2], [np.nan, 0.5, 0.5]], np.float32)
    decoded = [Decoded(np.zeros((1, 1, 3), np.uint8), 1, 1, "0" * 64)] * 2
    request = pb.RecognizeRequest(images=[pb.EncodedImage(id="a"), pb.EncodedImage(id="b")])
    answer = Answer({"probabilities": Tensor("FP32", rows.shape, rows.tobytes())})
    response = recognition._respond(request, bundle, decoded, answer)
    good, bad = response.results
    assert (good.status.code, good.classification.labels[0].class_id) == (0, LABELS[1])
    assert bad.status.code != 0
    assert "no number" in bad.status.message
    assert not bad.classification.labels
    assert not bad.prediction_id


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
        ({"version": "canary"}, "NOT_FOUND", "version 'canary'"),
        ({"version": "v1"}, "NOT_FOUND", "version 'v1'"),
        ({"top_k": 1001}, "INVALID_ARGUMENT", "top_k is 1001; the limit is 1000"),
    ],
)
def test_wrong_requests_are_said(
    server: Server, fields: dict[str, object], code: str, words: str
) -> None:
    with pytest.raises(grpc.RpcError) as refusal:
        server.recognize(encoded(1), **fields)
    assert refusal.value.code() is grpc.StatusCode[code]
    assert words in refusal.value.details()


@pytest.mark.parametrize("version", ["", "stable", "1"])
def test_the_ways_to_name_the_version_that_serves(server: Server, version: str) -> None:
    assert server.recognize(encoded(1), version=version, model="cells").version == 1


@pytest.mark.parametrize("count", [0, 17])
def test_the_number_of_images_is_limited(server: Server, count: int) -> None:
    with pytest.raises(grpc.RpcError) as refusal:
        server.recognize(*[b"x"] * count)
    assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert refusal.value.details() == f"images: {count} given; send 1 to 16 in one request"
