"""An epoch's batches, cut into slices and read one ahead of the step that needs them."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from torch import Tensor

from visionloop.telemetry import progress
from visionloop_training.config import TrainingConfig
from visionloop_training.data import Dataset
from visionloop_training.distributed import Workers
from visionloop_training.features import Features
from visionloop_training.order import epoch_pairs
from visionloop_training.watch import Watch

Pairs = list[tuple[int, int]]  # (place in train, variant)


@dataclass(frozen=True, slots=True)
class Slice:
    """A part of a batch: `inputs` (n, …) and their places in train; None where it is empty."""

    number: int
    inputs: Tensor | None
    places: list[int]


class Batches:
    """The batches of train, of which this process reads its own slices only."""

    def __init__(
        self,
        features: Features,
        data: Dataset,
        config: TrainingConfig,
        workers: Workers,
        watch: Watch,
    ) -> None:
        self._watch = watch
        self._features = features
        self._digests = [item.sha256 for item in data.train]
        balanced = config.fit.sampler == "balanced"
        self._labels = [item.label for item in data.train] if balanced else None
        self._seed = config.seed
        self._size = config.fit.batch_size
        self._slices = config.fit.slices
        self._own = workers.own(config.fit.slices)

    @property
    def each_epoch(self) -> int:
        """How many there are."""
        return -(-len(self._digests) // self._size)

    def rest_of(self, epoch: int, taken: int) -> Iterator[tuple[int, list[Slice]]]:
        """What is left after `taken` images: each batch's size and our slices of it."""
        order = epoch_pairs(self._seed, epoch, self._digests, self._features.variants, self._labels)
        left = range(taken, len(order), self._size)
        batches = [order[start : start + self._size] for start in left]
        if not batches:
            return  # the checkpoint is of the epoch's last step
        with ThreadPoolExecutor(1) as reader:
            ahead = reader.submit(self._read, batches[0])
            for index, pairs in enumerate(
                progress(batches, description=f"epoch {epoch}", unit="batches")
            ):
                with self._watch.waiting():
                    slices = ahead.result()
                if index + 1 < len(batches):
                    ahead = reader.submit(self._read, batches[index + 1])
                yield len(pairs), slices

    def _read(self, batch: Pairs) -> list[Slice]:
        slices: list[Slice] = []
        for number in self._own:
            pairs = cut(batch, number, self._slices)
            wanted = [(self._digests[place], variant) for place, variant in pairs]
            inputs = self._features.batch(wanted) if wanted else None
            slices.append(Slice(number, inputs, [place for place, _ in pairs]))
        return slices


def cut(pairs: Pairs, number: int, slices: int) -> Pairs:
    """The slice `number` of so many, as equal as they can be; the first ones are the larger."""
    each = -(-len(pairs) // slices)
    return pairs[number * each : (number + 1) * each]
