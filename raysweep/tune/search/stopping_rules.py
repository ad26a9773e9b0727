"""The rules of Ray Tune's schedulers, applied to configurations instead of trials.

Ray Tune's own schedulers can't decide on a value that they recorded earlier, and do not expose what
they recorded. Tests check these rules against them.
"""

import math
from collections import defaultdict
from typing import Protocol

import numpy as np

from raysweep.settings.stopping import EarlyStopping


class StoppingRule(Protocol):
    """A rule that compares each configuration with the recorded values of all."""

    def record(self, config_id: str, time: int, value: float) -> None:
        """Record a finite value; a configuration's values arrive in the order of their times."""

    def reason_to_stop(self, config_id: str, time: int) -> str | None:
        """Return why a configuration stops at its last recorded time; None if it continues."""


class SuccessiveHalving:
    """ASHA (Li et al. 2018, arXiv 1810.05934), and HyperBand as several brackets of ASHA.

    Like Ray Tune's ``AsyncHyperBandScheduler``, but a configuration's own value and those of its
    pack count towards its cutoff: Ray Tune compares only with values recorded before.
    """

    def __init__(self, rule: EarlyStopping, max_epochs: int) -> None:
        self._factor = rule.reduction_factor
        self._sign = 1.0 if rule.mode == "max" else -1.0
        n_brackets = rule.brackets if rule.method == "hyperband" else 1
        n_rungs = np.log(max_epochs / rule.grace_period) / np.log(self._factor) + 1
        self._brackets: list[dict[float, dict[str, float]]] = [
            {
                rule.grace_period * self._factor ** (k + first): {}
                for k in reversed(range(int(n_rungs - first)))
            }
            for first in range(n_brackets)
        ]
        self._bracket_of: dict[str, int] = {}

    def record(self, config_id: str, time: int, value: float) -> None:
        """Record a value if there is a rung at its time.

        Values at other times are ignored: a configuration that missed a rung (a stage from the
        cache has no averages) would be recorded there with the value of a later epoch.
        """
        recorded = self.rung(config_id, time)
        if recorded is not None:
            recorded.setdefault(config_id, self._sign * value)

    def rung(self, config_id: str, time: int) -> dict[str, float] | None:
        """Return what is recorded at the rung of a time, None if there is no rung.

        Values are the metric's, with the sign that makes the largest the best.
        """
        rungs = self._brackets[self._bracket(config_id)]
        return next((v for milestone, v in rungs.items() if time == math.ceil(milestone)), None)

    def _bracket(self, config_id: str) -> int:
        """Draw a bracket from the id alone; each rung fewer makes a bracket 1/e times as likely."""
        if config_id not in self._bracket_of:
            sizes = np.array([len(rungs) for rungs in self._brackets])
            chances = np.e ** (sizes - sizes.max())
            numbers = np.random.RandomState(int(config_id[:8], 16))
            chosen = numbers.choice(len(sizes), p=chances / chances.sum())
            self._bracket_of[config_id] = int(chosen)
        return self._bracket_of[config_id]

    def reason_to_stop(self, config_id: str, time: int) -> str | None:
        """Return why a configuration stops: it is below the cutoff of the rung it has reached."""
        recorded = self.rung(config_id, time)
        if recorded is None or not recorded[config_id] < (cutoff := self.cutoff(recorded)):
            return None
        return (
            f"not in the best 1/{self._factor:g} of {len(recorded)} "
            f"(cutoff {self._sign * cutoff:.4g})"
        )

    def cutoff(self, recorded: dict[str, float]) -> float:
        """Return the lowest value that continues at a rung."""
        return float(np.nanpercentile(list(recorded.values()), (1 - 1 / self._factor) * 100))


class MedianRule:
    """Median stopping (Golovin et al. 2017, Google Vizier), as Ray Tune's ``MedianStoppingRule``.

    A configuration stops if its best value is worse than the median of the others' running means.
    """

    def __init__(self, rule: EarlyStopping) -> None:
        self._rule = rule
        self._best = max if rule.mode == "max" else min
        self._results: dict[str, list[tuple[int, float]]] = defaultdict(list)

    def record(self, config_id: str, time: int, value: float) -> None:
        """Record a value."""
        self._results[config_id].append((time, value))

    def reason_to_stop(self, config_id: str, time: int) -> str | None:
        """Return why a configuration stops: it is behind, and there are enough to compare."""
        if time < self._rule.grace_period:
            return None
        means = [
            self._mean(results, time)
            for other, results in self._results.items()
            if other != config_id and results[-1][0] >= time
        ]
        means = [mean for mean in means if math.isfinite(mean)]
        if len(means) < self._rule.min_samples_required:
            return None
        median = float(np.median(means))
        best = self._best(value for _, value in self._results[config_id])
        if self._best(median, best) == best:
            return None
        return "its best value is worse than the median of the others' running means"

    def _mean(self, results: list[tuple[int, float]], time: int) -> float:
        """Return the mean from the end of the grace period to a time, NaN if there is no value."""
        values = [v for t, v in results if self._rule.grace_period <= t <= time]
        return float(np.mean(values)) if values else math.nan


def make_rule(rule: EarlyStopping, max_epochs: int) -> StoppingRule:
    """Make the rule set in a search space; no classifier trains more than ``max_epochs``."""
    return MedianRule(rule) if rule.method == "median" else SuccessiveHalving(rule, max_epochs)
