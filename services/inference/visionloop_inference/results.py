"""How a version's answers are told: one class an image, or any number of classes.

A version's bundle says which; what both share is one result per image, in the order of the request,
and that a bad image or a failed row costs its neighbours nothing.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray

from visionloop.bundle import ClassificationBundle, ClassifierBundle, MultiLabelBundle
from visionloop.errors import ImageError, UnimplementedError, VisionloopError
from visionloop.prediction_id import PredictionId
from visionloop.proto.v1 import recognition_pb2 as pb
from visionloop.telemetry import inference as metrics
from visionloop_inference.datatypes import Answer
from visionloop_inference.decoding import Decoded
from visionloop_inference.routed_version import RoutedVersion, RowFailedError

MAX_TOP_K = 1000
TURN = 2_000  # classes that are told in one turn of the event loop, some 2 ms
# Why an answer is "not sure", the two words of the proto.
LOW_PROBABILITY, UNFAMILIAR = "low_probability", "unfamiliar"
NO_CLASS = "(none)"  # the class that is counted for an image that shows none of several


class Results(ABC):
    """Makes the messages of one version's answers, and counts its classes."""

    def __init__(self, bundle: ClassifierBundle) -> None:
        self.bundle = bundle
        output = bundle.output("probabilities")
        self._output = output.name if output is not None else None
        self._counted: dict[tuple[str, bool], Any] = {}

    async def respond(
        self,
        request: pb.RecognizeRequest,
        images: Sequence[Decoded | ImageError],
        answer: Answer,
    ) -> pb.RecognizeResponse:
        """One result per image. `answer` holds a row for each that could be decoded.

        Many classes of many images are told in several turns of the event loop.
        """
        bundle = self.bundle
        response = pb.RecognizeResponse(model=bundle.model, version=bundle.version)
        tensor = answer.outputs.get(self._output) if self._output is not None else None
        probabilities = tensor.array if tensor is not None else None  # (rows, labels) float32
        unfamiliar = self._unfamiliar(answer)  # (rows,)
        row = told = 0
        for sent, image in zip(request.images, images, strict=True):
            result = response.results.add(image_id=sent.id)
            if isinstance(image, ImageError):
                refuse(result.status, image)
                continue
            result.width, result.height = image.width, image.height
            failure = answer.failures.get(row)
            if failure is not None:
                refuse(result.status, RowFailedError(failure))
            elif probabilities is not None:
                if np.isfinite(probabilities[row]).all():
                    strange = unfamiliar is not None and bool(unfamiliar[row])
                    told += self._tell(result, probabilities[row], strange, request.top_k)
                    result.prediction_id = str(
                        PredictionId.new(bundle.model, bundle.version, image.sha256)
                    )
                else:
                    refuse(
                        result.status,
                        RowFailedError("the graph's answer to this image is no number"),
                    )
            row += 1
            if told >= TURN:
                await asyncio.sleep(0)
                told = 0
        return response

    @abstractmethod
    def _tell(
        self,
        result: pb.ImageResult,
        probabilities: NDArray[np.float32],
        unfamiliar: bool,
        top_k: int,
    ) -> int:
        """Fills the result; how many classes it tells. `probabilities` is (labels,). Ties keep the
        order of the labels."""

    @abstractmethod
    def _unfamiliar(self, answer: Answer) -> NDArray[np.bool_] | None:
        """(rows,): whether an image lies further from the training images than the bundle's limit.

        None where the bundle sets no limit, or lacks the output. What is no number is unfamiliar.
        """

    def _further(self, answer: Answer, limit: float) -> NDArray[np.bool_] | None:
        """(rows,): whether the distance that the graph gives is above the limit."""
        distances = self._array(answer, "distance")
        return None if distances is None else ~(distances[:, 0] <= limit)

    def _array(self, answer: Answer, kind: str) -> NDArray[np.float32] | None:
        """(rows, …): the output of this kind; None where the bundle or the answer has none."""
        output = self.bundle.output(kind)
        tensor = answer.outputs.get(output.name) if output is not None else None
        return None if tensor is None else tensor.array

    def _count(self, class_id: str, not_sure: bool) -> None:
        counter = self._counted.get((class_id, not_sure))
        if counter is None:
            counter = self._counted[class_id, not_sure] = metrics.PREDICTIONS.labels(
                **{
                    "model": self.bundle.model,
                    "class": class_id,
                    "confidence": "not_sure" if not_sure else "sure",
                }
            )
        counter.inc()


