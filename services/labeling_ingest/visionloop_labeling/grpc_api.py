"""The gRPC face: `visionloop.v1.LabelingIngest` over the same functions as the HTTP one.

Messages may be larger than the image limit, so that an image that is too large is refused as one
row with a reason, not as a broken stream.
"""

import logging
from collections.abc import AsyncIterator, Awaitable
from typing import Any, Final, NoReturn, TypeVar

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection

from visionloop.errors import ConfigurationError, VisionloopError
from visionloop.flags import endpoint
from visionloop.proto.v1 import labeling_pb2 as pb
from visionloop.proto.v1 import labeling_pb2_grpc
from visionloop.telemetry.request_lines import RequestLines
from visionloop.telemetry.rpc import MetricsInterceptor
from visionloop_labeling.access_log import LoggedCalls
from visionloop_labeling.auth import CALLER, Gate
from visionloop_labeling.datasets import DatasetSummary
from visionloop_labeling.grpc_callers import KnownCallers, abort
from visionloop_labeling.grpc_messages import (
    dataset_message,
    event_message,
    format_named,
    label_message,
    receipt_message,
    recorded_message,
    row_of,
    settings_of,
    snapshot_message,
    statement_of,
)
from visionloop_labeling.labels import Recorded
from visionloop_labeling.quotas import Quotas
from visionloop_labeling.receipts import ImageRow
from visionloop_labeling.service import LabelingService

MAX_MESSAGE_BYTES: Final = 96 * 2**20
MAX_CALLS: Final = 1000  # under way; further ones get RESOURCE_EXHAUSTED
KEEPALIVE_SECONDS: Final = 60  # an idle connection is asked for a sign of life so often
_log = logging.getLogger(__name__)
SERVICE: Final = pb.DESCRIPTOR.services_by_name["LabelingIngest"].full_name
_Result = TypeVar("_Result")
_Context = grpc.aio.ServicerContext[Any, Any]


class GrpcServer:
    """The gRPC server with health and reflection; `port` is known once it is made."""

    def __init__(
        self,
        service: LabelingService,
        host: str,
        port: int,
        *,
        gate: Gate | None = None,
        credentials: grpc.ServerCredentials | None = None,
        lines: RequestLines | None = None,
    ) -> None:
        """Without a gate everybody may do everything, without credentials there is no TLS."""
        gate = gate or Gate(service.database)
        self._health = HealthServicer()
        self._server = grpc.aio.server(
            interceptors=[
                MetricsInterceptor(),
                *([LoggedCalls(lines)] if lines else []),
                KnownCallers(gate),
            ],
            options=[
                ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
                ("grpc.so_reuseport", 0),  # two programs on one port would share its calls
                # A caller whose machine vanished must not be kept for ever.
                ("grpc.keepalive_time_ms", KEEPALIVE_SECONDS * 1000),
                ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
            ],
            maximum_concurrent_rpcs=MAX_CALLS,
        )
        servicer = LabelingServicer(service, gate.quotas)
        labeling_pb2_grpc.add_LabelingIngestServicer_to_server(servicer, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection(
            (
                SERVICE,
                health_pb2.DESCRIPTOR.services_by_name["Health"].full_name,
                reflection.SERVICE_NAME,
            ),
            self._server,
        )
        try:
            address = endpoint(host, port)
            self.port: int = (
                self._server.add_insecure_port(address)
                if credentials is None
                else self._server.add_secure_port(address, credentials)
            )
        except RuntimeError as error:
            raise ConfigurationError(
                f"cannot listen on {host}:{port}; is another program there? Choose another "
                "--grpc-port, or 0 for any free one",
                field="grpc_port",
            ) from error

    async def start(self) -> None:
        """Serves from now on."""
        await self._server.start()
        for name in ("", SERVICE):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)

    async def not_serving(self) -> None:
        """Says so to who asks for its health, and serves on."""
        await self._health.enter_graceful_shutdown()

    async def stop(self, grace_seconds: float) -> None:
        """Takes no new calls and lets open ones finish."""
        await self.not_serving()
        await self._server.stop(grace_seconds)


