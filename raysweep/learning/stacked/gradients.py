"""Losses together with their gradients, without autograd.

Letters: K lanes, B batch, D pixels, C classes, Z bottleneck. ``functional`` defines the same
losses.
"""

import torch
from torch import Tensor

from raysweep.learning.stacked.functional import lane_sum, row_sum, softplus
from raysweep.learning.stacked.layers import Workspace, first

SOFTPLUS_SHIFT = 5.0
"""The softplus variance starts near softplus(-5) = 0.0067 (Alemi et al. 2017, section 4.1)."""
_WHOLE_VECTORS = 64
"""Kernels treat every element of a multiple of this size the same way."""
_MOST_FACTORS = 64
"""So many factors from 1/2 to 1 have a product far above the smallest float32."""


def cross_entropy_rows(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Compute -sum over classes of target * log softmax(logits), in nats, for each sample.

    ``logits`` (K, B, C), ``targets`` (K, B, C) or (B, C) of probabilities that sum to 1. Return
    (K, B) and the gradient (K, B, C).
    """
    # Takes a third of the time of log_softmax, whose kernel is slow for few classes.
    shifted = logits - logits.amax(-1, keepdim=True)
    likelihood = shifted.exp()
    total = likelihood.sum(-1, keepdim=True)
    rows = total.log().squeeze(-1).sub_((targets * shifted).sum(-1))
    return rows, likelihood.div_(total).sub_(targets)


def reconstruction(logits: Tensor, target: Tensor, workspace: Workspace) -> tuple[Tensor, Tensor]:
    """Sum the binary cross-entropy of sigmoid(logits) over pixels and batch, in nats.

    ``logits`` (K, B, D), ``target`` (B, D) in [0, 1]. Return (K,) and the gradient (K, B, D).

    The loss is max(x, 0) - x * target + log(1 + exp(-|x|)), and with s = sigmoid(x) the last term
    is -log(max(s, 1 - s)). These values lie between 1/2 and 1, so we take one logarithm of a
    product of many: loss and gradient take a seventh of the time of
    ``functional.reconstruction_loss``.
    """
    n_lanes, n, n_pixels = logits.shape
    grad = _sigmoid(logits, workspace("rec grad", *logits.shape))
    scratch = workspace("rec scratch", *logits.shape)
    torch.maximum(grad, torch.sub(1, grad, out=scratch), out=scratch)
    size = n * n_pixels
    n_factors = max(f for f in range(1, _MOST_FACTORS + 1) if size % f == 0)
    products = scratch.view(n_lanes, n_factors, size // n_factors).prod(1)
    losses = row_sum(products.log_()).neg_()
    torch.clamp_min(logits, 0, out=scratch).addcmul_(logits, target, value=-1)
    losses += lane_sum(scratch)
    return losses, grad.sub_(target)


def _sigmoid(x: Tensor, out: Tensor) -> Tensor:
    # The kernel is six times as fast as a sigmoid via tanh, but treats the last elements of a
    # tensor and of each thread's part differently, so it runs lane by lane unless lanes end with
    # whole vectors.
    is_alike = torch.get_num_threads() == 1 and x[0].numel() % _WHOLE_VECTORS == 0
    if x.is_cuda or is_alike:
        return torch.sigmoid(x, out=out)
    for lane, result in zip(x, out, strict=True):
        torch.sigmoid(lane, out=result)
    return out


class Gaussian:
    """The bottleneck's distribution: z = mu + noise * sd, and its KL to N(0, 1).

    With the encoder's output s, sd is exp(s / 2), or softplus(s - 5) if ``variance`` is softplus.
    """

    def __init__(self, workspace: Workspace, variance: str = "exp") -> None:
        self._workspace = workspace
        self._is_softplus = variance == "softplus"

    def sample(self, mu: Tensor, s: Tensor, noise: Tensor) -> Tensor:
        """Draw z (K, B, Z) from ``mu`` and ``s`` (K, B, Z) and ``noise`` (B, Z)."""
        self._mu, self._noise, self._s = mu, noise, s
        self._sd = self._workspace("sd", *mu.shape)
        if self._is_softplus:
            self._sd.copy_(softplus(s - SOFTPLUS_SHIFT))
        else:
            torch.mul(s, 0.5, out=self._sd).exp_()
        return torch.addcmul(mu, noise, self._sd, out=self._workspace("z", *mu.shape))

    def kl_rows(self) -> Tensor:
        """Compute the KL to N(0, 1) in nats for each sample, (K, B)."""
        terms = torch.mul(self._mu, self._mu, out=self._workspace("kl", *self._mu.shape))
        log_variance = 2 * torch.log(self._sd) if self._is_softplus else self._s
        terms.addcmul_(self._sd, self._sd).sub_(log_variance).sub_(1)
        return terms.sum(-1).mul_(0.5)

    def backward(self, grad_z: Tensor, kl_weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gradients of mu and s for the lanes of ``grad_z`` (K, B, Z).

        ``grad_z`` may have only the first lanes and is changed in place. ``kl_weight``, (K, B, 1)
        or (K, 1, 1), weighs the KL of each sample.
        """
        n_lanes = grad_z.size(0)
        sd, weight = first(self._sd, n_lanes), first(kl_weight, n_lanes)
        if self._is_softplus:
            # The slope of softplus(x): exp(-sd) is 1 - sigmoid(x), exact even for tiny sigmoid(x).
            slope = torch.expm1(-sd).neg_()
            grad_sd = grad_z * self._noise + (sd - sd.reciprocal()) * weight
            return grad_z.addcmul_(first(self._mu, n_lanes), weight), grad_sd * slope
        grad_logvar = self._workspace("grad logvar", *grad_z.shape)
        torch.mul(grad_z, self._noise, out=grad_logvar).mul_(sd)
        variance = torch.mul(sd, sd, out=self._workspace("kl", *grad_z.shape)).sub_(1)
        grad_logvar.addcmul_(variance, weight).mul_(0.5)
        return grad_z.addcmul_(first(self._mu, n_lanes), weight), grad_logvar
