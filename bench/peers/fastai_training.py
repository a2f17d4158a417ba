"""Fine-tuning as fastai's own lessons do it: vision_learner and fine_tune, batch augmentation.

One frozen epoch, then one-cycle with discriminative rates (base 2e-3), label smoothing, flips both
ways and its default turns, zooms and lighting. The weights are put into its body by hand, because
it would download them.
"""

import time

import torch
from fastai.vision.all import (
    CategoryBlock,
    DataBlock,
    ImageBlock,
    IndexSplitter,
    LabelSmoothingCrossEntropy,
    Normalize,
    Resize,
    ResizeMethod,
    aug_transforms,
    vision_learner,
)
from training_job import BACKBONE, Job, epochs_within, network

BATCH = 32
started = time.perf_counter()
job = Job.given()
label_of = dict([*job.train, *job.val])
block = DataBlock(
    blocks=(ImageBlock, CategoryBlock(vocab=list(range(job.classes)))),
    get_y=lambda path: label_of[path],
    splitter=IndexSplitter(range(len(job.train), len(label_of))),
    item_tfms=Resize(job.size, method=ResizeMethod.Squish),
    batch_tfms=[
        *aug_transforms(flip_vert=True),
        Normalize.from_stats([0.5] * 3, [0.5] * 3, cuda=False),
    ],
)
loaders = block.dataloaders(list(label_of), bs=BATCH, num_workers=0)
learner = vision_learner(
    loaders, BACKBONE, pretrained=False, normalize=False, loss_func=LabelSmoothingCrossEntropy()
)
body = network(job.weights, job.classes).state_dict()
learner.model[0].model.load_state_dict(
    {name: tensor for name, tensor in body.items() if not name.startswith("classifier")}
)


def trial() -> None:
    """One step's work, with the batch norms at rest."""
    inputs, labels = (part.as_subclass(torch.Tensor) for part in loaders.one_batch())
    learner.loss_func(learner.model(inputs), labels).backward()


learner.model.eval()
left = 0.88 * job.seconds - (time.perf_counter() - started)  # val is scored after each epoch
epochs = epochs_within(left, trial, len(loaders.train))
learner.model.zero_grad()
learner.model.train()
with learner.no_bar(), learner.no_logging():
    learner.fine_tune(max(1, epochs - 1), base_lr=2e-3)
    scores, _ = learner.get_preds(dl=loaders.test_dl(job.test))
job.answer(torch.as_tensor(scores).argmax(1).tolist(), epochs=epochs)
