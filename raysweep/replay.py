"""Replay buffers: filling and labelling.

Letters: N samples in the buffer, D input size, Z bottleneck, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from raysweep.data.tasks import Samples, scaled
from raysweep.models import Views, decode
from raysweep.settings import Config
from raysweep.stacked import entropy, sigmoid
from raysweep.streams import generator, normal


@dataclass(frozen=True)
class Buffer:
    """One lane's replay buffer: images (N, D) in [0, 1] and label probabilities (N, C)."""

    images: Tensor
    labels: Tensor

    def label_entropy(self) -> float:
        """Compute the mean entropy of the labels, in nats."""
        return float(entropy(self.labels[None])[0])


def choose_samples(config: Config, task: int, samples: Samples, dtype: torch.dtype) -> Buffer:
    """Choose ``n_replay`` of a task's samples at random, without replacement; labels one-hot."""
    stream = generator(config.seed, "replay_choice", task)
    chosen = torch.randperm(len(samples), generator=stream)[: config.n_replay]
    chosen = chosen.to(samples.labels.device)
    labels = functional.one_hot(samples.labels[chosen], config.n_classes).to(dtype)
    return Buffer(scaled(samples.images[chosen], dtype), labels)


def prior_noise(config: Config, task: int, like: Tensor) -> Tensor:
    """Draw the z (N, Z) ~ N(0, 1) that a task's replay samples are generated from."""
    stream = generator(config.seed, "replay_z", task, device=like.device)
    return normal((config.n_replay, config.n_bottleneck), stream, like.dtype)


def generate_images(views: Views, z: Tensor, nonlinearity: str, prefix: str) -> Tensor:
    """Decode ``z`` (N, Z) into images (K, N, D) in [0, 1]."""
    return sigmoid(decode(views, z, nonlinearity, prefix))


def label(logits: Tensor, kinds: Sequence[str]) -> Tensor:
    """Turn logits (K, N, C) into labels (K, N, C): a lane's softmax, or its argmax one-hot.

    ``kinds`` has ``soft`` or ``hard`` for each lane.
    """
    soft = torch.softmax(logits, -1)
    hard = functional.one_hot(logits.argmax(-1), logits.shape[-1]).to(soft.dtype)
    is_hard = torch.tensor([kind == "hard" for kind in kinds], device=logits.device)
    return torch.where(is_hard[:, None, None], hard, soft)


def join(earlier: Buffer | None, new: Buffer) -> Buffer:
    """Append a task's samples to those of the tasks before it."""
    if earlier is None:
        return new
    return Buffer(torch.cat([earlier.images, new.images]), torch.cat([earlier.labels, new.labels]))
