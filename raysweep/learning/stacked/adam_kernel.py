"""Adam and AdamW over all lanes in one GPU kernel, in Triton."""

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 1024


@triton.jit  # type: ignore[untyped-decorator]
def _adam(  # type: ignore[no-untyped-def]
    row,
    grad,
    exp_avg,
    exp_avg_sq,
    rate,
    root,
    decay,
    is_alive,
    first_free,
    n_columns,
    beta_1: tl.constexpr,
    beta_2: tl.constexpr,
    eps: tl.constexpr,
    is_decoupled: tl.constexpr,
    block: tl.constexpr,
):
    lane = tl.program_id(1)
    column = tl.program_id(0) * block + tl.arange(0, block)
    keep = (column < n_columns) & (column >= tl.load(first_free + lane))
    keep = keep & (tl.load(is_alive + lane) != 0)
    at = lane.to(tl.int64) * n_columns + column
    p = tl.load(row + at, mask=keep, other=0.0)
    g = tl.load(grad + at, mask=keep, other=0.0)
    if not is_decoupled:
        g += tl.load(decay + lane) * p
    m = tl.load(exp_avg + at, mask=keep, other=0.0) * beta_1 + g * (1 - beta_1)
    v = tl.load(exp_avg_sq + at, mask=keep, other=0.0) * beta_2 + g * g * (1 - beta_2)
    tl.store(exp_avg + at, m, mask=keep)
    tl.store(exp_avg_sq + at, v, mask=keep)
    denominator = tl.sqrt(v) / tl.load(root + lane) + eps
    moved = p - tl.load(rate + lane) * m / denominator
    if is_decoupled:
        moved -= tl.load(decay + lane) * p
    tl.store(row + at, moved, mask=keep)


def adam(
    flat: Tensor,
    grad: Tensor,
    *,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    rate: Tensor,
    root: Tensor,
    decay: Tensor,
    is_alive: Tensor,
    first_free: Tensor,
    betas: tuple[float, float],
    eps: float,
    is_decoupled: bool = False,
) -> None:
    """Update the rows of ``flat`` (K, P) and the moments (K, P) in place.

    For each lane (K,), ``rate`` is the learning rate over 1 - beta_1^n, ``root`` the square root
    of 1 - beta_2^n, ``decay`` the weight decay (with ``is_decoupled``, as in AdamW, times the
    learning rate) and ``first_free`` the first column (int64) to update; lanes that are not
    ``is_alive`` (bool) are left unchanged.
    """
    n_lanes, n_columns = flat.shape
    grid = (triton.cdiv(n_columns, _BLOCK), n_lanes)
    _adam[grid](
        flat,
        grad,
        exp_avg,
        exp_avg_sq,
        rate,
        root,
        decay,
        is_alive.view(torch.uint8),
        first_free,
        n_columns,
        *betas,
        eps,
        is_decoupled,
        _BLOCK,
    )
