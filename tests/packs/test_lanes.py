"""A lane of ``PackRun`` does not depend on its company, on a break, or on a lane that diverges."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import passed_through_a_file
from small_configs import configure

from raysweep.learning.config import Config
from raysweep.learning.data.sources import Source
from raysweep.learning.stage_graph import stages_of
from raysweep.packs.pack import Pack, group_stages
from raysweep.packs.rows import Report
from raysweep.packs.run import PackRun
from raysweep.sealed import seal

Rows = dict[str, list[dict[str, Any]]]
"""A configuration's rows by table, without durations."""

_ALONE: dict[tuple[str, int], Rows] = {}
"""The rows of solo runs by configuration id and thread count."""

METRICS = {
    "epochs": ("loss", "class_loss", "kl_loss", "rec_loss", "train_accuracy", "test_accuracy"),
    "trials": (
        "average_accuracy",
        "forgetting",
        "first_task_accuracy_initial",
        "first_task_accuracy_final",
        "last_task_accuracy",
        "reconstruction_loss",
        "replay_label_entropy",
    ),
}


def mixed(**settings: Any) -> list[Config]:
    """Make five configurations of one pack key that differ in all that lanes may differ in."""
    lanes: list[dict[str, Any]] = [
        {},
        {"beta_1": 0.5, "beta_2": 0.001, "replay": "simple", "replay_weight": 0.5, "n_replay": 35},
        {"lr": 1e-3, "replay": "none", "weight_decay": 0.01, "beta_1": 0.0},
        {"replay_labels": "hard", "freeze_encoder": True, "beta_2": 0.0},
        {"replay_weight": 0.2, "weight_decay": 0.1, "optimizer_state": "keep"},
    ]
    steps: list[dict[str, Any]] = [
        {},
        {"dropout": 0.4, "clip_norm": 30.0},
        {"dropout": 0.2, "momentum": 0.5},
        {"momentum": 0.9, "clip_norm": 3.0},
        {"lr_schedule": "cosine", "clip_norm": 10.0, "momentum": 0.8},
    ]
    return [configure(**(settings | lane | of)) for lane, of in zip(lanes, steps, strict=True)]


def without_durations(row: dict[str, Any]) -> dict[str, Any]:
    """Drop what a clock gives."""
    return {name: value for name, value in row.items() if name != "duration_s"}


def add(report: Report, tables: dict[str, Rows]) -> None:
    """Sort a report's rows by configuration."""
    for table in ("epochs", "accuracy", "trials"):
        for row in getattr(report, table):
            tables[row["config_id"]][table].append(without_durations(row))


def empty(configs: Sequence[Config]) -> dict[str, Rows]:
    """Make the tables of configurations without rows."""
    return {config.id: {"epochs": [], "accuracy": [], "trials": []} for config in configs}


def finish(run: PackRun) -> dict[str, Rows]:
    """Advance to the end; give the rows by configuration id."""
    tables = empty(run.configs)
    while not run.is_done:
        add(run.advance(), tables)
    return tables


def run_pack(configs: Sequence[Config], source: Source) -> dict[str, Rows]:
    """Train configurations in one pack, in float32."""
    return finish(PackRun(configs, source))


def run_alone(configs: Sequence[Config], source: Source) -> dict[str, Rows]:
    """Train each configuration in a pack of its own, once for all tests (on the cut data)."""
    assert len(source.train_labels) == 400
    n_threads = torch.get_num_threads()
    for config in configs:
        if (config.id, n_threads) not in _ALONE:
            _ALONE[config.id, n_threads] = run_pack([config], source)[config.id]
    return {config.id: _ALONE[config.id, n_threads] for config in configs}


def assert_same(actual: dict[str, Rows], expected: dict[str, Rows]) -> None:
    """Assert that all rows of ``actual`` are in ``expected``, equal to the last bit."""
    for config_id, tables in actual.items():
        for table, rows in tables.items():
            wanted = expected[config_id][table]
            assert len(rows) == len(wanted), (config_id, table)
            for row, wanted_row in zip(rows, wanted, strict=True):
                assert row == wanted_row, (config_id, table)


