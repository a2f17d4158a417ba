"""What the environment asks for: which servers, models and concurrencies, and for how long."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.serving.models import MODELS
from visionloop.errors import ConfigurationError

RIVALS = ("pytriton", "mlserver")  # must run; they share their rounds with visionloop
OTHERS = ("mosec", "litserve", "bentoml", "ray")
PEERS = ("visionloop", *RIVALS, *OTHERS)
JPEGS = {"jpeg20k": 20_000, "jpeg100k": 100_000}  # bytes of one image
GENERATORS = ("auto", "perf_analyzer", "own")

HELP = f"""make bench-serving: this service beside its limits and its peers, in one run.
Environment (make bench-serving PEERS=visionloop,mlserver MODELS=pool …):
  PEERS        of {",".join(PEERS)} (all)
  MODELS       of {",".join((*MODELS, *JPEGS))} (all)
  CONCURRENCY  requests under way at once (1,4,16,64)
  PAIRS        rounds of limit, subject, limit, subject, … for each figure, 5 or more (5)
  SECONDS      of load in one round, at least; slow models get more (2)
  GENERATOR    auto, perf_analyzer or own; auto takes our own where perf_analyzer cannot run (auto)
  OUTPUT       folder of models, venvs, logs and serving.json (build/bench)"""


@dataclass(frozen=True, slots=True)
class Options:
    """One run's plan."""

    peers: tuple[str, ...] = PEERS
    models: tuple[str, ...] = (*MODELS, *JPEGS)
    concurrency: tuple[int, ...] = (1, 4, 16, 64)
    pairs: int = 5
    seconds: float = 2.0
    generator: str = "auto"
    output: Path = Path("build/bench")

    @property
    def minutes(self) -> float:
        """About how long it takes with everything installed: what a round of each model took."""
        rounds = (self.pairs + 1) * len(self.concurrency)
        tensors = [name for name in self.models if name in MODELS]
        servers = len(self.peers) + 1  # the echo
        window = self.seconds + 1.0  # starting the generator, the limit's share
        heavy = 7.0 * servers * ("resnet50" in tensors)  # seconds; its rounds are longer
        per_round = len(tensors) * servers * window + heavy
        jpegs = [name for name in self.models if name in JPEGS]
        per_round += len(jpegs) * window * ("visionloop" in self.peers)
        starts = 10.0 * servers * len(tensors)
        return (rounds * per_round + starts) / 60.0


def from_environment(environment: Mapping[str, str] = os.environ) -> Options:
    """The plan. Raises ConfigurationError that names the variable, its value and what is taken."""
    default = Options()
    generator = environment.get("GENERATOR", default.generator)
    if generator not in GENERATORS:
        raise ConfigurationError(
            f"GENERATOR={generator!r} is not one of {', '.join(GENERATORS)}", field="GENERATOR"
        )
    return Options(
        peers=_names("PEERS", environment, default.peers),
        models=_names("MODELS", environment, default.models),
        concurrency=tuple(
            int(_number("CONCURRENCY", text, 1, 1024))
            for text in _list(environment.get("CONCURRENCY", "")) or map(str, default.concurrency)
        ),
        pairs=int(_number("PAIRS", environment.get("PAIRS") or str(default.pairs), 1, 100)),
        seconds=_number("SECONDS", environment.get("SECONDS") or str(default.seconds), 0.5, 600),
        generator=generator,
        output=Path(environment.get("OUTPUT") or default.output),
    )


def _list(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _names(
    variable: str, environment: Mapping[str, str], known: tuple[str, ...]
) -> tuple[str, ...]:
    asked = _list(environment.get(variable, "")) or list(known)
    for name in asked:
        if name not in known:
            raise ConfigurationError(
                f"{variable} names {name!r}; known are {', '.join(known)}", field=variable
            )
    return tuple(name for name in known if name in asked)


def _number(variable: str, text: str, least: float, most: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not least <= value <= most:
        raise ConfigurationError(
            f"{variable}={text!r} is no number between {least:g} and {most:g}", field=variable
        )
    return value
