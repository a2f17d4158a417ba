"""visionloop.v1.Recognition: encoded images in, labelled and calibrated results out."""

import asyncio
from collections.abc import Sequence

import grpc
import numpy as np
from numpy.typing import NDArray

from visionloop.bundle import ClassificationBundle
from visionloop.errors import ImageError, InvalidInputError, VisionloopError
from visionloop.prediction_id import PredictionId
from visionloop.proto.v1 import recognition_pb2 as pb
from visionloop.proto.v1 import recognition_pb2_grpc
from visionloop.telemetry import inference as metrics
from visionloop_inference.admission import check_count, deadline_of
from visionloop_inference.batching import Answer
from visionloop_inference.decoding import Decoded, Decoder
from visionloop_inference.lifecycle import ModelVersion
from visionloop_inference.runner import GraphRunFailedError
from visionloop_inference.served_model import ServedModel
from visionloop_inference.supervisor import Supervisor

MAX_TOP_K = 1000

Context = grpc.aio.ServicerContext[pb.RecognizeRequest, pb.RecognizeResponse]


class Recognition(recognition_pb2_grpc.RecognitionServicer):
    """The servicer. Errors of the request as a whole are raised; the front end maps them."""

    def __init__(self, supervisor: Supervisor, decoder: Decoder, max_images: int) -> None:
        self._supervisor = supervisor
        self._decoder = decoder
        self._max_images = max_images

    async def Recognize(  # noqa: N802 — the RPC's name
        self, request: pb.RecognizeRequest, context: Context
    ) -> pb.RecognizeResponse:
        model = self._supervisor.model(request.model)
        with model.duration.time():
            return await self._recognize(model, request, context)

    async def _recognize(
        self, model: ServedModel, request: pb.RecognizeRequest, context: Context
    ) -> pb.RecognizeResponse:
        count = len(request.images)
        check_count(count, self._max_images, "images")
        if request.top_k > MAX_TOP_K:
            raise InvalidInputError(
                f"top_k is {request.top_k}; the limit is {MAX_TOP_K}, and 0 means all classes",
                field="top_k",
            )
        deadline = deadline_of(context)
        with model.version(request.version).use() as version:

            def predicted(rows: int) -> float:
                return self._decoder.seconds(count) + version.runner.seconds(rows)

            with model.admission.admit(count, request.ByteSize(), deadline, predicted):
                images = await self._decode(request, version.bundle)
                rows = [image.row for image in images if isinstance(image, Decoded)]
                answer = Answer({}) if not rows else await version.runner.run(rows, deadline)
            return _respond(request, version, images, answer)

    async def _decode(
        self, request: pb.RecognizeRequest, bundle: ClassificationBundle
    ) -> Sequence[Decoded | ImageError]:
        async def one(image: pb.EncodedImage) -> Decoded | ImageError:
            try:
                return await self._decoder.decode(image.data, bundle.preprocessing)
            except ImageError as error:
                return error

        return await asyncio.gather(*map(one, request.images))


def _respond(
    request: pb.RecognizeRequest,
    version: ModelVersion,
    images: Sequence[Decoded | ImageError],
    answer: Answer,
) -> pb.RecognizeResponse:
    bundle = version.bundle
    response = pb.RecognizeResponse(model=bundle.model, version=bundle.version)
    output = bundle.output("probabilities")
    probabilities = answer.outputs[output.name] if output and answer.outputs else None
    row = 0
    for sent, image in zip(request.images, images, strict=True):
        result = response.results.add(image_id=sent.id)
        if isinstance(image, ImageError):
            _refuse(result, image)
            continue
        result.width, result.height = image.width, image.height
        failure = answer.failures.get(row)
        if failure is not None:
            _refuse(result, failure)
        elif probabilities is not None and not np.isfinite(probabilities[row]).all():
            _refuse(result, GraphRunFailedError("the graph's answer to this image is no number"))
        elif probabilities is not None:
            _classify(result.classification, probabilities[row], bundle, request.top_k)
            result.prediction_id = str(PredictionId.new(bundle.model, bundle.version, image.sha256))
        row += 1
    return response


def _classify(
    result: pb.Classification,
    probabilities: NDArray[np.float32],
    bundle: ClassificationBundle,
    top_k: int,
) -> None:
    """`probabilities` is (labels,). Ties keep the order of the labels."""
    order = np.argsort(-probabilities, kind="stable")[: top_k or MAX_TOP_K]
    for index in order:
        label = bundle.labels[index]
        result.labels.add(
            class_id=label.id, name=label.name, probability=float(probabilities[index])
        )
    best = result.labels[0]
    result.threshold = bundle.thresholds.not_sure
    result.not_sure = best.probability < result.threshold
    metrics.PREDICTIONS.labels(
        **{
            "model": bundle.model,
            "class": best.class_id,
            "confidence": "not_sure" if result.not_sure else "sure",
        }
    ).inc()


def _refuse(result: pb.ImageResult, error: VisionloopError) -> None:
    code: int = grpc.StatusCode[error.grpc_code].value[0]
    result.status.code = code
    result.status.reason = error.reason
    result.status.message = str(error)
