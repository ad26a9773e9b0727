"""Test accuracy of a stacked classifier."""

import torch
from torch import Tensor

from raysweep.learning.data.task_sequences import Samples, scaled
from raysweep.learning.streams import generator, normal
from raysweep.learning.training.context import Context
from raysweep.learning.training.forward import Views, decode, encode
from raysweep.learning.training.objectives import count_correct

_CHUNK = 500
"""Samples per forward pass; fixed, so that results do not depend on the number of lanes."""


@torch.no_grad()
def accuracy(
    context: Context, views: Views, samples: Samples, purpose: tuple[str | int, ...]
) -> Tensor:
    """Compute the share of correct predictions (K,), as float64.

    With ``eval_samples`` k > 0 the prediction is the largest mean softmax over k draws of z
    (k = 1: one stochastic forward pass, as in the reference); with 0 it is computed from mu. The
    noise depends only on the seed and ``purpose`` and is the same for all lanes.
    """
    config = context.config
    network = config.of_model.network(config, has_images=False)
    stream = generator(config.seed, "evaluation", *purpose, device=context.device)
    n_lanes = next(iter(views.values())).shape[0]
    n_correct = torch.zeros(n_lanes, dtype=torch.int64, device=context.device)
    for start in range(0, len(samples), _CHUNK):
        images = scaled(samples.images[start : start + _CHUNK], context.dtype)
        labels = samples.labels[start : start + _CHUNK]
        latent = encode(views, context.inputs(images), network)
        is_mean = config.eval_samples == 0 or latent.logvar is None
        if is_mean:
            scores = decode(views, latent.mu, config.nonlinearity, "class_decoder")
        else:
            scores = torch.zeros((), dtype=context.dtype, device=context.device)
        for _ in range(0 if is_mean else config.eval_samples):
            noise = normal((len(labels), config.n_bottleneck), stream, context.dtype)
            z = latent.sample(noise)
            logits = decode(views, z, config.nonlinearity, "class_decoder")
            scores = scores + torch.softmax(logits, -1)
        n_correct += count_correct(scores, labels)
    return n_correct.double() / len(samples)
