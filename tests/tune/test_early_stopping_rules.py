"""Which lanes stop early: held against rules that are written once more here, on drawn reports."""

import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from checkpoints import passed_through_a_file
from ray.tune.schedulers import AsyncHyperBandScheduler, MedianStoppingRule, TrialScheduler
from small_configs import configure

from raysweep.learning.config import Config
from raysweep.learning.data.sources import Source
from raysweep.packs.run import PackRun
from raysweep.settings.stopping import EarlyStopping, Stop, classifier_epochs
from raysweep.tables.folder import ResultsFolder
from raysweep.tables.writer import Writer
from raysweep.tune.search.early_stopping import LaneStopper, make_stopper
from raysweep.tune.search.stopping_rules import MedianRule, SuccessiveHalving
from tests.packs.test_lanes import Rows, add, assert_same, empty, mixed, run_alone

N_EPOCHS = 9
METRIC = "average_accuracy"
IDLE: Any = SimpleNamespace(get_live_trials=list)
"""Stands for Tune's controller: no trial waits for a place."""


def configs_of(n: int, **settings: Any) -> dict[str, Config]:
    """Make configurations of 2 x 9 epochs, by id."""
    made = [configure(lr=1e-3 * (i + 1), epochs=N_EPOCHS, **settings) for i in range(n)]
    return {config.id: config for config in made}


def row(config_id: str, time: int, value: float | None, metric: str = METRIC) -> dict[str, Any]:
    """Make the row of ``epochs`` after so many epochs of the classifier."""
    task, epoch = divmod(time - 1, N_EPOCHS)
    stage = f"train_task_{task + 1}"
    return {"config_id": config_id, "stage": stage, "epoch": epoch + 1, metric: value}


def drawn(configs: Mapping[str, Config], seed: int = 0) -> dict[str, float]:
    numbers = random.Random(seed)
    return {config_id: numbers.random() for config_id in configs}


def asha(**settings: Any) -> LaneStopper:
    return LaneStopper(EarlyStopping(**({"reduction_factor": 3} | settings)), 2 * N_EPOCHS)


def survivors(values: Mapping[str, float], share: float) -> set[str]:
    """Return those at or above the quantile, by numpy."""
    cutoff = np.percentile(list(values.values()), 100 * (1 - share))
    return {config_id for config_id, value in values.items() if value >= cutoff}


def test_asha_keeps_the_best_third_of_a_pack_wherever_in_it_they_stand() -> None:
    configs = configs_of(27)
    values = drawn(configs)
    for order in (sorted(values, key=values.__getitem__), list(values)):
        decided = asha().hear(configs, [row(i, 1, values[i]) for i in order])
        assert set(values) - set(decided) == survivors(values, 1 / 3)
        assert len(decided) == 18
    assert {decision.rung for decision in decided.values()} == {1}
    worst = min(values, key=values.__getitem__)
    cutoff = np.percentile(list(values.values()), 100 * 2 / 3)
    assert decided[worst].reason == (
        f"asha: average_accuracy {values[worst]:.4g} after 1 of 18 epochs: "
        f"not in the best 1/3 of 27 (cutoff {cutoff:.4g})"
    )


def test_asha_compares_with_all_that_were_at_the_rung_and_decides_nowhere_else() -> None:
    configs = configs_of(30)
    values = drawn(configs)
    ids = list(configs)
    stopper, seen = asha(grace_period=2), dict[str, float]()
    for first in range(0, 30, 10):
        pack = ids[first : first + 10]
        assert stopper.hear(configs, [row(i, 1, values[i]) for i in pack]) == {}
        decided = stopper.hear(configs, [row(i, 2, values[i]) for i in pack])
        seen |= {i: values[i] for i in pack}
        assert set(pack) - set(decided) == survivors(seen, 1 / 3) & set(pack)
        left = [i for i in pack if i not in decided]
        for time in (3, 4, 5, 7, 8, 17):
            assert stopper.hear(configs, [row(i, time, 0.0) for i in left]) == {}


