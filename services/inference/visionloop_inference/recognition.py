"""visionloop.v1.Recognition: encoded images in, labelled and calibrated results out."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from time import perf_counter
from typing import Any

import grpc

from visionloop.bundle import ClassifierBundle
from visionloop.errors import (
    ImageError,
    InvalidInputError,
    OverloadedError,
    VisionloopError,
)
from visionloop.proto.v1 import recognition_pb2 as pb
from visionloop.proto.v1 import recognition_pb2_grpc
from visionloop.recognition_messages import ROUTING_KEY
from visionloop_inference.admission import (
    MINIMUM_PUSHBACK,
    NoRoomError,
    check_count,
    deadline_of,
)
from visionloop_inference.auth import CALLER
from visionloop_inference.catalogue import Catalogue, RoutedModel
from visionloop_inference.datatypes import Answer, Buffer
from visionloop_inference.decoder import Decoder
from visionloop_inference.decoding import Decoded, stacked
from visionloop_inference.feedback import FeedbackInbox
from visionloop_inference.incidents import shown
from visionloop_inference.infer_stream import in_order
from visionloop_inference.levels import BULK, is_low, level_of
from visionloop_inference.recognize_request import Asked
from visionloop_inference.results import MAX_TOP_K, refuse, results_of
from visionloop_inference.routed_version import RoutedVersion, TriedAgainError
from visionloop_inference.together import together

MAX_KEY = 1024  # characters of a routing key
STREAM_REQUESTS = 16  # of one stream at a time
# A request of a stream that is refused is tried again for so long: whoever sends bulk work wants it
# done, and the stream holds him back by itself. Waiting in line for room does not count.
STREAM_PATIENCE = 30.0  # seconds
LONGEST_PAUSE = 1.0

Context = grpc.aio.ServicerContext[Any, Any]


class Recognition(recognition_pb2_grpc.RecognitionServicer):
    """The servicer. Errors of the request as a whole are raised; the front end maps them, and reads
    requests by `recognize_request`."""

    def __init__(
        self, catalogue: Catalogue, decoder: Decoder, max_images: int, feedback: FeedbackInbox
    ) -> None:
        self._catalogue = catalogue
        self._decoder = decoder
        self._max_images = max_images
        self._feedback = feedback

    async def Recognize(self, request: Asked, context: Context) -> pb.RecognizeResponse:
        level = level_of(request.message.priority)
        return await self._recognize(request, context, deadline_of(context), level)

    async def RecognizeStream(
        self, requests: AsyncIterator[Asked], context: Context
    ) -> AsyncIterator[pb.RecognizeStreamResponse]:
        deadline = deadline_of(context)
        await context.send_initial_metadata(())  # the call is taken; clients wait for it

        async def one(request: Asked) -> pb.RecognizeStreamResponse:
            try:
                response = await self._patiently(request, context, deadline)
            except Exception as error:  # noqa: BLE001 — one request must not end the stream of others
                return _failed(shown(error, "RecognizeStream"))
            return pb.RecognizeStreamResponse(status=pb.ImageStatus(), response=response)

        async def ready(request: Asked) -> None:
            """Reading stops while there is no room: what waits is not in our memory then."""
            with contextlib.suppress(VisionloopError):  # told as the request's answer
                await self._room(request)

        async for answer in in_order(requests, one, STREAM_REQUESTS, ready):
            yield answer

    async def SubmitFeedback(
        self, request: pb.SubmitFeedbackRequest, _context: Context
    ) -> pb.SubmitFeedbackResponse:
        return await self._feedback.submit(request, CALLER.get())

    async def _patiently(
        self, request: Asked, context: Context, deadline: float | None
    ) -> pb.RecognizeResponse:
        """As `_recognize`, but waits for room where there is none."""
        patience = _Patience(deadline)
        level = level_of(request.message.priority, BULK)
        while True:
            await self._room(request)
            try:
                return await self._recognize(request, context, deadline, level, patience)
            except TriedAgainError as refused:
                await asyncio.sleep(refused.seconds)

    async def _room(self, request: Asked) -> None:
        """Waits until a stream's request has room, if it is of low priority."""
        if is_low(level_of(request.message.priority, BULK)):
            admission = self._catalogue.model(request.message.model).admission
            await admission.room(len(request.images), request.size)

    async def _recognize(
        self,
        request: Asked,
        context: Context,
        deadline: float | None,
        level: int,
        patience: "_Patience | None" = None,
    ) -> pb.RecognizeResponse:
        """Raises TriedAgainError instead of a refusal at the door that `patience` bears; of such a
        try nothing is counted, for requests are, and not tries."""
        message = request.message
        model = self._catalogue.model(message.model)
        began, told = perf_counter(), True
        try:
            check_count(len(request.images), self._max_images, "images")
            _check(message)
            key = _routing_key(message, model, context)
            with model.version(message.version, key).use() as version:
                try:
                    return await self._answer(request, model, version, deadline, level, patience)
                except NoRoomError as error:
                    pause = patience.pause_after(error) if patience is not None else None
                    if pause is None:
                        raise
                    told = False
                    raise TriedAgainError(pause) from error
        finally:
            if told:
                model.duration.observe(perf_counter() - began)

    async def _answer(
        self,
        request: Asked,
        model: RoutedModel,
        version: RoutedVersion,
        deadline: float | None,
        level: int,
        patience: "_Patience | None",
    ) -> pb.RecognizeResponse:
        results = results_of(version)
        count, low = len(request.images), is_low(level)

        def predicted(rows: int) -> float:
            return self._decoder.seconds(count) + version.seconds(rows, low=low)

        with model.admission.admit(count, request.size, deadline, predicted, low=low):
            images = await self._decode(request.images, results.bundle, low=low)
            rows = [image.row for image in images if isinstance(image, Decoded)]
            answer = Answer({})
            if rows:
                run = partial(version.run, [stacked(rows)], len(rows), deadline, level)
                answer = await (run() if patience is None else patience.bear(run))
            return await results.respond(request.message, images, answer)

    async def _decode(
        self, images: Sequence[Buffer], bundle: ClassifierBundle, *, low: bool
    ) -> Sequence[Decoded | ImageError]:
        async def one(image: Buffer) -> Decoded | ImageError:
            try:
                return await self._decoder.decode(image, bundle.preprocessing, low=low)
            except ImageError as error:
                return error

        return await together([one(image) for image in images])


