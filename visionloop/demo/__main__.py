"""`make demo`: images in, a served model out, corrections in, a better model out, and proof.

Exit code 0 means that the loop closed and every promise held; the report says which those are.
"""

import argparse
import shutil
import sys
import time
from pathlib import Path

from visionloop.client import Client
from visionloop.demo import load, solar_cells, steps
from visionloop.demo.programs import say
from visionloop.demo.report import DemoRun, write_report
from visionloop.disk_space import room_anywhere, room_for
from visionloop.errors import ConfigurationError, VisionloopError
from visionloop.extras import require

AFTER_SWAP_SECONDS = 3.0  # the load goes on so long after the new version's first answer
FEWEST_IMAGES = 100


def main() -> int:
    """Runs the demo; returns its exit code."""
    options = _options()
    output: Path = options.output.resolve()
    try:
        require("demo")
        with room_anywhere({"--output": output}):
            run = _loop(options, output)
            broken = write_report(run, output)
    except VisionloopError as error:
        sys.stderr.write(f"demo: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    for sentence in broken:
        sys.stderr.write(f"demo: broken promise: {sentence}\n")
    return 1 if broken else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m visionloop.demo", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("build/demo"), help="%(default)s")
    parser.add_argument("--store", help="an s3:// store to use instead of a folder")
    parser.add_argument("--images", type=int, default=None, help="use about so many photographs")
    parser.add_argument("--preset", default="demo", help="of visionloop-train (%(default)s)")
    parser.add_argument(
        "--deadline",
        type=float,
        default=steps.LOAD_DEADLINE,
        help="seconds that a request under load may take (%(default)s)",
    )
    parser.add_argument("--set", action="append", default=[], help="for visionloop-train")
    return parser.parse_args()


def _loop(options: argparse.Namespace, output: Path) -> DemoRun:
    cells = solar_cells.load()[:: _stride(options.images)]
    first, second = solar_cells.halves(cells)
    _make_room(output)
    started = time.time()
    say(f"1. Start the programs of the suite ({output / 'data'})")
    with steps.suite_running(output, options.store) as suite:
        say(f"2. Import {len(first)} of {len(cells)} photographs of solar cells with their labels")
        labelled = time.time()
        steps.import_labelled(suite, first, output)
        say("3. Train and promote the first version")
        one = steps.train(suite, options.preset, options.set, labelled)
        say("4. Serve it under a steady load, from here to the end")
        with steps.background_load(suite, second, output, options.deadline) as requests:
            say(f"5. Recognise the other {len(second)} photographs, which no model has seen")
            answers = steps.recognise(suite, second)
            right = sum(answer.right for answer in answers)
            say(f"  {right} of {len(answers)} right ({right / len(answers):.1%})")
            say("6. Send corrections and the remaining labels")
            labelled = time.time()
            steps.correct(suite, answers)
            say("7. Retrain, pass the gate, promote · 8. the running server swaps")
            two = steps.train(suite, options.preset, options.set, labelled)
            time.sleep(AFTER_SWAP_SECONDS)
        say("9. Report")
        with Client(suite.inference) as client:
            served = client.recognize(first[0].path)[0].version
        return DemoRun(
            images=len(cells),
            trainings=(one, two),
            answers=answers,
            requests=load.read(requests),
            deadline=options.deadline,
            served_version_at_end=served,
            after_swap_seconds=AFTER_SWAP_SECONDS,
            seconds=time.time() - started,
        )


def _make_room(output: Path) -> None:
    """An empty folder; what an earlier demo left there goes, and nothing else does."""
    if output.exists() and any(output.iterdir()) and not (output / steps.LOG).exists():
        raise ConfigurationError(
            f"--output {output} holds files that are not of a demo; name another folder, or empty "
            "it yourself",
            field="output",
        )
    shutil.rmtree(output, ignore_errors=True)
    with room_for(output, setting="--output"):
        output.mkdir(parents=True)


def _stride(images: int | None) -> int:
    total = len(solar_cells.load())
    if images is None:
        return 1
    if not FEWEST_IMAGES <= images <= total:
        raise ConfigurationError(
            f"--images {images}: give {FEWEST_IMAGES} to {total}", field="images"
        )
    return total // images


if __name__ == "__main__":
    sys.exit(main())
