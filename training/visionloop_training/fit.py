"""Linear probe, then fine-tuning from its head with discriminative learning rates.

The loop is plain: an order of (image, variant) pairs per epoch that seed and epoch decide, the next
batch read by one thread while this one is computed, one optimiser step, the average updated. Same
snapshot, same configuration, same machine: same weights, bit for bit, on a CPU, however often the
run was killed and went on from a checkpoint. Fine-tuning that collapses begins again at a lower
rate; where that does not help either, the probe is what is kept.
"""

import logging
import math
import time

import torch
from torch import Tensor

from visionloop.failpoints import failpoint
from visionloop_training import fit_state
from visionloop_training.batches import Batches, Slice
from visionloop_training.checkpoint import Checkpoint, Checkpoints
from visionloop_training.config import TrainingConfig
from visionloop_training.data import Dataset
from visionloop_training.distributed import Workers
from visionloop_training.features import Features
from visionloop_training.fit_state import Epoch, Failure, Progress, weights_of
from visionloop_training.fitted import Fitted
from visionloop_training.heads import fit_head
from visionloop_training.learner import Learner
from visionloop_training.network import Network
from visionloop_training.recipe import collapse, freezing, mixing, optimisers, schedules
from visionloop_training.recipe.collapse import CollapsedError, DivergedError
from visionloop_training.recipe.moving_average import MovingAverage
from visionloop_training.recipe.rates import Rates, rates_for
from visionloop_training.stop import Stop
from visionloop_training.validation import Validation
from visionloop_training.watch import Watch

_log = logging.getLogger(__name__)


def fit(
    network: Network,
    features: Features,
    data: Dataset,
    config: TrainingConfig,
    checkpoints: Checkpoints | None = None,
    stop: Stop | None = None,
    workers: Workers | None = None,
    watch: Watch | None = None,
) -> Fitted:
    """Trains `network` in place, from the last checkpoint where there is one.

    Raises ConfigurationError for settings that this network cannot follow, RefusedError when
    training diverges or collapses at every rate that is tried, and PreemptedError when told to
    stop: then a checkpoint was written.
    """
    workers = workers or Workers()
    run = _Run(
        network, features, data, config, checkpoints, stop or Stop(), workers, watch or Watch()
    )
    torch.manual_seed(config.seed)
    variants = features.variants or 1
    tuned = config.fit.epochs > 0 and not network.all_frozen
    features.prepare(data.val, 1)
    checkpoint = checkpoints.agreed(workers) if checkpoints else None
    state = fit_state.restore_finished(checkpoint, network)
    if state is None:
        features.prepare(data.train, variants if tuned else 1)
        state = run.fine_tune(checkpoint) if tuned else run.probe()
        run.end(state)
    network.eval()
    logits = run.validation.logits(data.val)
    run.validation.check_alive(logits)
    return Fitted(
        network=network.cpu(),
        history=state.history,
        kept_epoch=state.best,
        probe_penalty=state.probe_penalty,
        val_logits=logits.cpu(),
        rates=run.rates(state),
        failures=state.failures,
    )


