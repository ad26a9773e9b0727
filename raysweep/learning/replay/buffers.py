"""Replay buffers: choosing, generating and labelling.

Letters: N samples in the buffer, D input size, Z bottleneck, C classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from raysweep.learning.config import Config
from raysweep.learning.data.task_sequences import Samples, scaled
from raysweep.learning.declarations.replay import FEATURE_SELECTIONS
from raysweep.learning.models import Network
from raysweep.learning.replay.selection import keep, quotas, select
from raysweep.learning.stacked.functional import entropy, sigmoid
from raysweep.learning.streams import generator, normal
from raysweep.learning.training.forward import Views, decode


@dataclass(frozen=True)
class Buffer:
    """One lane's replay buffer: images (N, D) in [0, 1] and label probabilities (N, C).

    When the buffer shrinks, the samples with the lowest ``priorities`` (N,) float64 of each of the
    ``groups`` (N,) int64 stay.
    """

    images: Tensor
    labels: Tensor
    groups: Tensor
    priorities: Tensor

    def label_entropy(self) -> float:
        """Compute the mean entropy of the labels, in nats."""
        return float(entropy(self.labels[None])[0])

    def tensors(self) -> dict[str, Tensor]:
        """Return the buffer as tensors by name."""
        return {name: getattr(self, name) for name in BUFFER_FIELDS}


BUFFER_FIELDS = ("images", "labels", "groups", "priorities")


def budget(config: Config, task: int) -> dict[int, int]:
    """Return the largest size of each group of samples after ``task`` tasks."""
    is_total = config.n_replay_scope == "total"
    selection = "random" if config.of_replay.generates else config.selection
    return quotas(
        selection,
        config.n_replay,
        is_total=is_total,
        task=task,
        n_tasks=config.n_tasks - 1,
        n_classes=config.n_classes,
    )


def choose_samples(
    config: Config,
    task: int,
    *,
    samples: Samples,
    dtype: torch.dtype,
    features: Tensor | None = None,
    order: Tensor | None = None,
) -> Buffer:
    """Choose which samples of a task to keep; labels become one-hot.

    ``features`` (N, F) is the space in which distances are measured, None for pixels; ``order``
    (N',) has the indices of the samples in the order of the last epoch.
    """
    stream = generator(config.seed, "replay_choice", task)
    if config.selection in FEATURE_SELECTIONS and features is None:
        features = scaled(samples.images, dtype)
    chosen = select(
        config.selection,
        budget(config, task),
        images=samples.images,
        labels=samples.labels,
        n_classes=config.n_classes,
        task=task,
        features=features,
        order=order,
        stream=stream,
        dtype=dtype,
    )
    labels = functional.one_hot(chosen.labels, config.n_classes).to(dtype)
    return Buffer(chosen.images, labels, chosen.groups, chosen.priorities)


def prior_noise(config: Config, task: int, n: int, like: Tensor) -> Tensor:
    """Draw z (n, Z) ~ N(0, 1), from which samples are generated after a task."""
    stream = generator(config.seed, "replay_z", task, device=like.device)
    return normal((n, config.n_bottleneck), stream, like.dtype)


def generate_images(views: Views, z: Tensor, network: Network) -> Tensor:
    """Decode ``z``, (N, Z) or (K, N, Z), into images (K, N, D) in [0, 1]."""
    assert network.image_decoder is not None
    return sigmoid(decode(views, z, network.nonlinearity, network.image_decoder))


def label(logits: Tensor, kinds: Sequence[str], temperatures: Sequence[float]) -> Tensor:
    """Convert logits (K, N, C) to labels (K, N, C): softmax, or one-hot argmax, by lane.

    ``kinds`` has ``soft`` or ``hard`` for each lane; ``temperatures`` divide the logits of soft
    labels (Hinton et al. 2015, arXiv 1503.02531, equation 1).
    """
    divisor = torch.tensor(list(temperatures), dtype=logits.dtype, device=logits.device)
    soft = torch.softmax(logits / divisor[:, None, None], -1)
    hard = functional.one_hot(logits.argmax(-1), logits.shape[-1]).to(soft.dtype)
    is_hard = torch.tensor([kind == "hard" for kind in kinds], device=logits.device)
    return torch.where(is_hard[:, None, None], hard, soft)


def generated(images: Tensor, labels: Tensor, task: int) -> Buffer:
    """Make a buffer of generated images (N, D) and labels (N, C), with one group per task."""
    n = len(images)
    groups = torch.full((n,), task - 1, dtype=torch.int64, device=images.device)
    return Buffer(
        images, labels, groups, torch.arange(n, dtype=torch.float64, device=groups.device)
    )


def join(earlier: Buffer | None, new: Buffer, sizes: Mapping[int, int]) -> Buffer:
    """Append a task's samples to the earlier ones and shrink each group to its size."""
    if earlier is None:
        return new
    whole = Buffer(
        **{n: torch.cat([old, new.tensors()[n]]) for n, old in earlier.tensors().items()}
    )
    kept = keep(whole.groups, whole.priorities, sizes)
    return Buffer(**{name: tensor[kept] for name, tensor in whole.tensors().items()})
