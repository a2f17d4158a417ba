"""What would end a run after an hour is looked for before its first epoch.

Each check is one question to the store, the disk or the device, and each failure one line that says
what to do. Of several processes the leading one looks. The price is one request an image (a HEAD;
at 5 ms and 8 at once, 10,000 images take 6 s), and above `LOOKED_AT` images a sample of them.
"""

import logging
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from visionloop.errors import (
    ConfigurationError,
    NotFoundError,
    RefusedError,
    VisionloopError,
)
from visionloop.objectstore import ObjectStore
from visionloop.objectstore.transfers import in_parallel
from visionloop.snapshot import blob_key
from visionloop_training.config import TrainingConfig
from visionloop_training.data import Blobs, Dataset, Item
from visionloop_training.distributed import Workers
from visionloop_training.stable import Version

LOOKED_AT = 10_000  # images whose blobs are asked for; of more, this many
DECODED = 16  # images that are read and decoded, of each split
_MIB = 2**20
_KEPT_PIXELS = 3  # bytes of a pixel in the cache
_GOLDEN = 8  # images; fewer prove no parity
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Subject:
    """What is looked at."""

    store: ObjectStore
    data: Dataset
    config: TrainingConfig
    cache: Path
    blobs: Blobs
    workers: Workers
    stable: Version | None


def check(subject: Subject) -> list[str]:
    """What was found in order, one line each. Raises the first failure, and logs all others."""
    passed: list[str] = []
    failures: list[VisionloopError] = []
    for look in _LOOKS:
        try:
            passed += look(subject)
        except VisionloopError as error:
            failures.append(error)
    for failure in failures[1:]:
        _log.error("preflight: %s", failure)
    if failures:
        raise failures[0]
    for line in passed:
        _log.info("preflight: %s", line)
    return passed


def _processes(subject: Subject) -> Iterator[str]:
    subject.workers.check_slices(subject.config.fit.slices)
    count = subject.workers.count
    yield f"{count} process{'es' if count > 1 else ''}"


def _device(_subject: Subject) -> Iterator[str]:
    if not torch.cuda.is_available():
        built = " (this torch is built for CPUs)" if torch.version.cuda is None else ""
        yield f"device: CPU, {torch.get_num_threads()} threads{built}"
        return
    try:
        free, total = torch.cuda.mem_get_info()
        torch.zeros(1, device="cuda").add_(1).item()
    except RuntimeError as error:
        raise ConfigurationError(
            f"the GPU is there but does not compute: {str(error).splitlines()[0]}; check the "
            "driver, or hide it (CUDA_VISIBLE_DEVICES=) to train on the CPU",
            field="device",
        ) from error
    name = torch.cuda.get_device_name()
    yield f"device: {name}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free"


def _rights(subject: Subject) -> Iterator[str]:
    """Writes, rewrites and deletes an object under models/, as publishing will."""
    subject.store.probe("models")
    yield f"{subject.store.url}/models: can be written"


def _blobs(subject: Subject) -> Iterator[str]:
    """Whether the store still has the images, by a look at each, or at a sample."""
    data = subject.data
    items = sorted((*data.train, *data.val, *data.test), key=lambda item: item.sha256)
    step = -(-len(items) // LOOKED_AT)
    chosen = items[::step]
    missing = [sha for sha in in_parallel(_missing(subject.store), chosen) if sha]
    if missing:
        of = f"{len(chosen)} that were looked at" if step > 1 else f"{len(chosen)} images"
        raise NotFoundError(
            f"{len(missing)} of {of} of snapshot {data.snapshot[:19]} are not in "
            f"{subject.store.url} (first: {missing[0]}); restore them from a backup, or make a "
            "snapshot without them"
        )
    yield f"{len(chosen)} of {len(items)} images: in the store"


def _missing(store: ObjectStore) -> Callable[[Item], str]:
    def look(item: Item) -> str:
        try:
            store.stat(blob_key(item.sha256))
        except NotFoundError:
            return item.sha256
        return ""

    return look


def _readable(subject: Subject) -> Iterator[str]:
    """Digest and decoder, on a few images of each split; the others are read in training."""
    data = subject.data
    chosen = [
        item
        for split in (data.train, data.val, data.test)
        for item in split[:: max(1, len(split) // DECODED)][:DECODED]
    ]
    for item in chosen:
        subject.blobs.decoded(item.sha256)
    yield f"{len(chosen)} images: read and decoded"


def _disk(subject: Subject) -> Iterator[str]:
    """Room for the encoded images, the pixels or activations of each, and the exported graph.

    Activations are about as large as the pixels (docs/training.md), so both are counted alike.
    """
    data, config = subject.data, subject.config
    images = len(data.train) + len(data.val) + len(data.test)
    side = config.pixels.image_size or 224
    variants = config.augment.variants if config.fit.freeze else 1
    needed = images * variants * side * side * _KEPT_PIXELS // 2 + 256 * _MIB
    free = shutil.disk_usage(subject.cache).free
    if needed > free + (_held(subject.cache) if needed > free else 0):
        raise ConfigurationError(
            f"--cache {subject.cache} has {free / 2**30:.1f} GiB free, and {images} images "
            f"need about {needed / 2**30:.1f} GiB; give it more room, name another folder, or "
            "lower augment.variants or pixels.image_size",
            field="cache",
        )
    yield f"{subject.cache}: {free / 2**30:.1f} GiB free, about {needed / 2**30:.1f} GiB needed"


def _held(folder: Path) -> int:
    """Bytes that are there already, of this run's images or of others that can make room."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _opponent(subject: Subject) -> Iterator[str]:
    """The gate will need it: its files, with their digests, and its probabilities."""
    if subject.stable is None:
        yield "there is no stable version to compare with"
        return
    subject.stable.output("probabilities")
    _ = subject.stable.session
    yield f"stable version {subject.stable.bundle.version}: whole, and its graph loads"


def _golden(subject: Subject) -> Iterator[str]:
    data, wanted = subject.data, subject.config.parity.images
    there = len(data.test) + len(data.val) + len(data.train)
    if there < _GOLDEN:
        raise RefusedError(
            f"{there} images are too few to prove that the exported file answers as the network "
            f"does ({_GOLDEN} at least, {wanted} wanted); label more images"
        )
    yield f"golden images: {min(there, wanted)} of {wanted} wanted"


_LOOKS: tuple[Callable[[Subject], Iterator[str]], ...] = (
    _processes, _device, _rights, _blobs, _readable, _disk, _opponent, _golden,
)  # fmt: skip
