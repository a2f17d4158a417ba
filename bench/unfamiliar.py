"""Does a model notice what it was never trained for? Solar cells, and everything else at hand.

    python -m bench.unfamiliar            # build/bench/unfamiliar.json; some minutes on two cores

Trains a solar-cell model (preset `demo`, small and short), then shows model.onnx the test cells and
real pictures of other things, from installed packages. For two scores, the graph's `distance` and
the energy of its logits (Liu et al. 2020):

    auroc     a random strange picture scores higher than a random test cell, in so many cases
    at 95     share of strange pictures above the limit that 95 % of the val cells stay below
    at 99     the same with 99 %

and what the distance costs: the same graph at batch 1, asked for it and not asked, in turns.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import skimage.data
import sklearn.datasets
from numpy.typing import NDArray
from PIL import Image
from sklearn.metrics import roc_auc_score

from bench.accuracy.runs import MODEL, Recipe, Task, train, write_snapshot
from bench.accuracy.splits import split
from bench.accuracy.subjects import digits, solar_cells
from visionloop.bundle import ClassificationBundle
from visionloop.images import decode
from visionloop.objectstore import open_store
from visionloop.repository import ModelRepository
from visionloop_training.export import Session

OUTPUT = Path("build/bench/unfamiliar.json")
RECIPE = Recipe("demo", ("pixels.image_size=160", "fit.epochs=3", "augment.variants=2"))
PHOTOGRAPHS = (
    "astronaut", "brick", "camera", "cell", "chelsea", "clock_motion", "coffee", "coins", "color",
    "grass", "gravel", "horse", "hubble_deep_field", "ihc", "logo", "microaneurysms", "moon",
    "motorcycle_left", "motorcycle_right", "page", "retina", "rocket", "text",
)  # fmt: skip
ROUNDS = 200  # of the cost

Pixels = NDArray[np.uint8]
Floats = NDArray[np.floating]


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table; 1 where a kind of picture is told worse than by 0.95 AUROC."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="unfamiliar-") as temporary:
        folder = Path(temporary)
        bundle, cells = _trained(folder, options.threads)
        session = Session(folder / "bundle" / bundle.graph, options.threads)

        def scores(images: Sequence[Pixels]) -> dict[str, Floats]:
            found = session.batched([bundle.preprocessing(image) for image in images])
            energy = -np.logaddexp.reduce(found["logits"].astype(np.float64), axis=1)
            return {"distance": found["distance"][:, 0], "energy": energy}

        known = {part: scores(images) for part, images in cells.items()}
        rows = []
        for kind, images in strange().items():
            rows += _rows(kind, known, scores(images))
        cost = _cost(folder / "bundle" / bundle.graph, bundle, cells["test"][0], options.threads)
    accuracy = bundle.metrics["accuracy"]
    print(f"solar cells, test accuracy {accuracy:.1%}, limit {bundle.thresholds.distance:.4f}")
    print(f"{'picture of':12} {'n':>4}  {'score':8} {'auroc':>6} {'at 95':>6} {'at 99':>6}")
    for row in rows:
        print(
            f"{row['kind']:12} {row['images']:4}  {row['score']:8} {row['auroc']:6.3f} "
            f"{row['at_95']:6.1%} {row['at_99']:6.1%}"
        )
    print(f"an image with the distance takes {cost['ratio']:.3f} times as long as without")
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    told = {"accuracy": accuracy, "rows": rows, "cost": cost}
    OUTPUT.write_text(json.dumps(told, indent=1), encoding="utf-8")
    return int(any(row["auroc"] < 0.95 for row in rows if row["score"] == "distance"))


def strange() -> dict[str, list[Pixels]]:
    """Pictures of other things by kind; the solar cells are grey, so there are grey ones, too."""
    folder = Path(skimage.data.__file__).parent
    files = [next(folder.glob(f"{name}.*")) for name in PHOTOGRAPHS]
    photographs = [decode(file.read_bytes()) for file in files if file.suffix != ".tif"]
    photographs += list(sklearn.datasets.load_sample_images().images)
    random = np.random.default_rng(0)
    details = []
    for photograph in photographs:
        height, width = photograph.shape[:2]
        side = min(height, width) // 2
        for _ in range(4):
            top, left = random.integers(0, height - side), random.integers(0, width - side)
            details.append(photograph[top : top + side, left : left + side])
    faces = np.load(folder / "lfw_subset.npy")[:100]  # the half with faces; 25 pixels each
    return {
        "photographs": photographs,
        "grey details": [_grey(detail) for detail in details],
        "faces": [_three(np.rint(255 * face).astype(np.uint8)) for face in faces],
        "digits": [decode(picture.data) for picture in digits().pictures[:100]],
        "noise": list(random.integers(0, 256, (50, 160, 160, 3), dtype=np.uint8)),
    }


def _trained(folder: Path, threads: int) -> tuple[ClassificationBundle, dict[str, list[Pixels]]]:
    """A published bundle below `folder`, and its cells of val and test."""
    subject = solar_cells()
    numbers = list(range(len(subject.pictures)))
    parts = split("plain", [picture.label for picture in subject.pictures], numbers, 0)
    url = (folder / "store").as_uri()
    task = Task(subject.name, "plain", 0, inner=False)
    dataset = write_snapshot(url, task, subject, parts, numbers, 1.0)
    train(url, dataset, _last(RECIPE, subject.settings), None, threads, folder / "train.log")
    bundle = ModelRepository(open_store(url)).fetch(MODEL, 1, folder / "bundle")
    assert isinstance(bundle, ClassificationBundle)
    return bundle, {
        part: [
            decode(picture.data)
            for picture, where in zip(subject.pictures, parts, strict=True)
            if where == part
        ]
        for part in ("val", "test")
    }


def _last(recipe: Recipe, settings: Sequence[str]) -> list[str]:
    """Flags in which the recipe's settings win over the subject's."""
    pairs = [part for one in (*settings, *recipe.settings) for part in ("--set", one)]
    return ["--preset", recipe.preset, *pairs]


def _rows(
    kind: str, known: dict[str, dict[str, Floats]], found: dict[str, Floats]
) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for score, values in found.items():
        test = known["test"][score]
        truth = np.repeat([0, 1], [len(test), len(values)])
        limits = np.quantile(known["val"][score], [0.95, 0.99], method="higher")
        rows.append(
            {
                "kind": kind,
                "images": len(values),
                "score": score,
                "auroc": float(roc_auc_score(truth, np.concatenate([test, values]))),
                "at_95": float((values > limits[0]).mean()),
                "at_99": float((values > limits[1]).mean()),
                "test_cells_at_99": float((test > limits[1]).mean()),
            }
        )
    return rows


def _cost(
    path: Path, bundle: ClassificationBundle, image: Pixels, threads: int
) -> dict[str, float]:
    """Median milliseconds of one image, with the distance and without."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    given = {bundle.input.name: bundle.preprocessing(image)[np.newaxis]}
    names = [output.name for output in bundle.outputs]
    asked = {"with": names, "without": [name for name in names if name != "distance"]}
    taken: dict[str, list[float]] = {"with": [], "without": []}
    for _ in range(ROUNDS):
        for which, outputs in asked.items():
            began = time.perf_counter()
            session.run(outputs, given)
            taken[which].append(1e3 * (time.perf_counter() - began))
    median = {which: statistics.median(times) for which, times in taken.items()}
    return {**median, "ratio": median["with"] / median["without"]}


def _grey(image: Pixels) -> Pixels:
    return _three(np.asarray(Image.fromarray(image).convert("L")))


def _three(image: Pixels) -> Pixels:
    """(height, width) → (height, width, 3)."""
    return np.repeat(image[..., np.newaxis], 3, axis=2)


if __name__ == "__main__":
    sys.exit(main())
