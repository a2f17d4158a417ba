"""The client of the labeling-ingest service: images and labels in, snapshots and labels out.

    with LabelingClient("labeling:8081") as client:
        client.create_dataset("solar-cells")
        for receipt in client.submit_images(rows):
            print(receipt.ordinal, receipt.outcome, receipt.message)

Submitting is a resumable stream: a row counts as sent when its receipt is there, and a broken
connection is mended by sending the rows without one again, which is safe because the service
answers a known (batch, ordinal) from its first receipt. The price is that the rows in flight (64 of
them, or 32 MB) are kept in memory. Needs grpcio and protobuf alone.
"""

import time
import uuid
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, Self

import grpc

from visionloop.annotation import Annotation, Box, Mask, Polygon, annotation_message
from visionloop.channels import (
    authorization,
    channel_options,
    check_target,
    check_timeout,
    closed,
    error_from,
)
from visionloop.errors import DeadlineExceededError, UnavailableError
from visionloop.labeling_messages import (
    AuthorKind,
    Dataset,
    DatasetSettings,
    EventKind,
    ExportedLabel,
    ExportFormat,
    LabelClass,
    LabelEvent,
    LabelReceipt,
    Outcome,
    Receipt,
    Row,
    SnapshotReceipt,
    SubmitImage,
    dataset_from,
    event_from,
    event_kind,
    format_number,
    label_from,
    settings_message,
    snapshot_from,
)
from visionloop.labeling_messages import author_kind as kind_of
from visionloop.proto.v1 import labeling_pb2 as pb
from visionloop.proto.v1 import labeling_pb2_grpc
from visionloop.resumable import Window

__all__ = [
    "Annotation",
    "AuthorKind",
    "Box",
    "Dataset",
    "DatasetSettings",
    "EventKind",
    "ExportFormat",
    "ExportedLabel",
    "LabelClass",
    "LabelEvent",
    "LabelReceipt",
    "LabelingClient",
    "Mask",
    "Outcome",
    "Polygon",
    "Receipt",
    "SnapshotReceipt",
    "SubmitImage",
]

DEFAULT_TARGET = "127.0.0.1:8081"
DEFAULT_TIMEOUT = 30.0  # seconds, of each call that does not stream
# A stream is cut and resumed after so many seconds, which finds servers that went silent and lets
# long imports move to new replicas.
STREAM_SECONDS = 300.0
# Tries in a row that bring not one receipt, before submit_images gives up. With their pauses they
# take 26 s: a service that is started anew on a busy machine took 9.
FRUITLESS_TRIES = 10
FIRST_PAUSE = 0.2  # seconds before the second try; doubled for each one after it

_SERVICE = "labeling-ingest"


