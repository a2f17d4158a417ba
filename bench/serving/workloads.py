"""What is sent: tensors to any server, or JPEG files to the service's own image API.

A workload knows its model, what a generator must be told to send it, whether an answer is right,
and what the bare loop says is possible.
"""

import contextlib
import http.client
import json
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2 as infer_pb

from bench.serving.bundles import PROBABILITIES
from bench.serving.generator import Plan
from bench.serving.limits import Limit, LimitLoop, Limits, preprocessing, session
from bench.serving.load import Answers, PerfAnalyzer, own_command, read_own
from bench.serving.models import INPUT, OUTPUT, Model
from bench.serving.subjects import GRPC_PATH, RECOGNIZE_PATH, START_SECONDS, Serving, Subject
from visionloop.errors import UnavailableError
from visionloop.images import decode
from visionloop.proto.v1 import recognition_pb2 as pb

TOP_K = 5
CLOSE = 1e-3  # of the largest number: what batching and threads may change
_ASK_SECONDS = 30.0
_Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Command:
    """A generator to run."""

    argv: list[str]
    environment: Mapping[str, str] | None
    generator: PerfAnalyzer | None  # None: our own

    def read(self, output: str) -> Answers:
        """What it found. Raises UnavailableError when nothing was answered."""
        return read_own(output) if self.generator is None else self.generator.read(output)


@dataclass
class Workload(ABC):
    """`model` names what servers serve, `name` what the rows of the table say."""

    name: str
    model: Model
    graph: Path
    scratch: Path

    @abstractmethod
    def command(
        self, subject: Subject, serving: Serving, concurrency: int, seconds: float
    ) -> Command:
        """The generator that sends this for so long."""

    @abstractmethod
    def ask(self, subject: Subject, serving: Serving) -> None:
        """One request. Raises ValueError for a wrong answer, and what the transport raises."""

    @abstractmethod
    def limits(self, loop: LimitLoop, batches: set[int], seconds: float) -> Limits:
        """What the bare loop does of it."""

    def wait(self, subject: Subject, serving: Serving) -> float:
        """Seconds from the start of the process to the first answer, which must be right.

        Raises UnavailableError when there is none.
        """
        end = serving.program.started + START_SECONDS
        while True:
            try:
                self.ask(subject, serving)
            except ValueError as error:
                raise UnavailableError(f"its answer is wrong: {error}") from error
            except (grpc.RpcError, OSError, http.client.HTTPException) as error:
                if serving.program.ended:
                    words = serving.program.last_words()
                    raise UnavailableError(f"it did not start: {words}") from error
                if time.perf_counter() > end:
                    problem = " ".join(str(error).split())[:300]
                    raise UnavailableError(
                        f"no answer within {START_SECONDS} s: {problem}"
                    ) from error
                time.sleep(0.01)
            else:
                return time.perf_counter() - serving.program.started


@dataclass
class Tensors(Workload):
    """One row a request, raw: over gRPC as ModelInfer, over HTTP as each peer takes it."""

    analyzer: PerfAnalyzer | None = None  # None: our own generator sends the tensors too

    def __post_init__(self) -> None:
        self._row = self.model.rows(1)
        self._expected = session(str(self.graph), 1).run([OUTPUT], {INPUT: self._row})[0]
        self._rows = self.scratch / "rows" / self.model.name
        self._rows.mkdir(parents=True, exist_ok=True)
        (self._rows / INPUT).write_bytes(self._row.tobytes())

    def command(
        self, subject: Subject, serving: Serving, concurrency: int, seconds: float
    ) -> Command:
        """perf_analyzer's for gRPC, where it runs."""
        if subject.dialect.protocol == "grpc" and self.analyzer is not None:
            argv = self.analyzer.command(
                serving, subject, self.model.name, self._rows, concurrency, seconds
            )
            return Command(argv, self.analyzer.environment, self.analyzer)
        body = self.scratch / "body"
        body.write_bytes(self._body(subject))
        plan = Plan(
            protocol=subject.dialect.protocol,
            target=serving.target,
            path=subject.dialect.path,
            bodies=[str(body)],
            concurrency=concurrency,
            seconds=seconds,
            content_type=subject.dialect.content_type,
        )
        return Command(own_command(plan, self.scratch), None, None)

    def ask(self, subject: Subject, serving: Serving) -> None:
        """Compares with onnxruntime's own answer."""
        body = self._body(subject)
        if subject.dialect.protocol == "grpc":
            answer = infer_pb.ModelInferResponse.FromString(call(serving, GRPC_PATH, body))
            values = np.frombuffer(b"".join(answer.raw_output_contents), np.float32)
        else:
            data = _post(subject, serving, body)
            json_answer = subject.dialect.json_answer
            values = (
                np.asarray(json.loads(data)[0], np.float32)
                if json_answer
                else np.frombuffer(data, np.float32)
            )
        if subject.answers_truly:
            check(values, self._expected[0])

    def limits(self, loop: LimitLoop, batches: set[int], seconds: float) -> Limits:
        """The graph's."""
        return loop.measure(batches, seconds)

    def _body(self, subject: Subject) -> bytes:
        if subject.dialect.protocol == "http":
            return subject.dialect.http_body(self._row.tobytes())
        request = infer_pb.ModelInferRequest(model_name=self.model.name)
        request.inputs.add(name=INPUT, datatype=self.model.datatype, shape=self._row.shape)
        request.raw_input_contents.append(self._row.tobytes())
        body: bytes = request.SerializeToString()
        return body


