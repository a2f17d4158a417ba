"""inference.GRPCInferenceService: models as tensors, for KServe's, Triton's and our own clients.

Any model is served by its signature: inputs in any order, raw, typed or in shared memory, outputs
as asked for. A model of images also takes encoded images (BYTES); they go through the same decoder
as Recognize's. A request is one unit here: one bad row fails it.

A request is best handed over as the bytes that came, and its answer is bytes too then: tensors
stay where they are, and a kind of request that was seen before is not parsed again
(`raw_contents`, `plans`). Parsed messages are taken as well, at the price of serializing them.
"""

import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray

import visionloop
from visionloop.bundle import Bundle, ClassifierBundle
from visionloop.errors import ImageError, UnimplementedError, VisionloopError
from visionloop.preprocessing import Preprocessing
from visionloop.proto.inference import open_inference_pb2 as pb
from visionloop_inference.admission import deadline_of
from visionloop_inference.catalogue import Catalogue, RoutedModel
from visionloop_inference.datatypes import Buffer, Tensor
from visionloop_inference.decoder import Decoder
from visionloop_inference.decoding import stacked
from visionloop_inference.incidents import shown
from visionloop_inference.infer_stream import in_order
from visionloop_inference.levels import is_low
from visionloop_inference.model_config import Offer, config, metadata
from visionloop_inference.open_inference_extensions import Ask, Extensions, check_version
from visionloop_inference.planning import make_plan
from visionloop_inference.plans import Plan
from visionloop_inference.raw_contents import Parts, parse_header, take_apart
from visionloop_inference.replies import outputs, reply, stream_error, streamed
from visionloop_inference.routed_version import RoutedVersion
from visionloop_inference.shared_memory import Regions
from visionloop_inference.tensors import split_bytes
from visionloop_inference.together import together

MAX_KINDS = 256  # kinds of requests remembered, overall and for each version
MAX_KIND_BYTES = 2048  # what is longer is seldom sent twice
STREAM_REQUESTS = 64  # of one stream at a time
ROUTING_KEY = "routing_key"

InferContext = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True, slots=True)
class Route:
    """Where the requests of a kind go."""

    model: str
    version: str
    key: str  # requests with the same one get the same version, canary or not


