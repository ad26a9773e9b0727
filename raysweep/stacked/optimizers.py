"""Stacked optimisers: a learning rate, a weight decay and a step count of its own for each lane."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from raysweep.stacked.parameters import Parameters

_MOMENTS = {"adam": ("exp_avg", "exp_avg_sq"), "adagrad": ("sum",), "sgd": ()}
_BETA_1, _BETA_2, _ADAM_EPS, _ADAGRAD_EPS = 0.9, 0.999, 1e-8, 1e-10


@dataclass
class LaneState:
    """What one lane has learnt: parameters by name, optimiser moments by name, steps done."""

    parameters: dict[str, Tensor]
    moments: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    n_steps: int = 0


class Optimizer:
    """Adam, Adagrad or SGD as in torch.optim with its defaults, for each lane by itself.

    ``lr`` and ``weight_decay`` are (K,); weight decay is added to the gradient.
    """

    def __init__(self, kind: str, parameters: Parameters, lr: Tensor, weight_decay: Tensor) -> None:
        self.kind = kind
        self.parameters = parameters
        self.lr = lr
        self.weight_decay = weight_decay
        self._has_decay = bool((weight_decay != 0).any())
        self.moments = {name: torch.zeros_like(parameters.flat) for name in _MOMENTS[kind]}
        self.n_steps = [0] * parameters.n_lanes

    @torch.no_grad()
    def step(self, is_alive: Tensor, is_frozen: Tensor | None = None, frozen_end: int = 0) -> None:
        """Take one step in the lanes that are alive.

        ``is_alive`` (K,) bool. Lanes with ``is_frozen`` (K,) keep the first ``frozen_end``
        elements of their rows.
        """
        self.n_steps = [n + 1 for n in self.n_steps]
        grad = self.parameters.grad
        if self._has_decay:
            grad = grad + self.weight_decay[:, None] * self.parameters.flat
        update = self._update(grad)
        # On a GPU the question would wait for it; on a CPU it saves a sixth of a step.
        if update.is_cuda or not is_alive.all():
            # Never a product with a mask: 0 * NaN is NaN.
            update = torch.where(is_alive[:, None], update, 0)
        if is_frozen is not None:
            held = update[:, :frozen_end]
            held.copy_(torch.where(is_frozen[:, None], 0, held))
        self.parameters.flat.sub_(update)

    def _update(self, grad: Tensor) -> Tensor:
        if self.kind == "adam":
            exp_avg, exp_avg_sq = self.moments["exp_avg"], self.moments["exp_avg_sq"]
            exp_avg.mul_(_BETA_1).add_(grad, alpha=1 - _BETA_1)
            exp_avg_sq.mul_(_BETA_2).addcmul_(grad, grad, value=1 - _BETA_2)
            # Bias corrections in Python: a vectorised pow rounds by position.
            scale = self._per_lane([1 / (1 - _BETA_1**n) for n in self.n_steps])
            root = self._per_lane([math.sqrt(1 - _BETA_2**n) for n in self.n_steps])
            denominator = exp_avg_sq.sqrt().div_(root).add_(_ADAM_EPS)
            return exp_avg.div(denominator).mul_(self.lr[:, None] * scale)
        if self.kind == "adagrad":
            total = self.moments["sum"].addcmul_(grad, grad)
            return grad.div(total.sqrt().add_(_ADAGRAD_EPS)).mul_(self.lr[:, None])
        return grad * self.lr[:, None]

    def _per_lane(self, values: Sequence[float]) -> Tensor:
        flat = self.parameters.flat
        return torch.tensor(values, dtype=flat.dtype, device=flat.device)[:, None]

    def lane(self, k: int) -> LaneState:
        """Give lane ``k``'s state as views."""
        layout = self.parameters.layout
        return LaneState(
            {name: view.detach()[k] for name, view in self.parameters.views.items()},
            {
                moment: {name: view[k] for name, view in layout.views(flat).items()}
                for moment, flat in self.moments.items()
            },
            self.n_steps[k],
        )

    @torch.no_grad()
    def set_lane(self, k: int, state: LaneState, with_moments: bool) -> None:
        """Copy a state into lane ``k``: of its parameters those that this layout has."""
        for name, view in self.parameters.views.items():
            view[k].copy_(state.parameters[name])
        if not with_moments:
            return
        self.n_steps[k] = state.n_steps
        for moment, flat in self.moments.items():
            for name, view in self.parameters.layout.views(flat).items():
                view[k].copy_(state.moments[moment][name])
