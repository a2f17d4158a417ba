"""What the protocol says of a model: its metadata, and Triton's ModelConfig.

The configuration is derived from the bundle and the server's settings; there is no file to edit.
It holds what clients act upon: perf_analyzer reads from `max_batch_size` whether shapes leave out
the batch dimension and how many rows it may send.
"""

from dataclasses import dataclass
from typing import Any

from visionloop.bundle import ClassifierBundle
from visionloop.proto.inference import open_inference_pb2 as pb
from visionloop.signature import FREE, Signature, TensorSpec
from visionloop_inference.levels import LAST, NORMAL
from visionloop_inference.routed_version import RoutedVersion

PLATFORM = "onnxruntime_onnx"
BACKEND = "onnxruntime"


@dataclass(frozen=True, slots=True)
class Offer:
    """What this server was started to offer, as far as the protocol tells of it."""

    max_rows: int  # of one request
    max_bytes: int  # of one message, or of the shared memory that one request names
    version_policy: str  # "aliases", "latest:N", "all" or "specific:1,3"
    instances: int
    gpu: bool
    model_control: bool  # whether clients may load and unload models
    shared_memory: bool

    @property
    def extensions(self) -> list[str]:
        """Triton's names of the extensions that are there."""
        always = (
            "classification",
            "logging",
            "model_configuration",
            "parameters",
            "schedule_policy",
            "statistics",
        )
        return sorted(
            [
                *always,
                *["model_repository"] * self.model_control,
                *["system_shared_memory"] * self.shared_memory,
            ]
        )


def metadata(version: RoutedVersion, versions: list[int]) -> pb.ModelMetadataResponse:
    """`versions` are those that a client may ask for."""
    signature = version.signature
    return pb.ModelMetadataResponse(
        name=version.model,
        versions=[str(number) for number in versions],
        platform=PLATFORM,
        inputs=[_tensor(spec, signature) for spec in signature.inputs],
        outputs=[_tensor(spec, signature) for spec in signature.outputs],
    )


def _tensor(spec: TensorSpec, signature: Signature) -> pb.ModelMetadataResponse.TensorMetadata:
    shape = [FREE, *spec.shape] if signature.batched else spec.shape
    return pb.ModelMetadataResponse.TensorMetadata(
        name=spec.name, datatype=spec.datatype, shape=shape
    )


def config(version: RoutedVersion, offer: Offer) -> pb.ModelConfig:
    """The configuration of a model version."""
    signature = version.signature
    made = pb.ModelConfig(
        name=version.model,
        platform=PLATFORM,
        backend=BACKEND,
        version_policy=_policy(offer.version_policy, version),
        max_batch_size=offer.max_rows if signature.batched else 0,
        default_model_filename=version.bundle.graph,
    )
    for spec in signature.inputs:
        made.input.add(name=spec.name, data_type=_data_type(spec), dims=spec.shape)
    for spec in signature.outputs:
        made.output.add(name=spec.name, data_type=_data_type(spec), dims=spec.shape)
    kind = pb.ModelInstanceGroup.KIND_GPU if offer.gpu else pb.ModelInstanceGroup.KIND_CPU
    made.instance_group.add(name=version.model, count=offer.instances, kind=kind)
    if signature.batched:
        # Rows wait only while the model is busy, so there is no delay to state.
        made.dynamic_batching.priority_levels = LAST
        made.dynamic_batching.default_priority_level = NORMAL
    made.model_transaction_policy.decoupled = False
    made.parameters["task"].string_value = version.bundle.task
    if isinstance(version.bundle, ClassifierBundle):
        made.parameters["encoded_images"].string_value = "BYTES [n] or [n, 1]"
    return made


def _data_type(spec: TensorSpec) -> Any:
    name = "STRING" if spec.datatype == "BYTES" else spec.datatype
    return pb.DataType.Value(f"TYPE_{name}")


def _policy(policy: str, version: RoutedVersion) -> pb.ModelVersionPolicy:
    """Aliases choose versions by number, so they count as specific ones."""
    kind, _, argument = policy.partition(":")
    if kind == "all":
        return pb.ModelVersionPolicy(all=pb.ModelVersionPolicy.All())
    if kind == "latest":
        latest = pb.ModelVersionPolicy.Latest(num_versions=int(argument or 1))
        return pb.ModelVersionPolicy(latest=latest)
    numbers = [int(n) for n in argument.split(",")] if kind == "specific" else [version.number]
    return pb.ModelVersionPolicy(specific=pb.ModelVersionPolicy.Specific(versions=numbers))