class LabelingServicer(labeling_pb2_grpc.LabelingIngestServicer):
    """Translates between messages and `LabelingService`; decides nothing."""

    def __init__(self, service: LabelingService, quotas: Quotas) -> None:
        self._service = service
        self._quotas = quotas

    async def CreateDataset(
        self, request: pb.CreateDatasetRequest, context: _Context
    ) -> pb.Dataset:
        """See labeling.proto."""
        return dataset_message(await _answer(context, self._create(request)))

    async def ListDatasets(
        self, _request: pb.ListDatasetsRequest, context: _Context
    ) -> pb.ListDatasetsResponse:
        """See labeling.proto."""
        found = await _answer(context, self._service.list_datasets())
        return pb.ListDatasetsResponse(datasets=[dataset_message(one) for one in found])

    async def SubmitImages(
        self, requests: AsyncIterator[pb.SubmitImageRequest], context: _Context
    ) -> AsyncIterator[pb.SubmitImageReceipt]:
        """See labeling.proto."""
        rows = self._quotas.metered(
            CALLER.get(), (row_of(request) async for request in requests), _size
        )
        receipts = self._service.submit_images(rows)
        async for receipt in _answers(context, receipts):
            yield receipt_message(receipt)

    async def SubmitLabel(
        self, request: pb.SubmitLabelRequest, context: _Context
    ) -> pb.SubmitLabelReceipt:
        """See labeling.proto."""
        return recorded_message(await _answer(context, self._say(request)))

    async def CreateSnapshot(
        self, request: pb.CreateSnapshotRequest, context: _Context
    ) -> pb.SnapshotReceipt:
        """See labeling.proto."""
        cut = await _answer(context, self._service.create_snapshot(request.dataset))
        return snapshot_message(cut)

    async def ExportLabels(
        self, request: pb.ExportLabelsRequest, context: _Context
    ) -> AsyncIterator[pb.ExportedLabel]:
        """See labeling.proto."""
        async for page in _answers(context, self._service.export(request.dataset)):
            for label in page:
                yield label_message(label)

    async def Export(
        self, request: pb.ExportRequest, context: _Context
    ) -> AsyncIterator[pb.ExportPiece]:
        """See labeling.proto."""
        pieces = self._service.export_file(
            request.dataset, format_named(request.format), request.snapshot or None
        )
        async for piece in _answers(context, pieces):
            yield pb.ExportPiece(data=piece)

    async def GetHistory(
        self, request: pb.GetHistoryRequest, context: _Context
    ) -> pb.GetHistoryResponse:
        """See labeling.proto."""
        entries = await _answer(context, self._service.history(request.dataset, request.sha256))
        return pb.GetHistoryResponse(events=[event_message(entry) for entry in entries])

    async def _say(self, request: pb.SubmitLabelRequest) -> Recorded:
        statement = statement_of(request)
        return await self._service.submit_event(request.dataset, request.sha256, statement)

    async def _create(self, request: pb.CreateDatasetRequest) -> DatasetSummary:
        asked = request.HasField("settings")
        settings = settings_of(request.settings) if asked else None
        return await self._service.create_dataset(request.name, settings)


async def _answer(context: _Context, work: Awaitable[_Result]) -> _Result:
    """The result, or the error as a gRPC status."""
    try:
        return await work
    except Exception as error:  # noqa: BLE001 - told to the caller, and logged if it is ours
        await _abort(context, error)


async def _answers(context: _Context, results: AsyncIterator[_Result]) -> AsyncIterator[_Result]:
    try:
        async for result in results:
            yield result
    except Exception as error:  # noqa: BLE001 - told to the caller, and logged if it is ours
        await _abort(context, error)


async def _abort(context: _Context, error: Exception) -> NoReturn:
    if not isinstance(error, VisionloopError):
        # A fault of ours: its words stay in the log, they may name what callers need not know.
        _log.error("a call failed", exc_info=error)
        error = VisionloopError("the service failed; its log says why")
    await abort(context, error)


def _size(row: ImageRow) -> int:
    return len(row.image)
