"""`visionloop predict`: ask the inference service from the command line. Needs no extra."""

import argparse
from dataclasses import asdict

from visionloop.cli.output import Output
from visionloop.client import Client


def predict(options: argparse.Namespace, output: Output) -> int:
    """Prints one line per image; exit code 65 when some image was refused."""
    with Client(options.target, timeout=options.timeout) as client:
        results = client.recognize(
            options.images,
            model=options.model,
            version=options.model_version,
            top_k=options.top_k,
        )
    rows = []
    for path, result in zip(options.images, results, strict=True):
        if result.error is not None:
            output.note(f"{path}: {result.error}")
            continue
        best = ", ".join(f"{label.name} {label.probability:.3f}" for label in result.labels)
        rows.append([path, best + (" (not sure)" if result.not_sure else ""), result.version])
    if rows:
        output.table(["image", "what it shows", "version"], rows)
    output.result(
        [
            {
                "image": path,
                "model": result.model,
                "version": result.version,
                "labels": [asdict(label) for label in result.labels],
                "not_sure": result.not_sure,
                "prediction_id": result.prediction_id,
                "error": str(result.error) if result.error else None,
            }
            for path, result in zip(options.images, results, strict=True)
        ]
    )
    return 65 if any(result.error for result in results) else 0
