"""A real gRPC server of visionloop.v1.LabelingIngest in the test's process, for its client."""

# ruff: noqa: N802 - RPCs have the names of the wire

from collections.abc import Callable, Iterator
from concurrent import futures
from datetime import UTC, datetime

import grpc

from visionloop.proto.v1 import labeling_pb2 as pb
from visionloop.proto.v1 import labeling_pb2_grpc

MOMENT = datetime(2026, 11, 22, 4, 30, tzinfo=UTC)


class Servicer(labeling_pb2_grpc.LabelingIngestServicer):
    """Keeps rows like the service does: the first answer to (batch, ordinal) is the answer.

    `interrupt(rows so far, context)` is called before each row and may abort the stream.
    """

    def __init__(self) -> None:
        self.rows: dict[tuple[str, int], pb.SubmitImageRequest] = {}
        self.streams = 0
        self.received = 0
        self.interrupt: Callable[[int, grpc.ServicerContext], None] = lambda rows, context: None
        self.requests: list[object] = []
        self.seconds_left: list[float | None] = []

    def SubmitImages(
        self, requests: Iterator[pb.SubmitImageRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.SubmitImageReceipt]:
        self.streams += 1
        for request in requests:
            self.interrupt(self.received, context)
            self.received += 1
            key = (request.batch, request.ordinal)
            replayed = key in self.rows
            self.rows.setdefault(key, request)
            yield pb.SubmitImageReceipt(
                batch=request.batch,
                ordinal=request.ordinal,
                outcome=pb.SubmitImageReceipt.ACCEPTED,
                sha256=f"{request.ordinal:064x}",
                replayed=replayed,
            )

    def CreateDataset(self, request: pb.CreateDatasetRequest, _: object) -> pb.Dataset:
        self.requests.append(request)
        return self._dataset(request.name)

    def ListDatasets(self, request: object, _: object) -> pb.ListDatasetsResponse:
        return pb.ListDatasetsResponse(datasets=[self._dataset("a"), self._dataset("b")])

    def _dataset(self, name: str) -> pb.Dataset:
        dataset = pb.Dataset(name=name, images=5, labelled=3)
        dataset.classes.add(id="c1", name="crack")
        dataset.created.FromDatetime(MOMENT)
        dataset.settings.task = pb.TASK_DETECTION
        dataset.settings.ratios.train = 1.0
        return dataset

    def SubmitLabel(
        self, request: pb.SubmitLabelRequest, context: grpc.ServicerContext
    ) -> pb.SubmitLabelReceipt:
        self.requests.append(request)
        if request.HasField("base_sequence") and request.base_sequence != 4:
            context.abort(grpc.StatusCode.ABORTED, "label 4 has come since")
        return pb.SubmitLabelReceipt(sequence=5, class_id="c1", current=True)

    def CreateSnapshot(
        self, request: pb.CreateSnapshotRequest, context: grpc.ServicerContext
    ) -> pb.SnapshotReceipt:
        if request.dataset == "none":
            context.abort(grpc.StatusCode.NOT_FOUND, "no dataset none")
        return pb.SnapshotReceipt(
            id="sha256-ab", created=True, split_images={"train": 8}, groups=7, largest_group=2,
            left_out={"no_class": 1},
        )  # fmt: skip

    def ExportLabels(
        self, request: pb.ExportLabelsRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.ExportedLabel]:
        self.seconds_left.append(context.time_remaining())
        for number in range(3):
            label = pb.ExportedLabel(
                sha256=str(number), class_id="c1", class_name="crack", split="train", group="g",
                attributes={"module": "mono"}, author_kind=pb.AUTHOR_KIND_HUMAN, author="ann",
            )  # fmt: skip
            label.labelled.FromDatetime(MOMENT)
            yield label
        if request.dataset == "breaks":
            context.abort(grpc.StatusCode.UNAVAILABLE, "draining")

    def Export(
        self, request: pb.ExportRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.ExportPiece]:
        self.seconds_left.append(context.time_remaining())
        self.requests.append(request)
        yield pb.ExportPiece(data=b"ab")
        if request.dataset == "breaks":
            context.abort(grpc.StatusCode.UNAVAILABLE, "draining")
        yield pb.ExportPiece(data=b"c")

    def GetHistory(self, request: object, _: object) -> pb.GetHistoryResponse:
        response = pb.GetHistoryResponse()
        event = response.events.add(
            sequence=1, event_id="e", class_id="c1", class_name="crack",
            author_kind=pb.AUTHOR_KIND_IMPORT, author="csv", current=True,
        )  # fmt: skip
        event.at.FromDatetime(MOMENT)
        return response


class Callers(grpc.ServerInterceptor):
    """Writes down the token of each call, by the RPC's name."""

    def __init__(self) -> None:
        self.tokens: dict[str, str] = {}

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], grpc.RpcMethodHandler],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler:
        metadata = dict(handler_call_details.invocation_metadata)
        name = handler_call_details.method.rpartition("/")[2]
        self.tokens[name] = metadata.get("authorization", "")
        return continuation(handler_call_details)


class Service:
    """A server that can go away and come back on its port, with its rows."""

    def __init__(self) -> None:
        self.servicer = Servicer()
        self.callers = Callers()
        self.port = 0
        self.start()

    def start(self) -> None:
        self.server = grpc.server(
            futures.ThreadPoolExecutor(8),
            interceptors=[self.callers],
            options=[("grpc.max_receive_message_length", 96 * 2**20), ("grpc.so_reuseport", 0)],
        )
        labeling_pb2_grpc.add_LabelingIngestServicer_to_server(self.servicer, self.server)
        self.port = self.server.add_insecure_port(f"127.0.0.1:{self.port}")
        self.server.start()

    def stop(self) -> None:
        self.server.stop(0).wait()

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"
