"""Sums of each lane's losses over an epoch, and detection of lanes that diverged."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_LOG_STEPS = 256
"""Number of logged steps after which the log is folded into the sums."""


@dataclass(frozen=True)
class Divergence:
    """The point where a lane's loss became non-finite or had been too high for too long.

    ``epoch`` and ``step`` count from 1, ``step`` over the whole stage: the last of the consecutive
    bad steps that ended the lane. ``last_finite_loss`` is the last finite per-sample mean of the
    total loss up to then, None if there was none.
    """

    stage: str
    epoch: int
    step: int
    last_finite_loss: float | None


@dataclass(frozen=True)
class EpochReport:
    """One lane's epoch: metrics by column of the ``epochs`` table, or its divergence."""

    metrics: dict[str, float | int | None]
    divergence: Divergence | None


class _Rules:
    """A limit relative to a lane's best loss, and patience with bad steps; tensors are (K,).

    A step is bad if its mean loss is above ``threshold``, or above ``factor`` times ``best``, the
    lowest mean of the lane in its stage so far. The second rule is off if ``factor`` is 0, and
    while ``best`` is unset or not above 0: a loss that may be negative has no scale for a factor
    to refer to. ``n_bad`` counts consecutive bad steps across epochs; when it reaches
    ``patience``, or at a non-finite mean, the lane has diverged.
    Whether a bad step's mean counts for ``best`` (it does) makes no difference: if it is the
    lowest, it is above ``threshold``, and so is any multiple of it, until a step is not bad.
    """

    def __init__(self, threshold: Tensor, factor: Tensor, patience: Tensor) -> None:
        self._threshold, self._patience = threshold, patience
        self._factor = factor.masked_fill(factor == 0, math.inf)
        self._largest = torch.finfo(threshold.dtype).max
        self.best = torch.full_like(threshold, math.inf)
        self.n_bad = torch.zeros_like(patience)

    def note(self, mean: Tensor, is_alive: Tensor) -> None:
        """Apply the rules to a step's ``mean`` and clear ``is_alive``; reads nothing back."""
        limit = (self._factor * self.best).masked_fill_(self.best <= 0, math.inf)
        is_well = mean <= torch.minimum(limit, self._threshold)
        self.n_bad.add_(1).masked_fill_(is_well, 0)
        # False for NaN too, as it is with the threshold alone.
        is_alive.logical_and_(mean <= self._largest).logical_and_(self.n_bad < self._patience)
        torch.fmin(self.best, mean, out=self.best)


