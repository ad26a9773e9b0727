"""Which configurations stop early: Ray Tune's schedulers, fed a report a lane.

A scheduler of Ray Tune decides about trials. Here a trial is a pack, so the schedulers are not
given to Tune: each configuration stands for a trial of its own, whose result is its row of
``epochs``. The time of all of them is the epochs of the classifier, over all tasks.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ray.tune.schedulers import AsyncHyperBandScheduler, MedianStoppingRule, TrialScheduler

from raysweep.learning.config import Config
from raysweep.settings.stopping import EarlyStopping, Stop, classifier_epochs
from raysweep.tables.paths import ResultsPath
from raysweep.tables.reader import read_arrow

TIME = "classifier_epochs"
_JOINT, _TASK = "train_joint", "train_task_"


@dataclass(frozen=True)
class _Lane:
    """All that the schedulers look at of a trial."""

    trial_id: str


class LaneStopper:
    """Decide by the rows of ``epochs`` which configurations stop.

    The configurations of a pack report at once, so all of them are recorded before the first is
    decided on: its place in the pack does not matter. A configuration is recorded once for an
    epoch; told again, as by a pack that starts over, the decision is the one that was made.
    ``max_epochs`` is the most that a classifier trains.
    """

    def __init__(self, rule: EarlyStopping, max_epochs: int) -> None:
        self.rule = rule
        self._scheduler: Any = _scheduler(rule, max_epochs)
        self._heard: dict[str, int] = {}
        self._decided: dict[str, Stop] = {}

    def learn(self, configs: Mapping[str, Config], epochs: Iterable[Mapping[str, Any]]) -> None:
        """Take in the rows of configurations (by id) that ended before, in their order."""
        for row in epochs:
            config = configs.get(row["config_id"])
            if config is not None and (report := self._report(config, row)):
                self._record(config, *report)

    def take_up(self, configs: Mapping[str, Config], epochs: Iterable[Mapping[str, Any]]) -> None:
        """Take in the rows of configurations (by id) that a run left and that go on.

        Only of the last epoch of each a decision may not have been carried out: it is made again,
        and given when the epoch is reported again, or a later one.
        """
        rows: dict[str, list[tuple[int, Mapping[str, Any]]]] = defaultdict(list)
        for row in epochs:
            config = configs.get(row["config_id"])
            if config is not None and (report := self._report(config, row)):
                rows[config.id].append((report[0], row))
        ordered = [[row for _, row in sorted(r, key=lambda pair: pair[0])] for r in rows.values()]
        self.learn(configs, [row for own in ordered for row in own[:-1]])
        self.hear(configs, [own[-1] for own in ordered])

    def hear(
        self, configs: Mapping[str, Config], epochs: Iterable[Mapping[str, Any]]
    ) -> dict[str, Stop]:
        """Take in a pack's new rows; give the decisions for those that are to stop now.

        An epoch after which nothing is left to train decides nothing.
        """
        by_time: dict[int, dict[str, float]] = defaultdict(dict)
        for row in epochs:
            if report := self._report(configs[row["config_id"]], row):
                by_time[report[0]][row["config_id"]] = report[1]
        stops: dict[str, Stop] = {}
        for time, values in sorted(by_time.items()):
            stops |= {i: d for i in values if (d := self._decided.get(i)) and time >= d.rung}
            new = [i for i in values if i not in stops and time > self._heard.get(i, 0)]
            for config_id in new:
                self._record(configs[config_id], time, values[config_id])
            for config_id in new:
                decision = self._decide(configs[config_id], time, values[config_id])
                if decision is not None:
                    self._decided[config_id] = stops[config_id] = decision
        return stops

    def _report(self, config: Config, row: Mapping[str, Any]) -> tuple[int, float] | None:
        """Give time and value of a row; None where there is nothing to decide."""
        time, value = _time(config, row), row.get(self.rule.metric)
        if time is None or value is None or time >= classifier_epochs(config):
            return None
        return time, float(value)

    def _record(self, config: Config, time: int, value: float) -> None:
        if config.id not in self._heard:
            _with_own_chance(config.id, self._scheduler.on_trial_add, None, _Lane(config.id))
        self._heard[config.id] = time
        if math.isfinite(value):
            result = {TIME: time, self.rule.metric: value}
            if self.rule.method == "median":
                # Takes the result down, no more.
                self._scheduler.on_trial_complete(None, _Lane(config.id), result)
            elif self._rung(config.id, time) is not None:
                # At no other time: one that missed a rung (a stage from the cache has no averages)
                # would be put down there with the value of a later epoch.
                self._scheduler.on_trial_result(None, _Lane(config.id), result)

    def _decide(self, config: Config, time: int, value: float) -> Stop | None:
        after = f"after {time} of {classifier_epochs(config)} epochs"
        name = f"{self.rule.method}: {self.rule.metric}"
        if not math.isfinite(value):
            # In a comparison with a cutoff NaN would never lose.
            return Stop(time, f"{name} was {value} {after}")
        if self.rule.method == "median":
            result = {TIME: time, self.rule.metric: value}
            self._scheduler._results[_Lane(config.id)].pop()  # asked, it takes it down itself
            action = self._scheduler.on_trial_result(None, _Lane(config.id), result)
            why = "its best is worse than the median of the others' running means"
            is_behind = action == TrialScheduler.STOP
        else:
            is_behind, why = self._is_behind(config.id, time)
        return Stop(time, f"{name} {value:.4g} {after}: {why}") if is_behind else None

    def _is_behind(self, config_id: str, time: int) -> tuple[bool, str]:
        """Tell whether a configuration is below the cutoff of the rung it has just reached.

        Ray Tune's own decision compares with those that were recorded before it.
        """
        recorded = self._rung(config_id, time)
        if recorded is None:
            return False, ""
        cutoff = self._scheduler._trial_info[config_id].cutoff(recorded)
        shown = cutoff if self.rule.mode == "max" else -cutoff
        why = f"not in the best 1/{self.rule.reduction_factor:g} of {len(recorded)}"
        return bool(recorded[config_id] < cutoff), f"{why} (cutoff {shown:.4g})"

    def _rung(self, config_id: str, time: int) -> dict[str, float] | None:
        """Give what is recorded at the rung of a time, None where there is no rung."""
        rungs = self._scheduler._trial_info[config_id]._rungs
        return next((values for milestone, values in rungs if time == math.ceil(milestone)), None)


def make_stopper(
    rule: EarlyStopping,
    configs: Sequence[Config],
    ended: Collection[str],
    location: ResultsPath,
    paused: Collection[str] = (),
) -> LaneStopper:
    """Make a stopper that knows what became of the configurations (by id) that have ended.

    ``configs`` are those of the sweep, or examples of them; ``paused`` ones have epochs in the
    table and go on.
    """
    stopper = LaneStopper(rule, max(map(classifier_epochs, configs)))
    if ended or paused:
        columns = ["config_id", "stage", "epoch", rule.metric]
        rows = read_arrow(location, "epochs", columns).to_pylist()
        stopper.learn({c.id: c for c in configs if c.id in ended}, rows)
        stopper.take_up({c.id: c for c in configs if c.id in paused}, rows)
    return stopper


def _scheduler(rule: EarlyStopping, max_epochs: int) -> Any:
    if rule.method == "median":
        return MedianStoppingRule(
            time_attr=TIME,
            metric=rule.metric,
            mode=rule.mode,
            grace_period=rule.grace_period,
            min_samples_required=rule.min_samples_required,
            # Lanes can't make room for others by pausing.
            min_time_slice=math.inf,  # type: ignore[arg-type]
        )
    return AsyncHyperBandScheduler(
        time_attr=TIME,
        metric=rule.metric,
        mode=rule.mode,
        max_t=max_epochs,
        grace_period=rule.grace_period,
        reduction_factor=rule.reduction_factor,
        brackets=rule.brackets if rule.method == "hyperband" else 1,
    )


def _with_own_chance(config_id: str, call: Callable[..., None], *arguments: Any) -> None:
    """Call what draws from numpy's global numbers (a bracket) so that it draws by the id alone."""
    state = np.random.get_state()
    np.random.seed(int(config_id[:8], 16))
    try:
        call(*arguments)
    finally:
        np.random.set_state(state)


def _time(config: Config, row: Mapping[str, Any]) -> int | None:
    """Count the classifier's epochs up to a row; None for a stage that trains no classifier."""
    stage: str = row["stage"]
    if stage == _JOINT:
        return int(row["epoch"])
    if not stage.startswith(_TASK):
        return None
    return (int(stage.removeprefix(_TASK)) - 1) * config.epochs + int(row["epoch"])
