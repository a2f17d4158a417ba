"""Fine-tuning in plain PyTorch with torchvision's transforms, as its own references train.

SGD with momentum, cosine after a short warm-up, label smoothing 0.1, no weight decay on norms, an
exponential average of the weights, batch norms in train mode. The rate, 0.01 for 32, lies
between those of the references (0.1 for 256 images) and of the transfer tutorial (0.001 for 4); the
new head learns at ten times that.
"""

import time

import torch
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torchvision.transforms import v2
from training_job import Job, epochs_within, network

BATCH = 32
started = time.perf_counter()
job = Job.given()
to_input = v2.Compose(
    [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5] * 3, [0.5] * 3)]
)
augment = v2.Compose(
    [
        v2.RandomResizedCrop(job.size, scale=(0.7, 1.0), antialias=True),
        v2.RandomHorizontalFlip(),
        v2.RandomVerticalFlip(),
        v2.ColorJitter(0.2, 0.2),
        to_input,
    ]
)
pictures = job.pictures([path for path, _ in job.train])
labels = torch.tensor([label for _, label in job.train])
net = network(job.weights, job.classes)


def batch(places: torch.Tensor) -> torch.Tensor:
    """(n, 3, size, size)"""
    drawn = torch.stack([augment(pictures[place]) for place in places.tolist()])
    return drawn.contiguous(memory_format=torch.channels_last)


def loss(places: torch.Tensor) -> torch.Tensor:
    """Of one batch."""
    return cross_entropy(net(batch(places)), labels[places], label_smoothing=0.1)


steps = len(labels) // BATCH
net.eval()  # the trial leaves no trace in the batch norms
left = 0.92 * job.seconds - (time.perf_counter() - started)
epochs = epochs_within(left, lambda: loss(torch.arange(BATCH)).backward(), steps)
net.zero_grad()

groups = [
    {
        "params": [parameter],
        "lr": 0.1 if name.startswith("classifier") else 0.01,
        "weight_decay": 1e-4 if parameter.ndim > 1 else 0.0,
    }
    for name, parameter in net.named_parameters()
]
optimiser = torch.optim.SGD(groups, momentum=0.9, nesterov=True)
warm = max(1, steps * epochs // 10)
schedule = torch.optim.lr_scheduler.SequentialLR(
    optimiser,
    [
        torch.optim.lr_scheduler.LinearLR(optimiser, 0.1, total_iters=warm),
        torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(1, steps * epochs - warm)),
    ],
    [warm],
)
decay = 1 - min(1.0, 10 / (steps * epochs))  # the last tenth counts most
average = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
net.train()
for _ in range(epochs):
    for places in torch.randperm(len(labels))[: steps * BATCH].split(BATCH):
        optimiser.zero_grad()
        loss(places).backward()
        optimiser.step()
        schedule.step()
        average.update_parameters(net)

average.eval()
with torch.no_grad():
    tests = torch.stack([to_input(picture) for picture in job.pictures(job.test)])
    predicted = [average(part).argmax(1) for part in tests.split(64)]
job.answer(torch.cat(predicted).tolist(), epochs=epochs)