class LossMonitor:
    """Sums each lane's losses over an epoch in float64 and marks lanes that diverge.

    ``values`` maps a name to the (K,) tensor that receives a step's sum over samples; ``mean``
    receives the per-sample mean of the total loss, which is compared with the threshold and, if
    ``factor`` and ``patience`` are given, judged by ``_Rules``.
    ``note`` reads nothing back, so that it can be captured in a CUDA graph; call ``begin_step``
    before it, outside of any graph.
    """

    def __init__(
        self,
        names: Sequence[str],
        threshold: Tensor,
        factor: Tensor | None = None,
        patience: Tensor | None = None,
    ) -> None:
        n_lanes, device = len(threshold), threshold.device
        self.names = tuple(names)
        self.is_alive = torch.ones(n_lanes, dtype=torch.bool, device=device)
        # A threshold that is infinite in float32 would let an infinite loss pass.
        self._threshold = threshold.clamp(max=torch.finfo(threshold.dtype).max)
        self._is_well = torch.ones_like(self.is_alive)
        self._rules: _Rules | None = None
        if factor is not None and patience is not None:
            self._rules = _Rules(self._threshold, factor, patience)
            self._alive_log = self.is_alive.new_zeros(n_lanes, _LOG_STEPS)
        self._step = threshold.new_zeros(1 + len(names), n_lanes)
        self.mean, *values = self._step.unbind()
        self.values = dict(zip(self.names, values, strict=True))
        # Steps come last, so that summing over them works the same for any number of lanes.
        self._log = self._step.new_zeros(*self._step.shape, _LOG_STEPS)
        self._place = torch.zeros(1, dtype=torch.int64, device=device)
        self._n_new: list[int] = []
        self._was_alive = self.is_alive.clone()
        self._died_at = torch.zeros(n_lanes, dtype=torch.int64, device=device)
        self._last_finite = torch.full((n_lanes,), math.nan, dtype=torch.float64, device=device)
        self._sums = torch.zeros(self._step.shape, dtype=torch.float64, device=device)

    def begin(self, last_finite: Sequence[float], n_steps_done: int) -> None:
        """Start an epoch; ``last_finite`` has each lane's last finite loss so far."""
        self._n_steps = n_steps_done
        self._last_finite.copy_(torch.tensor(last_finite, dtype=torch.float64))
        self._sums.zero_()

    def begin_step(self, n_new: int) -> None:
        """Make room in the log for a step on ``n_new`` new samples."""
        if len(self._n_new) == _LOG_STEPS:
            self._fold()
        self._n_new.append(n_new)

    def note(self) -> None:
        """Log the step's ``mean`` and ``values``, and mark lanes that diverge by the mean."""
        if self._rules is None:
            # False for NaN too; the threshold is finite.
            torch.le(self.mean, self._threshold, out=self._is_well)
            self.is_alive.logical_and_(self._is_well)
        else:
            self._rules.note(self.mean, self.is_alive)
            self._alive_log.index_copy_(1, self._place, self.is_alive.unsqueeze(1))
        self._log.index_copy_(2, self._place, self._step.unsqueeze(2))
        self._place.add_(1)

    def _fold(self) -> None:
        """Add the logged steps to the sums and find the steps at which lanes diverged."""
        n_steps = len(self._n_new)
        log = self._log[:, :, :n_steps].double()
        means = log[0]
        if self._rules is None:
            is_fatal = ~(means <= self._threshold.double()[:, None])
        else:
            is_fatal = ~self._alive_log[:, :n_steps]
        n_fatal_before = is_fatal.cumsum(1) - is_fatal.long()
        was_alive = self._was_alive[:, None] & (n_fatal_before == 0)
        steps = torch.arange(1, n_steps + 1, device=log.device)
        died = torch.where(was_alive & is_fatal, steps, 0).amax(1)
        self._died_at = torch.where(died > 0, self._n_steps + died, self._died_at)
        last = torch.where(was_alive & means.isfinite(), steps, 0).amax(1)
        value = means.gather(1, (last - 1).clamp(min=0)[:, None]).squeeze(1)
        self._last_finite = torch.where(last > 0, value, self._last_finite)
        means *= torch.tensor(self._n_new, dtype=log.dtype, device=log.device)
        self._sums += log.sum(-1)
        self._was_alive.copy_(self.is_alive)
        self._place.zero_()
        self._n_steps += n_steps
        self._n_new = []

    def close(self, are_finite: Tensor) -> None:
        """End an epoch; lanes whose parameters are not finite, ``are_finite`` (K,), diverged."""
        self._fold()
        self._died_at = torch.where(self.is_alive & ~are_finite, self._n_steps, self._died_at)
        self.is_alive.logical_and_(are_finite)

    def history(self) -> dict[str, Tensor]:
        """Return a copy of the rules' state, which earlier steps determine; empty without rules."""
        if self._rules is None:
            return {}
        return {"best": self._rules.best.clone(), "n_bad": self._rules.n_bad.clone()}

    def set_history(self, history: Mapping[str, Tensor]) -> None:
        """Restore the result of ``history``; does nothing without rules."""
        if self._rules is not None:
            self._rules.best.copy_(history["best"])
            self._rules.n_bad.copy_(history["n_bad"])

    @property
    def last_finite(self) -> list[float]:
        """Each lane's last finite loss, NaN if there was none."""
        values: list[float] = self._last_finite.tolist()
        return values

    def divergences(self, stage: str, epoch: int) -> list[Divergence | None]:
        """Return each lane's divergence, None if it is alive."""
        last_finite = [None if math.isnan(x) else x for x in self.last_finite]
        return [
            None if is_alive else Divergence(stage, epoch, step, last)
            for is_alive, step, last in zip(
                self.is_alive.tolist(), self._died_at.tolist(), last_finite, strict=True
            )
        ]

    def means(
        self, n_new: int, n_replay: int, reported: Sequence[Collection[str]]
    ) -> list[dict[str, float | int | None]]:
        """Return each lane's means by column of the ``epochs`` table.

        ``n_new`` and ``n_replay`` count the samples of the epoch; ``reported`` has for each lane
        the losses that apply to it.
        """
        rows = []
        for k, column in enumerate(self._sums.t().tolist()):
            sums = dict(zip(("loss", *self.names), column, strict=True))
            means: dict[str, float | int | None] = {"loss": sums["loss"] / n_new}
            for name in ("class", "kl", "rec"):
                if name not in reported[k]:
                    continue
                means[f"{name}_loss"] = sums[name] / n_new
                if n_replay and f"replay_{name}" in sums:
                    means[f"replay_{name}_loss"] = sums[f"replay_{name}"] / n_replay
            if "n_correct" in sums:
                means["train_accuracy"] = sums["n_correct"] / n_new
            rows.append(means)
        return rows
