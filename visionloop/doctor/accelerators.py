"""Do driver, CUDA and the libraries of this environment fit together? Nothing heavy is imported.

A CUDA library runs on a driver of its own major version or a newer one (NVIDIA's compatibility
rules); an older driver fails with a library's number instead of words. onnxruntime and
onnxruntime-gpu install the same files, so an environment with both runs whichever came last.
"""

import ctypes
import importlib.metadata
import re

from visionloop.doctor.findings import Finding

# The oldest Linux driver for each major version of CUDA (NVIDIA's release notes).
OLDEST_DRIVER = {11: "450.80.02", 12: "525.60.13", 13: "580.65.06"}


def check_onnxruntime() -> Finding:
    """Exactly one package brings the module onnxruntime."""
    found = {
        re.sub(r"[-_.]+", "-", name).lower(): distribution.version
        for distribution in importlib.metadata.distributions()
        if (name := distribution.metadata["Name"])
    }
    brought = sorted(
        name for name in found if name == "onnxruntime" or name.startswith("onnxruntime-")
    )
    if len(brought) > 1:
        return Finding.failed(
            "onnxruntime",
            f"{' and '.join(brought)} are both installed and overwrite one another; remove both, "
            "then install the one you want: pip install 'visionloop[inference]' or "
            "'visionloop[inference-gpu]'",
        )
    if not brought:
        return Finding.failed(
            "onnxruntime", "it is not installed; pip install 'visionloop[inference]'"
        )
    return Finding.ok("onnxruntime", f"{brought[0]} {found[brought[0]]}")


def driver_cuda() -> tuple[int, int] | None:
    """The newest CUDA that this machine's driver knows, as (13, 0); None without a driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    version = ctypes.c_int()
    if driver.cuDriverGetVersion(ctypes.byref(version)) != 0:
        return None
    return version.value // 1000, version.value % 1000 // 10


def gpu_name(number: int = 0) -> str:
    """The driver's name of a GPU, as "NVIDIA H200"; "" where there is none of this number."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return ""
    device, name = ctypes.c_int(), ctypes.create_string_buffer(256)
    found = (
        driver.cuInit(0) == 0
        and driver.cuDeviceGet(ctypes.byref(device), number) == 0
        and driver.cuDeviceGetName(name, len(name), device) == 0
    )
    return name.value.decode(errors="replace") if found else ""


def cuda_finding(
    library: str, built_for: str, driver: tuple[int, int] | None, *, wanted: bool
) -> Finding:
    """Does a `library` that was `built_for` a CUDA version ("13.0"; "" is none) run on `driver`?

    `wanted`: the program was told to use the GPU.
    """
    report = Finding.failed if wanted else Finding.warning
    if driver is None:
        said = "no NVIDIA driver on this machine (libcuda.so.1 does not load)"
        if not wanted:
            return Finding.ok("driver", f"{said}, and none is asked for")
        return Finding.failed(
            "driver", f"{said}; install it, give the pod a GPU and runtimeClassName, or use the CPU"
        )
    has = f"the driver knows CUDA up to {driver[0]}.{driver[1]}"
    if not built_for:
        said = f"{has}, but {library} is built for the CPU; install its GPU build to use the GPU"
        return report("driver", said)
    major = int(built_for.split(".")[0])
    if driver[0] < major:
        oldest = OLDEST_DRIVER.get(major)
        newer = f"driver {oldest} or newer" if oldest else "a newer driver"
        return report(
            "driver", f"{has}, and {library} is built for CUDA {built_for}; install {newer}"
        )
    return Finding.ok("driver", f"{has}; {library} is built for {built_for}")
