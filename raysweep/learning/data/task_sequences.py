"""Task sequences as tensors, and the order of their batches.

Letters: B batch, D input size, N samples.
"""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from raysweep.learning.config import Config
from raysweep.learning.data.sources import Source
from raysweep.learning.data.task_kinds import TASK_KINDS
from raysweep.learning.streams import generator


@dataclass(frozen=True)
class Samples:
    """Images (N, D) of uint8 pixels and class labels (N,) of int64 from 0."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        """Count the samples."""
        return len(self.labels)


@dataclass(frozen=True)
class Task:
    """One task's training and test samples."""

    train: Samples
    test: Samples


def _tensor(array: object, device: torch.device) -> Tensor:
    with warnings.catch_warnings():
        # Arrays from Ray's object store are read-only, and we never write to them.
        warnings.filterwarnings("ignore", message=".*not writable.*")
        return torch.as_tensor(array, device=device)


def make_tasks(config: Config, source: Source, device: torch.device) -> list[Task]:
    """Make the task sequence of a configuration, according to its kind of tasks."""
    train = Samples(
        _tensor(source.train_images, device), _tensor(source.train_labels, device).long()
    )
    test = Samples(_tensor(source.test_images, device), _tensor(source.test_labels, device).long())
    kind = TASK_KINDS[config.tasks]
    tasks = [Task(*kind.make(config, k + 1, train, test)) for k in range(config.n_tasks)]
    if not config.task_samples:
        return tasks
    return [Task(_sample(config, k, task.train), task.test) for k, task in enumerate(tasks)]


def _sample(config: Config, k: int, samples: Samples) -> Samples:
    """Draw ``task_samples`` of a task's training samples, without replacement."""
    stream = generator(config.seed, "task_samples", k + 1)
    chosen = torch.randperm(len(samples), generator=stream)[: config.task_samples]
    chosen = chosen.to(samples.labels.device)
    return Samples(samples.images[chosen], samples.labels[chosen])


def n_batches(n: int, batch_size: int, drop_last: bool) -> int:
    """Count the batches of an epoch over ``n`` samples."""
    return n // batch_size if drop_last else -(-n // batch_size)


def batch_order(
    n: int, batch_size: int, drop_last: bool, stream: torch.Generator
) -> Iterator[Tensor]:
    """Yield the sample indices (B,) of each batch of one shuffled epoch."""
    order = torch.randperm(n, generator=stream, device=stream.device)
    for i in range(n_batches(n, batch_size, drop_last)):
        yield order[i * batch_size : (i + 1) * batch_size]


def cycled_order(n: int, batch_size: int, stream: torch.Generator) -> Iterator[Tensor]:
    """Yield batches of indices endlessly: one shuffled pass after another, nothing dropped."""
    while True:
        yield from batch_order(n, batch_size, False, stream)


def subsets(n: int, size: int, stream: torch.Generator) -> Iterator[Tensor]:
    """Yield endlessly: ``size`` of ``n`` indices, drawn without replacement each time."""
    while True:
        yield torch.randperm(n, generator=stream, device=stream.device)[:size]


def scaled(images: Tensor, dtype: torch.dtype) -> Tensor:
    """Scale uint8 pixels to [0, 1]."""
    return images.to(dtype).div_(255)