class Classification(Results):
    """One class an image, or "not sure"."""

    def __init__(self, bundle: ClassificationBundle) -> None:
        super().__init__(bundle)
        self._thresholds = bundle.thresholds

    def _unfamiliar(self, answer: Answer) -> NDArray[np.bool_] | None:
        """By the graph's distance or, in older bundles, by the energy -log Σ exp(logit)."""
        limits = self._thresholds
        if limits.distance is not None:
            return self._further(answer, limits.distance)
        logits = self._array(answer, "logits") if limits.energy is not None else None
        return None if logits is None else ~(-np.logaddexp.reduce(logits, axis=1) <= limits.energy)

    def _tell(
        self,
        result: pb.ImageResult,
        probabilities: NDArray[np.float32],
        unfamiliar: bool,
        top_k: int,
    ) -> int:
        labels = self.bundle.labels
        order = np.argsort(-probabilities, kind="stable")[: top_k or MAX_TOP_K].tolist()
        told = result.classification
        for index in order:
            label = labels[index]
            told.labels.add(
                class_id=label.id, name=label.name, probability=float(probabilities[index])
            )
        told.threshold = self._thresholds.not_sure
        if unfamiliar:
            told.not_sure_reason = UNFAMILIAR
        elif told.labels[0].probability < told.threshold:
            told.not_sure_reason = LOW_PROBABILITY
        told.not_sure = bool(told.not_sure_reason)
        self._count(labels[order[0]].id, told.not_sure)
        return len(order)


class MultiLabel(Results):
    """Every class that an image shows, by a threshold of the class's own."""

    def __init__(self, bundle: MultiLabelBundle) -> None:
        super().__init__(bundle)
        self._thresholds = bundle.thresholds.present
        self._limit = bundle.thresholds.distance
        self._present = np.asarray(self._thresholds, np.float32)  # (labels,)

    def _tell(
        self,
        result: pb.ImageResult,
        probabilities: NDArray[np.float32],
        unfamiliar: bool,
        top_k: int,
    ) -> int:
        labels = self.bundle.labels
        shown = probabilities >= self._present
        order = np.argsort(-probabilities, kind="stable")
        first = np.arange(len(order)) < (top_k or MAX_TOP_K)
        told = result.multi_label
        for index in order[first | shown[order]].tolist():
            present = bool(shown[index])
            label = labels[index]
            told.labels.add(
                class_id=label.id,
                name=label.name,
                probability=float(probabilities[index]),
                threshold=self._thresholds[index],
                present=present,
            )
            if present:
                self._count(label.id, unfamiliar)
        if not shown.any():
            self._count(NO_CLASS, unfamiliar)
        told.not_sure = unfamiliar
        if unfamiliar:
            told.not_sure_reason = UNFAMILIAR
        return len(told.labels)

    def _unfamiliar(self, answer: Answer) -> NDArray[np.bool_] | None:
        return None if self._limit is None else self._further(answer, self._limit)


def results_of(version: RoutedVersion) -> Results:
    """The version's way to tell answers, made once. Raises UnimplementedError for other tasks."""
    found = version.plans.get(Results)
    if isinstance(found, Results):
        return found
    bundle = version.bundle
    made: Results
    if isinstance(bundle, ClassificationBundle):
        made = Classification(bundle)
    elif isinstance(bundle, MultiLabelBundle):
        made = MultiLabel(bundle)
    else:
        raise UnimplementedError(
            f"model {version.model!r} takes tensors, not images: its task is {bundle.task!r}; "
            "call inference.GRPCInferenceService/ModelInfer"
        )
    version.plans[Results] = made
    return made


def refuse(status: pb.ImageStatus, error: VisionloopError) -> None:
    """The status of an image, or of a request of a stream, that gets no answer."""
    code: int = grpc.StatusCode[error.grpc_code].value[0]
    status.code = code
    status.reason = error.reason
    status.message = str(error)
