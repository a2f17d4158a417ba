"""The machine that a model is made on: what can change its bits and is not in the configuration.

A version's provenance has these facts; `reproduce` compares them where the bits differ.
"""

import platform
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Machine:
    """Threads, processes and hardware of one run."""

    threads: int
    processes: int
    device: str  # "cpu", or the GPU's name
    cpu: str  # the instructions that torch and onnxruntime use there

    @classmethod
    def here(cls, processes: int = 1) -> "Machine":
        """The machine that this process runs on."""
        gpu = torch.cuda.is_available()
        return cls(
            threads=torch.get_num_threads(),
            processes=processes,
            device=torch.cuda.get_device_name() if gpu else "cpu",
            cpu=f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        )
