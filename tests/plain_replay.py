"""Buffers and retrieval of the plain program (``plain_program``)."""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from plain_models import F64, Classifier, Data, Vae, draw, one_hot, summed_kl
from torch import Tensor, nn
from torch.nn import functional

from raysweep.learning.config import Config
from raysweep.learning.replay import selection
from raysweep.learning.streams import generator

See = Callable[[Tensor], Tensor]


@dataclass
class Buffer:
    """Stored images in [0, 1] with label probabilities; of each group the lowest ranks stay."""

    images: Tensor
    labels: Tensor
    groups: Tensor
    ranks: Tensor

    def __len__(self) -> int:
        """Count the samples."""
        return len(self.images)

    def rows(self, chosen: Tensor) -> "Buffer":
        """Return some of the samples."""
        return Buffer(
            self.images[chosen], self.labels[chosen], self.groups[chosen], self.ranks[chosen]
        )


def group_sizes(config: Config, task: int) -> list[int]:
    """Return how many samples each group may have after a task."""
    if config.replay == "simple" and config.selection != "random":
        is_total, n_stored = config.n_replay_scope == "total", config.n_tasks - 1
        sizes = selection.quotas(
            config.selection,
            config.n_replay,
            is_total=is_total,
            task=task,
            n_tasks=n_stored,
            n_classes=config.n_classes,
        )
        return list(sizes.values())
    if config.n_replay_scope == "per_task":
        return [config.n_replay] * task
    n, rest = divmod(config.n_replay, task)
    return [n + 1] * rest + [n] * (task - rest)


def joined(earlier: Buffer | None, new: Buffer, sizes: Sequence[int]) -> Buffer:
    """Put new samples behind the earlier ones and let each group shrink to its size."""
    if earlier is None:
        return new
    whole = together([earlier, new])
    kept: list[int] = []
    for group, size in enumerate(sizes):
        members = [i for i in range(len(whole)) if int(whole.groups[i]) == group]
        kept += sorted(members, key=lambda i: float(whole.ranks[i]))[:size]
    return whole.rows(torch.tensor(sorted(kept)))


def together(buffers: Sequence[Buffer]) -> Buffer:
    """Put buffers one behind the other."""
    fields = zip(*(vars(buffer).values() for buffer in buffers), strict=True)
    return Buffer(*(torch.cat(field) for field in fields))


def real_samples(config: Config, data: Data, task: int, model: Classifier, see: See) -> Buffer:
    """Choose real samples; which ones, but for random ones, is left to the product's selection."""
    stream, sizes = generator(config.seed, "replay_choice", task), group_sizes(config, task)
    n = len(data.train_y)
    if config.selection == "random":
        chosen = torch.randperm(n, generator=stream)[: sizes[task - 1]]
        labels = one_hot(data.train_y[chosen], config.n_classes)
        return as_buffer(data.train_x[chosen], labels, task)
    stream_order = generator(config.seed, "batch_order", f"train_task_{task}", config.epochs)
    order = torch.randperm(n, generator=stream_order)
    if config.drop_last:
        order = order[: n - n % config.batch_size]
    features = data.train_x
    if config.selection_features == "encoder":
        features = model.encoder(see(data.train_x))[0].detach()
    result = selection.select(
        config.selection,
        dict(enumerate(sizes)),
        images=(data.train_x * 255).round().to(torch.uint8),
        labels=data.train_y,
        n_classes=config.n_classes,
        task=task,
        features=features,
        order=order,
        stream=stream,
        dtype=F64,
    )
    labels = one_hot(result.labels, config.n_classes)
    return Buffer(result.images, labels, result.groups, result.priorities)


def as_buffer(images: Tensor, labels: Tensor, task: int) -> Buffer:
    """Make a buffer of one task's samples, the first of which are the last to go."""
    n = len(images)
    return Buffer(images, labels, torch.full((n,), task - 1), torch.arange(n, dtype=F64))


