"""The definition of what training stages minimise: plain functions under autograd.

``step`` computes the same losses and their gradients faster; tests compare it with this form.
Losses are summed over the batch, as in the reference; reported values are means per sample.
Letters: K lanes, B new samples, R new and replayed ones, D input size, Z bottleneck, C classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from raysweep.learning.config import Config
from raysweep.learning.models import Network
from raysweep.learning.stacked.functional import (
    kl_to_standard_normal,
    reconstruction_loss,
    soft_cross_entropy,
)
from raysweep.learning.stage_graph import (
    has_image_decoder,
    numbers_of,
    replay_weight,
    weights_of_stage,
)
from raysweep.learning.stages import Stage
from raysweep.learning.training.context import Context, Lane
from raysweep.learning.training.forward import Z_NOISE, Views, decode, encode


@dataclass(frozen=True)
class Weights:
    """Weights of the losses, (K,) each; the first ``n_rec`` lanes have a reconstruction.

    ``lanes`` has the real-valued lane settings of the stage, by name.
    The objective is (1 - replay) * new + replay * replayed, where both are class + rec *
    reconstruction + kl * KL, summed over their samples or, with ``is_mean``, averaged. ``replay``
    is 0 if nothing is replayed. A VAE has no class loss.
    """

    kl: Tensor
    rec: Tensor
    replay: Tensor
    n_rec: int
    is_mean: bool = False
    lanes: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass
class Batch:
    """Inputs (K, R, D), noises (R, W) by name, and the first B rows' images (B, D) in [0, 1].

    ``targets`` are class probabilities, (K, R, C), or (R, C) if equal for all lanes, and ``labels``
    (B,) the classes of the new samples; both are None for a VAE. ``n_new`` is B, ``n_replay``
    R - B. ``replay_images`` (K, R - B, D) are the images of the other rows, if reconstructed.
    """

    n_new: int
    n_replay: int
    inputs: Tensor
    images: Tensor
    noises: dict[str, Tensor]
    labels: Tensor | None
    targets: Tensor | None
    replay_images: Tensor | None = None


@dataclass
class Losses:
    """Losses of one batch, each (K,).

    ``objective`` is differentiated; ``mean`` is its mean per sample; ``parts`` maps a loss's name
    to its sum over the new samples or, as ``replay_...``, over the replayed ones.
    """

    objective: Tensor
    mean: Tensor
    parts: dict[str, Tensor]


def reconstructs(stage: Stage, config: Config) -> bool:
    """Return whether a stage of a configuration has a reconstruction loss with non-zero weight."""
    return has_image_decoder(config, stage) and weights_of_stage(config, stage)[0] != 0


def weights_of(context: Context, lanes: Sequence[Lane]) -> Weights:
    """Return the loss weights of the lanes of a group, those with a reconstruction first."""
    stage = lanes[0].stage
    configs = [lane.config for lane in lanes]
    pairs = [weights_of_stage(config, stage) for config in configs]
    has_rec = [reconstructs(stage, config) for config in configs]
    assert has_rec == sorted(has_rec, reverse=True)
    if stage.parent("buffer") is None:
        shares = [0.0] * len(lanes)
    elif stage.is_classifier:
        shares = [replay_weight(config, stage.task) for config in configs]
    else:
        shares = [config.generator_replay_weight for config in configs]
    return Weights(
        kl=per_lane([kl for _, kl in pairs], context),
        rec=per_lane([rec for rec, _ in pairs], context),
        replay=per_lane(shares, context),
        n_rec=sum(has_rec),
        is_mean=stage.is_classifier and configs[0].reduction == "mean",
        lanes={n: per_lane(of, context) for n, of in numbers_of(configs, stage).items()},
    )


def define_losses(network: Network, weights: Weights, views: Views, batch: Batch) -> Losses:
    """Compute the losses of one batch under autograd."""
    n, m = batch.n_new, batch.n_replay
    total, parts = _sums(network, weights, views, batch, is_new=True)
    if m == 0:
        return Losses(total / n if weights.is_mean else total, total / n, parts)
    replayed, replay_parts = _sums(network, weights, views, batch, is_new=False)
    parts |= {f"replay_{name}": value for name, value in replay_parts.items()}
    w = weights.replay
    mean = (1 - w) * (total / n) + w * (replayed / m)
    return Losses(mean if weights.is_mean else (1 - w) * total + w * replayed, mean, parts)


def _sums(
    network: Network, weights: Weights, views: Views, batch: Batch, is_new: bool
) -> tuple[Tensor, dict[str, Tensor]]:
    """Sum the loss (K,) and its parts over the new or the replayed samples."""
    rows = slice(batch.n_new) if is_new else slice(batch.n_new, None)
    parts: dict[str, Tensor] = {}
    noises = {name: noise[rows] for name, noise in batch.noises.items()}
    latent = encode(views, batch.inputs[:, rows], network, noises, weights.lanes)
    z = latent.sample(noises[Z_NOISE])
    total = torch.zeros_like(weights.kl)
    if latent.logvar is not None:
        parts["kl"] = kl_to_standard_normal(latent.mu, latent.logvar)
        total = weights.kl * parts["kl"]
    if network.class_decoder is not None:
        logits = decode(views, z, network.nonlinearity, network.class_decoder)
        assert batch.targets is not None
        parts["class"] = soft_cross_entropy(logits, batch.targets[..., rows, :])
        total = parts["class"] + total
    if network.image_decoder is not None and weights.n_rec > 0:
        image_logits = decode(views, z, network.nonlinearity, network.image_decoder)
        images = batch.images if is_new else batch.replay_images
        assert images is not None
        parts["rec"] = reconstruction_loss(image_logits, images)
        # A lane without reconstruction must not get 0 * inf because other lanes have one.
        total = total + torch.where(weights.rec != 0, weights.rec * parts["rec"], 0)
    return total, parts


def per_lane(values: Sequence[float], context: Context) -> Tensor:
    """Make a tensor (K,) from one number per lane."""
    return torch.tensor(list(values), dtype=context.dtype, device=context.device)


def count_correct(scores: Tensor, labels: Tensor) -> Tensor:
    """Count correct predictions (K,) from scores (K, B, C) and labels (B,)."""
    return (scores.argmax(-1) == labels).sum(-1)
