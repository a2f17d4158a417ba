"""onnxruntime's execution providers: chosen by name, proved at start, never silently swapped.

onnxruntime answers a provider that it cannot load with a warning and a CPU session. A service
that was given a GPU would then be slow in a way that nobody notices; so the choice is proved by
creating a session, and a missing one is an error that names the library that is missing.

The options stand here because each avoids a trap. cuDNN's exhaustive search tries every algorithm
anew for every batch size, 0.3 to 1.3 s each time, in the middle of traffic: the heuristic is used,
and batches are padded to few sizes. CUDA's memory arena doubles whenever it grows and never
shrinks: it grows by what is asked for. CUDA multiplies float32 with 10 bits of mantissa where it
may (TF32): a graph that was proven in float32 is run in float32, and the 16-bit sibling is what
makes it fast. Convolutions run in the layout of tensor cores, with their bias in the same kernel: a
third more images a second for ResNet-50 in 16 bits on an H200. TensorRT builds an engine for
minutes: engines are kept in a folder, and the range of batch sizes is declared beforehand, because
a size outside of it would build another in the middle of traffic. The price of the last: an engine
that must do for every size of the range is a little slower than one made for a single size.
"""

import ctypes
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnxruntime

from visionloop.errors import ConfigurationError
from visionloop.onnx_threads import WAITING
from visionloop.signature import FREE, Signature

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}

# A graph that copies one float, y = Identity(x): enough to make onnxruntime load a provider.
PROBE_GRAPH = bytes.fromhex(
    "080812003a3b0a100a017812017922084964656e74697479120570726f62655a0f0a0178120a0a08"
    "080112040a020801620f0a0179120a0a08080112040a02080142040a001011"
)


@dataclass(frozen=True, slots=True)
class Target:
    """What a graph is to run on."""

    provider: str = "cpu"
    device: int = 0  # number of the GPU
    engine_cache: Path | None = None  # TensorRT's engines
    fp16: bool = False  # the graph is 16-bit; TensorRT must be told

    @property
    def gpu(self) -> bool:
        return self.provider != "cpu"


CPU = Target()
SLEEPING = {"session.intra_op.allow_spinning": "0"}


def session(
    graph: Path | bytes,
    target: Target,
    threads: int,
    ranges: Mapping[str, str] | None = None,
) -> onnxruntime.InferenceSession:
    """A session for a graph (a file or its bytes) on exactly this provider.

    On a CPU its threads wait as `onnx_threads` says; beside a GPU they have nothing to wait for,
    and sleep. `ranges` are TensorRT's profiles (`profiles`).
    Raises ConfigurationError when onnxruntime gave another provider, and whatever onnxruntime
    raises for a graph it refuses.
    """
    wanted = PROVIDERS[target.provider]
    if wanted not in onnxruntime.get_available_providers():
        raise _missing(target.provider)
    if target.gpu:
        onnxruntime.preload_dlls()  # those of the nvidia-* packages, which no loader path names
        # cuDNN tells of each plan that it tried in vain before the one that it took, for each
        # convolution and batch size, and onnxruntime of each as an error.
        onnxruntime.set_default_logger_severity(4)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    for key, value in (SLEEPING if target.gpu else WAITING).items():
        options.add_session_config_entry(key, value)
    # onnxruntime's own lines are no JSON. On a CPU it raises what it writes, and we log that; a
    # GPU's libraries write errors that they do not raise.
    options.log_severity_level = 3 if target.gpu else 4
    # Without its fallback, which goes on with a CPU session where a GPU fails: at start, and later
    # in the middle of a run.
    made = onnxruntime.InferenceSession(
        graph if isinstance(graph, bytes) else str(graph),
        options,
        providers=provider_options(target, ranges or {}),
        enable_fallback=0,
    )
    if wanted not in made.get_providers():  # built in, but its libraries or device are missing
        raise _missing(target.provider)
    return made