class _Patience:
    """How long a request of a stream is tried again while there is no room for it: at the door, or
    behind it in the shared memory of a runner."""

    def __init__(self, deadline: float | None) -> None:
        self._deadline = deadline
        self._paused = 0.0

    def pause_after(self, error: OverloadedError) -> float | None:
        """Seconds until the next try; None where there is none."""
        wish = error.retry_after_seconds or LONGEST_PAUSE
        pause = min(max(wish, MINIMUM_PUSHBACK), LONGEST_PAUSE)
        self._paused += pause
        in_time = self._deadline is None or time.monotonic() + pause < self._deadline
        return pause if in_time and self._paused < STREAM_PATIENCE else None

    async def bear(self, run: Callable[[], Awaitable[Answer]]) -> Answer:
        """What `run` gives, called again after each refusal that is borne. What was decoded for it
        is kept, and so is its room at the door."""
        while True:
            try:
                return await run()
            except OverloadedError as error:
                pause = self.pause_after(error)
                if pause is None:
                    raise
            await asyncio.sleep(pause)


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


def _failed(error: VisionloopError) -> pb.RecognizeStreamResponse:
    answer = pb.RecognizeStreamResponse(
        retry_after_seconds=getattr(error, "retry_after_seconds", None) or 0.0
    )
    refuse(answer.status, error)
    return answer
