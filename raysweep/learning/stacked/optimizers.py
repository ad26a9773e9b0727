"""Stacked optimisers: each lane has its own settings, moments and step count."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

import torch
from torch import Tensor

from raysweep.learning.stacked.parameters import Parameters
from raysweep.learning.stacked.update_rules import (
    ADAM_EPS,
    BETAS,
    RULES,
    Row,
    clip_factor,
    corrections,
)
from raysweep.learning.stacked.warnings import add_warning


@dataclass
class LaneState:
    """The state of one lane: parameters by name, optimiser moments by name, steps done."""

    parameters: dict[str, Tensor]
    moments: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    n_steps: int = 0


def stack_views(states: Sequence[LaneState | None]) -> dict[str, Tensor]:
    """Stack the parameters of lanes with the same layout into tensors (K, *shape)."""
    parameters = [state.parameters for state in states if state is not None]
    assert len(parameters) == len(states)
    return {name: torch.stack([p[name] for p in parameters]) for name in parameters[0]}


class Optimizer:
    """An optimiser of ``RULES``, as in torch.optim, applied to each lane separately.

    ``settings`` has one number per lane for ``lr`` and optionally ``weight_decay``, ``momentum``
    (for the kinds that have it) and ``clip_norm``, the largest norm of a lane's gradient, as in
    torch.nn.utils.clip_grad_norm_; 0 turns each of them off, and other settings are ignored.
    ``step_all`` is the definition: one expression over all lanes. On a CPU, ``step`` calls torch's
    fused kernel for each lane, in one pass over its row; on a GPU, Adam and AdamW use
    ``step_kernel``, one kernel for all lanes. Both GPU forms read nothing back, so that they can be
    captured in a CUDA graph.
    """

    def __init__(
        self, kind: str, parameters: Parameters, settings: Mapping[str, Sequence[float]]
    ) -> None:
        self.parameters = parameters
        self._rule = rule = RULES[kind]
        flat = parameters.flat
        self._settings = [
            defaultdict(float, {name: float(values[k]) for name, values in settings.items()})
            for k in range(parameters.n_lanes)
        ]
        self.lr_column = self._column("lr", torch.float64)
        none = torch.zeros(parameters.n_lanes, 1, dtype=flat.dtype, device=flat.device)
        columns = {name: self._column(name, flat.dtype) for name in settings}
        self._columns = defaultdict(lambda: none, columns | {"lr": self.lr_column})
        self._has_decay = any(of["weight_decay"] for of in self._settings)
        self._has_clipping = any(of["clip_norm"] for of in self._settings)
        lanes = range(parameters.n_lanes)
        by_setting = [m for m in rule.moments_by_setting if any(self._uses(m, k) for k in lanes)]
        self.moments = {name: torch.zeros_like(flat) for name in [*rule.moments, *by_setting]}
        self._rows: dict[tuple[int, int], Row] = {}
        self._scratch = flat.new_empty(2, 0 if flat.is_cuda else flat.shape[1])
        self._steps = torch.zeros(parameters.n_lanes, dtype=torch.float32, device=flat.device)

    def _column(self, name: str, dtype: torch.dtype) -> Tensor:
        """Return a setting of all lanes as a column (K, 1)."""
        values = [of[name] for of in self._settings]
        exact = torch.tensor(values, dtype=torch.float64, device=self.parameters.flat.device)
        return exact[:, None].to(dtype)

    def _uses(self, moment: str, k: int) -> bool:
        """Return whether lane ``k`` uses a moment; some need a setting other than 0."""
        setting = self._rule.moments_by_setting.get(moment)
        return setting is None or bool(self._settings[k][setting])

    @property
    def lr(self) -> list[float]:
        """Learning rate of each lane."""
        return [of["lr"] for of in self._settings]

    def set_lr(self, lr: Sequence[float]) -> None:
        """Set the learning rate of each lane."""
        for of, value in zip(self._settings, lr, strict=True):
            of["lr"] = value
        self.lr_column.copy_(self._column("lr", torch.float64))

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
        elements of their rows, whose gradient does not count towards the norm either.
        """
        if self._steps.is_cuda:
            is_one_kernel = self._rule.has_kernel and has_kernel(self._steps.device)
            step = self.step_kernel if is_one_kernel else self.step_all
            step(is_alive, is_frozen, frozen_end)
            return
        self._steps.add_(1)
        frozen = [False] * len(self._steps) if is_frozen is None else is_frozen.tolist()
        for k, is_well in enumerate(is_alive.tolist()):
            if is_well:
                self._step_lane(k, frozen_end if frozen[k] else 0)

    def _step_lane(self, k: int, start: int) -> None:
        if (k, start) not in self._rows:
            self._rows[k, start] = Row(
                self.parameters.flat[k, start:],
                self.parameters.grad[k, start:],
                {name: moment[k, start:] for name, moment in self.moments.items()},
                self._steps[k],
                self._scratch[:, start:],
            )
        row, settings = self._rows[k, start], self._settings[k]
        grad, max_norm = row.grad, settings["clip_norm"]
        if max_norm:
            factor = clip_factor(torch.linalg.vector_norm(grad), max_norm)
            grad = torch.mul(grad, factor, out=row.scratch[0])
        self._rule.step_row(row, grad, settings)

    @torch.no_grad()
    def step_all(
        self, is_alive: Tensor, is_frozen: Tensor | None = None, frozen_end: int = 0
    ) -> None:
        """Take one step like ``step``, in all lanes at once and without reading a tensor back."""
        self._steps.add_(1)
        grad, flat = self._clipped(is_frozen, frozen_end), self.parameters.flat
        is_decoupled = self._rule.is_decoupled
        if self._has_decay and not is_decoupled:
            grad = grad + self._columns["weight_decay"] * flat
        update = self._rule.update(grad, self.moments, self._columns, self._steps)
        if self._has_decay and is_decoupled:
            update = update + self._shrinkage() * flat
        # Never a product with a mask: 0 * NaN is NaN.
        update = torch.where(is_alive[:, None], update, 0)
        if is_frozen is not None:
            held = update[:, :frozen_end]
            held.copy_(torch.where(is_frozen[:, None], 0, held))
        flat.sub_(update)

    def _clipped(self, is_frozen: Tensor | None, frozen_end: int) -> Tensor:
        """Return the gradient (K, P), scaled down in the lanes with clipping."""
        grad, max_norm = self.parameters.grad, self._columns["clip_norm"]
        if not self._has_clipping:
            return grad
        if is_frozen is None:
            norm = torch.linalg.vector_norm(grad, dim=1)
        else:
            parts = grad[:, :frozen_end], grad[:, frozen_end:]
            held, free = (torch.linalg.vector_norm(part, dim=1) for part in parts)
            norm = torch.hypot(torch.where(is_frozen, 0, held), free)
        return torch.where(max_norm > 0, grad * clip_factor(norm[:, None], max_norm), grad)

    def _shrinkage(self) -> Tensor:
        """Compute the fraction (K, 1) by which decoupled weight decay shrinks the parameters."""
        return self._columns["lr"].to(self.parameters.flat.dtype) * self._columns["weight_decay"]

    @torch.no_grad()
    def step_kernel(
        self, is_alive: Tensor, is_frozen: Tensor | None = None, frozen_end: int = 0
    ) -> None:
        """Take one step of Adam or AdamW like ``step``, in one Triton kernel."""
        from raysweep.learning.stacked.adam_kernel import adam

        self._steps.add_(1)
        first_free = torch.zeros_like(self._steps, dtype=torch.int64)
        if is_frozen is not None:
            first_free.masked_fill_(is_frozen, frozen_end)
        rate, root = corrections(self._columns["lr"], self._steps, self.parameters.flat.dtype)
        adam(
            self.parameters.flat,
            self._clipped(is_frozen, frozen_end),
            exp_avg=self.moments["exp_avg"],
            exp_avg_sq=self.moments["exp_avg_sq"],
            rate=rate,
            root=root,
            decay=self._shrinkage() if self._rule.is_decoupled else self._columns["weight_decay"],
            is_alive=is_alive,
            first_free=first_free,
            betas=BETAS,
            eps=ADAM_EPS,
            is_decoupled=self._rule.is_decoupled,
        )

    def lane(self, k: int) -> LaneState:
        """Return lane ``k``'s state as views, with the moments it uses."""
        layout = self.parameters.layout
        return LaneState(
            {name: view.detach()[k] for name, view in self.parameters.views.items()},
            {
                moment: {name: view[k] for name, view in layout.views(flat).items()}
                for moment, flat in self.moments.items()
                if self._uses(moment, k)
            },
            int(self._steps[k]),
        )

    @torch.no_grad()
    def set_lane(self, k: int, state: LaneState, with_moments: bool) -> None:
        """Copy a state into lane ``k``, ignoring parameters that this layout lacks.

        A moment that depends on a setting is set to zero if the state lacks it: before the first
        step, or because the lane does not use the setting, whether or not other lanes do.
        """
        for name, view in self.parameters.views.items():
            view[k].copy_(state.parameters[name])
        if not with_moments:
            return
        self._steps[k] = state.n_steps
        for moment, flat in self.moments.items():
            if moment in self._rule.moments_by_setting and moment not in state.moments:
                assert not (state.n_steps and self._uses(moment, k)), "a moment is lost"
                flat[k].zero_()
                continue
            for name, view in self.parameters.layout.views(flat).items():
                view[k].copy_(state.moments[moment][name])


@cache
def has_kernel(device: torch.device) -> bool:
    """Return whether the Triton kernel runs on a device; add a warning if not."""
    try:
        from raysweep.learning.stacked.adam_kernel import adam

        x = torch.ones(1, 1, device=device)
        flags = torch.ones(1, dtype=torch.bool, device=device)
        adam(
            x,
            x,
            exp_avg=x,
            exp_avg_sq=x,
            rate=x,
            root=x,
            decay=x,
            is_alive=flags,
            first_free=flags.long(),
            betas=BETAS,
            eps=ADAM_EPS,
        )
    except Exception as error:  # noqa: BLE001 (no Triton, no compiler, an unknown card)
        add_warning(f"Adam runs as several kernels, which is slower; Triton failed: {error}")
        return False
    return True
