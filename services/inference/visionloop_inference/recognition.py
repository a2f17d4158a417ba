"""visionloop.v1.Recognition: encoded images in, labelled and calibrated results out."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray

from visionloop.bundle import ClassificationBundle
from visionloop.errors import (
    ImageError,
    InvalidInputError,
    OverloadedError,
    UnimplementedError,
    VisionloopError,
)
from visionloop.prediction_id import PredictionId
from visionloop.proto.v1 import recognition_pb2 as pb
from visionloop.proto.v1 import recognition_pb2_grpc
from visionloop.recognition_messages import ROUTING_KEY
from visionloop.telemetry import inference as metrics
from visionloop_inference.admission import check_count, deadline_of
from visionloop_inference.auth import CALLER
from visionloop_inference.catalogue import (
    Catalogue,
    GraphRunFailedError,
    RoutedModel,
    RoutedVersion,
)
from visionloop_inference.datatypes import Answer, Tensor
from visionloop_inference.decoding import Decoded, Decoder
from visionloop_inference.feedback import FeedbackInbox
from visionloop_inference.incidents import shown
from visionloop_inference.infer_stream import in_order

MAX_TOP_K = 1000
MAX_PRIORITY = 255
MAX_KEY = 1024  # characters of a routing key
STREAM_REQUESTS = 16  # of one stream at a time
# A request of a stream waits so long for room before it is refused like any other: whoever sends
# bulk work wants it done, and the stream holds him back by itself.
STREAM_PATIENCE = 30.0  # seconds
LONGEST_PAUSE = 1.0
# Why an answer is "not sure", the two words of the proto.
LOW_PROBABILITY, UNFAMILIAR = "low_probability", "unfamiliar"

Context = grpc.aio.ServicerContext[Any, Any]


class Recognition(recognition_pb2_grpc.RecognitionServicer):
    """The servicer. Errors of the request as a whole are raised; the front end maps them."""

    def __init__(
        self, catalogue: Catalogue, decoder: Decoder, max_images: int, feedback: FeedbackInbox
    ) -> None:
        self._catalogue = catalogue
        self._decoder = decoder
        self._max_images = max_images
        self._feedback = feedback

    async def Recognize(  # noqa: N802 — the RPCs' names, here and below
        self, request: pb.RecognizeRequest, context: Context
    ) -> pb.RecognizeResponse:
        return await self._recognize(request, context, deadline_of(context))

    async def RecognizeStream(  # noqa: N802
        self, requests: AsyncIterator[pb.RecognizeRequest], context: Context
    ) -> AsyncIterator[pb.RecognizeStreamResponse]:
        deadline = deadline_of(context)
        await context.send_initial_metadata(())  # the call is taken; clients wait for it

        async def one(request: pb.RecognizeRequest) -> pb.RecognizeStreamResponse:
            try:
                response = await self._patiently(request, context, deadline)
            except Exception as error:  # noqa: BLE001 — one request must not end the stream of others
                return _failed(shown(error, "RecognizeStream"))
            return pb.RecognizeStreamResponse(status=pb.ImageStatus(), response=response)

        async for answer in in_order(requests, one, STREAM_REQUESTS):
            yield answer

    async def SubmitFeedback(  # noqa: N802
        self, request: pb.SubmitFeedbackRequest, _context: Context
    ) -> pb.SubmitFeedbackResponse:
        return await self._feedback.submit(request, CALLER.get())

    async def _patiently(
        self, request: pb.RecognizeRequest, context: Context, deadline: float | None
    ) -> pb.RecognizeResponse:
        """As `_recognize`, but waits for room where there is none."""
        end = time.monotonic() + STREAM_PATIENCE
        while True:
            try:
                return await self._recognize(request, context, deadline)
            except OverloadedError as error:
                pause = min(error.retry_after_seconds or LONGEST_PAUSE, LONGEST_PAUSE)
                back = time.monotonic() + pause
                if back >= end or (deadline is not None and back >= deadline):
                    raise
                await asyncio.sleep(pause)

    async def _recognize(
        self, request: pb.RecognizeRequest, context: Context, deadline: float | None
    ) -> pb.RecognizeResponse:
        model = self._catalogue.model(request.model)
        with model.duration.time():
            count = len(request.images)
            check_count(count, self._max_images, "images")
            _check(request)
            key = _routing_key(request, model, context)
            with model.version(request.version, key).use() as version:
                return await self._answer(request, model, version, deadline)

    async def _answer(
        self,
        request: pb.RecognizeRequest,
        model: RoutedModel,
        version: RoutedVersion,
        deadline: float | None,
    ) -> pb.RecognizeResponse:
        task = classification_of(version)
        count = len(request.images)

        def predicted(rows: int) -> float:
            return self._decoder.seconds(count) + version.seconds(rows)

        with model.admission.admit(count, request.ByteSize(), deadline, predicted):
            images = await self._decode(request, task.bundle)
            rows = [image.row for image in images if isinstance(image, Decoded)]
            answer = Answer({})
            if rows:
                priority = min(request.priority, MAX_PRIORITY)
                answer = await version.run([_pixels(rows)], len(rows), deadline, priority)
        return task.respond(request, images, answer)

    async def _decode(
        self, request: pb.RecognizeRequest, bundle: ClassificationBundle
    ) -> Sequence[Decoded | ImageError]:
        async def one(image: pb.EncodedImage) -> Decoded | ImageError:
            try:
                return await self._decoder.decode(image.data, bundle.preprocessing)
            except ImageError as error:
                return error

        if len(request.images) == 1:
            return [await one(request.images[0])]
        return await asyncio.gather(*map(one, request.images))


class Classification:
    """How one version's answers are told: labels, threshold, and the counters of its classes."""

    def __init__(self, bundle: ClassificationBundle) -> None:
        self.bundle = bundle
        output = bundle.output("probabilities")
        self._output = output.name if output is not None else None
        self._counted: dict[tuple[int, bool], Any] = {}

    def respond(
        self,
        request: pb.RecognizeRequest,
        images: Sequence[Decoded | ImageError],
        answer: Answer,
    ) -> pb.RecognizeResponse:
        """One result per image. `answer` holds a row for each that could be decoded."""
        bundle = self.bundle
        response = pb.RecognizeResponse(model=bundle.model, version=bundle.version)
        tensor = answer.outputs.get(self._output) if self._output is not None else None
        probabilities = tensor.array if tensor is not None else None  # (rows, labels) float32
        unfamiliar = self._unfamiliar(answer)  # (rows,)
        row = 0
        for sent, image in zip(request.images, images, strict=True):
            result = response.results.add(image_id=sent.id)
            if isinstance(image, ImageError):
                _refuse(result.status, image)
                continue
            result.width, result.height = image.width, image.height
            failure = answer.failures.get(row)
            if failure is not None:
                _refuse(result.status, GraphRunFailedError(failure))
            elif probabilities is not None:
                strange = unfamiliar is not None and bool(unfamiliar[row])
                self._tell(result, probabilities[row], strange, request.top_k, image.sha256)
            row += 1
        return response

    def _unfamiliar(self, answer: Answer) -> NDArray[np.bool_] | None:
        """(rows,): whether an image lies further from the training images than the bundle's limit.

        That is a distance that the graph gives or, in older bundles, the energy -log Σ exp(logit).
        None where the bundle sets no limit, or lacks the output. What is no number is unfamiliar.
        """
        limits = self.bundle.thresholds
        if limits.distance is not None:
            distances = self._array(answer, "distance")
            return None if distances is None else ~(distances[:, 0] <= limits.distance)
        logits = self._array(answer, "logits") if limits.energy is not None else None
        return None if logits is None else ~(-np.logaddexp.reduce(logits, axis=1) <= limits.energy)

    def _array(self, answer: Answer, kind: str) -> NDArray[np.float32] | None:
        """(rows, …): the output of this kind; None where the bundle or the answer has none."""
        output = self.bundle.output(kind)
        tensor = answer.outputs.get(output.name) if output is not None else None
        return None if tensor is None else tensor.array

    def _tell(
        self,
        result: pb.ImageResult,
        probabilities: NDArray[np.float32],
        unfamiliar: bool,
        top_k: int,
        sha256: str,
    ) -> None:
        """`probabilities` is (labels,). Ties keep the order of the labels."""
        if not np.isfinite(probabilities).all():
            _refuse(
                result.status,
                GraphRunFailedError("the graph's answer to this image is no number"),
            )
            return
        bundle = self.bundle
        labels = bundle.labels
        order = np.argsort(-probabilities, kind="stable")[: top_k or MAX_TOP_K].tolist()
        told = result.classification
        for index in order:
            label = labels[index]
            told.labels.add(
                class_id=label.id, name=label.name, probability=float(probabilities[index])
            )
        told.threshold = bundle.thresholds.not_sure
        if unfamiliar:
            told.not_sure_reason = UNFAMILIAR
        elif told.labels[0].probability < told.threshold:
            told.not_sure_reason = LOW_PROBABILITY
        told.not_sure = bool(told.not_sure_reason)
        result.prediction_id = str(PredictionId.new(bundle.model, bundle.version, sha256))
        self._count(order[0], told.not_sure)

    def _count(self, index: int, not_sure: bool) -> None:
        counter = self._counted.get((index, not_sure))
        if counter is None:
            counter = self._counted[index, not_sure] = metrics.PREDICTIONS.labels(
                **{
                    "model": self.bundle.model,
                    "class": self.bundle.labels[index].id,
                    "confidence": "not_sure" if not_sure else "sure",
                }
            )
        counter.inc()


