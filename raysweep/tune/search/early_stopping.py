"""Early stopping of configurations, by the rules of Ray Tune's schedulers, one report per lane.

A Ray Tune scheduler decides about trials, and here a trial is a pack. So Tune gets no scheduler:
each configuration acts as a separate trial whose result is its row of ``epochs``. Time is
counted in epochs of the classifier, over all tasks.
"""

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from raysweep.learning.config import Config
from raysweep.settings.stopping import EarlyStopping, Stop, classifier_epochs
from raysweep.tables.paths import ResultsPath
from raysweep.tables.reader import read_arrow
from raysweep.tune.search.stopping_rules import make_rule

_JOINT, _TASK = "train_joint", "train_task_"


class LaneStopper:
    """Decide from the rows of ``epochs`` which configurations stop.

    The configurations of a pack report together, so all of them are recorded before the first
    decision: a configuration's place in the pack does not matter. Each epoch of a configuration is
    recorded once; if it is reported again, as by a pack that starts over, the decision stays the
    same. ``max_epochs`` is the largest number of epochs that any classifier trains.
    """

    def __init__(self, rule: EarlyStopping, max_epochs: int) -> None:
        self.rule = rule
        self.recorded = make_rule(rule, max_epochs)
        self._heard: dict[str, int] = {}
        self._decided: dict[str, Stop] = {}

    def learn(self, configs: Mapping[str, Config], epochs: Iterable[Mapping[str, Any]]) -> None:
        """Record the rows of configurations (by id) that ended before, in order."""
        for row in epochs:
            config = configs.get(row["config_id"])
            if config is not None and (report := self._report(config, row)):
                self._record(config, *report)

    def take_up(self, configs: Mapping[str, Config], epochs: Iterable[Mapping[str, Any]]) -> None:
        """Record the rows of configurations (by id) that an earlier run left and that resume.

        Only the decision on each one's last epoch may not have been carried out: it is made again,
        and returned when that epoch, or a later one, is reported.
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
        """Record a pack's new rows; return the decisions for configurations that must stop now.

        There is no decision after an epoch that leaves nothing to train.
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
        """Return time and value of a row; None if there is nothing to decide."""
        time, value = _time(config, row), row.get(self.rule.metric)
        if time is None or value is None or time >= classifier_epochs(config):
            return None
        return time, float(value)

    def _record(self, config: Config, time: int, value: float) -> None:
        self._heard[config.id] = time
        if math.isfinite(value):
            self.recorded.record(config.id, time, value)

    def _decide(self, config: Config, time: int, value: float) -> Stop | None:
        after = f"after {time} of {classifier_epochs(config)} epochs"
        name = f"{self.rule.method}: {self.rule.metric}"
        if not math.isfinite(value):
            # NaN would never lose a comparison with a cutoff.
            return Stop(time, f"{name} was {value} {after}")
        why = self.recorded.reason_to_stop(config.id, time)
        return Stop(time, f"{name} {value:.4g} {after}: {why}") if why else None


def make_stopper(
    rule: EarlyStopping,
    configs: Sequence[Config],
    ended: Collection[str],
    location: ResultsPath,
    paused: Collection[str] = (),
) -> LaneStopper:
    """Make a stopper that has learned the results of the configurations (by id) that have ended.

    ``configs`` are those of the sweep, or examples of them; ``paused`` ones have epochs in the
    table and resume.
    """
    stopper = LaneStopper(rule, max(map(classifier_epochs, configs)))
    if ended or paused:
        columns = ["config_id", "stage", "epoch", rule.metric]
        rows = read_arrow(location, "epochs", columns).to_pylist()
        stopper.learn({c.id: c for c in configs if c.id in ended}, rows)
        stopper.take_up({c.id: c for c in configs if c.id in paused}, rows)
    return stopper


def _time(config: Config, row: Mapping[str, Any]) -> int | None:
    """Count the classifier's epochs up to a row; return None if the stage trains no classifier."""
    stage: str = row["stage"]
    if stage == _JOINT:
        return int(row["epoch"])
    if not stage.startswith(_TASK):
        return None
    return (int(stage.removeprefix(_TASK)) - 1) * config.epochs + int(row["epoch"])