def test_a_rung_may_lie_in_a_later_task_and_the_last_epoch_decides_nothing() -> None:
    configs = configs_of(9)
    values = drawn(configs)
    stopper = asha(grace_period=12)
    decided = stopper.hear(configs, [row(i, 12, values[i]) for i in configs])
    assert set(configs) - set(decided) == survivors(values, 1 / 3)
    stopper = LaneStopper(EarlyStopping(grace_period=18, reduction_factor=3), 36)
    assert stopper.hear(configs, [row(i, 18, values[i]) for i in configs]) == {}


def test_where_less_is_better_the_lowest_stay() -> None:
    configs = configs_of(9)
    values = drawn(configs)
    decided = asha(metric="class_loss").hear(
        configs, [row(i, 1, values[i], "class_loss") for i in configs]
    )
    lowest = sorted(values, key=values.__getitem__)[:3]
    assert set(configs) - set(decided) == set(lowest)


@pytest.mark.parametrize("method", ["asha", "hyperband", "median"])
def test_what_is_not_a_number_survives_no_epoch_and_moves_no_cutoff(method: str) -> None:
    configs = configs_of(12)
    values = drawn(configs)
    spoilt, *others = configs
    rows = [row(i, 1, values[i]) for i in others]
    with_it, without = (
        LaneStopper(EarlyStopping(method, brackets=1), 2 * N_EPOCHS) for _ in range(2)
    )
    decided = with_it.hear(configs, [row(spoilt, 1, float("nan")), *rows])
    assert decided.pop(spoilt).reason == f"{method}: average_accuracy was nan after 1 of 18 epochs"
    assert decided == without.hear(configs, rows) != {}


def test_median_stopping_is_that_of_vizier() -> None:
    configs = configs_of(8)
    numbers = random.Random(3)
    stopper = LaneStopper(EarlyStopping("median", grace_period=2), 2 * N_EPOCHS)
    history: dict[str, list[float]] = {i: [] for i in configs}
    left, n_stopped = list(configs), 0
    for time in range(1, 9):
        values = {i: numbers.random() for i in left}
        for i in left:
            history[i].append(values[i])
        decided = stopper.hear(configs, [row(i, time, values[i]) for i in left])
        expected = set()
        for i in left if time >= 2 else ():
            others = [history[o][1:time] for o in left if o != i]
            means = [float(np.mean(values)) for values in others]
            if len(means) >= 3 and max(history[i]) < float(np.median(means)):
                expected.add(i)
        assert set(decided) == expected
        left = [i for i in left if i not in decided]
        n_stopped += len(decided)
    assert n_stopped > 1


def test_the_bracket_of_a_configuration_depends_on_its_id_alone() -> None:
    configs = configs_of(60)
    values = drawn(configs)
    rows = [row(i, 1, values[i]) for i in configs]
    outcomes = []
    for seed in (1, 2):
        np.random.seed(seed)
        before = np.random.get_state()[1].copy()
        outcomes.append(asha(method="hyperband", brackets=3).hear(configs, rows))
        assert (np.random.get_state()[1] == before).all()
    assert outcomes[0] == outcomes[1]
    # Some are in brackets that decide at 3 or 9 epochs only.
    assert 0 < len(outcomes[0]) < len(asha().hear(configs, rows))


@pytest.mark.parametrize("method", ["asha", "hyperband", "median"])
def test_a_stopper_that_learned_from_tables_decides_as_one_that_was_there(method: str) -> None:
    configs = configs_of(40)
    ids = list(configs)
    values = {i: drawn(configs, seed) for i, seed in zip(range(1, 7), range(6), strict=True)}
    there = asha(method=method)
    kept, left = [], ids[:20]
    for time in range(1, 7):
        rows = [row(i, time, values[time][i]) for i in left]
        kept += rows
        decided = there.hear(configs, rows)
        left = [i for i in left if i not in decided]
    learned = asha(method=method)
    learned.learn({i: configs[i] for i in ids[:20]}, [*kept, row(ids[30], 1, 0.9)])
    late = ids[20:]
    for time in range(1, 7):
        rows = [row(i, time, values[time][i]) for i in late]
        decided = there.hear(configs, rows)
        assert learned.hear(configs, rows) == decided
        late = [i for i in late if i not in decided]
    assert len(late) < 20


