"""A bundle of plain tensors, told to people."""

from visionloop.bundle import TensorsBundle
from visionloop.signature import FREE, TensorSpec

SHOWN_LABELS = 10


def tensor_facts(bundle: TensorsBundle) -> dict[str, object]:
    """Names and values for `Output.fields`."""
    return {
        **{f"input {spec.name}": _described(spec, bundle.batched) for spec in bundle.inputs},
        **{f"output {spec.name}": _described(spec, bundle.batched) for spec in bundle.outputs},
        "batching": bundle.source.batching,
        "labels": _labels(bundle),
        "file": bundle.source.file,
        "exported by": bundle.source.producer or None,
        "added by": f"{bundle.source.who}: {bundle.source.why}",
    }


def _described(spec: TensorSpec, batched: bool) -> str:
    """As `FP32 [n, 3, *]`: n is the rows of a batch, * a size that each request chooses."""
    sizes = ["*" if size == FREE else str(size) for size in spec.shape]
    return f"{spec.datatype} [{', '.join([*(['n'] if batched else []), *sizes])}]"


def _labels(bundle: TensorsBundle) -> str | None:
    names = [label.name for label in bundle.labels]
    more = f", … ({len(names)} in all)" if len(names) > SHOWN_LABELS else ""
    return ", ".join(names[:SHOWN_LABELS]) + more if names else None