@torch.no_grad()
def generated_samples(
    config: Config,
    task: int,
    model: Classifier,
    labelers: Sequence[Classifier],
    vaes: Sequence[Vae],
    see: See,
) -> Buffer:
    """Generate and label after a task; ``labelers`` and ``vaes`` are as each task left them."""
    sizes = group_sizes(config, task)
    plan = [(task, sum(sizes))]  # whose VAE, how many
    if config.labeler == "at_generation":
        plan = [(task, sizes[task - 1])]
    elif config.model != "vib" and config.generator == "per_task":
        plan = list(enumerate(sizes, 1))
    n = sum(size for _, size in plan)
    all_z = noise(config, n, generator(config.seed, "replay_z", task))
    all_noise = noise(config, n, generator(config.seed, "replay_labels", task))
    parts = []
    for of_task, size in plan:
        z, all_z = all_z[:size], all_z[size:]
        label_noise, all_noise = all_noise[:size], all_noise[size:]
        labeler = labelers[of_task - 1] if config.labeler == "per_task" else model
        if config.model == "vib":
            images, logits = torch.sigmoid(model.rec_decoder(z)), labeler.class_decoder(z)
        else:
            images = torch.sigmoid(vaes[of_task - 1].vae_decoder(z))
            logits = labeler(see(images), label_noise)
        labels = torch.softmax(logits / config.label_temperature, 1)
        if config.replay_labels == "hard":
            labels = one_hot(logits.argmax(1), config.n_classes)
        parts.append(as_buffer(images, labels, of_task))
    return together(parts)


def noise(config: Config, n: int, stream: torch.Generator) -> Tensor:
    """Draw noise of the width of the bottleneck."""
    return torch.randn(n, config.n_bottleneck, generator=stream, dtype=F64)


# Maximally interfered retrieval (Aljundi et al. 2019).


def after_virtual_step(
    model: Classifier,
    frozen: Sequence[str],
    x: Tensor,
    targets: Tensor,
    step_noise: Tensor,
    kl_weight: float,
    lr: float,
    label_smoothing: float,
) -> Classifier:
    """Copy a model and take a step of plain SGD on the mean loss of the new samples."""
    moved = copy.deepcopy(model)
    mu, sd = moved.encoder(x)
    logits = moved.class_decoder(draw(mu, sd, step_noise))
    loss = functional.cross_entropy(logits, targets, label_smoothing=label_smoothing)
    if sd is not None:
        loss = loss + kl_weight * summed_kl(mu, sd) / len(x)
    parameters = [
        p for n, p in moved.named_parameters() if n.split(".")[0] not in ("rec_decoder", *frozen)
    ]
    optimizer = torch.optim.SGD(parameters, lr=lr)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return moved


@torch.no_grad()
def most_interfered(
    model: Classifier, moved: Classifier, inputs: Tensor, targets: Tensor, k: int
) -> Tensor:
    """Return the indices of the samples whose loss the step raises most, the worst first."""
    losses = [
        functional.cross_entropy(m(inputs), targets, reduction="none") for m in (moved, model)
    ]
    return (losses[0] - losses[1]).argsort(descending=True)[:k]


def climbed_samples(
    config: Config,
    n: int,
    stream: torch.Generator,
    start: Classifier,
    moved: Classifier,
    decoder: nn.Module,
    see: See,
) -> tuple[Tensor, Tensor]:
    """Generate images and labels where the step interferes most (generative MIR)."""
    z = noise(config, n, stream)
    for _ in range(config.mir_steps):
        z = z.detach().requires_grad_()
        x = see(torch.sigmoid(decoder(z)))
        label = torch.softmax(start(x), 1)
        cross = functional.cross_entropy(moved(x), label)
        entropy = torch.special.entr(label).sum(1).mean()
        shell = functional.mse_loss(
            z.norm(dim=1), torch.full((n,), math.sqrt(z.shape[1]), dtype=F64)
        )
        gain = (
            config.mir_interference * cross
            - config.mir_entropy * entropy
            - config.mir_shell * shell
        )
        z = z + torch.autograd.grad(gain, z)[0]
    with torch.no_grad():
        images = torch.sigmoid(decoder(z))
        return images, torch.softmax(start(see(images)), 1)