def test_told_again_the_decision_is_the_one_that_was_made() -> None:
    configs = configs_of(9)
    values = drawn(configs)
    rows = [row(i, 1, values[i]) for i in configs]
    stopper = asha()
    decided = stopper.hear(configs, rows)
    assert stopper.hear(configs, rows) == decided
    first = next(iter(decided))
    assert stopper.hear(configs, [row(first, 2, 1.0)]) == {first: decided[first]}


def test_a_pack_that_goes_on_after_its_decision_is_told_at_its_next_report(
    tmp_path: Path,
) -> None:
    configs = configs_of(9)
    values = drawn(configs)
    rows = [row(i, 1, values[i]) for i in configs]
    decided = asha().hear(configs, rows)
    folder = ResultsFolder(tmp_path / "sweep")
    folder.open()
    writer = Writer(folder)
    writer.add("epochs", rows)
    writer.flush()
    rule = EarlyStopping(reduction_factor=3)
    stopper = make_stopper(rule, list(configs.values()), (), folder.location, set(configs))
    assert stopper.hear(configs, [row(i, 2, 1.0) for i in configs]) == decided
    folder.close()
    assert decided


def test_a_rung_that_was_passed_before_a_pause_is_not_judged_again() -> None:
    configs = configs_of(24)
    first, later = list(configs)[:4], list(configs)[4:]
    rows = [row(i, 1, 0.1 * k) for k, i in enumerate(first)]
    there = asha(reduction_factor=4)
    stopped = there.hear({i: configs[i] for i in first}, rows)
    (best,) = set(first) - set(stopped)
    rows += [row(best, time, 0.3) for time in (2, 3)]
    ended = [row(i, 1, 0.5 + 0.01 * k) for k, i in enumerate(later)]
    learned = asha(reduction_factor=4)
    learned.learn({i: configs[i] for i in later}, ended)
    learned.take_up({best: configs[best]}, [*ended, *rows])
    assert learned.hear(configs, [row(best, 4, 0.9)]) == {}
    # Its place at the first rung is known to others.
    assert isinstance(learned.recorded, SuccessiveHalving)
    assert len(learned.recorded.rung(best, 1) or {}) == len(later) + 1


def test_stages_that_train_no_classifier_or_diverged_decide_nothing() -> None:
    configs = configs_of(9)
    rows = [
        {"config_id": i, "stage": "train_generator_1", "epoch": 1, METRIC: 0.1 * n}
        for n, i in enumerate(configs)
    ]
    assert asha().hear(configs, rows) == {}
    assert asha().hear(configs, [row(i, 1, None) for i in configs]) == {}
    assert (
        asha().hear(
            configs, [{"config_id": i, "stage": "train_task_1", "epoch": 1} for i in configs]
        )
        == {}
    )


def test_a_lane_that_missed_rungs_counts_at_those_it_reaches_only() -> None:
    # As where a stage comes from a store that does not have what is compared.
    configs = configs_of(5)
    *late, worse, better = configs
    stopper = asha(reduction_factor=2)
    for time in range(5, 9):
        stopper.hear(configs, [row(i, time, 0.9) for i in late])
    decided = stopper.hear(configs, [row(worse, 1, 0.4), row(better, 1, 0.7)])
    assert set(decided) == {worse}


# --- Ray Tune's own schedulers --------------------------------------------------------------------


@dataclass(frozen=True)
class Trial:
    """All that a scheduler looks at of a trial."""

    trial_id: str


def reports(seed: int) -> Iterator[tuple[str, int, float]]:
    """Yield values of 120 configurations of 2 x 9 epochs, in an order in which any may be ahead."""
    numbers = random.Random(seed)
    times = {f"{numbers.getrandbits(32):08x}": 0 for _ in range(120)}
    left = [config_id for config_id in times for _ in range(2 * N_EPOCHS - 1)]
    numbers.shuffle(left)
    for config_id in left:
        times[config_id] += 1
        yield config_id, times[config_id], numbers.gauss(0.5, 0.2)


