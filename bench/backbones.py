"""What each backbone costs to serve, and whether its exported graph answers as torch does.

    python -m bench.backbones            (make bench-backbones)

For each name below, in a process of its own: the network with random weights (no weight file is
needed; parity then shows only that the graph is the same function) and a head of two classes is
exported as training exports it, and measured: parameters without head; stages, which are the freeze
points and steps of the learning rate; the size of model.onnx; onnxruntime's latency on one image
and on a batch of 16 per image, the least of ten after a warm-up (other work on the machine only
ever adds), on all cores; and parity, the largest difference between onnxruntime's and torch's
embeddings of 8 images of noise, as a share of the largest number in them (random weights make
logits so large that probabilities would show nothing). A network that cannot be exported is listed
with the reason.

Environment: NAMES (comma-separated; all below) and OUTPUT (build/bench), whose backbones.json gets
the rows. With NAMES only those are measured and the others' rows stay, so it can be run in parts.
The table between the markers of docs/backbones.md shows all rows that there are.
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

DOCS: Final = Path("docs/backbones.md")
START, END = "<!-- backbones -->", "<!-- end of backbones -->"
CLASSES = 2
BATCH = 16
NAMES: Final = (
    "tf_efficientnet_lite0",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "mobilenet_v3_large",
    "efficientnet_b0",
    "efficientnet_v2_s",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "inception_v3",
    "alexnet",
    "vgg11_bn",
    "vgg13_bn",
    "vgg16_bn",
    "vgg19_bn",
    "convnext_atto",
    "convnext_tiny",
    "vit_tiny_patch16_224",
    "vit_b_16",
    "swin_t",
    "regnet_y_400mf",
    "mobilenetv4_conv_small",
)


def measure(name: str) -> dict[str, Any]:
    """The figures of one network, in this process."""
    import numpy as np
    import torch

    from visionloop_training import backbones
    from visionloop_training.export import Graph, Session, export
    from visionloop_training.links import Softmax
    from visionloop_training.network import Network

    torch.manual_seed(0)
    backbone, pixels = backbones.build(name, "none", None)
    preprocessing = pixels.preprocessing(None, "crop")
    height, width = preprocessing.output_size
    network = Network(backbone, preprocessing, CLASSES, frozen=0).eval()
    figures: dict[str, Any] = {
        "name": name,
        "pixels": height,
        "parameters": sum(p.numel() for p in backbone.parameters()),
        "stages": len(backbone.stages),
        "first_stages": list(backbone.stage_names[:3]),
        "embedding": backbone.width,
    }
    graph = Graph(network, Softmax(1.0))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export(graph, path, height, width, {})
        figures["onnx_bytes"] = path.stat().st_size
        session = Session(path)
        noise = np.random.default_rng(0).integers(0, 256, (BATCH, height, width, 3), np.uint8)
        few = noise[:8]
        with torch.no_grad():
            expected = graph(torch.from_numpy(few))[2].numpy()
        found = session(few)["embedding"]
        figures["parity"] = float(np.abs(found - expected).max() / np.abs(expected).max())
        figures["milliseconds"] = 1000 * _least(lambda: session(noise[:1]))
        figures["milliseconds_of_16"] = 1000 * _least(lambda: session(noise)) / BATCH
    return figures


def _least(run: Callable[[], object]) -> float:
    run()
    taken: list[float] = []
    for _ in range(10):
        began = time.perf_counter()
        run()
        taken.append(time.perf_counter() - began)
    return min(taken)


def measured(name: str) -> dict[str, Any]:
    """The same, in a process of its own: so that one network's failure or memory is no other's."""
    command = [sys.executable, "-m", "bench.backbones", name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"name": name, "failed": done.stderr.strip().splitlines()[-1]}
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def table(rows: list[dict[str, Any]], machine: str) -> str:
    """Markdown between the markers of the docs."""
    lines = [
        START,
        f"Measured on {machine}, by `make bench-backbones`.",
        "",
        "| backbone | input | parameters | stages | embedding | model.onnx | ms, 1 image "
        "| ms an image, 16 | parity |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        if "failed" in row:
            lines.append(f"| `{row['name']}` | | | | | cannot be exported: {row['failed']} | | | |")
            continue
        lines.append(
            f"| `{row['name']}` | {row['pixels']} px | {row['parameters'] / 1e6:.1f} M "
            f"| {row['stages']} | {row['embedding']} | {row['onnx_bytes'] / 1e6:.1f} MB "
            f"| {row['milliseconds']:.1f} | {row['milliseconds_of_16']:.1f} "
            f"| {row['parity']:.0e} |"
        )
    return "\n".join([*lines, END])


def main() -> None:
    if len(sys.argv) > 1:
        print(json.dumps(measure(sys.argv[1])))
        return
    path = Path(os.environ.get("OUTPUT", "build/bench")) / "backbones.json"
    chosen = [name for name in os.environ.get("NAMES", "").split(",") if name]
    rows = {row["name"]: row for row in _kept(path)} if chosen else {}
    machine = f"{os.cpu_count()} cores of {_processor()}"
    for name in chosen or NAMES:
        rows[name] = measured(name)
        print(rows[name], flush=True)
        write(path, list(rows.values()), machine)


def _kept(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    rows: list[dict[str, Any]] = json.loads(path.read_text())["backbones"]
    return rows


def write(path: Path, rows: list[dict[str, Any]], machine: str) -> None:
    """backbones.json, and the table in the docs in the order of NAMES."""
    known = {name: place for place, name in enumerate(NAMES)}
    rows = sorted(rows, key=lambda row: known.get(row["name"], len(known)))
    document = {
        "at": datetime.now(UTC).isoformat(),
        "machine": machine,
        "python": platform.python_version(),
        "backbones": rows,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1))
    text = DOCS.read_text(encoding="utf-8")
    before, _, rest = text.partition(START)
    DOCS.write_text(before + table(rows, machine) + rest.partition(END)[2], encoding="utf-8")


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in text.splitlines() if "model name" in line]
    return names[0] if names else platform.processor()


if __name__ == "__main__":
    main()
