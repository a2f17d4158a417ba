"""The core of the Open Inference Protocol: models as tensors, for KServe's and Triton's clients.

A model's input takes pixels (UINT8, as the graph declares) or encoded images (BYTES); the latter
go through the same decoder as Recognize's. A request is one unit here: one bad row fails it.
"""

import asyncio
from collections.abc import Callable, Sequence

import grpc
import numpy as np
from numpy.typing import NDArray

import visionloop
from visionloop.bundle import ClassificationBundle
from visionloop.errors import (
    ImageError,
    InvalidInputError,
    UnimplementedError,
    VisionloopError,
)
from visionloop.proto.inference import open_inference_pb2 as pb
from visionloop.proto.inference import open_inference_pb2_grpc
from visionloop_inference.admission import deadline_of
from visionloop_inference.batching import Answer, Rows
from visionloop_inference.decoding import Decoder
from visionloop_inference.served_model import ServedModel
from visionloop_inference.supervisor import Supervisor
from visionloop_inference.tensors import add_output, check_input, encoded_images_of, pixels_of

PLATFORM = "onnxruntime_onnx"
# Triton's extensions that change the meaning of an answer: refused rather than ignored.
NOT_OFFERED = ("classification", "shared_memory_region", "sequence_id")

InferContext = grpc.aio.ServicerContext[pb.ModelInferRequest, pb.ModelInferResponse]


class OpenInference(open_inference_pb2_grpc.GRPCInferenceServiceServicer):
    """The servicer. Errors are raised; the front end maps them."""

    def __init__(
        self, supervisor: Supervisor, decoder: Decoder, max_rows: int, ready: Callable[[], bool]
    ) -> None:
        self._supervisor = supervisor
        self._ready = ready
        self._decoder = decoder
        self._max_rows = max_rows

    async def ServerLive(  # noqa: N802 — the RPCs' names, here and below
        self, _request: pb.ServerLiveRequest, _context: object
    ) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(  # noqa: N802
        self, _request: pb.ServerReadyRequest, _context: object
    ) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=self._ready())

    async def ModelReady(  # noqa: N802
        self, request: pb.ModelReadyRequest, _context: object
    ) -> pb.ModelReadyResponse:
        try:
            self._supervisor.model(request.name).version(request.version)
        except VisionloopError:
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=True)

    async def ServerMetadata(  # noqa: N802
        self, _request: pb.ServerMetadataRequest, _context: object
    ) -> pb.ServerMetadataResponse:
        return pb.ServerMetadataResponse(
            name="visionloop-inference", version=visionloop.__version__
        )

    async def ModelMetadata(  # noqa: N802
        self, request: pb.ModelMetadataRequest, _context: object
    ) -> pb.ModelMetadataResponse:
        bundle = self._supervisor.model(request.name).version(request.version).bundle
        spec = bundle.input
        metadata = pb.ModelMetadataResponse(
            name=bundle.model, versions=[str(bundle.version)], platform=PLATFORM
        )
        metadata.inputs.add(
            name=spec.name, datatype=spec.datatype, shape=[-1, spec.height, spec.width, 3]
        )
        for output in bundle.outputs:
            metadata.outputs.add(
                name=output.name, datatype=output.datatype, shape=[-1, *output.shape]
            )
        return metadata

    async def ModelInfer(  # noqa: N802
        self, request: pb.ModelInferRequest, context: InferContext
    ) -> pb.ModelInferResponse:
        model = self._supervisor.model(request.model_name)
        with model.duration.time():
            return await self._infer(model, request, context)

    async def _infer(
        self, model: ServedModel, request: pb.ModelInferRequest, context: InferContext
    ) -> pb.ModelInferResponse:
        deadline = deadline_of(context)
        with model.version(request.model_version).use() as version:
            bundle = version.bundle
            outputs = _requested_outputs(request, bundle)
            pixels: Rows = []
            encoded: Sequence[bytes] = []
            if check_input(request, bundle.input) == "BYTES":
                encoded = encoded_images_of(request, self._max_rows)
            else:
                pixels = pixels_of(request, bundle.input, self._max_rows)
            count = len(encoded) or len(pixels)

            def predicted(rows: int) -> float:
                return self._decoder.seconds(len(encoded)) + version.runner.seconds(rows)

            with model.admission.admit(count, request.ByteSize(), deadline, predicted):
                rows = await self._decode(encoded, bundle) if encoded else pixels
                answer = await version.runner.run(rows, deadline)
            return _respond(request, bundle, outputs, answer)

    async def _decode(self, encoded: Sequence[bytes], bundle: ClassificationBundle) -> Rows:
        async def one(index: int, data: bytes) -> NDArray[np.uint8]:
            try:
                return (await self._decoder.decode(data, bundle.preprocessing)).row
            except ImageError as error:
                raise ImageError(
                    f"image {index}: {error}", reason=error.reason, field=f"image[{index}]"
                ) from error

        images = [asyncio.ensure_future(one(i, data)) for i, data in enumerate(encoded)]
        try:
            return await asyncio.gather(*images)
        finally:
            # One bad image ends the request and gives back its room: the others must not go on
            # being decoded, outside of all limits.
            for image in images:
                image.cancel()


def _requested_outputs(request: pb.ModelInferRequest, bundle: ClassificationBundle) -> list[str]:
    """The names of the outputs to give, in the request's order; none asked for means all."""
    known = [output.name for output in bundle.outputs]
    names = [output.name for output in request.outputs]
    for name in names:
        if name not in known:
            raise InvalidInputError(
                f"output {name!r} is not one of {', '.join(known)}", field="outputs"
            )
        if names.count(name) > 1:
            raise InvalidInputError(f"output {name!r} is asked for twice", field="outputs")
    refused = [
        parameter
        for parameters in (request.parameters, *(output.parameters for output in request.outputs))
        for parameter in parameters
        if parameter in NOT_OFFERED
    ]
    if refused:
        raise UnimplementedError(f"the parameter {refused[0]!r} is not offered by this server")
    return names or known


def _respond(
    request: pb.ModelInferRequest,
    bundle: ClassificationBundle,
    outputs: Sequence[str],
    answer: Answer,
) -> pb.ModelInferResponse:
    if answer.failures:
        row, failure = min(answer.failures.items())
        raise type(failure)(f"row {row}: {failure}") from failure
    response = pb.ModelInferResponse(
        model_name=bundle.model, model_version=str(bundle.version), id=request.id
    )
    for name in outputs:
        add_output(response, name, answer.outputs[name], raw=bool(request.raw_input_contents))
    return response
