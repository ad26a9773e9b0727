"""The update rules of torch.optim, each for one lane on a CPU and for all lanes at once.

``RULES`` has everything specific to a kind of optimiser; to add one, add an entry. Adam is arXiv
1412.6980 and AdamW 1711.05101; constants are the defaults of torch.optim.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from raysweep import _compat

BETAS, ADAM_EPS = (0.9, 0.999), 1e-8
_ADAGRAD_EPS = 1e-10
_ALPHA, _RMSPROP_EPS = 0.99, 1e-8
_MOMENTUM_BUFFER = "momentum_buffer"


@dataclass(frozen=True)
class Row:
    """The tensors of a lane's update: views (n,) of its row, or of the part that is not frozen."""

    values: Tensor
    grad: Tensor
    moments: Mapping[str, Tensor]
    steps: Tensor  # (), float32, this step included
    scratch: Tensor  # (2, n): the first may hold the gradient already


Columns = Mapping[str, Tensor]
"""The settings of all lanes by name, (K, 1) each; ``lr`` is float64."""

StepRow = Callable[[Row, Tensor, Mapping[str, float]], None]
"""Update a row in place; takes the row, its gradient (n,) and the lane's settings by name.

Do not change the gradient: parts that no pass computes are zero from the start and not rewritten.
"""

Update = Callable[[Tensor, Mapping[str, Tensor], Columns, Tensor], Tensor]
"""Compute the update (K, P) to subtract, reading no tensor back; change the moments in place.

Takes the gradient (K, P), the moments (K, P), the columns and the steps (K,) including this one.
"""


@dataclass(frozen=True)
class UpdateRule:
    """One kind of optimiser: the names of its moments, and its two forms.

    ``moments_by_setting`` maps a moment to the setting it needs: it exists only if some lane has
    the setting, and only such lanes use it. With ``is_decoupled``, weight decay shrinks the
    parameters instead of being added to the gradient; either way the caller of ``update`` applies
    it. With ``has_kernel``, ``adam_kernel`` can compute the rule.
    """

    moments: tuple[str, ...]
    step_row: StepRow
    update: Update
    moments_by_setting: Mapping[str, str] = field(default_factory=dict)
    is_decoupled: bool = False
    has_kernel: bool = False


def clip_factor(norm: Tensor, max_norm: float | Tensor) -> Tensor:
    """Compute the factor that scales a gradient, as in torch.nn.utils.clip_grad_norm_."""
    return torch.clamp(max_norm / (norm + 1e-6), max=1.0)