@dataclass
class Images(Workload):
    """One JPEG file a request, to visionloop.v1.Recognition; the service decodes it."""

    pictures: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        prepare = preprocessing()
        rows = np.stack([prepare(decode(picture.read_bytes())) for picture in self.pictures])
        self._expected = session(str(self.graph), 1).run([PROBABILITIES], {INPUT: rows})[0]

    def command(
        self,
        subject: Subject,  # noqa: ARG002
        serving: Serving,
        concurrency: int,
        seconds: float,
    ) -> Command:
        """Our own generator's. Every answer is compared: a refusal would be a quick one."""
        bodies = [self.body(picture.read_bytes()) for picture in self.pictures]
        plan = self.plan(serving, bodies, concurrency, seconds)
        return Command(own_command(plan, self.scratch), None, None)

    def plan(self, serving: Serving, bodies: list[bytes], concurrency: int, seconds: float) -> Plan:
        """For any bodies of Recognize; what each is answered alone is the expected answer."""
        plan = Plan("grpc", serving.target, RECOGNIZE_PATH, [], concurrency, seconds)
        for index, body in enumerate(bodies):
            for name, files, data in (
                ("body", plan.bodies, body),
                ("expected", plan.expected, call(serving, RECOGNIZE_PATH, body)),
            ):
                file = self.scratch / f"{name}-{index}"
                file.write_bytes(data)
                files.append(str(file))
        return plan

    def body(self, picture: bytes) -> bytes:
        """A serialised request for one image."""
        request = pb.RecognizeRequest(
            model=self.model.name, images=[pb.EncodedImage(data=picture)], top_k=TOP_K
        )
        return request.SerializeToString()

    def ask(self, subject: Subject, serving: Serving) -> None:  # noqa: ARG002
        """Compares the best class's probability with what decoder and onnxruntime say."""
        body = self.body(self.pictures[0].read_bytes())
        answer = pb.RecognizeResponse.FromString(call(serving, RECOGNIZE_PATH, body))
        result = answer.results[0]
        if result.status.code:
            raise ValueError(result.status.message)
        labels = result.classification.labels
        best = np.sort(self._expected[0])[::-1][: len(labels)]
        check(np.asarray([label.probability for label in labels], np.float32), best)

    def limits(self, loop: LimitLoop, batches: set[int], seconds: float) -> Limits:
        """Decoding and the graph share the cores, so the time of an image is the sum of both."""
        graph = loop.measure(batches, seconds)
        decoding = loop.decoding(self.pictures, seconds)
        return Limits({size: together(limit, decoding) for size, limit in graph.by_batch.items()})


def together(graph: Limit, decoding: Limit) -> Limit:
    """The loop that decodes a batch and then runs it."""
    seconds = 1 / graph.images_per_second + 1 / decoding.images_per_second
    return replace(
        graph,
        images_per_second=1 / seconds,
        p50_ms=graph.p50_ms + graph.batch * 1000 / decoding.images_per_second,
        p99_ms=graph.p99_ms + graph.batch * 1000 / decoding.images_per_second,
        cpu_s_per_image=graph.cpu_s_per_image + decoding.cpu_s_per_image,
    )


def check(got: _Array, expected: _Array) -> None:
    """Raises ValueError when these are not the same numbers."""
    if got.shape != expected.shape:
        raise ValueError(f"{got.size} numbers, not {expected.size}")
    difference = float(np.abs(got - expected).max())
    if not difference <= CLOSE * float(np.abs(expected).max()):  # NaN is not close either
        raise ValueError(f"it differs from onnxruntime's by up to {difference:.2g}")


def call(serving: Serving, path: str, body: bytes) -> bytes:
    """One gRPC call on a connection of its own."""
    options = [("grpc.max_receive_message_length", -1), ("grpc.initial_reconnect_backoff_ms", 20)]
    with contextlib.closing(grpc.insecure_channel(serving.target, options=options)) as channel:
        method: Any = channel.unary_unary(path)  # bytes in, bytes out
        answer: bytes = method(body, timeout=_ASK_SECONDS)
        return answer


def _post(subject: Subject, serving: Serving, body: bytes) -> bytes:
    with contextlib.closing(
        http.client.HTTPConnection(serving.target, timeout=_ASK_SECONDS)
    ) as connection:
        headers = {"Content-Type": subject.dialect.content_type}
        connection.request("POST", subject.dialect.path, body, headers)
        answer = connection.getresponse()
        data = answer.read()
        if answer.status != http.HTTPStatus.OK:
            raise OSError(f"HTTP {answer.status}: {data[:200]!r}")
        return data
