"""Which configurations stop early: the rules of Ray Tune's schedulers, fed a report a lane.

A scheduler of Ray Tune decides about trials, and here a trial is a pack. So Tune is given none:
each configuration stands for a trial of its own, whose result is its row of ``epochs``. The time of
all of them is the epochs of the classifier, over all tasks.
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
    """Decide by the rows of ``epochs`` which configurations stop.

    The configurations of a pack report at once, so all of them are recorded before the first is
    decided on: its place in the pack does not matter. A configuration is recorded once for an
    epoch; told again, as by a pack that starts over, the decision is the one that was made.
    ``max_epochs`` is the most that a classifier trains.
    """

    def __init__(self, rule: EarlyStopping, max_epochs: int) -> None:
        self.rule = rule
        self.recorded = make_rule(rule, max_epochs)
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
        """Return time and value of a row; None where there is nothing to decide."""
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
            # In a comparison with a cutoff NaN would never lose.
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


def _time(config: Config, row: Mapping[str, Any]) -> int | None:
    """Count the classifier's epochs up to a row; None for a stage that trains no classifier."""
    stage: str = row["stage"]
    if stage == _JOINT:
        return int(row["epoch"])
    if not stage.startswith(_TASK):
        return None
    return (int(stage.removeprefix(_TASK)) - 1) * config.epochs + int(row["epoch"])