@pytest.mark.parametrize("metric", [METRIC, "class_loss"])
@pytest.mark.parametrize(
    ("method", "grace_period", "factor"),
    [("asha", 1, 3.0), ("asha", 2, 1.7), ("hyperband", 1, 2.5), ("hyperband", 2, 2.0)],
)
def test_rungs_brackets_and_cutoffs_are_those_of_ray_tune(
    method: str, grace_period: int, factor: float, metric: str
) -> None:
    rule = EarlyStopping(method, metric, grace_period, factor, brackets=3)
    ours = SuccessiveHalving(rule, 2 * N_EPOCHS)
    theirs = AsyncHyperBandScheduler(
        "time", metric, rule.mode, 2 * N_EPOCHS, grace_period, factor, len(ours._brackets)
    )
    n_brackets = 3 if method == "hyperband" else 1
    assert len(ours._brackets) == n_brackets
    known: set[str] = set()
    for config_id, time, value in reports(0):
        trial: Any = Trial(config_id)
        if config_id not in known:
            known.add(config_id)
            np.random.seed(int(config_id, 16))
            theirs.on_trial_add(None, trial)  # type: ignore[arg-type]
        if ours.rung(config_id, time) is not None:  # theirs makes up for a rung that was missed
            theirs.on_trial_result(None, trial, {"time": time, metric: value})  # type: ignore[arg-type]
        ours.record(config_id, time, value)
    lines = theirs.debug_string().splitlines()[1:]
    for bracket, line in zip(ours._brackets, lines, strict=True):
        rungs = [f"Iter {m:.3f}: {ours.cutoff(r) if r else None}" for m, r in bracket.items()]
        assert line == "Bracket: " + " | ".join(rungs)
    assert all(any(bracket.values()) for bracket in ours._brackets)


@pytest.mark.slow
@pytest.mark.parametrize("metric", [METRIC, "class_loss"])
@pytest.mark.parametrize("grace_period", [1, 4])
def test_the_median_rule_decides_as_ray_tunes(grace_period: int, metric: str) -> None:
    rule = EarlyStopping("median", metric, grace_period)
    ours = MedianRule(rule)
    theirs = MedianStoppingRule(
        "time",
        metric,
        rule.mode,
        grace_period,
        min_time_slice=10**9,  # none is paused
    )
    stopped: set[str] = set()
    n_going = 0
    for config_id, time, value in reports(1):
        if config_id in stopped:
            continue
        trial: Any = Trial(config_id)
        theirs_says = theirs.on_trial_result(IDLE, trial, {"time": time, metric: value})
        ours.record(config_id, time, value)
        is_stopped = ours.reason_to_stop(config_id, time) is not None
        assert is_stopped == (theirs_says == TrialScheduler.STOP)
        stopped |= {config_id} if is_stopped else set()
        n_going += not is_stopped
    assert len(stopped) > 5 and n_going > 100


# --- lanes that leave a pack ----------------------------------------------------------------------


def advance_and_stop(run: PackRun, after: Mapping[str, int]) -> Iterator[dict[str, Rows]]:
    """Advance to the end; stop configurations after so many rows of ``epochs`` of their own."""
    n_rows: dict[str, int] = dict.fromkeys(after, 0)
    while not run.is_done:
        tables = empty(run.configs)
        add(run.advance(), tables)
        yield tables
        for config_id, n in after.items():
            n_rows[config_id] += len(tables[config_id]["epochs"])
            if n_rows[config_id] == n and not tables[config_id]["trials"]:
                run.stop({config_id: Stop(n, f"after {n}")})


def collected(parts: Iterator[dict[str, Rows]]) -> dict[str, Rows]:
    whole: dict[str, Rows] = {}
    for tables in parts:
        for config_id, rows in tables.items():
            kept = whole.setdefault(config_id, {"epochs": [], "accuracy": [], "trials": []})
            for table, new in rows.items():
                kept[table] += new
    return whole


