"""The Open Inference Protocol, by NVIDIA's client and by hand, beside our own stubs."""

import asyncio
import struct
import threading

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from support.bundles import LABELS, SIDE, answers, encoded, graph, preprocessing
from support.inference_server import Server
from tritonclient.utils import InferenceServerException

from visionloop.errors import ImageError
from visionloop.images import decode
from visionloop.proto.inference import open_inference_pb2 as pb
from visionloop.proto.inference import open_inference_pb2_grpc
from visionloop_inference import decoder as decoder_module
from visionloop_inference.decoder import Decoder
from visionloop_inference.open_inference import decode_all

IMAGES = [encoded(i) for i in range(5)]
PIXELS = np.stack([preprocessing()(decode(image)) for image in IMAGES])
EXPECTED = answers(graph(1).SerializeToString(), IMAGES)


@pytest.fixture
def client(server: Server) -> triton.InferenceServerClient:
    with triton.InferenceServerClient(server.target) as made:
        yield made


@pytest.fixture
def stub(server: Server) -> open_inference_pb2_grpc.GRPCInferenceServiceStub:
    return open_inference_pb2_grpc.GRPCInferenceServiceStub(server.channel)


def pixel_input(pixels: np.ndarray = PIXELS) -> triton.InferInput:
    made = triton.InferInput("pixels", list(pixels.shape), "UINT8")
    made.set_data_from_numpy(pixels)
    return made


def test_live_ready_and_metadata(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("cells")
    assert client.is_model_ready("cells", "1")
    assert not client.is_model_ready("cells", "2")
    assert not client.is_model_ready("dogs")
    assert client.get_server_metadata().name == "visionloop-inference"
    metadata = client.get_model_metadata("cells", as_json=True)
    assert metadata["versions"] == ["1"]
    assert metadata["inputs"] == [
        {"name": "pixels", "datatype": "UINT8", "shape": ["-1", str(SIDE), str(SIDE), "3"]}
    ]
    assert [output["name"] for output in metadata["outputs"]] == list(EXPECTED)


def test_metadata_of_an_unknown_model(client: triton.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match="model 'dogs' is not served here"):
        client.get_model_metadata("dogs")


def test_infer_by_tritonclient(client: triton.InferenceServerClient) -> None:
    result = client.infer("cells", [pixel_input()], request_id="seven")
    for name, values in EXPECTED.items():
        np.testing.assert_allclose(result.as_numpy(name), values, atol=1e-5)
    answer = result.get_response()
    assert (answer.id, answer.model_name, answer.model_version) == ("seven", "cells", "1")


def test_outputs_are_chosen(client: triton.InferenceServerClient) -> None:
    wanted = [triton.InferRequestedOutput(name) for name in ("embedding", "logits")]
    result = client.infer("cells", [pixel_input()], outputs=wanted)
    assert [output.name for output in result.get_response().outputs] == ["embedding", "logits"]
    np.testing.assert_allclose(result.as_numpy("logits"), EXPECTED["logits"], atol=1e-5)


def test_encoded_images_by_tritonclient(client: triton.InferenceServerClient) -> None:
    sent = triton.InferInput("pixels", [len(IMAGES)], "BYTES")
    sent.set_data_from_numpy(np.asarray(IMAGES, dtype=np.object_))
    result = client.infer("cells", [sent])
    np.testing.assert_allclose(
        result.as_numpy("probabilities"), EXPECTED["probabilities"], atol=1e-5
    )


def test_encoded_images_typed_and_as_a_column(
    stub: open_inference_pb2_grpc.GRPCInferenceServiceStub,
) -> None:
    for shape in ([len(IMAGES)], [len(IMAGES), 1]):
        asked = pb.ModelInferRequest(model_name="cells", outputs=[{"name": "probabilities"}])
        asked.inputs.add(name="pixels", datatype="BYTES", shape=shape)
        asked.inputs[0].contents.bytes_contents.extend(IMAGES)
        [output] = stub.ModelInfer(asked, timeout=30).outputs
        assert list(output.shape) == [len(IMAGES), len(LABELS)]
        np.testing.assert_allclose(
            np.reshape(output.contents.fp32_contents, output.shape),
            EXPECTED["probabilities"],
            atol=1e-5,
        )


def test_typed_contents_are_answered_typed(
    stub: open_inference_pb2_grpc.GRPCInferenceServiceStub,
) -> None:
    request = pb.ModelInferRequest(model_name="cells")
    tensor = request.inputs.add(name="pixels", datatype="UINT8", shape=[1, SIDE, SIDE, 3])
    tensor.contents.uint_contents.extend(PIXELS[0].ravel().tolist())
    response = stub.ModelInfer(request, timeout=30)
    assert not response.raw_output_contents
    [probabilities] = [o for o in response.outputs if o.name == "probabilities"]
    assert list(probabilities.shape) == [1, len(LABELS)]
    assert list(probabilities.contents.fp32_contents) == pytest.approx(
        EXPECTED["probabilities"][0].tolist(), abs=1e-5
    )


def request(**changes: object) -> pb.ModelInferRequest:
    fields: dict[str, object] = {
        "model_name": "cells",
        "inputs": [{"name": "pixels", "datatype": "UINT8", "shape": PIXELS.shape}],
        "raw_input_contents": [PIXELS.tobytes()],
    }
    return pb.ModelInferRequest(**{**fields, **changes})


BAD_IMAGE = struct.pack("<I", len(IMAGES[0])) + IMAGES[0] + struct.pack("<I", 3) + b"bad"


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"model_name": "dogs"}, "NOT_FOUND", "model 'dogs'"),
        ({"model_version": "9"}, "NOT_FOUND", "loaded is 1"),
        ({"inputs": []}, "INVALID_ARGUMENT", "inputs are []"),
        ({"raw_input_contents": [b"1"]}, "INVALID_ARGUMENT", "1 bytes in raw_input_contents"),
        ({"outputs": [{"name": "boxes"}]}, "INVALID_ARGUMENT", "output 'boxes' is not one of"),
        (
            {"outputs": [{"name": "logits"}, {"name": "logits"}]},
            "INVALID_ARGUMENT",
            "'logits' is asked for twice",
        ),
        (
            {"parameters": {"sequence_id": {"int64_param": 1}}},
            "UNIMPLEMENTED",
            "'sequence_id' is not offered",
        ),
        (
            {
                "inputs": [{"name": "pixels", "datatype": "UINT8", "shape": [17, SIDE, SIDE, 3]}],
                "raw_input_contents": [bytes(17 * SIDE * SIDE * 3)],
            },
            "INVALID_ARGUMENT",
            "rows of pixels: 17 given; send 1 to 16",
        ),
        *(
            (
                {
                    "inputs": [{"name": "pixels", "datatype": "BYTES", "shape": shape}],
                    "raw_input_contents": [BAD_IMAGE],
                },
                "INVALID_ARGUMENT",
                words,
            )
            for shape, words in (
                ([], "it must be [n] or [n, 1] with n from 1 to 16"),
                ([2, 2], "it must be [n] or [n, 1]"),
                ([0], "with n from 1 to 16"),
                ([17], "with n from 1 to 16"),
                ([1], "bytes are left after the 1 elements"),
                ([3], "element 2 of 3 needs more bytes than are left"),
            )
        ),
        (
            {
                "inputs": [{"name": "pixels", "datatype": "BYTES", "shape": [2]}],
                "raw_input_contents": [BAD_IMAGE],
            },
            "INVALID_ARGUMENT",
            "image 1: ",
        ),
    ],
)
def test_wrong_requests_are_said(
    stub: open_inference_pb2_grpc.GRPCInferenceServiceStub,
    changes: dict[str, object],
    code: str,
    words: str,
) -> None:
    with pytest.raises(grpc.RpcError) as refusal:
        stub.ModelInfer(request(**changes), timeout=30)
    assert refusal.value.code() is grpc.StatusCode[code]
    assert words in refusal.value.details()


