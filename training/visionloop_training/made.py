"""What decides a model beside its data: the configuration, and the machine it was made on.

`reproduce` needs both to build a version again; `--if-needed` asks whether the configuration is
still the one that a version was made with.
"""

import platform
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import ValidationError

from visionloop.bundle import ClassifierBundle
from visionloop_training.config import TrainingConfig
from visionloop_training.search.space import SEARCHED

# Sections that do not change what is made.
_BESIDE: dict[str, Any] = {"triggers": True, "card": True}


@dataclass(frozen=True, slots=True)
class Made:
    """Where a model was made: what can change its bits, and is not in the configuration."""

    threads: int
    processes: int
    device: str  # "cpu", or the GPU's name
    cpu: str  # the instructions that torch and onnxruntime use there

    @classmethod
    def here(cls, processes: int = 1) -> "Made":
        """This process."""
        gpu = torch.cuda.is_available()
        return cls(
            threads=torch.get_num_threads(),
            processes=processes,
            device=torch.cuda.get_device_name() if gpu else "cpu",
            cpu=f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        )


def same_training(
    bundle: ClassifierBundle, config: TrainingConfig, *, searched: bool = False
) -> bool:
    """Whether the version was made with this configuration; `searched`: but for what a search
    would choose.

    Settings that came later have their defaults there: they were what the program did then.
    """
    try:
        then = TrainingConfig.model_validate(bundle.provenance.config)
    except ValidationError:
        return False  # of another time, or of other making
    beside = {**_BESIDE, **(SEARCHED if searched else {})}
    return then.model_dump(exclude=beside) == config.model_dump(exclude=beside)
