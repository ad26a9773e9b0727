"""What the training stages minimise, as the definition: plain functions under autograd.

``step`` computes the same losses and their gradients faster; tests hold it to this form.
Losses are summed over the batch, as in the reference; reported values are means per sample.
Letters: K lanes, B new samples, R new and replayed ones, D input size, Z bottleneck, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from raysweep.models import Views, decode, encode
from raysweep.plan import Stage
from raysweep.settings import Config, loss_weights
from raysweep.stacked import (
    cross_entropy,
    kl_to_standard_normal,
    reconstruction_loss,
    soft_cross_entropy,
)
from raysweep.stages.scene import Lane, Scene


@dataclass(frozen=True)
class Network:
    """Which chains of a layout a stage trains: encoder, decoders of classes and of images."""

    encoder: str
    class_decoder: str | None
    image_decoder: str | None
    nonlinearity: str


@dataclass(frozen=True)
class Weights:
    """Weights of the losses, (K,) each; the first ``n_rec`` lanes have a reconstruction.

    Task 1: class + rec * reconstruction + kl * KL. Task 2 on: (1 - replay) * new + replay *
    replayed, each class + kl * KL, with ``replay`` 0 where nothing is replayed. VAE:
    reconstruction + KL.
    """

    kl: Tensor
    rec: Tensor
    replay: Tensor
    n_rec: int


@dataclass
class Batch:
    """Inputs (K, R, D), noise (R, Z) for z, and the first B rows' images (B, D) in [0, 1].

    ``targets`` are class probabilities, (K, R, C), or (R, C) for all lanes alike, and ``labels``
    (B,) the classes of the new samples; both None for a VAE. ``n_new`` is B, ``n_replay`` R - B.
    """

    n_new: int
    n_replay: int
    inputs: Tensor
    images: Tensor
    noise: Tensor
    labels: Tensor | None
    targets: Tensor | None


@dataclass
class Losses:
    """Losses of one batch, each (K,).

    ``objective`` is what is differentiated, ``mean`` the same as a mean per sample; ``parts`` maps
    a loss's name to its sum over the new samples or, as ``replay_...``, over the replayed ones.
    """

    objective: Tensor
    mean: Tensor
    parts: dict[str, Tensor]


def network_of(config: Config, stage: Stage) -> Network:
    """Name the chains that a training stage trains."""
    if stage.kind == "train_generator":
        return Network("vae_encoder", None, "vae_decoder", "relu")
    image_decoder = "rec_decoder" if config.model == "vib" and stage.task == 1 else None
    return Network("encoder", "class_decoder", image_decoder, config.nonlinearity)


def reconstructs(stage: Stage, config: Config) -> bool:
    """Tell whether a stage of a configuration has a reconstruction with a weight."""
    if stage.kind == "train_generator":
        return True
    return stage.task == 1 and loss_weights(config)[0] != 0


def weights_of(scene: Scene, lanes: Sequence[Lane]) -> Weights:
    """Give the weights of lanes of one group, those with a reconstruction first."""
    stage = lanes[0].stage
    if stage.kind == "train_generator":
        pairs = [(1.0, 1.0)] * len(lanes)
    elif stage.task == 1:
        pairs = [loss_weights(lane.config) for lane in lanes]
    else:
        pairs = [(0.0, lane.config.beta_2) for lane in lanes]
    has_rec = [reconstructs(stage, lane.config) for lane in lanes]
    assert has_rec == sorted(has_rec, reverse=True)
    has_replay = stage.parent("buffer") is not None
    return Weights(
        kl=per_lane([kl for _, kl in pairs], scene),
        rec=per_lane([rec for rec, _ in pairs], scene),
        replay=per_lane([c.config.replay_weight if has_replay else 0.0 for c in lanes], scene),
        n_rec=sum(has_rec),
    )


def define_losses(network: Network, weights: Weights, views: Views, batch: Batch) -> Losses:
    """Compute the losses of one batch under autograd."""
    n = batch.n_new
    parts: dict[str, Tensor] = {}
    latent = encode(views, batch.inputs[:, :n], network.nonlinearity, network.encoder)
    z = latent.sample(batch.noise[:n])
    parts["kl"] = kl_to_standard_normal(latent.mu, latent.logvar)
    total = weights.kl * parts["kl"]
    if network.class_decoder is not None:
        assert batch.labels is not None
        logits = decode(views, z, network.nonlinearity, network.class_decoder)
        parts["class"] = cross_entropy(logits, batch.labels)
        total = parts["class"] + total
    if network.image_decoder is not None and weights.n_rec > 0:
        image_logits = decode(views, z, network.nonlinearity, network.image_decoder)
        parts["rec"] = reconstruction_loss(image_logits, batch.images)
        # A lane without reconstruction must not meet 0 * inf because of its company.
        total = total + torch.where(weights.rec != 0, weights.rec * parts["rec"], 0)
    if batch.n_replay == 0:
        return Losses(total, total / n, parts)
    assert network.class_decoder is not None and batch.targets is not None
    latent = encode(views, batch.inputs[:, n:], network.nonlinearity, network.encoder)
    z = latent.sample(batch.noise[n:])
    logits = decode(views, z, network.nonlinearity, network.class_decoder)
    parts["replay_class"] = soft_cross_entropy(logits, batch.targets[:, n:])
    parts["replay_kl"] = kl_to_standard_normal(latent.mu, latent.logvar)
    replayed = parts["replay_class"] + weights.kl * parts["replay_kl"]
    w = weights.replay
    mean = (1 - w) * (total / n) + w * (replayed / batch.n_replay)
    return Losses((1 - w) * total + w * replayed, mean, parts)


def per_lane(values: Sequence[float], scene: Scene) -> Tensor:
    """Put one number a lane into a tensor (K,)."""
    return torch.tensor(list(values), dtype=scene.dtype, device=scene.device)


def count_correct(scores: Tensor, labels: Tensor) -> Tensor:
    """Count where the largest score is the label's; (K, B, C) and (B,) give (K,)."""
    return (scores.argmax(-1) == labels).sum(-1)
