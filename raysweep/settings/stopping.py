"""Stopping settings of a search space: early stopping of lanes, and budgets of a run."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from raysweep.errors import InputError, all_of, checked
from raysweep.learning.config import Config
from raysweep.settings.foreign import ours_for
from raysweep.user_text.metric_hints import metric_meant
from raysweep.user_text.values import (
    check_keys,
    check_whole,
    is_off,
    near,
    number_of,
    reading,
    seconds_in,
    seconds_of,
    show,
)

STOPPERS = ("asha", "hyperband", "median")
STOP_METRICS = {"average_accuracy": "max", "test_accuracy": "max", "class_loss": "min"}
"""Columns of ``epochs`` that early stopping can compare, with their modes."""
MOST_EPOCHS = 1_000_000
LEAST_FACTOR = 1.1
_KEYS = {
    "asha": ("method", "metric", "grace_period", "reduction_factor"),
    "hyperband": ("method", "metric", "grace_period", "reduction_factor", "brackets"),
    "median": ("method", "metric", "grace_period", "min_samples_required"),
}


@dataclass(frozen=True)
class EarlyStopping:
    """Rule that stops configurations whose ``metric`` falls behind the others'.

    Names and defaults are those of Ray Tune's schedulers. ``grace_period`` counts the classifier's
    epochs from the first task on; nothing stops earlier. ``reduction_factor`` (ASHA, HyperBand):
    at a rung, 1/``reduction_factor`` of the configurations continue, and successive rungs are
    this factor apart; ``brackets`` (HyperBand) is the number of sets of rungs;
    ``min_samples_required`` (median) is the number of others needed for a comparison.
    """

    method: str = "asha"
    metric: str = "average_accuracy"
    grace_period: int = 1
    reduction_factor: float = 4.0
    brackets: int = 3
    min_samples_required: int = 3

    @property
    def mode(self) -> str:
        """``max`` or ``min``, depending on the metric."""
        return STOP_METRICS[self.metric]

    def to_plain(self) -> dict[str, Any]:
        """Return it as in a file, with its defaults."""
        return {key: getattr(self, key) for key in _KEYS[self.method]}


@dataclass(frozen=True)
class Stop:
    """An early stop and its reason; ``rung`` is the number of classifier epochs so far."""

    rung: int
    reason: str


@dataclass(frozen=True)
class Budget:
    """Limits of one run of the command, each None for no limit.

    ``time_s`` is wall time in seconds since the start of the command, ``n_configs`` the number of
    started configurations, ``gpu_h`` hours of a whole GPU, over all packs.
    """

    time_s: float | None = None
    n_configs: int | None = None
    gpu_h: float | None = None


def early_stopping_of(raw: Any) -> EarlyStopping | None:
    """Check ``early_stopping:``; return None if off."""
    if is_off(raw):
        return None
    if isinstance(raw, str):
        raw = {"method": raw}
    if not isinstance(raw, dict):
        raise InputError(
            f"early_stopping: expected {', '.join(STOPPERS)} or {{method: asha, grace_period: 1}}, "
            f"got {show(raw)}"
        )
    method = _word(raw.get("method", "asha"), "method", STOPPERS)
    default = EarlyStopping()

    def given(key: str) -> Any:
        return raw.get(key, getattr(default, key))

    def check_known() -> None:
        known = _KEYS[method]
        check_keys(raw, "early_stopping", method=method, known=known, hint_at=_hint_at_key)

    checks: dict[str, Callable[[], Any]] = {
        "metric": lambda: _word(given("metric"), "metric", tuple(STOP_METRICS)),
        "reduction_factor": lambda: _factor(given("reduction_factor")),
    } | {
        key: partial(_whole, given(key), f"early_stopping.{key}")
        for key in ("grace_period", "brackets", "min_samples_required")
    }
    both: list[Callable[[], Any]] = [check_known, partial(checked, checks)]
    _, found = all_of(both)
    return EarlyStopping(method, **found)


def _hint_at_key(key: Any) -> str:
    ours = ours_for(key, "early_stopping")
    return f"; write `{ours}:`" if ours else ""


def check_epochs(rule: EarlyStopping, configs: Sequence[Config]) -> None:
    """Refuse a rule that cannot stop any of the configurations or examples in their epochs."""
    n_epochs = max((classifier_epochs(config) for config in configs), default=MOST_EPOCHS)
    if rule.grace_period >= n_epochs:
        raise InputError(
            f"early_stopping.grace_period: expected less than the {n_epochs} epochs of the "
            f"classifier over all tasks, got {rule.grace_period}; nothing could stop early"
        )
    n_rungs = 1 + int(math.log(n_epochs / rule.grace_period, rule.reduction_factor))
    if rule.method == "hyperband" and rule.brackets > n_rungs:
        raise InputError(
            f"early_stopping.brackets: expected at most {n_rungs}, the number of rungs in "
            f"{n_epochs} epochs, got {rule.brackets}; lower grace_period or reduction_factor"
        )


def classifier_epochs(config: Config) -> int:
    """Return the number of epochs that a configuration's classifier trains, over all tasks."""
    return config.epochs * (1 if config.is_joint else config.n_tasks)


def budget_of(time_budget: Any, max_configs: Any, max_gpu_hours: Any) -> Budget:
    """Check ``time_budget:``, ``max_configs:`` and ``max_gpu_hours:``."""
    limits: list[Callable[[], Any]] = [
        lambda: None if is_off(time_budget) else seconds_of(time_budget, "time_budget"),
        lambda: None if is_off(max_configs) else _whole(max_configs, "max_configs"),
        lambda: None if is_off(max_gpu_hours) else _gpu_hours(max_gpu_hours),
    ]
    return Budget(*all_of(limits))


def _gpu_hours(raw: Any) -> float:
    is_duration = isinstance(raw, str) and math.isnan(number_of(raw)) and seconds_in(raw)
    return seconds_in(raw) / 3600 if is_duration else _positive(raw, "max_gpu_hours", "hours")


def _positive(raw: Any, where: str, what: str) -> float:
    number = number_of(raw)
    if not 0 < number < 1e12:
        raise InputError(f"{where}: expected {what} > 0, got {show(raw)}{reading(raw)}")
    return number


def _factor(raw: Any) -> float:
    number = _positive(raw, "early_stopping.reduction_factor", "a number")
    if not LEAST_FACTOR <= number <= MOST_EPOCHS:
        raise InputError(
            f"early_stopping.reduction_factor: expected a number >= {LEAST_FACTOR}, got {show(raw)}"
        )
    return number


def _whole(raw: Any, where: str) -> int:
    return check_whole(raw, where, 1, MOST_EPOCHS)


def _word(raw: Any, key: str, words: Sequence[str]) -> str:
    if raw not in words:
        ours = ours_for(raw)
        meant = metric_meant if key == "metric" else near
        hint = f"; write {ours}" if ours in words else meant(raw, list(words))
        raise InputError(
            f"early_stopping.{key}: expected {', '.join(words[:-1])} or {words[-1]}, "
            f"got {show(raw)}{hint}"
        )
    return str(raw)