class LabelingClient:
    """Calls a labeling-ingest service; threads may share it.

    `timeout` (seconds) is the deadline of each call but those that stream (`submit_images`,
    `export`, `export_labels`). With `credentials` the connection is TLS, without it is not
    encrypted. `token` is the API token that a service with accounts wants. `server_name` is the
    name in the service's certificate, where `target` has another one (a tunnel).
    """

    def __init__(
        self,
        target: str = DEFAULT_TARGET,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        credentials: grpc.ChannelCredentials | None = None,
        token: str | None = None,
        server_name: str = "",
    ) -> None:
        check_target(target, timeout)
        self._metadata = authorization(token)
        self.target = target
        self.timeout = timeout
        options = channel_options(server_name=server_name)
        self._channel = (
            grpc.secure_channel(target, credentials, options)
            if credentials
            else grpc.insecure_channel(target, options)
        )
        self._stub = labeling_pb2_grpc.LabelingIngestStub(self._channel)
        self._closed = False

    def create_dataset(self, name: str, settings: DatasetSettings | None = None) -> Dataset:
        """Makes the dataset, or returns the one of this name.

        Raises ConflictError when it is there with other settings than those asked for.
        """
        wanted = None if settings is None else settings_message(settings)
        request = pb.CreateDatasetRequest(name=name, settings=wanted)
        with self._errors():
            return dataset_from(self._call(self._stub.CreateDataset, request))

    def list_datasets(self) -> list[Dataset]:
        """All datasets."""
        with self._errors():
            answer = self._call(self._stub.ListDatasets, pb.ListDatasetsRequest())
        return [dataset_from(dataset) for dataset in answer.datasets]

    def submit_images(self, rows: Iterable[SubmitImage]) -> Generator[Receipt, None, None]:
        """Sends rows as they come and yields their receipts, in order, as they come.

        The receipts have to be read: nothing is sent before the first one is asked for, and who
        stops reading them stops the sending. `rows` is read in a thread of its own, never far ahead
        of the receipts. When the connection breaks, rows without a receipt are sent again; after
        ten tries in a row without a single receipt UnavailableError is raised, and repeating the
        import then doubles nothing. An exception from `rows` is raised here, after the receipts of
        the rows before it.
        """
        window = Window(map(Row.of, rows), size_of=Row.size)
        fruitless = 0
        try:
            while window.first() is not None:
                before = window.acknowledged
                broken = yield from self._stream(window)
                if broken is None:
                    return
                fruitless = 1 if window.acknowledged > before else fruitless + 1
                if fruitless == FRUITLESS_TRIES:
                    raise broken
                time.sleep(min(FIRST_PAUSE * 2 ** (fruitless - 1), 5.0))
        finally:
            window.close()

    def submit_label(
        self,
        dataset: str,
        sha256: str,
        label: str | Annotation,
        *,
        event_id: str = "",
        author_kind: AuthorKind = "app",
        author: str = "",
        base_sequence: int | None = None,
    ) -> LabelReceipt:
        """A first label or a correction for an image that is already there.

        `label` is a class's name, or all that the image shows. The same `event_id` (a UUID; a fresh
        one when empty) is recorded once. With `base_sequence`, the sequence of the label that the
        author saw (0 for none), ConflictError is raised when another label has come since.
        """
        request = pb.SubmitLabelRequest(
            dataset=dataset,
            sha256=sha256,
            label=pb.Label(class_name=label) if isinstance(label, str) else None,
            event_id=event_id or str(uuid.uuid4()),
            author_kind=kind_of(author_kind),
            author=author,
            base_sequence=base_sequence,
            annotation=None if isinstance(label, str) else annotation_message(label),
        )
        return self._say(request)

    def submit_event(
        self,
        dataset: str,
        sha256: str,
        kind: EventKind,
        *,
        event_id: str = "",
        author_kind: AuthorKind = "app",
        author: str = "",
        base_sequence: int | None = None,
        undoes: int | None = None,
        note: str = "",
    ) -> LabelReceipt:
        """Takes a label away, skips, flags, unflags, or undoes the author's last word on an image.

        `event_id` and `base_sequence` as in `submit_label`; `undoes` names the event that the
        author wants to take back, and is refused when he said something since.
        """
        request = pb.SubmitLabelRequest(
            dataset=dataset,
            sha256=sha256,
            event_id=event_id or str(uuid.uuid4()),
            author_kind=kind_of(author_kind),
            author=author,
            base_sequence=base_sequence,
            kind=event_kind(kind),
            undoes=undoes,
            note=note,
        )
        return self._say(request)

    def create_snapshot(self, dataset: str, *, timeout: float | None = None) -> SnapshotReceipt:
        """Cuts a snapshot of what is labelled now."""
        request = pb.CreateSnapshotRequest(dataset=dataset)
        with self._errors(timeout):
            answer = self._call(self._stub.CreateSnapshot, request, timeout)
        return snapshot_from(answer)

    def export_labels(
        self, dataset: str, *, timeout: float | None = None
    ) -> Iterator[ExportedLabel]:
        """The current labels, in the order of the images' arrival.

        Without `timeout` it may take as long as it takes.
        """
        request = pb.ExportLabelsRequest(dataset=dataset)
        with self._errors(timeout):
            for label in self._started(self._stub.ExportLabels, request, timeout):
                yield label_from(label)

    def export(
        self,
        dataset: str,
        format: ExportFormat = "csv",
        *,
        snapshot: str = "",
        timeout: float | None = None,
    ) -> Iterator[bytes]:
        """The labels as a file, in pieces: CSV, COCO JSON, or a ZIP with the images.

        Those of a snapshot (an id, its beginning, or "latest"), else the current ones. An error
        may come after the first pieces: then they are no file. Without `timeout` it may take as
        long as it takes.
        """
        request = pb.ExportRequest(dataset=dataset, format=format_number(format), snapshot=snapshot)
        with self._errors(timeout):
            for piece in self._started(self._stub.Export, request, timeout):
                yield piece.data

    def history(self, dataset: str, sha256: str) -> list[LabelEvent]:
        """Every label event of one image, oldest first."""
        request = pb.GetHistoryRequest(dataset=dataset, sha256=sha256)
        with self._errors():
            answer = self._call(self._stub.GetHistory, request)
        return [event_from(event) for event in answer.events]

    def close(self) -> None:
        """Closes the connection; calls that are under way fail."""
        self._closed = True
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _say(self, request: pb.SubmitLabelRequest) -> LabelReceipt:
        with self._errors():
            answer = self._call(self._stub.SubmitLabel, request)
        return LabelReceipt(
            answer.sequence, answer.class_id, answer.current, answer.state, answer.label_sequence
        )

    def _call(self, method: Any, request: Any, timeout: float | None = None) -> Any:
        """Starts a call of at most `timeout` seconds, else the client's own."""
        seconds = self.timeout if timeout is None else timeout
        return self._started(method, request, seconds)

    def _started(self, method: Any, request: Any, seconds: float | None) -> Any:
        if self._closed:
            raise closed()
        if seconds is not None:
            check_timeout(seconds)
        try:
            return method(request, timeout=seconds, metadata=self._metadata)
        except ValueError as error:  # what grpc says of a channel that another thread closed
            if self._closed:
                raise closed() from error
            raise

    @contextmanager
    def _errors(self, timeout: float | None = None) -> Iterator[None]:
        try:
            yield
        except grpc.RpcError as error:
            if self._closed:
                raise closed() from error
            raise error_from(error, _SERVICE, self.target, timeout or self.timeout) from error

    def _stream(
        self, window: Window[Row]
    ) -> Generator[Receipt, None, UnavailableError | DeadlineExceededError | None]:
        """One connection's receipts. Returns what broke it, or None when all rows are through."""
        stream = window.stream()
        requests = (row.request for row in stream if row.request is not None)
        call = self._call(self._stub.SubmitImages, requests, STREAM_SECONDS)
        try:
            while (row := window.first()) is not None:
                if row.refusal is not None:
                    window.acknowledge()
                    yield row.refusal
                    continue
                asked = time.monotonic()
                try:
                    answer = next(call, None)
                except grpc.RpcError as error:
                    return self._mendable(error, silent_seconds=time.monotonic() - asked)
                if answer is None:
                    return UnavailableError(
                        f"the {_SERVICE} service at {self.target} ended the stream before it "
                        "answered every row; is it stopping? Repeat the import"
                    )
                receipt = row.receipt(answer)
                window.acknowledge()
                yield receipt
            with suppress(grpc.RpcError):
                next(call, None)  # the status; every row has its receipt, so it tells nothing new
        finally:
            stream.stop()
            call.cancel()
        return None

    def _mendable(
        self, error: grpc.RpcError, silent_seconds: float
    ) -> UnavailableError | DeadlineExceededError:
        """The broken connection as our error, or raises it when a new connection would not help."""
        if self._closed:
            raise closed() from error
        told = error_from(error, _SERVICE, self.target, STREAM_SECONDS)
        if isinstance(told, UnavailableError):
            return told
        # The stream's time is over: fine while receipts come, not after a long silence.
        if isinstance(told, DeadlineExceededError) and silent_seconds < self.timeout:
            return told
        raise told from error