def classification_of(version: RoutedVersion) -> Classification:
    """The version's way to tell answers, made once. Raises UnimplementedError for other tasks."""
    found = version.plans.get(Classification)
    if isinstance(found, Classification):
        return found
    bundle = version.bundle
    if not isinstance(bundle, ClassificationBundle):
        raise UnimplementedError(
            f"model {version.model!r} takes tensors, not images: its task is {bundle.task!r}; "
            "call inference.GRPCInferenceService/ModelInfer"
        )
    made = version.plans[Classification] = Classification(bundle)
    return made


def _check(request: pb.RecognizeRequest) -> None:
    if request.top_k > MAX_TOP_K:
        raise InvalidInputError(
            f"top_k is {request.top_k}; the limit is {MAX_TOP_K}, and 0 means all classes",
            field="top_k",
        )
    if len(request.routing_key) > MAX_KEY:
        raise InvalidInputError(
            f"routing_key has {len(request.routing_key)} characters; the limit is {MAX_KEY}",
            field="routing_key",
        )


def _routing_key(request: pb.RecognizeRequest, model: RoutedModel, context: Context) -> str:
    """What keeps a caller's choice between stable and canary the same."""
    if request.routing_key or model.canary is None:
        return request.routing_key
    for name, value in context.invocation_metadata() or ():
        if name == ROUTING_KEY and isinstance(value, str):
            return value[:MAX_KEY]
    return ""


def _pixels(rows: Sequence[NDArray[np.uint8]]) -> Tensor:
    """Rows of (height, width, 3) as one tensor; a single one is not copied."""
    pixels = rows[0][np.newaxis] if len(rows) == 1 else np.stack(rows)
    return Tensor("UINT8", pixels.shape, np.ascontiguousarray(pixels).reshape(-1).data)


def _refuse(status: pb.ImageStatus, error: VisionloopError) -> None:
    code: int = grpc.StatusCode[error.grpc_code].value[0]
    status.code = code
    status.reason = error.reason
    status.message = str(error)


def _failed(error: VisionloopError) -> pb.RecognizeStreamResponse:
    answer = pb.RecognizeStreamResponse(
        retry_after_seconds=getattr(error, "retry_after_seconds", None) or 0.0
    )
    _refuse(answer.status, error)
    return answer
