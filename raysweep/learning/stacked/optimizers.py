"""Stacked optimisers: a learning rate, a weight decay and a step count of its own for each lane."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache

import torch
from torch import Tensor

from raysweep.learning.stacked.parameters import Parameters
from raysweep.learning.stacked.warnings import add_warning

_MOMENTS = {"adam": ("exp_avg", "exp_avg_sq"), "adagrad": ("sum",), "sgd": ()}
_BETA_1, _BETA_2, _ADAM_EPS, _ADAGRAD_EPS = 0.9, 0.999, 1e-8, 1e-10


@dataclass
class LaneState:
    """What one lane has learnt: parameters by name, optimiser moments by name, steps done."""

    parameters: dict[str, Tensor]
    moments: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    n_steps: int = 0


def stack_views(states: Sequence[LaneState | None]) -> dict[str, Tensor]:
    """Stack the parameters of lanes of one layout into tensors (K, *shape)."""
    parameters = [state.parameters for state in states if state is not None]
    assert len(parameters) == len(states)
    return {name: torch.stack([p[name] for p in parameters]) for name in parameters[0]}


class Optimizer:
    """Adam, Adagrad or SGD as in torch.optim with its defaults, for each lane by itself.

    ``lr`` and ``weight_decay`` are (K,); weight decay is added to the gradient. ``step_all`` is the
    definition: one expression over all lanes. On a CPU ``step`` takes torch's fused kernel for
    each lane: one pass over its row; on a GPU Adam takes ``step_kernel``, one kernel for all.
    Both forms for a GPU read nothing back, so that they can be captured in a CUDA graph.
    """

    def __init__(self, kind: str, parameters: Parameters, lr: Tensor, weight_decay: Tensor) -> None:
        self.kind = kind
        self.parameters = parameters
        flat = parameters.flat
        self._lr, self._weight_decay = lr.tolist(), weight_decay.tolist()
        self.lr_column = lr.double().to(flat.device)[:, None]
        self._decay_column = weight_decay.to(flat)[:, None]
        self._has_decay = any(self._weight_decay)
        self.moments = {name: torch.zeros_like(flat) for name in _MOMENTS[kind]}
        self._rows: dict[tuple[int, int], list[list[Tensor]]] = {}
        self._steps = torch.zeros(parameters.n_lanes, dtype=torch.float32, device=flat.device)

    def set_lr(self, lr: Sequence[float]) -> None:
        """Take other learning rates, one a lane."""
        self._lr = list(lr)
        self.lr_column.copy_(torch.tensor(self._lr, dtype=torch.float64)[:, None])

    @property
    def n_steps(self) -> list[int]:
        """Steps done by each lane."""
        return [int(n) for n in self._steps.tolist()]

    @n_steps.setter
    def n_steps(self, values: Sequence[int]) -> None:
        self._steps.copy_(torch.tensor(values))

    @torch.no_grad()
    def step(self, is_alive: Tensor, is_frozen: Tensor | None = None, frozen_end: int = 0) -> None:
        """Take one step in the lanes that are alive.

        ``is_alive`` (K,) bool. Lanes with ``is_frozen`` (K,) keep the first ``frozen_end``
        elements of their rows.
        """
        if self._steps.is_cuda:
            is_one_kernel = self.kind == "adam" and has_kernel(self._steps.device)
            step = self.step_kernel if is_one_kernel else self.step_all
            step(is_alive, is_frozen, frozen_end)
            return
        self._steps.add_(1)
        frozen = is_frozen.tolist() if is_frozen is not None else [False] * len(self._lr)
        for k, is_well in enumerate(is_alive.tolist()):
            if is_well:
                self._step_lane(k, frozen_end if frozen[k] else 0)

    def _step_lane(self, k: int, start: int) -> None:
        if (k, start) not in self._rows:
            whole = (self.parameters.flat, self.parameters.grad, *self.moments.values())
            rows = [[tensor[k, start:]] for tensor in whole]
            self._rows[k, start] = [*rows, [self._steps[k]]]
        row, grad, *moments, steps = self._rows[k, start]
        lr, decay = self._lr[k], self._weight_decay[k]
        # What torch.optim calls with fused=True.
        if self.kind == "adam":
            torch._fused_adam_(
                row,
                grad,
                moments[0],
                moments[1],
                [],
                steps,
                lr=lr,
                beta1=_BETA_1,
                beta2=_BETA_2,
                weight_decay=decay,
                eps=_ADAM_EPS,
                amsgrad=False,
                maximize=False,
            )
        elif self.kind == "adagrad":
            torch._fused_adagrad_(
                row,
                grad,
                moments[0],
                steps,
                lr=lr,
                lr_decay=0.0,
                weight_decay=decay,
                eps=_ADAGRAD_EPS,
                maximize=False,
            )
        else:
            torch._fused_sgd_(
                row,
                grad,
                [],
                lr=lr,
                weight_decay=decay,
                momentum=0.0,
                dampening=0.0,
                nesterov=False,
                maximize=False,
                is_first_step=False,
            )

    @torch.no_grad()
    def step_all(
        self, is_alive: Tensor, is_frozen: Tensor | None = None, frozen_end: int = 0
    ) -> None:
        """Take one step as ``step`` does, in all lanes at once and without reading a tensor."""
        self._steps.add_(1)
        grad = self.parameters.grad
        if self._has_decay:
            grad = grad + self._decay_column * self.parameters.flat
        # Never a product with a mask: 0 * NaN is NaN.
        update = torch.where(is_alive[:, None], self._update(grad), 0)
        if is_frozen is not None:
            held = update[:, :frozen_end]
            held.copy_(torch.where(is_frozen[:, None], 0, held))
        self.parameters.flat.sub_(update)

    @torch.no_grad()
    def step_kernel(
        self, is_alive: Tensor, is_frozen: Tensor | None = None, frozen_end: int = 0
    ) -> None:
        """Take one step of Adam as ``step`` does, in one Triton kernel."""
        from raysweep.learning.stacked.adam_kernel import adam

        self._steps.add_(1)
        first_free = torch.zeros_like(self._steps, dtype=torch.int64)
        if is_frozen is not None:
            first_free.masked_fill_(is_frozen, frozen_end)
        rate, root = self._corrections()
        adam(
            self.parameters.flat,
            self.parameters.grad,
            self.moments["exp_avg"],
            self.moments["exp_avg_sq"],
            rate,
            root,
            self._decay_column,
            is_alive,
            first_free,
            (_BETA_1, _BETA_2),
            _ADAM_EPS,
        )

    def _corrections(self) -> tuple[Tensor, Tensor]:
        """Give lr / (1 - beta_1^n) and sqrt(1 - beta_2^n) after n steps, (K, 1) each."""
        dtype, steps = self.parameters.flat.dtype, self._steps.double()[:, None]
        rate = self.lr_column / (1 - torch.pow(_BETA_1, steps))
        return rate.to(dtype), torch.sqrt(1 - torch.pow(_BETA_2, steps)).to(dtype)

    def _update(self, grad: Tensor) -> Tensor:
        if self.kind == "adam":
            exp_avg, exp_avg_sq = self.moments["exp_avg"], self.moments["exp_avg_sq"]
            exp_avg.mul_(_BETA_1).add_(grad, alpha=1 - _BETA_1)
            exp_avg_sq.mul_(_BETA_2).addcmul_(grad, grad, value=1 - _BETA_2)
            rate, root = self._corrections()
            denominator = exp_avg_sq.sqrt().div_(root).add_(_ADAM_EPS)
            return exp_avg.div(denominator).mul_(rate)
        if self.kind == "adagrad":
            total = self.moments["sum"].addcmul_(grad, grad)
            return grad.div(total.sqrt().add_(_ADAGRAD_EPS)).mul_(self.lr_column.to(grad.dtype))
        return grad * self.lr_column.to(grad.dtype)

    def lane(self, k: int) -> LaneState:
        """Give lane ``k``'s state as views."""
        layout = self.parameters.layout
        return LaneState(
            {name: view.detach()[k] for name, view in self.parameters.views.items()},
            {
                moment: {name: view[k] for name, view in layout.views(flat).items()}
                for moment, flat in self.moments.items()
            },
            int(self._steps[k]),
        )

    @torch.no_grad()
    def set_lane(self, k: int, state: LaneState, with_moments: bool) -> None:
        """Copy a state into lane ``k``: of its parameters those that this layout has."""
        for name, view in self.parameters.views.items():
            view[k].copy_(state.parameters[name])
        if not with_moments:
            return
        self._steps[k] = state.n_steps
        for moment, flat in self.moments.items():
            for name, view in self.parameters.layout.views(flat).items():
                view[k].copy_(state.moments[moment][name])


@cache
def has_kernel(device: torch.device) -> bool:
    """Tell whether the Triton kernel runs on a device; note it if not."""
    try:
        from raysweep.learning.stacked.adam_kernel import adam

        x = torch.ones(1, 1, device=device)
        flags = torch.ones(1, dtype=torch.bool, device=device)
        adam(x, x, x, x, x, x, x, flags, flags.long(), (_BETA_1, _BETA_2), _ADAM_EPS)
    except Exception as error:  # noqa: BLE001 (no Triton, no compiler, an unknown card)
        add_warning(f"Adam runs as several kernels, which is slower; Triton's failed: {error}")
        return False
    return True