class OpenInference(Extensions):
    """The servicer. Errors are raised; the front end maps them."""

    def __init__(
        self,
        catalogue: Catalogue,
        decoder: Decoder,
        ask: Ask,
        offer: Offer,
        regions: Regions | None = None,
    ) -> None:
        super().__init__(catalogue, ask, offer, regions)
        self._decoder = decoder
        self._routes: dict[bytes, Route] = {}

    async def ServerLive(
        self, _request: pb.ServerLiveRequest, _context: object
    ) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(
        self, _request: pb.ServerReadyRequest, _context: object
    ) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=self._catalogue.ready)

    async def ModelReady(
        self, request: pb.ModelReadyRequest, _context: object
    ) -> pb.ModelReadyResponse:
        try:
            ready = self._version(request.name, request.version).serving
        except VisionloopError:
            ready = False
        return pb.ModelReadyResponse(ready=ready)

    async def ServerMetadata(
        self, _request: pb.ServerMetadataRequest, _context: object
    ) -> pb.ServerMetadataResponse:
        return pb.ServerMetadataResponse(
            name="visionloop-inference",
            version=visionloop.__version__,
            extensions=self._offer.extensions,
        )

    async def ModelMetadata(
        self, request: pb.ModelMetadataRequest, _context: object
    ) -> pb.ModelMetadataResponse:
        version = self._version(request.name, request.version)
        if request.version:
            return metadata(version, [version.number])
        return metadata(version, sorted(self._catalogue.model(request.name).versions))

    async def ModelConfig(
        self, request: pb.ModelConfigRequest, _context: object
    ) -> pb.ModelConfigResponse:
        version = self._version(request.name, request.version)
        return pb.ModelConfigResponse(config=config(version, self._offer))

    async def ModelInfer(
        self, request: bytes | pb.ModelInferRequest, context: InferContext
    ) -> bytes | pb.ModelInferResponse:
        if isinstance(request, bytes):
            return await self._infer(take_apart(request), len(request), deadline_of(context))
        data = request.SerializeToString()
        answer = await self._infer(take_apart(data), len(data), deadline_of(context))
        return pb.ModelInferResponse.FromString(answer)

    async def ModelStreamInfer(
        self, requests: AsyncIterator[bytes | pb.ModelInferRequest], context: InferContext
    ) -> AsyncIterator[bytes | pb.ModelStreamInferResponse]:
        """A request that fails is answered in the stream, which goes on."""

        async def one(request: bytes | pb.ModelInferRequest) -> bytes | pb.ModelStreamInferResponse:
            if isinstance(request, bytes):
                return await self._streamed(request, deadline_of(context))
            answer = await self._streamed(request.SerializeToString(), deadline_of(context))
            return pb.ModelStreamInferResponse.FromString(answer)

        async for answer in in_order(requests, one, STREAM_REQUESTS):
            yield answer

    async def _streamed(self, data: bytes, deadline: float | None) -> bytes:
        ident = b""
        try:
            parts = take_apart(data)
            ident = parts.id
            return streamed(await self._infer(parts, len(data), deadline))
        except Exception as error:  # noqa: BLE001 — one request must not end the stream of others
            return stream_error(str(shown(error, "ModelStreamInfer")), ident)

    async def _infer(self, parts: Parts, size: int, deadline: float | None) -> bytes:
        """One request of `size` bytes; the serialized ModelInferResponse."""
        request = None  # parsed only when requests of its kind are new
        route = self._routes.get(parts.header)
        if route is None:
            request = parse_header(parts.header)
            route = self._new_route(parts.header, request)
        model = self._catalogue.model(route.model)
        with (
            model.duration.time(),
            model.version(route.version, route.key).use() as version,
        ):
            plan = version.plans.get(parts.header)
            if not isinstance(plan, Plan):
                request = parse_header(parts.header) if request is None else request
                plan = self._new_plan(parts.header, request, version)
            if plan.timeout is not None:
                deadline = _sooner(deadline, time.monotonic() + plan.timeout)
            return await self._run(model, version, plan, parts, size, deadline)

    async def _run(
        self,
        model: RoutedModel,
        version: RoutedVersion,
        plan: Plan,
        parts: Parts,
        size: int,
        deadline: float | None,
    ) -> bytes:
        images = plan.rows if plan.encoded else 0
        low = is_low(plan.priority)

        def predicted(rows: int) -> float:
            return self._decoder.seconds(images) + version.seconds(rows, low=low)

        if plan.regions and self._regions is not None:
            await self._regions.catch_up(plan.regions)
        size += plan.shared_bytes
        with model.admission.admit(plan.rows, size, deadline, predicted, low=low):
            buffers = plan.buffers(parts.raws, self._regions)
            if images:
                inputs = [await self._decode(plan, buffers[0], version.bundle)]
            else:
                inputs = plan.tensors(buffers)
            answer = await version.run(inputs, plan.rows, deadline, plan.priority)
            tensors = await outputs(plan, version, answer)
        return reply(plan, version.bundle, tensors, parts.id, self._regions)

    async def _decode(self, plan: Plan, buffer: Buffer, bundle: Bundle) -> Tensor:
        """Encoded images as the pixels that the graph takes."""
        if not isinstance(bundle, ClassifierBundle):
            raise UnimplementedError(f"model {bundle.model!r} does not take encoded images")
        encoded = split_bytes(buffer, plan.rows, plan.inputs[0].field)
        low = is_low(plan.priority)
        return stacked(await decode_all(self._decoder, encoded, bundle.preprocessing, low=low))

    def _new_route(self, header: bytes, request: pb.ModelInferRequest) -> Route:
        check_version(request.model_version)
        parameters = request.parameters
        key = parameters[ROUTING_KEY].string_param if ROUTING_KEY in parameters else ""
        route = Route(request.model_name, request.model_version, key)
        if len(header) <= MAX_KIND_BYTES:
            _keep(self._routes, header, route)
        return route

    def _new_plan(
        self, header: bytes, request: pb.ModelInferRequest, version: RoutedVersion
    ) -> Plan:
        plan = make_plan(request, version, self._offer)
        if len(header) <= MAX_KIND_BYTES and not plan.typed:
            _keep(version.plans, header, plan)
        return plan


async def decode_all(
    decoder: Decoder,
    encoded: Sequence[memoryview],
    preprocessing: Preprocessing,
    *,
    low: bool = False,
) -> list[NDArray[np.uint8]]:
    """The rows, (height, width, 3) each, of images decoded side by side.

    Raises ImageError, which names the image by its index; it ends the decoding of the others.
    """

    async def one(index: int) -> NDArray[np.uint8]:
        try:
            return (await decoder.decode(encoded[index], preprocessing, low=low)).row
        except ImageError as error:
            raise ImageError(
                f"image {index}: {error}", reason=error.reason, field=f"image[{index}]"
            ) from error

    return await together([one(index) for index in range(len(encoded))])


def _keep(kept: dict[Any, Any], key: bytes, value: object) -> None:
    """The oldest makes room."""
    if len(kept) >= MAX_KINDS:
        del kept[next(iter(kept))]
    kept[key] = value


def _sooner(deadline: float | None, other: float) -> float:
    return other if deadline is None else min(deadline, other)
