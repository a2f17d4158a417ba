"""What enters the trained stages of the network, per image and variant; computed once, on disk.

With stages frozen their output is the same in every epoch and every round, so it is cached: a
round with 900 new images among 1,800 computes 900. On a CPU the frozen stages run as an ONNX graph
in onnxruntime, which does five to six times torch's images per second; the price is some four
seconds of export, once per freeze point. A GPU runs them in torch. Activations are kept as float16:
half the disk, and their rounding is far below what augmentation does to an image.

With nothing frozen, the cache holds the preprocessed pixels, and augmentation runs on each batch:
in threads beside a CPU, in processes of their own beside a GPU (`pixel_workers`).
"""

import hashlib
import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import visionloop
from visionloop.disk_space import room_for, temporary_folder
from visionloop.errors import CorruptError, UnavailableError
from visionloop.preprocessing import Preprocessing
from visionloop.strict_pillow import decoder
from visionloop.telemetry import progress
from visionloop_training import augment
from visionloop_training.cache import SETTING, ArrayCache, key_of, touch
from visionloop_training.config import AugmentConfig
from visionloop_training.cores import usable_cores
from visionloop_training.data import Blobs, Item
from visionloop_training.distributed import Workers
from visionloop_training.export import Session, export_module, exporter_versions
from visionloop_training.network import Network
from visionloop_training.pixel_workers import PixelWorkers
from visionloop_training.stop import Stop
from visionloop_training.weights import tensor_bytes

ACTIVATIONS = "activations"  # the output of the frozen stages' graph
_BATCH = 32
_TURN_SECONDS = 60.0  # that a process computes before it looks at the others
_FLOAT16_MAX = 65504.0
_log = logging.getLogger(__name__)


