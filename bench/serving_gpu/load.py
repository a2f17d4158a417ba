"""Load from several processes: one Python caller cannot keep a GPU busy."""

import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

from bench.serving.generator import Plan
from bench.serving.load import own_command, read_own
from bench.serving.processes import usage
from bench.serving.subjects import Serving

_GRACE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Answered:
    """What all callers got together."""

    images_per_second: float
    p50_ms: float  # of the slowest process's median
    p99_ms: float
    mean_batch: float
    server_cores: float
    errors: int
    problems: tuple[str, ...]


def send(plan: Plan, rows: int, serving: Serving, scratch: Path, processes: int) -> Answered:
    """The plan's callers spread over so many processes; each request carries `rows` images."""
    each = replace(plan, concurrency=max(1, plan.concurrency // processes))
    before, batches = usage(serving.program.pid), serving.batches()
    running = [_started(each, scratch / f"generator-{number}") for number in range(processes)]
    outputs = [process.communicate(timeout=plan.seconds + _GRACE_SECONDS)[0] for process in running]
    after, batches_after = usage(serving.program.pid), serving.batches()
    answers = [read_own(output) for output in outputs]
    runs = batches_after[1] - batches[1]
    return Answered(
        images_per_second=rows * sum(answer.images_per_second for answer in answers),
        p50_ms=max(answer.p50_ms for answer in answers),
        p99_ms=max(answer.p99_ms for answer in answers),
        mean_batch=(batches_after[0] - batches[0]) / runs if runs else 0.0,
        server_cores=(after.cpu - before.cpu) / (after.at - before.at),
        errors=sum(answer.errors for answer in answers),
        problems=tuple(problem for answer in answers for problem in answer.problems)[:3],
    )


def _started(plan: Plan, scratch: Path) -> subprocess.Popen[str]:
    scratch.mkdir(parents=True, exist_ok=True)
    return subprocess.Popen(
        own_command(plan, scratch), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
