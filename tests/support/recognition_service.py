"""A real gRPC server of visionloop.v1.Recognition that answers as it is told; and both clients."""

import asyncio
from collections.abc import Callable
from concurrent import futures

import grpc

from visionloop.client import AsyncClient, Client, Recognition
from visionloop.proto.v1 import recognition_pb2 as pb
from visionloop.proto.v1 import recognition_pb2_grpc

Answer = Callable[[pb.RecognizeRequest, grpc.ServicerContext], pb.RecognizeResponse]


def echo(request: pb.RecognizeRequest, context: grpc.ServicerContext) -> pb.RecognizeResponse:
    """A result that names its image by its length; images that begin with "bad" are refused."""
    response = pb.RecognizeResponse(model=request.model or "default", version=7)
    for image in request.images:
        result = response.results.add(image_id=image.id)
        if image.data.startswith(b"bad"):
            result.status.code = grpc.StatusCode.INVALID_ARGUMENT.value[0]
            result.status.reason = "truncated"
            result.status.message = "the image is truncated"
            continue
        result.prediction_id = "id"
        result.width, result.height = len(image.data), 2
        best = result.classification
        best.not_sure = True
        best.labels.add(class_id="c1", name=str(len(image.data)), probability=0.75)
        best.labels.add(class_id="c2", name="other", probability=0.25)
    return response


class Servicer(recognition_pb2_grpc.RecognitionServicer):
    def __init__(self) -> None:
        self.answer: Answer = echo
        self.requests: list[pb.RecognizeRequest] = []
        self.peers: list[str] = []
        self.seconds_left: list[float] = []

    def Recognize(  # noqa: N802 - as the proto has it
        self, request: pb.RecognizeRequest, context: grpc.ServicerContext
    ) -> pb.RecognizeResponse:
        self.requests.append(request)
        self.peers.append(context.peer())
        self.seconds_left.append(context.time_remaining())
        return self.answer(request, context)


class Service:
    """The running server: its address, and what it was asked."""

    def __init__(self) -> None:
        self.servicer = Servicer()
        self.server = grpc.server(
            futures.ThreadPoolExecutor(8),
            options=[("grpc.max_receive_message_length", 64 * 2**20)],
        )
        recognition_pb2_grpc.add_RecognitionServicer_to_server(self.servicer, self.server)
        self.target = f"127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"
        self.server.start()

    def fail(
        self,
        code: grpc.StatusCode,
        details: str,
        *,
        times: int = 1_000_000,
        pushback: str | None = None,  # milliseconds
    ) -> None:
        """The next calls are answered by this status."""
        left = [times]

        def answer(
            request: pb.RecognizeRequest, context: grpc.ServicerContext
        ) -> pb.RecognizeResponse:
            if left[0] == 0:
                return echo(request, context)
            left[0] -= 1
            if pushback is not None:
                context.set_trailing_metadata((("grpc-retry-pushback-ms", pushback),))
            context.abort(code, details)
            raise AssertionError

        self.servicer.answer = answer


Ask = Callable[..., list[Recognition]]


def ask_sync(target: str, images: object, *, client: dict | None = None, **call: object) -> list:
    """One call of a new Client; `client` are its settings."""
    with Client(target, **{"timeout": 20.0, **(client or {})}) as made:
        return made.recognize(images, **call)


def ask_async(target: str, images: object, *, client: dict | None = None, **call: object) -> list:
    """The same by AsyncClient."""

    async def run() -> list[Recognition]:
        async with AsyncClient(target, **{"timeout": 20.0, **(client or {})}) as made:
            return await made.recognize(images, **call)

    return asyncio.run(run())
