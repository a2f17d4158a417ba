"""The gRPC face: `visionloop.v1.LabelingIngest` over the same functions as the HTTP one.

Messages may be larger than the image limit, so that an image that is too large is refused as one
row with a reason, not as a broken stream.
"""

import logging
from collections.abc import AsyncIterator, Awaitable
from datetime import datetime
from typing import Any, Final, NoReturn, TypeVar

import grpc
import grpc.aio
from google.protobuf.timestamp_pb2 import Timestamp
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection

from visionloop.errors import ConfigurationError, VisionloopError
from visionloop.proto.v1 import labeling_pb2 as pb
from visionloop.proto.v1 import labeling_pb2_grpc
from visionloop.telemetry.request_lines import RequestLines
from visionloop.telemetry.rpc import MetricsInterceptor
from visionloop_labeling.access_log import LoggedCalls
from visionloop_labeling.accounts import spoken_by
from visionloop_labeling.auth import CALLER, Gate
from visionloop_labeling.datasets import DatasetSummary
from visionloop_labeling.exports import ExportedLabel
from visionloop_labeling.grpc_callers import KnownCallers, abort
from visionloop_labeling.history import HistoryEntry
from visionloop_labeling.labels import AuthorKind
from visionloop_labeling.quotas import Quotas
from visionloop_labeling.receipts import ImageRow, Outcome, Receipt
from visionloop_labeling.service import LabelingService

MAX_MESSAGE_BYTES: Final = 96 * 2**20
_log = logging.getLogger(__name__)
SERVICE: Final = pb.DESCRIPTOR.services_by_name["LabelingIngest"].full_name
_Result = TypeVar("_Result")
_Context = grpc.aio.ServicerContext[Any, Any]

_KINDS: Final[dict[pb.AuthorKind, AuthorKind]] = {
    pb.AUTHOR_KIND_HUMAN: AuthorKind.HUMAN,
    pb.AUTHOR_KIND_IMPORT: AuthorKind.IMPORT,
    pb.AUTHOR_KIND_APP: AuthorKind.APP,
    pb.AUTHOR_KIND_MODEL: AuthorKind.MODEL,
}
_KIND_NUMBERS: Final = {kind: number for number, kind in _KINDS.items()}
_OUTCOMES: Final = {
    Outcome.ACCEPTED: pb.SubmitImageReceipt.ACCEPTED,
    Outcome.DUPLICATE: pb.SubmitImageReceipt.DUPLICATE,
    Outcome.REJECTED: pb.SubmitImageReceipt.REJECTED,
    Outcome.QUARANTINED: pb.SubmitImageReceipt.QUARANTINED,
}


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
            ],
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
            address = f"{host}:{port}"
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

    async def CreateDataset(  # noqa: N802 - the name on the wire
        self, request: pb.CreateDatasetRequest, context: _Context
    ) -> pb.Dataset:
        """See labeling.proto."""
        return _dataset(await _answer(context, self._service.create_dataset(request.name)))

    async def ListDatasets(  # noqa: N802 - the name on the wire
        self, _request: pb.ListDatasetsRequest, context: _Context
    ) -> pb.ListDatasetsResponse:
        """See labeling.proto."""
        found = await _answer(context, self._service.list_datasets())
        return pb.ListDatasetsResponse(datasets=[_dataset(one) for one in found])

    async def SubmitImages(  # noqa: N802 - the name on the wire
        self, requests: AsyncIterator[pb.SubmitImageRequest], context: _Context
    ) -> AsyncIterator[pb.SubmitImageReceipt]:
        """See labeling.proto."""
        rows = self._quotas.metered(
            CALLER.get(), (_row(request) async for request in requests), _size
        )
        receipts = self._service.submit_images(rows)
        async for receipt in _answers(context, receipts):
            yield _receipt(receipt)

    async def SubmitLabel(  # noqa: N802 - the name on the wire
        self, request: pb.SubmitLabelRequest, context: _Context
    ) -> pb.SubmitLabelReceipt:
        """See labeling.proto."""
        recorded = await _answer(
            context,
            self._service.submit_label(
                dataset=request.dataset,
                sha256=request.sha256,
                class_name=request.label.class_name,
                event_id=request.event_id,
                author_kind=_kind_name(request.author_kind),
                author=_author(request),
                base_sequence=(
                    request.base_sequence if request.HasField("base_sequence") else None
                ),
            ),
        )
        return pb.SubmitLabelReceipt(
            sequence=recorded.sequence, class_id=recorded.class_key, current=recorded.applied
        )

    async def CreateSnapshot(  # noqa: N802 - the name on the wire
        self, request: pb.CreateSnapshotRequest, context: _Context
    ) -> pb.SnapshotReceipt:
        """See labeling.proto."""
        cut = await _answer(context, self._service.create_snapshot(request.dataset))
        return pb.SnapshotReceipt(
            id=cut.manifest.id, created=cut.created, split_images=cut.manifest.split_images
        )

    async def ExportLabels(  # noqa: N802 - the name on the wire
        self, request: pb.ExportLabelsRequest, context: _Context
    ) -> AsyncIterator[pb.ExportedLabel]:
        """See labeling.proto."""
        async for page in _answers(context, self._service.export(request.dataset)):
            for label in page:
                yield _exported(label)

    async def GetHistory(  # noqa: N802 - the name on the wire
        self, request: pb.GetHistoryRequest, context: _Context
    ) -> pb.GetHistoryResponse:
        """See labeling.proto."""
        entries = await _answer(context, self._service.history(request.dataset, request.sha256))
        return pb.GetHistoryResponse(events=[_event(entry) for entry in entries])


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


