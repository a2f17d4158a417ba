"""From an encoded image to a graph's input: all of its pixels, beside a reducing gap of 2 and 3.

    python -m bench.reducing                  # half a minute; one thread

Photographs (scikit-learn's, enlarged, with a sensor's noise) of the sizes that phones, previews and
web pages have, as JPEG and PNG, to 224 x 224 by the shorter side. For each: CPU milliseconds, the
least of several rounds in turns, and by how many grey levels the pixels differ from those of a
whole decoding. Writes build/bench/reducing.json.
"""

import io
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

from visionloop.preprocessing import Preprocessing, eval_preprocessing

SIZES = ((640, 480), (1024, 768), (1600, 1200), (4000, 3000))
GAPS = (None, 3.0, 2.0)
ROUNDS = 5
NOISE = 4.0  # grey levels, as a phone's sensor has indoors
HALF = (0.5, 0.5, 0.5)


def photograph(width: int, height: int) -> Image.Image:
    """A photograph of this size with noise, so that its file has a phone's bytes a pixel."""
    random = np.random.default_rng(width)
    picture = Image.fromarray(load_sample_images().images[0]).resize((width, height))
    noise = random.normal(0, NOISE, (height, width, 1))
    return Image.fromarray(np.clip(np.asarray(picture) + noise, 0, 255).astype(np.uint8))


def encoded(picture: Image.Image, name: str) -> bytes:
    """The picture as a file."""
    buffer = io.BytesIO()
    picture.save(buffer, name, quality=88)
    return buffer.getvalue()


def prepared_by(gap: float | None) -> Preprocessing:
    """What ImageNet's networks take."""
    return eval_preprocessing(224, 0.875, "bicubic", HALF, HALF, reducing_gap=gap)


def measured(data: bytes) -> list[dict[str, Any]]:
    """A row for each gap."""
    best = dict.fromkeys(GAPS, float("inf"))
    rows = {gap: prepared_by(gap).of_file(data)[1].astype(int) for gap in GAPS}
    for _ in range(ROUNDS):
        for gap in GAPS:
            start = time.process_time()
            prepared_by(gap).of_file(data)
            best[gap] = min(best[gap], time.process_time() - start)
    return [
        {
            "reducing_gap": gap or "none",
            "cpu_ms": round(1000 * best[gap], 1),
            "share": round(best[gap] / best[None], 2),
            "mean_difference": round(float(np.abs(rows[gap] - rows[None]).mean()), 2),
            "largest_difference": int(np.abs(rows[gap] - rows[None]).max()),
        }
        for gap in GAPS
    ]


def main() -> int:
    """Prints a line for each image and gap."""
    rows = []
    for width, height in SIZES:
        picture = photograph(width, height)
        for name in ("JPEG", "PNG"):
            data = encoded(picture, name)
            image = {"image": f"{width} x {height} {name}", "kilobytes": len(data) // 1000}
            for found in measured(data):
                rows.append({**image, **found})
                print("  ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
    output = Path("build/bench/reducing.json")
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(rows, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
