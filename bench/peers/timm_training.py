"""Fine-tuning with timm's parts: its transforms, layer decay, AdamW, cosine schedule and EMA.

The settings are those that timm's users report for small data: layer decay 0.75, learning rate
5e-4, weight decay 0.05, label smoothing 0.1, flips both ways, crops of 70 % or more.
"""

import time

import torch
from timm.data import create_transform
from timm.loss import LabelSmoothingCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from timm.utils import ModelEmaV3
from training_job import Job, epochs_within, network

BATCH, HALF = 32, (0.5, 0.5, 0.5)
started = time.perf_counter()
job = Job.given()
train_transform = create_transform(
    job.size, is_training=True, scale=(0.7, 1.0), hflip=0.5, vflip=0.5, color_jitter=0.2,
    interpolation="bicubic", mean=HALF, std=HALF,
)  # fmt: skip
test_transform = create_transform(
    job.size, is_training=False, crop_pct=1.0, interpolation="bicubic", mean=HALF, std=HALF
)
pictures = job.pictures([path for path, _ in job.train])
labels = torch.tensor([label for _, label in job.train])
net = network(job.weights, job.classes)
criterion = LabelSmoothingCrossEntropy(0.1)


def loss(places: torch.Tensor) -> torch.Tensor:
    """Of one batch."""
    drawn = torch.stack([train_transform(pictures[place]) for place in places.tolist()])
    inputs = drawn.contiguous(memory_format=torch.channels_last)
    return criterion(net(inputs), labels[places])


steps = len(labels) // BATCH
net.eval()  # the trial leaves no trace in the batch norms
left = 0.92 * job.seconds - (time.perf_counter() - started)
epochs = epochs_within(left, lambda: loss(torch.arange(BATCH)).backward(), steps)
net.zero_grad()

optimiser = create_optimizer_v2(net, "adamw", lr=5e-4, weight_decay=0.05, layer_decay=0.75)
total = steps * epochs
schedule = CosineLRScheduler(
    optimiser, t_initial=total, warmup_t=total // 10, warmup_lr_init=1e-5, warmup_prefix=True,
    lr_min=1e-6, t_in_epochs=False,
)  # fmt: skip
average = ModelEmaV3(net, decay=1 - min(1.0, 10 / total), exclude_buffers=False)
net.train()
step = 0
for _ in range(epochs):
    for places in torch.randperm(len(labels))[: steps * BATCH].split(BATCH):
        optimiser.zero_grad()
        loss(places).backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        step += 1
        schedule.step_update(step)
        average.update(net, step=step)

average.eval()
with torch.no_grad():
    tests = torch.stack([test_transform(picture) for picture in job.pictures(job.test)])
    predicted = [average.module(part).argmax(1) for part in tests.split(64)]
job.answer(torch.cat(predicted).tolist(), epochs=epochs)