@pytest.mark.parametrize("model", ["vib", "comparison"])
def test_lanes_that_stop_change_no_number_of_the_others(model: str, small: Source) -> None:
    configs = mixed(model=model)
    alone = run_alone(configs, small)
    stopping = {configs[0].id: 1, configs[2].id: 2, configs[3].id: 3}
    tables = collected(advance_and_stop(PackRun(configs, small), stopping))
    for config in configs:
        if config.id not in stopping:
            assert_same({config.id: tables[config.id]}, alone)
            continue
        n = stopping[config.id]
        assert tables[config.id]["epochs"] == alone[config.id]["epochs"][:n]
        (trial,) = tables[config.id]["trials"]
        assert trial["status"] == "stopped"
        assert (trial["stopped_rung"], trial["stopped_reason"]) == (n, f"after {n}")
        assert "average_accuracy" not in trial
        accuracy = tables[config.id]["accuracy"]
        assert accuracy == alone[config.id]["accuracy"][: len(accuracy)]


def test_a_stage_goes_on_for_those_that_share_it_when_one_of_them_stops(small: Source) -> None:
    configs = [configure(replay_weight=weight, replay="simple") for weight in (0.2, 0.5, 0.8)]
    tables = collected(advance_and_stop(PackRun(configs, small), {configs[0].id: 1}))
    alone = run_alone(configs, small)
    assert_same({c.id: tables[c.id] for c in configs[1:]}, alone)
    assert tables[configs[0].id]["epochs"] == alone[configs[0].id]["epochs"][:1]


def test_a_pack_whose_lanes_have_all_stopped_is_done(small: Source) -> None:
    configs = mixed(model="vib")
    run = PackRun(configs, small)
    run.advance()
    run.stop({config.id: Stop(1, "all") for config in configs})
    assert not run.is_done
    report = run.advance()
    assert run.is_done
    assert [row["status"] for row in report.trials] == ["stopped"] * len(configs)
    assert report.epochs == report.accuracy == []


def test_a_configuration_that_has_ended_is_not_stopped(small: Source) -> None:
    configs = [configure(lr=1e30), configure(lr=1e-3)]
    run = PackRun(configs, small)
    report = run.advance()
    assert [row["status"] for row in report.trials] == ["diverged"]
    run.stop({configs[0].id: Stop(1, "late")})
    rows = [row for tables in advance_and_stop(run, {}) for row in tables[configs[0].id]["trials"]]
    assert rows == []


def test_a_run_restored_before_a_stop_takes_effect_gives_the_same_rows(small: Source) -> None:
    configs = mixed(model="comparison")[::2]
    run = PackRun(configs, small)
    run.advance()
    run.stop({configs[0].id: Stop(1, "behind")})
    resumed = PackRun(configs, small)
    resumed.restore(passed_through_a_file(run.state()))
    assert_same(collected(advance_and_stop(resumed, {})), collected(advance_and_stop(run, {})))


@pytest.mark.parametrize("experiment", ["replay_vib", "joint"])
def test_the_average_of_an_epoch_is_over_the_tasks_so_far_and_moves_nothing(
    experiment: str, small: Source
) -> None:
    configs = [configure(experiment=experiment, lr=lr) for lr in (1e-3, 3e-3)]
    plain = run_alone(configs, small)
    tables = collected(advance_and_stop(PackRun(configs, small, has_averages=True), {}))
    for config in configs:
        rows = tables[config.id]
        averages = [row.pop("average_accuracy", None) for row in rows["epochs"]]
        assert_same({config.id: rows}, plain)
        (trial,) = rows["trials"]
        assert averages[-1] == pytest.approx(trial["average_accuracy"], abs=1e-12)
        tests = [row["test_accuracy"] for row in rows["epochs"]]
        if experiment == "joint":
            assert averages == tests
        else:
            assert averages[:2] == tests[:2]
            assert averages[2:] != tests[2:]


def test_decisions_are_sent_as_what_a_pack_takes() -> None:
    sent = json.loads(json.dumps({"id": asdict(Stop(3, "behind"))}))
    assert Stop(**sent["id"]) == Stop(3, "behind")
    assert classifier_epochs(configure(experiment="joint", epochs=4)) == 4
    assert classifier_epochs(configure(n_tasks=3, epochs=4)) == 12