def corrections(lr: Tensor, steps: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Compute lr / (1 - beta_1^n) and sqrt(1 - beta_2^n) after n steps, (K, 1) each."""
    n = steps.double()[:, None]
    rate = lr / (1 - torch.pow(BETAS[0], n))
    return rate.to(dtype), torch.sqrt(1 - torch.pow(BETAS[1], n)).to(dtype)


# --- one lane on a CPU: what torch.optim calls with fused=True ------------------------------------


def _step_adam(row: Row, grad: Tensor, settings: Mapping[str, float]) -> None:
    _fused_adam(_compat.fused_adam, row, grad, settings)


def _step_adamw(row: Row, grad: Tensor, settings: Mapping[str, float]) -> None:
    _fused_adam(_compat.fused_adamw, row, grad, settings)


def _fused_adam(
    kernel: Callable[..., None], row: Row, grad: Tensor, settings: Mapping[str, float]
) -> None:
    kernel(
        [row.values],
        [grad],
        [row.moments["exp_avg"]],
        [row.moments["exp_avg_sq"]],
        [],
        [row.steps],
        lr=settings["lr"],
        beta1=BETAS[0],
        beta2=BETAS[1],
        weight_decay=settings["weight_decay"],
        eps=ADAM_EPS,
        amsgrad=False,
        maximize=False,
    )


def _step_adagrad(row: Row, grad: Tensor, settings: Mapping[str, float]) -> None:
    _compat.fused_adagrad(
        [row.values],
        [grad],
        [row.moments["sum"]],
        [row.steps],
        lr=settings["lr"],
        lr_decay=0.0,
        weight_decay=settings["weight_decay"],
        eps=_ADAGRAD_EPS,
        maximize=False,
    )


def _step_sgd(row: Row, grad: Tensor, settings: Mapping[str, float]) -> None:
    momentum = settings["momentum"]
    _compat.fused_sgd(
        [row.values],
        [grad],
        [row.moments[_MOMENTUM_BUFFER]] if momentum else [],
        lr=settings["lr"],
        weight_decay=settings["weight_decay"],
        momentum=momentum,
        dampening=0.0,
        nesterov=False,
        maximize=False,
        # torch's buffer starts as the first gradient, ours at zero: 0 * momentum + grad is the same
        # number, and lanes need not track whether they are at their first step.
        is_first_step=False,
    )


def _step_rmsprop(row: Row, grad: Tensor, settings: Mapping[str, float]) -> None:
    lr, weight_decay, momentum = (settings[name] for name in ("lr", "weight_decay", "momentum"))
    # torch has no fused RMSprop; these are the operations of its single-tensor form.
    if weight_decay:
        grad = torch.add(grad, row.values, alpha=weight_decay, out=row.scratch[0])
    square_avg = row.moments["square_avg"]
    square_avg.mul_(_ALPHA).addcmul_(grad, grad, value=1 - _ALPHA)
    denominator = torch.sqrt(square_avg, out=row.scratch[1]).add_(_RMSPROP_EPS)
    if momentum:
        buffer = row.moments[_MOMENTUM_BUFFER]
        buffer.mul_(momentum).addcdiv_(grad, denominator)
        row.values.add_(buffer, alpha=-lr)
    else:
        row.values.addcdiv_(grad, denominator, value=-lr)


# --- all lanes at once ----------------------------------------------------------------------------


def _adam(grad: Tensor, moments: Mapping[str, Tensor], columns: Columns, steps: Tensor) -> Tensor:
    exp_avg, exp_avg_sq = moments["exp_avg"], moments["exp_avg_sq"]
    exp_avg.mul_(BETAS[0]).add_(grad, alpha=1 - BETAS[0])
    exp_avg_sq.mul_(BETAS[1]).addcmul_(grad, grad, value=1 - BETAS[1])
    rate, root = corrections(columns["lr"], steps, grad.dtype)
    denominator = exp_avg_sq.sqrt().div_(root).add_(ADAM_EPS)
    return exp_avg.div(denominator).mul_(rate)


def _adagrad(
    grad: Tensor, moments: Mapping[str, Tensor], columns: Columns, _steps: Tensor
) -> Tensor:
    total = moments["sum"].addcmul_(grad, grad)
    return grad.div(total.sqrt().add_(_ADAGRAD_EPS)).mul_(columns["lr"].to(grad.dtype))


def _sgd(grad: Tensor, moments: Mapping[str, Tensor], columns: Columns, _steps: Tensor) -> Tensor:
    return _accumulated(grad, moments, columns["momentum"]) * columns["lr"].to(grad.dtype)


def _rmsprop(
    grad: Tensor, moments: Mapping[str, Tensor], columns: Columns, _steps: Tensor
) -> Tensor:
    square_avg = moments["square_avg"]
    square_avg.mul_(_ALPHA).addcmul_(grad, grad, value=1 - _ALPHA)
    scaled = grad / square_avg.sqrt().add_(_RMSPROP_EPS)
    return _accumulated(scaled, moments, columns["momentum"]) * columns["lr"].to(grad.dtype)


def _accumulated(change: Tensor, moments: Mapping[str, Tensor], momentum: Tensor) -> Tensor:
    """Add a change (K, P) to the momentum buffer and return it; without a buffer, the change."""
    buffer = moments.get(_MOMENTUM_BUFFER)
    if buffer is None:
        return change
    has_momentum = momentum > 0
    buffer.copy_(torch.where(has_momentum, momentum * buffer + change, buffer))
    return torch.where(has_momentum, buffer, change)


_BUFFER = {_MOMENTUM_BUFFER: "momentum"}

RULES = {
    "adam": UpdateRule(("exp_avg", "exp_avg_sq"), _step_adam, _adam, has_kernel=True),
    "adamw": UpdateRule(
        ("exp_avg", "exp_avg_sq"), _step_adamw, _adam, is_decoupled=True, has_kernel=True
    ),
    "adagrad": UpdateRule(("sum",), _step_adagrad, _adagrad),
    "rmsprop": UpdateRule(("square_avg",), _step_rmsprop, _rmsprop, _BUFFER),
    "sgd": UpdateRule((), _step_sgd, _sgd, _BUFFER),
}
