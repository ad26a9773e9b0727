"""Stacked layers and losses as functions of tensors with a leading lane axis.

Measured on torch 2.14 (AVX2):

* The CPU kernels of sigmoid, elu and softplus take a different path for the last elements of a
  tensor, so a lane's result depends on how many lanes follow it; exp, expm1, tanh and log_softmax
  do not. The first three are therefore written in terms of the others (``gradients`` calls
  the sigmoid kernel where a lane ends with a whole vector).
* MKL's products depend on where a matrix starts in memory, unless MKL_CBWR is set, which
  ``raysweep`` does on import. Even then, the batched product differs from a single lane's if a
  dimension is 1 or there is more than one thread; these cases are computed lane by lane.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional


def product(
    a: Tensor, b: Tensor, add_to: Tensor | None = None, out: Tensor | None = None
) -> Tensor:
    """Multiply each lane's matrices (K, n, m) and (K, m, p) into (K, n, p).

    ``add_to``, (K, n, p) or (K, 1, p), is added; it may be ``out``. Compute lane by lane where the
    batched kernel is known to differ from the one for a single lane.
    """
    n_lanes, n, m = a.shape
    p = b.shape[-1]
    if out is None:
        out = a.new_empty(n_lanes, n, p)
    if n_lanes == 1 or a.is_cuda or (torch.get_num_threads() == 1 and min(n, m, p) > 1):
        return _product(a, b, add_to, out)
    for k in range(n_lanes):
        lane = slice(k, k + 1)
        _product(a[lane], b[lane], None if add_to is None else add_to[lane], out[lane])
    return out


def _product(a: Tensor, b: Tensor, add_to: Tensor | None, out: Tensor) -> Tensor:
    if add_to is None:
        return torch.bmm(a, b, out=out)
    return torch.baddbmm(add_to, a, b, out=out)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(x, weight, bias.unsqueeze(1))

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        grad = grad_outputs[0]
        grad_x = product(grad, weight.transpose(1, 2)) if ctx.needs_input_grad[0] else None
        return grad_x, product(x.transpose(1, 2), grad), grad.sum(1)


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Apply each lane's affine map.

    ``x`` is (K, B, in), or (B, in) for the same input in all lanes; ``weight`` (K, in, out);
    ``bias`` (K, out). Return (K, B, out).
    """
    if x.dim() == 2:
        x = x.expand(weight.shape[0], *x.shape)
    return cast(Tensor, _Linear.apply(x, weight, bias))


def sigmoid(x: Tensor) -> Tensor:
    """Compute 1 / (1 + exp(-x)) through tanh."""
    return torch.tanh(x * 0.5) * 0.5 + 0.5


def softplus(x: Tensor) -> Tensor:
    """Compute log(1 + exp(x)) through log1p."""
    return torch.clamp(x, min=0) + torch.log1p(torch.exp(-x.abs()))


def _elu(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, torch.expm1(torch.where(x > 0, 0, x)))


NONLINEARITIES: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "leaky_relu": functional.leaky_relu,
    "elu": _elu,
    "tanh": torch.tanh,
    "sigmoid": sigmoid,
}
"""Functions by the name of the setting, with torch's default slope and scale."""


def row_sum(x: Tensor, out: Tensor | None = None) -> Tensor:
    """Sum each lane's row of (K, N); return (K,)."""
    if x.is_cuda or torch.get_num_threads() == 1:
        return torch.sum(x, -1, out=out)
    # Threads split a single long row, but not several rows.
    return torch.stack([row.sum() for row in x], out=out)


def lane_sum(x: Tensor) -> Tensor:
    """Sum all but the lane axis of (K, B, N), one axis after the other; return (K,)."""
    # Threads would split one sum over both axes by the size of the whole tensor.
    return row_sum(x.sum(-1))


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Sum -log softmax(logits)[label] over the batch, in nats.

    ``logits`` (K, B, C), ``labels`` (B,) of class indices. Return (K,).
    """
    index = labels.expand(logits.shape[0], -1).unsqueeze(-1)
    log_likelihood: Tensor = functional.log_softmax(logits, -1).gather(-1, index).squeeze(-1)
    return -row_sum(log_likelihood)


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Sum -target * log softmax(logits) over classes and batch, in nats.

    ``logits`` and ``targets`` (K, B, C); targets are probabilities. Return (K,).
    """
    return -lane_sum(targets * functional.log_softmax(logits, -1))


def entropy(probabilities: Tensor) -> Tensor:
    """Compute the mean entropy over the samples of (K, N, C), in nats; return (K,)."""
    per_class: Tensor = torch.special.entr(probabilities)
    return per_class.sum(-1).mean(-1)


def kl_to_standard_normal(mu: Tensor, logvar: Tensor) -> Tensor:
    """Sum KL(N(mu, exp(logvar)) || N(0, 1)) over dimensions and batch, in nats.

    ``mu`` and ``logvar`` (K, B, Z). Return (K,). Kingma and Welling 2014 (arXiv 1312.6114),
    appendix B.
    """
    return -0.5 * lane_sum(1 + logvar - mu * mu - torch.exp(logvar))


class _ReconstructionLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor) -> Tensor:
        ctx.save_for_backward(logits, target)
        losses = functional.binary_cross_entropy_with_logits(
            logits, target.expand_as(logits), reduction="none"
        )
        return lane_sum(losses)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        logits, target = ctx.saved_tensors
        return (sigmoid(logits) - target) * grad_outputs[0][:, None, None], None


def reconstruction_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Sum the binary cross-entropy of sigmoid(logits) over pixels and batch, in nats.

    ``logits`` (K, B, D); ``target`` (B, D) or (K, B, D) in [0, 1], without gradient. Return
    (K,).
    """
    return cast(Tensor, _ReconstructionLoss.apply(logits, target))
