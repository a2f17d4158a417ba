"""model.fp16.onnx, the 16-bit sibling of model.onnx: made for GPUs, and proven before it is
published.

onnxruntime has no 16-bit arithmetic for CPUs. It computes in float32 and rounds nothing between two
steps, so a value that does not fit into 16 bits (65,504 at most) looks right here and is infinite
on a GPU. The proof therefore runs a copy of the graph that rounds after each step (`rounded`):
what a GPU does, but for the order of its sums. Price: an export more, and up to seven times the
time of model.onnx on `IMAGES` images (networks of many small steps; others twice).

A sibling that fails is left out and the reason told; the version is published without it. A server
replays the golden images on its own GPU, within the same limit, before it serves the sibling.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper

from visionloop.disk_space import is_full, temporary_folder
from visionloop.errors import DiskFullError, RefusedError
from visionloop_training.config import ExportConfig
from visionloop_training.data import Blobs, Item
from visionloop_training.export import Session
from visionloop_training.familiarity import OUTPUT, Familiarity
from visionloop_training.lanes import Lane
from visionloop_training.links import Link
from visionloop_training.parity import difference, disagreements

IMAGES = 256  # compared, if there are so many
_EXACT, _ROUNDED = ".exact", ".rounded"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class HalfPrecision:
    """What was found of the sibling on real images, against model.onnx."""

    limit: float  # of a difference
    reason: str = ""  # why there is no sibling; empty: it is published
    images: int = 0
    max_probability_difference: float | None = None  # None: it gave no numbers, or was not run
    max_distance_difference: float | None = None  # of `distance`; None where there is none
    top1_disagreements: int = 0  # near ties left out

    @property
    def passed(self) -> bool:
        """Whether it is published."""
        return not self.reason


def wanted(config: ExportConfig, lane: Lane) -> bool:
    """Whether a sibling is to be made."""
    return config.half_precision == "on" or (config.half_precision == "auto" and lane.on_gpu)


def add(
    path: Path,
    lane: Lane,
    link: Link,
    metadata: dict[str, str],
    known: Familiarity | None,
    exact: Session,
    items: Sequence[Item],
    blobs: Blobs,
    limit: float,
) -> HalfPrecision:
    """Makes the sibling in `path` and compares it with model.onnx (`exact`) on the items.

    `known` is what model.onnx has of familiar images. Whatever ails the sibling ends no run: the
    file is removed then, and the reason is told. Raises DiskFullError: that ails the disk.
    """
    try:
        lane.export_half(path, link, metadata)
        if known is not None:
            known.into(path)
        found = _compared(path, lane, exact, items, blobs, limit)
    except Exception as error:
        if isinstance(error, DiskFullError) or (isinstance(error, OSError) and is_full(error)):
            raise  # it says nothing of 16 bits, and the run can be taken up again
        # Whatever exporter or runtime say of 16 bits: who has paid for a training gets its version.
        words = str(error).strip().splitlines() or [type(error).__name__]
        found = HalfPrecision(limit, reason=words[0])
    if not found.passed:
        path.unlink(missing_ok=True)
        _log.warning("the version gets no 16-bit graph: %s", found.reason)
    return found


def _compared(
    path: Path, lane: Lane, exact: Session, items: Sequence[Item], blobs: Blobs, limit: float
) -> HalfPrecision:
    Session(path)  # which says whether the file itself loads
    with temporary_folder("visionloop-half-") as folder:
        copy = folder / path.name
        copy.write_bytes(rounded(onnx.load(path)).SerializeToString())
        session = Session(copy, torch.get_num_threads())
    if session.signature != exact.signature:
        raise RefusedError("its inputs and outputs are not those of model.onnx")
    probability = distance = 0.0
    others = wrong = 0
    for images in blobs.batches([item.sha256 for item in items], lane.preprocessing):
        found, expected = session(images), exact(images)
        finite = [np.isfinite(values).all(axis=1) for values in found.values()]
        wrong += int((~np.logical_and.reduce(finite)).sum())
        if wrong:
            continue  # a difference from no number is none
        probability = max(
            probability, difference(found["probabilities"], expected["probabilities"])
        )
        others += disagreements(found["probabilities"], expected["probabilities"], limit)
        if OUTPUT in expected:
            distance = max(distance, difference(found[OUTPUT], expected[OUTPUT]))
    if wrong:
        return HalfPrecision(
            limit,
            reason=f"its answers to {wrong} of {len(items)} real images are no numbers; 16 bits "
            "hold values up to 65,504",
            images=len(items),
        )
    reason = ""
    if others or not max(probability, distance) <= limit:
        reason = (
            f"it differs from model.onnx by {probability:.2g} in probability and {distance:.2g} in "
            f"distance on {len(items)} real images (limit {limit:g}), with {others} other top "
            "answers"
        )
    return HalfPrecision(
        limit=limit,
        reason=reason,
        images=len(items),
        max_probability_difference=probability,
        max_distance_difference=distance if OUTPUT in exact.shapes else None,
        top1_disagreements=others,
    )


def rounded(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph, with each 16-bit value rounded to 16 bits where onnxruntime runs it on a CPU.

    Two steps that give back their input follow each that makes such a value. onnxruntime has them
    in 16 bits, and it moves a lone one between two in float32 to float32, but not a pair.
    """
    inferred = onnx.shape_inference.infer_shapes(model)
    halves = {
        value.name
        for value in (*inferred.graph.value_info, *inferred.graph.output)
        if value.type.tensor_type.elem_type == TensorProto.FLOAT16
    }
    result = onnx.ModelProto()
    result.CopyFrom(model)
    nodes: list[onnx.NodeProto] = []
    for node in result.graph.node:
        nodes.append(node)
        for place, name in enumerate(node.output):
            if name in halves:
                node.output[place] = name + _EXACT
                nodes.append(helper.make_node("Max", [name + _EXACT], [name + _ROUNDED]))
                nodes.append(helper.make_node("Max", [name + _ROUNDED], [name]))
    whole = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del result.graph.node[:]
    result.graph.node.extend(whole)
    return result