class Features:
    """Inputs of `Network.embed` by (image digest, variant)."""

    def __init__(
        self,
        network: Network,
        blobs: Blobs,
        preprocessing: Preprocessing,
        augmentation: AugmentConfig,
        folder: Path,
        stop: Stop | None = None,
        workers: Workers | None = None,
    ) -> None:
        self._network = network
        self._blobs = blobs
        self._preprocessing = preprocessing
        self._augmentation = augmentation
        pixels = made_from(preprocessing)
        on_gpu = network.device.type == "cuda"
        local = workers.local if workers else 1
        shared = local > 1 or (on_gpu and not network.frozen)  # by `pixel_workers`
        self._folder = folder
        self._stop = stop or Stop()
        self._workers = workers or Workers()
        self.computed = 0  # arrays that were not in the cache yet
        self._pixels: PixelWorkers | None = None
        if network.frozen:
            bottom: dict[str, object] = {
                **pixels,
                "backbone": network.backbone.name,
                "weights": _digest(network.backbone.stages[: network.frozen]),
                "frozen": network.frozen,
                **({"device": "cuda"} if on_gpu else {}),
            }
            # Of the graph's own bytes, which become part of a version (`lanes`), more decides.
            self._graph = key_of({**bottom, "exporter": exporter_versions()})
            varied = augmentation.model_dump(mode="json", exclude={"variants"})
            key = key_of({**bottom, "augmentation": varied})
            self._cache = ArrayCache(folder, "activations", key, shared=shared)
        else:
            self._cache = ArrayCache(folder, "pixels", key_of(pixels), shared=shared)

    @property
    def variants(self) -> int | None:
        """How many variants of a train image there are; None: a fresh one each time."""
        return self._augmentation.variants if self._network.frozen else None

    def prepare(self, items: Sequence[Item], variants: int) -> None:
        """Computes what the cache lacks of the items' first `variants` variants.

        Processes that share a disk share the work, by the places of the images: what is missing
        changes while one of them looks, since another has begun. They work in turns of a minute:
        one whose disk has everything waits for another whose disk has nothing, for hours perhaps,
        and no exchange bears that.
        """
        if not self._network.frozen:
            variants = 1
        lacking = [
            (place, item.sha256, number)
            for place, item in enumerate(items)
            for number in range(variants)
            if not self._cache.has(item.sha256, number)
        ]
        self.computed += len(lacking)
        ours = [
            (sha256, number)
            for place, sha256, number in lacking
            if self._workers.on_this_node(place // _BATCH)
        ]
        work = self._computed(ours) if ours else iter(())
        while self._workers.any(_goes_on(work, _TURN_SECONDS)):
            self._stop.check("while another process computed features")

    def _computed(self, wanted: Sequence[tuple[str, int]]) -> Iterator[None]:
        """Computes the features, a batch for each that is asked for."""
        bottom: Callable[[NDArray[np.uint8]], NDArray[np.float32]] | None = None
        for batch in _told(wanted):
            self._stop.check("while it computed features")
            shas = list(dict.fromkeys(sha for sha, _ in batch))
            pixels = dict(zip(shas, self._blobs.prepared(shas, self._preprocessing), strict=True))
            if not self._network.frozen:
                for sha, variant in batch:
                    self._cache.put(sha, pixels[sha], variant)
                yield
                continue
            bottom = bottom or self._bottom()  # exported after the first images proved readable
            varied = np.stack(
                [augment.variant(pixels[sha], self._augmentation, sha, n) for sha, n in batch]
            )
            for (sha, variant), array in zip(batch, bottom(varied), strict=True):
                self._cache.put(sha, _compact(array), variant)
            yield

    def batch(self, wanted: Sequence[tuple[str, int]]) -> Tensor:
        """The network's inputs for (digest, variant) pairs, float32, channels last where 4-D."""
        if self._network.frozen:
            arrays = [self._cache.get(sha, number) for sha, number in wanted]
            stacked = torch.from_numpy(np.stack(arrays)).float()
        elif self._network.device.type == "cuda":
            return self._pixels_on_gpu(wanted)
        else:
            with ThreadPoolExecutor(usable_cores()) as threads:
                varied = list(threads.map(self._varied, wanted))
            with torch.no_grad():
                stacked = self._network.normalise(torch.from_numpy(np.stack(varied)))
        if stacked.ndim == 4:
            stacked = stacked.contiguous(memory_format=torch.channels_last)
        return stacked.to(self._network.device)

    @torch.no_grad()
    def _pixels_on_gpu(self, wanted: Sequence[tuple[str, int]]) -> Tensor:
        """The normalised pixels, carried over while the GPU works on the last batch."""
        if self._pixels is None:
            processes = max(1, usable_cores() // self._workers.local)
            self._pixels = PixelWorkers(self._cache, self._augmentation, processes)
            self._carrier = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        images = torch.from_numpy(self._pixels.batch(wanted)).pin_memory()
        with torch.cuda.stream(self._carrier):
            carried = images.to(self._network.device, non_blocking=True)
            stacked = self._network.normalise(carried)
            stacked = stacked.contiguous(memory_format=torch.channels_last)
        self._carrier.synchronize()
        stacked.record_stream(torch.cuda.current_stream())  # that of the training loop
        return stacked

    def _varied(self, wanted: tuple[str, int]) -> NDArray[np.uint8]:
        """The pixels of a (digest, variant)."""
        sha, number = wanted
        image = self._cache.get(sha).astype(np.uint8, copy=False)
        return augment.variant(image, self._augmentation, sha, number)

    def _bottom(self) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
        """The frozen stages as a function of uint8 images (batch, height, width, 3)."""
        if self._network.device.type == "cuda":
            return self._on_gpu
        path = self._graph_path
        touch(path)  # first, or another run's trim might remove it when it was found
        if not path.exists():
            try:
                self._write_graph(path)
            except (UnavailableError, OSError) as error:
                _log.warning("%s; the graph of the frozen stages is made for this run alone", error)
                with temporary_folder("visionloop-graph-") as folder:
                    self._export(folder / path.name)
                    return _activations(folder / path.name)
        return _activations(path)

    def write_bottom(self, path: Path) -> None:
        """Writes the graph of the frozen stages, from uint8 images to `ACTIVATIONS`: that
        of the cache, where it has one. Raises CorruptError where that is torn."""
        cached = self._graph_path
        touch(cached)
        if cached.exists():
            _activations(cached)
            shutil.copyfile(cached, path)
        else:
            self._export(path)

    def _write_graph(self, path: Path) -> None:
        with room_for(path, setting=SETTING):
            path.parent.mkdir(parents=True, exist_ok=True)
            # In a folder of its own: in containers that share a cache, process ids are all alike.
            with tempfile.TemporaryDirectory(dir=path.parent) as partial:
                made = Path(partial) / path.name
                self._export(made)
                made.replace(path)

    @property
    def _graph_path(self) -> Path:
        return self._folder / "graphs" / f"{self._graph}.onnx"

    def _export(self, path: Path) -> None:
        height, width = self._preprocessing.output_size
        export_module(_Bottom(self._network), path, height, width, [ACTIVATIONS])

    @torch.inference_mode()
    def _on_gpu(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        self._network.eval()
        found = self._network.bottom(torch.from_numpy(images).to(self._network.device))
        array: NDArray[np.float32] = found.float().cpu().numpy()
        return array


class _Bottom(nn.Module):
    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network.bottom(images)


def _activations(path: Path) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    """The graph in the file, which is not needed any more."""
    try:
        session = Session(path, threads=torch.get_num_threads())
    except Exception as error:  # onnxruntime's errors have no common base
        raise CorruptError(
            f"cache: {path} cannot be loaded ({error}); remove it and run again"
        ) from error
    return lambda images: session(images)[ACTIVATIONS]


def made_from(preprocessing: Preprocessing) -> dict[str, object]:
    """What decides the pixels of an image in a cache's key, or it would hold another decoder's."""
    return {
        "preprocessing": preprocessing.model_dump(mode="json"),
        "decoder": decoder(),
        "visionloop": visionloop.__version__,
    }


def _digest(stages: nn.Module) -> str:
    """Of the frozen weights themselves, so that no two networks ever share a cache entry."""
    digest = hashlib.sha256()
    for name, tensor in stages.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor_bytes(tensor))
    return digest.hexdigest()


def _compact(array: NDArray[np.float32]) -> NDArray[np.generic]:
    if float(np.abs(array).max(initial=0.0)) > _FLOAT16_MAX:
        return array
    return array.astype(np.float16)


def _goes_on(work: Iterator[None], seconds: float) -> bool:
    """Works for so long; whether there is something left."""
    end = time.monotonic() + seconds
    return any(time.monotonic() >= end for _ in work)


def _told(wanted: Sequence[tuple[str, int]]) -> Iterator[list[tuple[str, int]]]:
    """Batches, each counted as done when the next one is asked for."""
    nothing: tuple[int, ...] = ()  # counted by hand
    with progress(nothing, description="features", unit="images", total=len(wanted)) as shown:
        for batch in _batches(wanted, _BATCH):
            yield batch
            shown.advance(len(batch))


def _batches(items: Iterable[tuple[str, int]], size: int) -> Iterator[list[tuple[str, int]]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