def provider_options(target: Target, ranges: Mapping[str, str]) -> list[tuple[str, dict[str, str]]]:
    """The providers to ask for, best first, each with its options."""
    if not target.gpu:
        return [(PROVIDERS["cpu"], {})]
    cuda = {
        "device_id": str(target.device),
        "arena_extend_strategy": "kSameAsRequested",
        "cudnn_conv_algo_search": "HEURISTIC",
        "use_tf32": "0",
        "prefer_nhwc": "1",
        "fuse_conv_bias": "1",
    }
    if target.provider == "cuda":
        return [(PROVIDERS["cuda"], cuda)]
    tensorrt = {
        "device_id": str(target.device),
        "trt_fp16_enable": "1" if target.fp16 else "0",
        **ranges,
    }
    if target.engine_cache is not None:
        target.engine_cache.mkdir(parents=True, exist_ok=True)
        folder = str(target.engine_cache)
        tensorrt |= {
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": folder,
            "trt_timing_cache_enable": "1",
            "trt_timing_cache_path": folder,
        }
    # What TensorRT does not take runs on CUDA.
    return [(PROVIDERS["tensorrt"], tensorrt), (PROVIDERS["cuda"], cuda)]


def profiles(signature: Signature, max_batch: int) -> dict[str, str]:
    """TensorRT's ranges of batch sizes for a graph whose other sizes are fixed; else none."""
    if not signature.batched or any(FREE in spec.shape for spec in signature.inputs):
        return {}

    def at(rows: int) -> str:
        return ",".join(
            f"{spec.name}:{'x'.join(map(str, (rows, *spec.shape)))}" for spec in signature.inputs
        )

    return {
        "trt_profile_min_shapes": at(1),
        "trt_profile_opt_shapes": at(max_batch),
        "trt_profile_max_shapes": at(max_batch),
    }


def shrinking(target: Target) -> onnxruntime.RunOptions:
    """Options for a run after which the session gives unused memory back."""
    options = onnxruntime.RunOptions()
    arena = f"gpu:{target.device}" if target.gpu else "cpu:0"
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", arena)
    return options


def _missing(provider: str, problem: str = "") -> ConfigurationError:
    """`problem` is what onnxruntime says of it, where it says something."""
    available = onnxruntime.get_available_providers()
    offered = ", ".join(name for name, known in PROVIDERS.items() if known in available)
    built_in = PROVIDERS[provider] in available
    why = (
        _missing_library(provider, problem)
        if built_in
        else f"this onnxruntime {onnxruntime.__version__} was built for {offered}"
    )
    return ConfigurationError(
        f"--provider {provider} cannot be loaded: {why}; install visionloop[inference-gpu] and "
        "the driver's libraries, or choose another provider",
        field="provider",
    )


def _missing_library(provider: str, problem: str = "") -> str:
    """Why a provider that onnxruntime has does not load, in the words of the dynamic loader."""
    library = f"libonnxruntime_providers_{provider}.so"
    try:
        ctypes.CDLL(str(Path(onnxruntime.__file__).parent / "capi" / library))
    except OSError as error:
        return str(error)
    return problem or f"{library} is there, but finds no device that it can use"


def built_for_cuda() -> str:
    """The CUDA version that this onnxruntime was built for, as "13.0"; "" is none."""
    from onnxruntime.capi import build_and_package_info

    return str(getattr(build_and_package_info, "cuda_version", ""))


def prove(provider: str, device: int = 0) -> None:
    """Raises ConfigurationError unless a session on `provider` can really be made here."""
    try:
        session(PROBE_GRAPH, Target(provider, device), threads=1)
    except ConfigurationError:
        raise
    except Exception as error:  # of the probe nothing can be wrong
        raise _missing(provider, " ".join(str(error).split())) from error


def main() -> int:
    """`python -m visionloop_inference.providers PROVIDER`: nothing, or why it cannot be used."""
    try:
        prove(sys.argv[1])
    except ConfigurationError as error:
        sys.stdout.write(f"{error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