# --- company ------------------------------------------------------------------------------------

WIDE = {
    "encoder_widths": (200, 200),
    "rec_decoder_widths": (200, 200),
    "batch_size": 100,
    "epochs": 1,
}
CASES: dict[str, dict[str, Any]] = {
    "vib, bottleneck 10": WIDE | {"model": "vib", "n_bottleneck": 10},
    "vib, bottleneck 32": WIDE | {"model": "vib", "n_bottleneck": 32, "optimizer": "sgd"},
    "comparison, bottleneck 100": WIDE | {"model": "comparison", "n_bottleneck": 100},
    "comparison, bottleneck 10, rest 64": WIDE
    | {"model": "comparison", "n_bottleneck": 10, "batch_size": 112, "drop_last": False},
    "vib, odd widths, rest 29": {
        "model": "vib",
        "n_bottleneck": 7,
        "encoder_widths": (33, 17),
        "class_decoder_widths": (9,),
        "batch_size": 53,
        "drop_last": False,
    },
    "vib, rest of one sample": {
        "model": "vib",
        "batch_size": 57,
        "drop_last": False,
        "n_replay": 58,
    },
    "vib, leaky_relu, adagrad": {
        "model": "vib",
        "nonlinearity": "leaky_relu",
        "optimizer": "adagrad",
    },
    "vib, elu": {"model": "vib", "nonlinearity": "elu", "n_bottleneck": 10},
    "vib, tanh, sampled evaluation": {"model": "vib", "nonlinearity": "tanh", "eval_samples": 2},
    "vib, sigmoid, odd": {"model": "vib", "nonlinearity": "sigmoid", "encoder_widths": (21,)},
    "comparison, sigmoid, sgd": {
        "model": "comparison",
        "nonlinearity": "sigmoid",
        "optimizer": "sgd",
    },
    "comparison, tanh, adagrad, odd": {
        "model": "comparison",
        "nonlinearity": "tanh",
        "optimizer": "adagrad",
        "rec_decoder_widths": (19,),
        "encoder_widths": (),
        "n_bottleneck": 3,
        "batch_size": 37,
        "drop_last": False,
        "normalize": True,
    },
    "vib, rmsprop, smoothed labels, odd": {
        "model": "vib",
        "optimizer": "rmsprop",
        "label_smoothing": 0.1,
        "encoder_widths": (21, 13),
        "batch_size": 37,
        "drop_last": False,
    },
    "comparison, adamw, leaky_relu, means": {
        "model": "comparison",
        "optimizer": "adamw",
        "nonlinearity": "leaky_relu",
        "reduction": "mean",
    },
    "comparison, split digits, elu": {
        "model": "comparison",
        "nonlinearity": "elu",
        "tasks": "split_mnist",
        "batch_size": 16,
        "drop_last": False,
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("settings", CASES.values(), ids=CASES)
def test_lane_matches_its_solo_run(settings: dict[str, Any], small: Source) -> None:
    # SGD on summed losses needs a smaller step, and RMSprop's first steps are long.
    lr = {"lr": 1e-4} if settings.get("optimizer") in ("sgd", "rmsprop") else {}
    a, b, c, d, e = mixed(**(settings | lr))
    alone = run_alone([a, b, c, d, e], small)
    assert all(rows["trials"][0]["status"] == "finished" for rows in alone.values())
    for company in ([a, d], [e, c, a], [d, b, e, a, c]):
        assert_same(run_pack(company, small), alone)


@pytest.mark.slow
def test_lane_matches_its_solo_run_on_two_threads(small: Source) -> None:
    # The images of three lanes are split between the threads where a single lane's are not. Few
    # steps: threads that have to share a core wait long for each other.
    settings = {"model": "vib", "epochs": 1, "batch_size": 133, "n_replay": 37}
    configs = mixed(**settings, drop_last=False)[::2]
    torch.set_num_threads(2)
    try:
        alone = run_alone(configs, small)
        assert_same(run_pack(configs[::-1], small), alone)
    finally:
        torch.set_num_threads(1)


def test_many_lanes_match_their_solo_runs(small: Source) -> None:
    lanes = [configure(lr=1e-3 * 1.1**i, epochs=1) for i in range(16)]
    together = run_pack(lanes, small)
    few = [lanes[0], lanes[7], lanes[15]]
    assert_same(run_alone(few, small), together)


def test_three_tasks_in_company_match_the_solo_runs(small: Source) -> None:
    settings = {"n_tasks": 3, "model": "comparison", "replay": "simple", "epochs": 1}
    lanes = [
        configure(**settings),
        configure(**settings, n_replay=33),
        configure(**(settings | {"replay": "none"})),
        configure(**settings, freeze_encoder=True),
    ]
    alone = run_alone(lanes, small)
    assert [row["stage"] for row in alone[lanes[0].id]["epochs"]] == [
        "train_task_1",
        "train_task_2",
        "train_task_3",
    ]
    keys = [(row["after_task"], row["on_task"]) for row in alone[lanes[0].id]["accuracy"]]
    assert keys == [(after, on) for after in range(4) for on in (1, 2, 3)]
    assert_same(run_pack(lanes[::-1], small), alone)


@pytest.mark.parametrize("model", ["vib", "comparison"])
def test_shared_prefix_gives_the_rows_of_unshared_runs(model: str, small: Source) -> None:
    mates = [
        configure(model=model, replay_weight=weight, **more)
        for weight in (0.1, 0.9)
        for more in ({}, {"freeze_encoder": True}, {"replay_labels": "hard"})
    ]
    mates.append(configure(model=model, replay="none"))
    n_distinct = sum(map(len, group_stages(mates)))
    assert n_distinct < sum(len(stages_of(config)) for config in mates)
    assert len({stages_of(config)[0].fingerprint for config in mates}) == 1
    assert_same(run_pack(mates, small), run_alone(mates, small))


def test_lanes_that_differ_in_settings_differ_in_results(small: Source) -> None:
    # A pack that trained all lanes alike would pass the tests above.
    for model in ("vib", "comparison"):
        tables = run_pack(mixed(model=model), small)
        losses = [rows["epochs"][-1]["loss"] for rows in tables.values()]
        assert len(set(losses)) == 5


def test_pack_reports_each_row_once_and_ends_each_configuration_once(small: Source) -> None:
    configs = mixed(model="comparison")
    run = PackRun(configs, small)
    n_expected = Pack(tuple(run.configs)).n_epochs
    tables, n_epochs = empty(configs), 0
    while not run.is_done:
        add(run.advance(), tables)
        n_epochs += 1
    assert n_epochs == n_expected
    for config in configs:
        rows = tables[config.id]
        trained = [s.name for s in stages_of(config) if s.kind != "fill_buffer"]
        assert [(row["stage"], row["epoch"]) for row in rows["epochs"]] == [
            (name, epoch) for name in trained for epoch in (1, 2)
        ]
        keys = [(row["after_task"], row["on_task"]) for row in rows["accuracy"]]
        assert keys == [(0, 1), (0, 2), (1, 1), (1, 2), (2, 1), (2, 2)]
        (trial,) = rows["trials"]
        assert trial["last_task_accuracy"] == rows["accuracy"][-1]["accuracy"]
        assert rows["epochs"][-1]["test_accuracy"] == trial["last_task_accuracy"]


# --- breaks -------------------------------------------------------------------------------------


def steps(run: PackRun) -> Iterator[dict[str, Rows]]:
    """Advance to the end; yield the rows of each epoch."""
    while not run.is_done:
        tables = empty(run.configs)
        add(run.advance(), tables)
        yield tables


def check_resume(configs: Sequence[Config], source: Source) -> None:
    """Break after every epoch, restore in a new run, compare the rows from there on."""
    run, states, epochs = PackRun(configs, source), [], []
    for tables in steps(run):
        epochs.append(tables)
        states.append(passed_through_a_file(run.state()))
    for n_done, state in enumerate(states, 1):
        resumed = PackRun(configs, source)
        resumed.restore(state)
        assert resumed.is_done == (n_done == len(epochs))
        remaining = list(steps(resumed))
        assert len(remaining) == len(epochs) - n_done
        for actual, expected in zip(remaining, epochs[n_done:], strict=True):
            assert_same(actual, expected)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adam", "adamw", "adagrad", "rmsprop", "sgd"])
@pytest.mark.parametrize("model", ["vib", "comparison"])
def test_resumed_run_gives_the_rows_of_an_uninterrupted_one(
    model: str, optimizer: str, small: Source
) -> None:
    lr = 1e-4 if optimizer in ("sgd", "rmsprop") else 3e-3
    check_resume(mixed(model=model, optimizer=optimizer, lr=lr)[::2], small)


def test_resumed_run_of_three_tasks_gives_the_rows_of_an_uninterrupted_one(small: Source) -> None:
    settings = {"n_tasks": 3, "model": "comparison", "epochs": 1}
    check_resume(
        [configure(**settings, replay="simple"), configure(**settings, replay="none")], small
    )


def test_run_resumed_after_every_epoch_gives_the_rows_of_an_uninterrupted_one(
    small: Source,
) -> None:
    configs = mixed(model="comparison")
    run, tables = PackRun(configs, small), empty(configs)
    while not run.is_done:
        add(run.advance(), tables)
        state = passed_through_a_file(run.state())
        run = PackRun(configs, small)
        run.restore(state)
    assert_same(tables, run_pack(configs, small))


def test_state_stays_as_it_was_while_its_run_goes_on(small: Source) -> None:
    configs = mixed(model="vib")[:2]
    run = PackRun(configs, small)
    run.advance()
    state = run.state()
    expected = list(steps(run))
    resumed = PackRun(configs, small)
    resumed.restore(state)
    for actual, wanted in zip(steps(resumed), expected, strict=True):
        assert_same(actual, wanted)


def test_one_state_can_be_restored_twice(small: Source) -> None:
    configs = mixed(model="vib")[:2]
    run = PackRun(configs, small)
    run.advance()
    state = passed_through_a_file(run.state())
    results = []
    for _ in range(2):
        resumed = PackRun(configs, small)
        resumed.restore(state)
        results.append(finish(resumed))
    assert_same(results[0], results[1])


@pytest.mark.parametrize("optimizer_state", ["reset", "keep"])
def test_saved_state_is_not_much_larger_than_what_it_holds(
    optimizer_state: str, small: Source
) -> None:
    configs = [
        configure(model="comparison", optimizer_state=optimizer_state, lr=1e-3 * (k + 1))
        for k in range(4)
    ]
    run = PackRun(configs, small)
    while not run.is_done:
        run.advance()
        state = run.state()
        n_elements = sum(tensor.numel() for tensor in tensors_in(state))
        assert len(seal(state)) < 2 * 4 * n_elements + 500_000


def tensors_in(value: object) -> Iterator[torch.Tensor]:
    """Yield all tensors of nested containers."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors_in(item)


# --- divergence ---------------------------------------------------------------------------------

BAD: dict[str, dict[str, Any]] = {
    "huge loss": {"lr": 1e6},
    # The first update leaves parameters of 1e30; their products are infinite or not a number.
    "not a number": {"lr": 1e30, "loss_above": 1e300},
}


def check_diverged(rows: Rows, stage: str, epoch: int) -> dict[str, Any]:
    """Check that a configuration's rows end at its divergence, metrics null; give its trial."""
    (trial,) = rows["trials"]
    assert trial["status"] == "diverged"
    assert (trial["diverged_stage"], trial["diverged_epoch"]) == (stage, epoch)
    last = rows["epochs"][-1]
    assert (last["stage"], last["epoch"]) == (stage, epoch)
    assert all(last.get(name) is None for name in METRICS["epochs"])
    assert not any(name.startswith("replay_") and last[name] is not None for name in last)
    assert all(trial.get(name) is None for name in METRICS["trials"])
    for row in rows["epochs"][:-1]:
        assert math.isfinite(row["loss"])
    return trial


@pytest.mark.parametrize("model", ["vib", "comparison"])
@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_diverging_lane_leaves_the_others_unchanged(
    bad: dict[str, Any], model: str, small: Source
) -> None:
    good = mixed(model=model)
    alone = run_alone(good, small)
    lost = configure(model=model, **bad)
    for company in ([lost, *good], [*good[:2], lost, *good[2:]], [good[3], lost]):
        tables = run_pack(company, small)
        lost_rows = tables.pop(lost.id)
        assert_same(tables, alone)
        trial = check_diverged(lost_rows, "train_task_1", 1)
        # Before any training all lanes have the same weights.
        before = [{**row, "config_id": lost.id} for row in alone[good[0].id]["accuracy"][:2]]
        assert [row["after_task"] for row in before] == [0, 0]
        assert lost_rows["accuracy"] == before
        assert trial["diverged_step"] == 2  # the first loss is that of the initial weights


@pytest.mark.parametrize("model", ["vib", "comparison"])
@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_diverging_lane_has_the_rows_of_its_solo_run(
    bad: dict[str, Any], model: str, small: Source
) -> None:
    lost = configure(model=model, **bad)
    alone = run_alone([lost], small)
    tables = run_pack([*mixed(model=model), lost], small)
    assert_same({lost.id: tables[lost.id]}, alone)


def test_last_finite_loss_may_be_of_an_earlier_epoch(small: Source) -> None:
    # One step an epoch: the first update spoils the parameters, the second epoch finds out.
    settings = {"batch_size": 400, "epochs": 2}
    calm, lost = configure(**settings, lr=1e-20), configure(**settings, **BAD["not a number"])
    tables = run_pack([calm, lost], small)
    trial = check_diverged(tables[lost.id], "train_task_1", 2)
    assert trial["diverged_step"] == 2
    first_loss = tables[calm.id]["epochs"][0]["loss"]
    assert trial["last_finite_loss"] == pytest.approx(first_loss, rel=1e-6)


def poison(run: PackRun, config: Config) -> None:
    """Put a NaN into the first weight of a configuration's lane in the group that is open."""
    group = run._group
    assert group is not None
    own = {stage.fingerprint for stage in stages_of(config)}
    (k,) = [k for k, lane in enumerate(group.lanes) if lane.stage.fingerprint in own]
    with torch.no_grad():
        next(iter(group.parameters.views.values()))[k].view(-1)[0] = math.nan


@pytest.mark.parametrize("stage", ["train_task_1", "train_generator_1", "train_task_2"])
def test_lane_that_turns_nan_in_a_later_epoch_leaves_the_others_unchanged(
    stage: str, small: Source
) -> None:
    lost = configure(model="comparison", lr=2e-3, weight_decay=1e-4)
    good = mixed(model="comparison")
    alone = run_alone([*good, lost], small)
    configs = [*good[:3], lost, *good[3:]]
    run, tables = PackRun(configs, small), empty(configs)
    is_poisoned = False
    while not run.is_done:
        report = run.advance()
        add(report, tables)
        own = [row for row in report.epochs if row["config_id"] == lost.id]
        if not is_poisoned and own and (own[0]["stage"], own[0]["epoch"]) == (stage, 1):
            poison(run, lost)
            is_poisoned = True
    lost_rows = tables.pop(lost.id)
    assert_same(tables, alone)
    trial = check_diverged(lost_rows, stage, 2)
    assert trial["diverged_step"] == 400 // 50 + 1
    # What came before the divergence is that of a healthy run.
    n_before = len(lost_rows["epochs"]) - 1
    assert lost_rows["epochs"][:-1] == alone[lost.id]["epochs"][:n_before]
    n_tasks = 0 if stage == "train_task_1" else 1
    assert lost_rows["accuracy"] == alone[lost.id]["accuracy"][: 2 * (1 + n_tasks)]
    # The last finite loss is that of the last batch before the NaN: near the epoch's mean.
    mean = alone[lost.id]["epochs"][n_before - 1]["loss"]
    assert trial["last_finite_loss"] == pytest.approx(mean, rel=0.5)


def test_lane_that_is_nan_from_a_stages_first_step_has_no_last_finite_loss(small: Source) -> None:
    config = configure(model="vib")
    run = PackRun([config], small)
    run._open_group(Report())
    poison(run, config)
    (trial,) = finish(run)[config.id]["trials"]
    assert (trial["status"], trial["diverged_step"]) == ("diverged", 1)
    assert trial["last_finite_loss"] is None


@pytest.mark.parametrize("model", ["vib", "comparison"])
def test_lane_that_diverges_in_task_2_keeps_its_rows_of_task_1(model: str, small: Source) -> None:
    # Digits 0 and 1 are learned at once (losses below 1), and 2 and 3 then taken for them.
    settings = {"model": model, "tasks": "split_mnist", "batch_size": 8, "lr": 1e-2}
    good = mixed(**settings)
    lost = configure(**(settings | {"replay": "none", "beta_1": 0.0}), beta_2=0.0, loss_above=2.0)
    tables = run_pack([*good[:2], lost, *good[2:]], small)
    lost_rows = tables.pop(lost.id)
    assert_same(tables, run_alone(good, small))
    assert_same({lost.id: lost_rows}, run_alone([lost], small))
    trial = check_diverged(lost_rows, "train_task_2", 1)
    assert trial["diverged_step"] == 1  # counted from the start of the stage
    assert trial["last_finite_loss"] > 2.0
    keys = [(row["after_task"], row["on_task"]) for row in lost_rows["accuracy"]]
    assert keys == [(0, 1), (0, 2), (1, 1), (1, 2)]


def test_lane_that_diverges_in_the_vae_stage_leaves_the_others_unchanged(small: Source) -> None:
    good = mixed(model="comparison")
    # Classifier losses stay below 100, the VAE's start at 784 * log 2 = 543.
    lost = configure(model="comparison", loss_above=100.0)
    tables = run_pack([*good[:2], lost, *good[2:]], small)
    lost_rows = tables.pop(lost.id)
    assert_same(tables, run_alone(good, small))
    assert_same({lost.id: lost_rows}, run_alone([lost], small))
    trial = check_diverged(lost_rows, "train_generator_1", 1)
    assert trial["diverged_step"] == 1
    assert trial["last_finite_loss"] == pytest.approx(784 * math.log(2), rel=0.02)
    assert [row["after_task"] for row in lost_rows["accuracy"]] == [0, 0, 1, 1]


def test_diverged_configuration_gets_no_rows_from_stages_without_a_diverged_parent(
    small: Source,
) -> None:
    # The VAE has no parent, so the classifier's divergence does not reach it through the stages.
    lost = configure(model="comparison", beta_2=1e12)
    mate = configure(model="comparison", beta_2=0.01)
    fingerprints = [
        next(s.fingerprint for s in stages_of(c) if s.kind == "train_generator")
        for c in (lost, mate)
    ]
    assert fingerprints[0] == fingerprints[1]
    tables = run_pack([lost, mate], small)
    assert_same(tables, run_alone([lost, mate], small))
    check_diverged(tables[lost.id], "train_task_1", 1)


def test_vae_that_only_diverged_configurations_need_is_not_trained(small: Source) -> None:
    lost = configure(model="comparison", beta_2=1e12, lr=1e-4)
    mate = configure(model="comparison", replay="none")
    run = PackRun([lost, mate], small)
    stages = []
    while not run.is_done:
        stages += [row["stage"] for row in run.advance().epochs]
    assert "train_generator_1" not in stages


def test_all_lanes_may_diverge(small: Source) -> None:
    for model in ("vib", "comparison"):
        lost = [configure(model=model, lr=lr) for lr in (1e6, 2e6, 1e7)]
        run = PackRun(lost, small)
        tables = finish(run)
        for config in lost:
            check_diverged(tables[config.id], "train_task_1", 1)
        assert_same(tables, run_alone(lost, small))


def test_all_lanes_of_one_group_may_diverge_while_another_goes_on(small: Source) -> None:
    # Task 2 with and without replay are groups of their own.
    lost = [configure(lr=lr, replay="generative") for lr in (1e6, 2e6)]
    good = [configure(replay="none"), configure(replay="none", lr=1e-3)]
    tables = run_pack([*lost, *good], small)
    assert_same(tables, run_alone([*lost, *good], small))
    assert {tables[c.id]["trials"][0]["status"] for c in good} == {"finished"}


def test_resume_after_a_lane_was_dropped_gives_the_rows_of_an_uninterrupted_run(
    small: Source,
) -> None:
    a, b, *_ = mixed(model="comparison")
    early = configure(model="comparison", lr=1e6)
    vae = configure(model="comparison", loss_above=100.0)
    check_resume([a, early, b, vae], small)


def test_resume_after_all_lanes_of_a_group_were_dropped(small: Source) -> None:
    check_resume([configure(lr=1e6), configure(replay="none", lr=2e6)], small)


# --- the threshold ------------------------------------------------------------------------------


UNLEARNING = {"model": "comparison", "lr": 1e-12, "epochs": 1, "n_replay": 30, "drop_last": False}
"""Nothing is learned: each batch has the loss of the initial weights."""


@pytest.mark.parametrize("batch_size", [7, 50, 100, 400])
@pytest.mark.parametrize("stage", ["train_task_1", "train_generator_1"])
def test_loss_above_means_the_same_at_any_batch_size(
    stage: str, batch_size: int, small: Source
) -> None:
    # Guessing costs log 10 a digit, log 2 a pixel.
    level = 784 * math.log(2) if stage == "train_generator_1" else math.log(10)
    settings = UNLEARNING | {"batch_size": batch_size, "beta_2": 0.0}
    if stage == "train_task_1":
        settings["replay"] = "none"
    high = configure(**settings, loss_above=3 * level)
    low = configure(**settings, loss_above=0.7 * level)
    tables = run_pack([high, low], small)
    assert tables[high.id]["trials"][0]["status"] == "finished"
    trial = check_diverged(tables[low.id], stage, 1)
    assert trial["diverged_step"] == 1
    assert trial["last_finite_loss"] == pytest.approx(level, rel=0.3)


@pytest.mark.parametrize("weight", [0.2, 0.9])
@pytest.mark.parametrize("batch_size", [7, 16, 50, 80])
def test_loss_above_means_the_same_at_any_batch_size_with_replay(
    batch_size: int, weight: float, small: Source
) -> None:
    # Digits 0 and 1 are black and all others white, so each task has one KL, the brighter the
    # larger; at this beta_2 it is nearly all of the loss. A replay batch has up to 30 samples.
    source = replace(
        small, train_images=np.where(small.train_labels[:, None] < 2, 0, 255).repeat(784, 1)
    )
    settings = UNLEARNING | {"replay": "simple", "replay_weight": weight, "beta_2": 1e4}
    settings |= {"tasks": "split_mnist", "batch_size": batch_size, "loss_above": 1e9}
    free = configure(**settings)
    first, second = run_pack([free], source)[free.id]["epochs"]
    assert second["kl_loss"] > 1.3 * first["kl_loss"]
    assert second["replay_kl_loss"] == pytest.approx(first["kl_loss"], rel=1e-4)
    level = 1e4 * ((1 - weight) * second["kl_loss"] + weight * first["kl_loss"])
    assert second["loss"] == pytest.approx(level, rel=0.01)
    assert 1e4 * first["kl_loss"] < 0.97 * level
    low = configure(**(settings | {"loss_above": 0.98 * level}))
    high = configure(**(settings | {"loss_above": 1.02 * level}))
    tables = run_pack([low, high], source)
    assert tables[high.id]["trials"][0]["status"] == "finished"
    trial = check_diverged(tables[low.id], "train_task_2", 1)
    assert trial["diverged_step"] == 1
    assert trial["last_finite_loss"] == pytest.approx(level, rel=0.01)
