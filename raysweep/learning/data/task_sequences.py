"""Task sequences as tensors, and the order of their batches.

Letters: B batch, D input size, N samples.
"""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from raysweep.learning.config import Config
from raysweep.learning.data.source_shapes import SOURCES
from raysweep.learning.data.sources import Source
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
        # Arrays from Ray's object store are read-only; they are only ever read.
        warnings.filterwarnings("ignore", message=".*not writable.*")
        return torch.as_tensor(array, device=device)


def make_tasks(config: Config, source: Source, device: torch.device) -> list[Task]:
    """Make the task sequence of a configuration.

    ``perm_mnist``: pixel permutations out[i] = in[perm[i]], equal for training and test, the
    first task too unless ``first_task_identity``. ``split_mnist``: task k has the classes p with
    rank 2k and 2k + 1 (the order shuffled by ``shuffle_tasks``), target = rank % 2.
    """
    train = Samples(
        _tensor(source.train_images, device), _tensor(source.train_labels, device).long()
    )
    test = Samples(_tensor(source.test_images, device), _tensor(source.test_labels, device).long())
    make = _permuted if config.tasks == "perm_mnist" else _split
    tasks = [Task(*make(config, k, train, test)) for k in range(config.n_tasks)]
    if not config.task_samples:
        return tasks
    return [Task(_sample(config, k, task.train), task.test) for k, task in enumerate(tasks)]


def _sample(config: Config, k: int, samples: Samples) -> Samples:
    """Draw ``task_samples`` of a task's training samples, without replacement."""
    stream = generator(config.seed, "task_samples", k + 1)
    chosen = torch.randperm(len(samples), generator=stream)[: config.task_samples]
    chosen = chosen.to(samples.labels.device)
    return Samples(samples.images[chosen], samples.labels[chosen])


def pixel_order(config: Config, task: int, n_inputs: int) -> Tensor | None:
    """Give the permutation (D,) of a task's pixels, out[i] = in[order[i]]; None for none.

    ``task`` counts from 1; ``n_inputs`` is D.
    """
    is_in_place = task == 1 and config.first_task_identity
    if config.tasks != "perm_mnist" or is_in_place:
        return None
    return torch.randperm(n_inputs, generator=generator(config.seed, "permutation", task))


def _permuted(config: Config, k: int, train: Samples, test: Samples) -> tuple[Samples, Samples]:
    order = pixel_order(config, k + 1, train.images.shape[1])
    if order is None:
        return train, test
    order = order.to(train.images.device)
    return (
        Samples(train.images[:, order], train.labels),
        Samples(test.images[:, order], test.labels),
    )


def _split(config: Config, k: int, train: Samples, test: Samples) -> tuple[Samples, Samples]:
    n_classes = SOURCES[config.source].n_classes
    rank = torch.arange(n_classes)
    if config.shuffle_tasks:
        rank = torch.randperm(n_classes, generator=generator(config.seed, "class_order"))
    rank = rank.to(train.labels.device)

    def pick(samples: Samples) -> Samples:
        ranks = rank[samples.labels]
        chosen = ranks // 2 == k
        return Samples(samples.images[chosen], ranks[chosen] % 2)

    return pick(train), pick(test)


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
    """Yield batches of indices for ever: shuffled passes one after another, none dropped."""
    while True:
        yield from batch_order(n, batch_size, False, stream)


def subsets(n: int, size: int, stream: torch.Generator) -> Iterator[Tensor]:
    """Yield for ever ``size`` of ``n`` indices, drawn anew each time without replacement."""
    while True:
        yield torch.randperm(n, generator=stream, device=stream.device)[:size]


def scaled(images: Tensor, dtype: torch.dtype) -> Tensor:
    """Turn uint8 pixels into numbers from 0 to 1."""
    return images.to(dtype).div_(255)