class _Run:
    """One fit: what the probe and the epochs share."""

    def __init__(
        self,
        network: Network,
        features: Features,
        data: Dataset,
        config: TrainingConfig,
        checkpoints: Checkpoints | None,
        stop: Stop,
        workers: Workers,
        watch: Watch,
    ) -> None:
        workers.check_slices(config.fit.slices)
        mixing.check(config.mixing, network.frozen)
        self._plan = freezing.plan(network.backbone, config.fit)
        self._rates = rates_for(network.backbone, config.fit)
        self._learner = Learner(network, data, config, workers)
        self._batches = Batches(features, data, config, workers, watch)
        self._workers = workers
        self._watch = watch
        self._network = network
        self._data = data
        self._seed = config.seed
        self._config = config.fit
        self._checkpoints = checkpoints if workers.leads else None
        self._stop = stop
        self._pending: tuple[Tensor, int] | None = None  # the last step's loss, and its images
        self.validation = Validation(network, features, data, config.fit, workers, watch)

    def rates(self, state: Progress) -> Rates:
        """Lower after each failure."""
        return self._rates.lowered(collapse.LOWER ** len(state.failures))

    def probe(self) -> Progress:
        """Fits the head on the pretrained embeddings."""
        started = time.perf_counter()
        train = self.validation.embeddings(self._data.train)
        val = self.validation.embeddings(self._data.val)
        head, truth, soft = self._network.head, self._learner.truth, self._learner.soft
        found = fit_head(
            head,
            (train, truth, self._learner.weights),
            (val, self.validation.truth),
            self._config.probe_penalty,
            self._seed,
            self._learner.positives,
            soft if soft is None else soft.to(train.device),
            in_place=True,
        )
        self._workers.copy_leader(head)
        seconds = time.perf_counter() - started
        train_loss, val_loss, accuracy = self._workers.leaders_numbers(
            [found.train_loss, found.val_loss, found.val_accuracy]
        )
        first = Epoch(0, train_loss, val_loss, accuracy, 0.0, seconds)
        self._watch.epoch(first)
        return Progress(found.penalty, [first])

    def fine_tune(self, checkpoint: Checkpoint | None) -> Progress:
        """Trains until it goes well, or the retries are used up; leaves the kept weights."""
        self._start = weights_of(self._network)
        state = self.probe() if checkpoint is None else Progress.of(checkpoint.facts)
        while True:
            try:
                self._epochs(state, checkpoint)
                return state
            except CollapsedError as error:
                last = len(state.failures) == self._config.retries
                if last and isinstance(error, DivergedError):
                    raise
                checkpoint = None
                self._network.load_state_dict(self._start)
                again = self.probe()
                failure = Failure(state.epoch, self.rates(state).head, str(error))
                again.failures = [*state.failures, failure]
                if last:
                    _log.warning("%s; the linear probe is kept", error)
                    again.history += state.history[1:]
                    return again
                _log.warning("%s; again, at %.2g", error, self.rates(again).head)
                state = again

    def end(self, state: Progress) -> None:
        """Saves what was learned, from which a run that is killed later goes on."""
        if self._checkpoints:
            self._checkpoints.save(fit_state.finished_checkpoint(self._network, state))

    def _epochs(self, state: Progress, checkpoint: Checkpoint | None) -> None:
        """Runs the epochs that are left, from the checkpoint where there is one."""
        self._learner.freeze(self._network.frozen)
        optimiser = optimisers.optimiser(self._network, self._config, self.rates(state))
        best = weights_of(self._network)
        if self._network.backbone.weights_sha256 is None:
            # A probe's head is no start where all below it will change.
            self._network.load_state_dict(self._start)
        average = MovingAverage(self._network, self._config.ema)
        self._pending = None
        if checkpoint is not None:
            _log.info("going on from the checkpoint of step %d", checkpoint.step)
            best = fit_state.restore(checkpoint.tensors, self._network, optimiser, average)
            average.steps = state.average_steps
        while not state.over:
            started = time.perf_counter()
            self._learner.freeze(freezing.frozen_in(self._plan, state.epoch))
            self._watch.begin(state.epoch)
            for size, slices in self._batches.rest_of(state.epoch, state.taken):
                self._learn(state, optimiser, slices, size)
                average.update(self._network)
                state.average_steps = average.steps
                self._keep(state, optimiser, average, best)
            self._count_loss(state)
            self._check_finite(state)
            self._watch.steps_done()
            self._workers.copy_leader(self._network)  # on the statistics of batch norms
            raw = weights_of(self._network)
            self._network.load_state_dict(average.state())
            self._workers.copy_leader(self._network)
            rate = self.rates(state).head * self._share(state, state.step - 1)
            self.validation.end_epoch(state, rate, started)
            if state.best == state.epoch:
                best = weights_of(self._network)
            self._network.load_state_dict(raw)
            self._next_epoch(state)
        self._network.load_state_dict(best)

    def _learn(
        self,
        state: Progress,
        optimiser: torch.optim.Optimizer,
        slices: list[Slice],
        size: int,
    ) -> None:
        """One step on a batch of `size` images, of which these slices are ours.

        Its loss is read after the next step has been given out: reading waits for a GPU, which has
        work meanwhile. What diverges so takes one step more, from weights that nobody keeps.
        """
        optimisers.set_rates(optimiser, self._share(state, state.step))
        loss = self._learner.step(optimiser, slices, size, state.step)
        self._count_loss(state)
        self._check_finite(state)
        self._pending = (loss, size)
        state.taken += size
        state.step += 1
        self._watch.step(state.step, size)
        failpoint("fit.step")

    def _count_loss(self, state: Progress) -> None:
        """Adds the last step's loss to the epoch's."""
        if self._pending is not None:
            loss, size = self._pending
            state.total += loss.item() * size
            self._pending = None

    def _check_finite(self, state: Progress) -> None:
        """Raises DivergedError; after the same step in every process, which must agree on it."""
        if not math.isfinite(state.total):
            raise collapse.diverged(state.total, state.epoch)

    def _share(self, state: Progress, step: int) -> float:
        """Of the peak rate."""
        steps = self._batches.each_epoch * self._config.epochs
        return schedules.share(self._config, step, steps, state.val_losses)

    def _keep(
        self,
        state: Progress,
        optimiser: torch.optim.Optimizer,
        average: MovingAverage,
        best: dict[str, Tensor],
    ) -> None:
        """Saves a checkpoint when it is time, and stops when told to."""
        if self._workers.any(self._stop.told):
            self._stop.tell()
        saves = self._checkpoints
        if saves and (self._stop.told or saves.due):
            self._count_loss(state)
            if not math.isfinite(state.total):
                return  # not from here, and the next step says why
            tensors = fit_state.saved_tensors(self._network, optimiser, average, best)
            saves.save(Checkpoint(state.step, tensors, state.facts()))
            if self._stop.told:
                saves.flush()
        self._stop.check(f"after step {state.step} of epoch {state.epoch}")

    def _next_epoch(self, state: Progress) -> None:
        patience = self._config.patience
        tired = bool(patience) and state.epoch - state.best >= patience
        state.over = tired or state.epoch == self._config.epochs
        state.epoch, state.taken, state.total = state.epoch + 1, 0, 0.0