def test_a_bad_image_stops_the_decoding_of_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    decoded: list[bytes] = []

    def work(data: bytes, *_: object) -> None:
        if data == b"bad":
            raise ImageError("not an image", reason="not_an_image")
        decoded.append(data)
        release.wait(20)

    async def run() -> None:
        decoder = Decoder(2)
        sent = [memoryview(data) for data in (b"bad", *(b"%d" % n for n in range(20)))]
        with pytest.raises(ImageError, match="image 0"):
            await decode_all(decoder, sent, preprocessing())
        for _ in range(5):
            await asyncio.sleep(0)  # a cancellation takes a turn of the loop
        release.set()
        await asyncio.to_thread(decoder._pool.shutdown)

    monkeypatch.setattr(decoder_module, "decode", work)
    asyncio.run(run())
    assert len(decoded) <= 2  # what had begun, one for each thread


def test_classification_by_tritonclient(client: triton.InferenceServerClient) -> None:
    """Best first, as many as asked for; an output without classes gives no labels."""
    wanted = [
        triton.InferRequestedOutput("probabilities", class_count=2),
        triton.InferRequestedOutput("embedding", class_count=1),
    ]
    result = client.infer("cells", [pixel_input()], outputs=wanted)
    best = result.as_numpy("probabilities")
    assert best.shape == (len(IMAGES), 2)
    for row, expected in zip(best, EXPECTED["probabilities"], strict=True):
        value, index, label = row[0].decode().split(":")
        assert int(index) == int(expected.argmax())
        assert label == LABELS[int(index)].capitalize()
        assert float(value) == pytest.approx(float(expected.max()), abs=1e-5)
        assert float(value) >= float(row[1].decode().split(":")[0])
    assert result.as_numpy("embedding")[0, 0].decode().count(":") == 1
