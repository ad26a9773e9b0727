"""What the training stages minimise: losses of one batch, a sum over samples for each lane.

Losses are summed over the batch, as in the reference; reported values are means per sample.
Letters: K lanes, B batch, D input size.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from raysweep.models import Views, decode, encode
from raysweep.settings import loss_weights
from raysweep.stacked import (
    cross_entropy,
    kl_to_standard_normal,
    reconstruction_loss,
    soft_cross_entropy,
)
from raysweep.stages.scene import Lane, Scene


@dataclass
class Losses:
    """Losses of one batch, each (K,).

    ``objective`` is what is differentiated, ``mean`` the same as a mean per sample; ``new`` and
    ``replay`` map a loss's name to its sum over the ``n_new`` or ``n_replay`` samples.
    """

    objective: Tensor
    mean: Tensor
    new: dict[str, Tensor]
    n_new: int
    replay: dict[str, Tensor] = field(default_factory=dict)
    n_replay: int = 0
    n_correct: Tensor | None = None


@dataclass(frozen=True)
class Batch:
    """New data ``images`` (B, D) in [0, 1] with ``labels`` (B,), noise (B, Z) for z.

    ``replay_images`` (K, B', D), ``replay_labels`` (K, B', C) and ``replay_noise`` (B', Z) are
    None without replay.
    """

    images: Tensor
    labels: Tensor
    noise: Tensor
    replay_images: Tensor | None = None
    replay_labels: Tensor | None = None
    replay_noise: Tensor | None = None


def per_lane(values: Sequence[float], scene: Scene) -> Tensor:
    """Put one number a lane into a tensor (K,)."""
    return torch.tensor(list(values), dtype=scene.dtype, device=scene.device)


class FirstTask:
    """Task 1: class + w_rec * reconstruction + w_kl * KL; w_rec is 0 for the comparison model."""

    def __init__(self, scene: Scene, lanes: Sequence[Lane]) -> None:
        self.scene = scene
        weights = [loss_weights(lane.config) for lane in lanes]
        self.has_reconstruction = any(w_rec != 0 for w_rec, _ in weights)
        self.w_rec = per_lane([w_rec for w_rec, _ in weights], scene)
        self.w_kl = per_lane([w_kl for _, w_kl in weights], scene)

    def __call__(self, views: Views, batch: Batch) -> Losses:
        """Compute the losses of one batch."""
        nonlinearity = self.scene.config.nonlinearity
        latent = encode(views, self.scene.inputs(batch.images), nonlinearity)
        z = latent.sample(batch.noise)
        logits = decode(views, z, nonlinearity, "class_decoder")
        new = {
            "class": cross_entropy(logits, batch.labels),
            "kl": kl_to_standard_normal(latent.mu, latent.logvar),
        }
        total = new["class"] + self.w_kl * new["kl"]
        if self.has_reconstruction:
            image_logits = decode(views, z, nonlinearity, "rec_decoder")
            new["rec"] = reconstruction_loss(image_logits, batch.images)
            # A lane without reconstruction must not meet 0 * inf because of its company.
            total = total + torch.where(self.w_rec != 0, self.w_rec * new["rec"], 0)
        n = len(batch.labels)
        return Losses(total, total / n, new, n, n_correct=count_correct(logits, batch.labels))


class LaterTask:
    """Task 2 on: (1 - w) * new + w * replay, each class + beta_2 * KL; w is 0 without replay."""

    def __init__(self, scene: Scene, lanes: Sequence[Lane]) -> None:
        self.scene = scene
        self.beta_2 = per_lane([lane.config.beta_2 for lane in lanes], scene)
        self.weight = per_lane([lane.config.replay_weight for lane in lanes], scene)

    def __call__(self, views: Views, batch: Batch) -> Losses:
        """Compute the losses of one batch."""
        n = len(batch.labels)
        logits, kl = self._classify(views, batch.images, batch.noise)
        new = {"class": cross_entropy(logits, batch.labels), "kl": kl}
        total = new["class"] + self.beta_2 * kl
        losses = Losses(total, total / n, new, n, n_correct=count_correct(logits, batch.labels))
        if batch.replay_images is None:
            return losses
        assert batch.replay_labels is not None and batch.replay_noise is not None
        replay_logits, kl = self._classify(views, batch.replay_images, batch.replay_noise)
        losses.replay = {"class": soft_cross_entropy(replay_logits, batch.replay_labels), "kl": kl}
        losses.n_replay = batch.replay_images.shape[1]
        replay_total = losses.replay["class"] + self.beta_2 * kl
        losses.objective = (1 - self.weight) * total + self.weight * replay_total
        losses.mean = (1 - self.weight) * (total / n) + self.weight * (
            replay_total / losses.n_replay
        )
        return losses

    def _classify(self, views: Views, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        nonlinearity = self.scene.config.nonlinearity
        latent = encode(views, self.scene.inputs(images), nonlinearity)
        logits = decode(views, latent.sample(noise), nonlinearity, "class_decoder")
        return logits, kl_to_standard_normal(latent.mu, latent.logvar)


def generator_losses(views: Views, batch: Batch) -> Losses:
    """VAE: reconstruction + KL, both with weight 1."""
    latent = encode(views, batch.images, "relu", "vae_encoder")
    image_logits = decode(views, latent.sample(batch.noise), "relu", "vae_decoder")
    new = {
        "rec": reconstruction_loss(image_logits, batch.images),
        "kl": kl_to_standard_normal(latent.mu, latent.logvar),
    }
    total = new["rec"] + new["kl"]
    return Losses(total, total / len(batch.images), new, len(batch.images))


Objective = Callable[[Views, Batch], Losses]


def count_correct(scores: Tensor, labels: Tensor) -> Tensor:
    """Count where the largest score is the label's; (K, B, C) and (B,) give (K,)."""
    return (scores.argmax(-1) == labels).sum(-1)