def _kind_name(number: pb.AuthorKind) -> str:
    kind = AuthorKind.APP if number == pb.AUTHOR_KIND_UNSPECIFIED else _KINDS.get(number)
    return str(number) if kind is None else kind.value


def _author(request: pb.SubmitImageRequest | pb.SubmitLabelRequest) -> str:
    return spoken_by(CALLER.get(), request.author, _kind_name(request.author_kind))


def _row(request: pb.SubmitImageRequest) -> ImageRow:
    return ImageRow(
        dataset=request.dataset,
        batch=request.batch,
        ordinal=request.ordinal,
        image=request.image,
        label=request.label.class_name if request.HasField("label") else None,
        group=request.group,
        attributes=dict(request.attributes),
        author_kind=_kind_name(request.author_kind),
        author=_author(request),
        source=request.source,
    )


def _size(row: ImageRow) -> int:
    return len(row.image)


def _receipt(receipt: Receipt) -> pb.SubmitImageReceipt:
    return pb.SubmitImageReceipt(
        batch=receipt.batch,
        ordinal=receipt.ordinal,
        outcome=_OUTCOMES[receipt.outcome],
        sha256=receipt.sha256,
        reason=receipt.reason,
        message=receipt.message,
        field=receipt.field,
        replayed=receipt.replayed,
    )


def _dataset(summary: DatasetSummary) -> pb.Dataset:
    return pb.Dataset(
        name=summary.name,
        classes=[pb.LabelClass(id=key, name=name) for key, name in summary.classes],
        images=summary.images,
        labelled=summary.labelled,
        created=_time(summary.created),
    )


def _exported(label: ExportedLabel) -> pb.ExportedLabel:
    return pb.ExportedLabel(
        sha256=label.sha256,
        class_id=label.class_key,
        class_name=label.class_name,
        split=label.split,
        group=label.group,
        attributes=label.attributes,
        author_kind=_KIND_NUMBERS[label.author_kind],
        author=label.author,
        source=label.source,
        labelled=_time(label.labelled),
    )


def _event(entry: HistoryEntry) -> pb.LabelEvent:
    return pb.LabelEvent(
        sequence=entry.sequence,
        event_id=entry.event_id,
        class_id=entry.class_key,
        class_name=entry.class_name,
        author_kind=_KIND_NUMBERS[entry.author_kind],
        author=entry.author,
        at=_time(entry.at),
        current=entry.current,
    )


def _time(at: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(at)
    return stamp
