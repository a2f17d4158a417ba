"""onnxruntime's execution providers: chosen by name, proved at start, never silently swapped.

onnxruntime answers a provider that it cannot load with a warning and a CPU session. A service
that was given a GPU would then be slow in a way that nobody notices; so the choice is proved by
creating a session, and a missing one is an error that says what is missing.
"""

import os
from pathlib import Path

import onnxruntime

from visionloop.errors import ConfigurationError

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


def cores() -> int:
    """CPU cores this process may use: its affinity, or a smaller cgroup quota."""
    allowed = len(os.sched_getaffinity(0))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return allowed
    if quota == "max":
        return allowed
    return max(1, min(allowed, round(int(quota) / int(period))))


def session(graph: Path | bytes, provider: str, threads: int) -> onnxruntime.InferenceSession:
    """A session for a graph (a file or its bytes) on exactly this provider.

    Spinning is off: the cores are shared with the decoder and the front end, and a spinning
    worker takes from them what it waits for. Raises ConfigurationError when onnxruntime gave
    another provider, and whatever onnxruntime raises for a graph it refuses.
    """
    wanted = PROVIDERS[provider]
    if wanted not in onnxruntime.get_available_providers():
        raise _missing(provider)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3  # errors only; a refused provider is reported by us
    made = onnxruntime.InferenceSession(
        graph if isinstance(graph, bytes) else str(graph), options, providers=[wanted]
    )
    if wanted not in made.get_providers():  # built in, but its libraries or device are missing
        raise _missing(provider)
    return made


def shrinking(provider: str) -> onnxruntime.RunOptions:
    """Options for a run after which the session gives unused memory back."""
    options = onnxruntime.RunOptions()
    arena = "cpu:0" if provider == "cpu" else "gpu:0"
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", arena)
    return options


def _missing(provider: str) -> ConfigurationError:
    available = onnxruntime.get_available_providers()
    offered = ", ".join(name for name, known in PROVIDERS.items() if known in available)
    return ConfigurationError(
        f"--provider {provider} cannot be loaded: this onnxruntime {onnxruntime.__version__} was "
        f"built for {offered}; install visionloop[inference-gpu] and the driver's libraries, or "
        "choose another provider",
        field="provider",
    )


def prove(provider: str) -> None:
    """Raises ConfigurationError unless a session on `provider` can really be made here."""
    session(PROBE_GRAPH, provider, threads=1)
