"""Lanes of the later stages: replay over many tasks, selections, MIR, continual generators, joint.

As in ``test_lanes``: a lane's rows are those of its solo run to the last bit, in any company.
"""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from small_configs import configure

from raysweep.learning.config import Config
from raysweep.learning.data.sources import Source
from raysweep.learning.stage_graph import LANE_SETTINGS, stages_of
from raysweep.learning.training.context import Lane
from raysweep.learning.training.loop import TrainGroup
from raysweep.packs import run as pack_module
from raysweep.packs.pack import Pack, group_stages
from raysweep.packs.run import PackRun
from tests.packs.test_lanes import (
    Rows,
    add,
    assert_same,
    check_diverged,
    check_resume,
    empty,
    poison,
    run_alone,
    run_pack,
)

pytestmark = pytest.mark.slow

Settings = dict[str, Any]

SHORT: Settings = {"epochs": 1, "batch_size": 80, "n_replay": 90, "encoder_widths": (16, 12)}
ODD: Settings = {
    "epochs": 1,
    "batch_size": 93,
    "drop_last": False,
    "n_replay": 97,
    "encoder_widths": (21, 17),
    "n_bottleneck": 7,
    "rec_decoder_widths": (13,),
    "normalize": True,
}
WIDE: Settings = {
    "epochs": 1,
    "batch_size": 100,
    "n_replay": 110,
    "encoder_widths": (200, 200),
    "n_bottleneck": 100,
    "rec_decoder_widths": (200, 200),
}
SHAPES = {"whole batches": SHORT, "odd widths, rest of 28": ODD, "default widths": WIDE}
MODELS: dict[str, Settings] = {
    "mlp": {"experiment": "replay", "model": "mlp", "lr": 1e-2},
    "vib": {"model": "vib"},
    "comparison": {"model": "comparison"},
}


def lanes_of(base: Settings, *lanes: Settings) -> list[Config]:
    """Make configurations of one pack key: ``base`` with each lane's own settings."""
    return [configure(**(base | lane)) for lane in lanes]


def check_company(configs: Sequence[Config], source: Source, differ: bool = True) -> None:
    """Hold all lanes together, backwards, and every other one against their solo runs."""
    assert len({config.id for config in configs}) == len(configs) > 1
    alone = run_alone(configs, source)
    assert all(rows["trials"][0]["status"] == "finished" for rows in alone.values())
    for company in (configs[::-1], configs[1::2]):
        assert_same(run_pack(company, source), alone)
    if differ:  # lanes that were trained alike would pass
        assert len({last_losses(rows) for rows in alone.values()}) == len(configs)


def last_losses(rows: Rows) -> tuple[Any, ...]:
    """Return the losses of a configuration's last epoch, on new and on replayed samples."""
    last = rows["epochs"][-1]
    return last["loss"], last.get("replay_class_loss")


# --- replay ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("model", ["mlp", "comparison"])
def test_replay_from_a_vae_of_each_task_or_a_continual_one_matches_the_solo_runs(
    model: str, shape: Settings, small: Source
) -> None:
    lanes = lanes_of(
        shape | MODELS[model] | {"n_tasks": 3},
        {"replay": "none"},
        {"replay": "simple"},
        {"generator": "per_task"},
        {"generator": "continual"},
        {"generator": "continual", "generator_replay_weight": 0.9, "generator_lr": 1e-3},
        {"generator": "continual", "replay_schedule": "1-1/t"},
        {"generator": "per_task", "replay_schedule": "exponential", "weight_decay": 0.01},
    )
    check_company(lanes, small)


LABELERS: dict[str, Settings] = {
    "mlp, a VAE for each task": MODELS["mlp"] | {"n_tasks": 3},
    "comparison, a VAE for each task": MODELS["comparison"] | {"n_tasks": 3},
    "vib": MODELS["vib"] | {"beta_1": -1.0},
}


@pytest.mark.parametrize("settings", LABELERS.values(), ids=LABELERS)
def test_labelers_and_tempered_labels_match_the_solo_runs(
    settings: Settings, small: Source
) -> None:
    lanes = lanes_of(
        ODD | settings,
        {"labeler": "current"},
        {"labeler": "per_task", "lr": 2e-3},
        {"labeler": "at_generation", "lr": 4e-3},
        {"labeler": "current", "label_temperature": 2.0},
        {"labeler": "per_task", "label_temperature": 0.5},
        {"labeler": "at_generation", "replay_labels": "hard"},
        {"labeler": "at_generation", "label_temperature": 3.0, "n_replay_scope": "total"},
    )
    check_company(lanes, small)


@pytest.mark.parametrize("model", ["mlp", "vib"])
def test_labels_at_generation_of_a_continual_generator_match_the_solo_runs(
    model: str, small: Source
) -> None:
    lanes = lanes_of(
        SHORT | MODELS[model] | {"n_tasks": 3, "generator": "continual"},
        {"labeler": "current"},
        {"labeler": "at_generation"},
        {"labeler": "at_generation", "label_temperature": 2.0},
        {"labeler": "current", "n_replay_scope": "per_task"},
    )
    check_company(lanes, small)


# --- selection ------------------------------------------------------------------------------------

PLAIN = ("random", "ring", "class_balanced")
BY_DISTANCE = ("herding", "mean_of_features", "kmeans", "kmeans_centroids")


def selections() -> list[Settings]:
    """List all selections with every scope and feature that they go with."""
    lanes: list[Settings] = [{"selection": "reservoir", "n_replay_scope": "total"}]
    for scope in ("per_task", "total"):
        lanes += [{"selection": name, "n_replay_scope": scope} for name in PLAIN]
        lanes += [
            {"selection": name, "n_replay_scope": scope, "selection_features": features}
            for name in BY_DISTANCE
            for features in ("pixels", "encoder")
        ]
    return lanes


@pytest.mark.parametrize("model", ["mlp", "vib", "comparison"])
def test_every_selection_in_company_matches_its_solo_run(model: str, small: Source) -> None:
    shape = SHORT if model == "comparison" else ODD
    base = shape | MODELS[model] | {"n_tasks": 3, "replay": "simple"}
    lanes = lanes_of(base, *selections())
    assert len(lanes) == 23
    check_company(lanes, small)


def test_features_of_one_lane_are_not_those_of_another(small: Source) -> None:
    base = ODD | MODELS["mlp"] | {"n_tasks": 3, "replay": "simple"}
    base |= {"selection": "kmeans_centroids", "selection_features": "encoder"}
    check_company(lanes_of(base, *({"lr": 1e-3 * 3**i} for i in range(4))), small)


def test_budget_beyond_the_samples_of_a_task_trains_beside_generated_replay(
    source: Source, cut: Callable[..., Source]
) -> None:
    # A task has 60 samples to give, and a generator any number.
    few = cut(source, 400, 20)
    lanes = lanes_of(
        ODD | MODELS["mlp"] | {"n_tasks": 3, "task_samples": 60, "batch_size": 20, "n_replay": 80},
        {"replay": "simple"},
        {"replay": "simple", "n_replay_scope": "total", "n_replay": 100},
        {"replay": "simple", "selection": "reservoir", "n_replay": 160},
        {"replay": "simple", "selection": "herding"},
        {},
        {"generator": "continual", "n_replay": 160},
    )
    check_company(lanes, few)


# --- retrieval ------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("model", MODELS)
def test_mir_in_company_matches_the_solo_runs(model: str, shape: Settings, small: Source) -> None:
    batch_size = shape["batch_size"] // 3
    base = shape | MODELS[model] | {"retrieval": "mir", "n_candidates": 60}
    other: Settings = {"lr": 5e-4} if model == "mlp" else {"beta_2": 0.02}
    lanes = lanes_of(
        base | {"batch_size": batch_size},
        {"replay": "simple"},
        {"replay": "generative"},
        {"replay": "generative", "label_temperature": 2.0, "lr": 1e-3},
        {"replay": "simple", "lr": 2e-3, "weight_decay": 0.01},
        {"replay": "simple", "n_candidates": 43, "optimizer_state": "reset"} | other,
        {"replay": "simple", "freeze_encoder": True, "beta_1": 0.0, "beta_2": 0.03},
        {"replay": "simple", "retrieval": "cycle"},
    )
    check_company(lanes, small)


def test_mir_over_many_tasks_and_a_growing_buffer_matches_the_solo_runs(small: Source) -> None:
    base = SHORT | MODELS["mlp"] | {"n_tasks": 3, "batch_size": 50, "retrieval": "mir"}
    lanes = lanes_of(
        base,
        {"replay": "simple", "selection": "reservoir"},
        {"replay": "simple", "selection": "herding", "selection_features": "encoder"},
        {"generator": "continual"},
        {"generator": "per_task", "labeler": "at_generation"},
    )
    check_company(lanes, small)


# --- VIB ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_lanes_of_a_continual_decoder_with_and_without_reconstruction_match_the_solo_runs(
    shape: Settings, small: Source
) -> None:
    lanes = lanes_of(
        shape | {"n_tasks": 3, "generator": "continual"},
        {"beta_1": -1.0},
        {"beta_1": 0.0},
        {"beta_1": 0.5},
        {"beta_1": -0.3, "freeze_encoder": True},
        {"beta_1": 0.2, "freeze_encoder": True},
        {"beta_1": -0.02, "optimizer_state": "keep", "replay_weight": 0.2},
        {"beta_1": -0.02, "replay_weight": 1.0, "weight_decay": 0.01},
    )
    check_company(lanes, small)
    alone = run_alone(lanes, small)
    for config in lanes:
        last = alone[config.id]["epochs"][-1]
        has_rec = config.beta_1 < 0
        assert ("rec_loss" in last) == ("replay_rec_loss" in last) == has_rec


def test_continual_decoders_beside_frozen_ones_and_real_samples_match_the_solo_runs(
    small: Source,
) -> None:
    lanes = lanes_of(
        SHORT | {"beta_1": -0.5},
        {"generator": "continual"},
        {"generator": "frozen"},
        {"replay": "simple"},
        {"replay": "none"},
    )
    check_company(lanes, small)


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "rmsprop", "sgd"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_dropout_momentum_clipping_and_a_cosine_match_the_solo_runs(
    shape: Settings, optimizer: str, small: Source
) -> None:
    base = shape | MODELS["mlp"] | {"replay": "simple", "n_tasks": 2, "label_smoothing": 0.1}
    has_momentum = optimizer in ("rmsprop", "sgd")
    momentum: Settings = {"momentum": 0.8} if has_momentum else {"weight_decay": 0.1}
    lanes = lanes_of(
        base | {"optimizer": optimizer, "lr": 5e-3 if optimizer == "sgd" else 1e-3},
        {},
        {"dropout": 0.5},
        {"dropout": 0.2, "clip_norm": 0.5},
        momentum,
        momentum | {"dropout": 0.2, "freeze_encoder": True},
        {"clip_norm": 0.05, "freeze_encoder": True},
        momentum | {"lr_schedule": "cosine", "clip_norm": 1.0, "lr": 2e-3},
    )
    check_company(lanes, small)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_softplus_variance_averaged_weights_and_schedules_match_the_solo_runs(
    shape: Settings, small: Source
) -> None:
    settings = {"variance": "softplus", "ema_decay": 0.9, "eval_samples": 2, "epochs": 2}
    lanes = lanes_of(
        shape | settings | {"experiment": "vib"},
        {},
        {"lr_schedule": "exponential"},
        {"lr_schedule": "exponential", "lr_decay": 0.5},
        {"beta_1": 0.0},
        {"beta_1": 0.3, "beta_2": 0.1, "weight_decay": 0.01},
    )
    check_company(lanes, small)
    lanes = lanes_of(
        shape | settings,
        {},
        {"lr_schedule": "exponential", "generator": "continual"},
        {"lr_schedule": "exponential", "replay": "simple", "beta_1": 0.4},
        {"replay": "none", "beta_1": 0.0},
    )
    check_company(lanes, small)


# --- joint ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS)
def test_joint_training_in_company_matches_the_solo_runs(model: str, small: Source) -> None:
    base = ODD | MODELS[model] | {"experiment": "joint", "n_tasks": 3, "beta_1": -0.1}
    lanes = lanes_of(
        base | {"ema_decay": 0.5},
        {},
        {"lr": 1e-3},
        {"weight_decay": 0.02},
        {"lr_schedule": "exponential", "lr": 2e-3},
        {"lr": 4e-3, "beta_1": 0.0},
        {"lr": 5e-3, "beta_1": 0.5, "beta_2": 0.1},
    )
    check_company(lanes, small)
    for rows in run_alone(lanes, small).values():
        assert {row["stage"] for row in rows["epochs"]} == {"train_joint"}
        assert {row["after_task"] for row in rows["accuracy"]} == {0, 3}


# --- all at once ----------------------------------------------------------------------------------


def all_settings(model: str) -> list[Config]:
    """Make lanes of one pack key that differ in all of ``LANE_SETTINGS`` at once."""
    n_tasks = 2 if model == "vib" else 3
    base = SHORT | MODELS[model] | {"n_tasks": n_tasks, "batch_size": 40, "n_replay": 50}
    base |= {"optimizer": "rmsprop", "lr": 1e-3, "label_smoothing": 0.1}  # has momentum
    one_task = "frozen" if model == "vib" else "per_task"
    other_lr: Settings = {"lr_schedule": "exponential", "lr_decay": 0.9, "lr": 2e-3}
    simple: Settings = {"replay": "simple", "selection_features": "encoder", "loss_above": 1e5}
    patient: Settings = {"loss_factor": 1e6, "loss_patience": 3}
    return lanes_of(
        base,
        {},
        {"replay": "none", "weight_decay": 0.01, "beta_1": 0.0, "momentum": 0.5},
        {"dropout": 0.4, "lr_schedule": "cosine", "clip_norm": 5.0, "replay_weight": 0.1},
        simple | {"selection": "herding", "n_replay": 60, "retrieval": "mir", "dropout": 0.2},
        simple | {"selection": "kmeans", "n_replay_scope": "total", "beta_2": 0.1},
        simple | other_lr | {"retrieval": "mir", "n_candidates": 45},
        simple | {"selection": "reservoir", "freeze_encoder": True, "optimizer_state": "keep"},
        simple | {"dropout": 0.3, "momentum": 0.8, "optimizer_state": "keep", "lr": 5e-4},
        {"generator": "continual", "generator_replay_weight": 0.9, "generator_lr": 1e-3},
        {"generator": one_task, "labeler": "per_task", "label_temperature": 2.0, "beta_1": 0.5},
        patient | {"labeler": "at_generation", "replay_labels": "hard", "optimizer_state": "reset"},
        {"replay_schedule": "exponential", "replay_decay": 0.5, "replay_weight": 0.9},
        {
            "generator": "continual",
            "retrieval": "generative_mir",
            "mir_steps": 2,
            "mir_interference": 1.0,
            "mir_entropy": 0.1,
            "mir_shell": 0.1,
        },
    )


@pytest.mark.parametrize("model", MODELS)
def test_lanes_that_differ_in_all_lane_settings_at_once_match_their_solo_runs(
    model: str, small: Source
) -> None:
    lanes = all_settings(model)
    varied = {n for n in LANE_SETTINGS if len({getattr(config, n) for config in lanes}) > 1}
    assert varied == LANE_SETTINGS
    assert Pack(tuple(lanes)).groups
    check_company(lanes, small, differ=model != "vib")


# --- breaks ---------------------------------------------------------------------------------------

SMALL: Settings = {"epochs": 1, "batch_size": 100, "n_replay": 100, "encoder_widths": (12,)}
BREAKS: dict[str, list[Settings]] = {
    "mir, real and generated, two epochs": [
        {**MODELS["mlp"], "retrieval": "mir", "epochs": 2, "replay": kind, "n_candidates": 100}
        for kind in ("simple", "generative")
    ],
    "mir, vib": [
        {"retrieval": "mir", "epochs": 2, "n_candidates": 100, "replay": kind}
        for kind in ("simple", "generative")
    ],
    "average, schedule and softplus": [
        {"ema_decay": 0.9, "variance": "softplus", "lr_schedule": name, "epochs": 3, **more}
        for name, more in (("constant", {"beta_1": 0.1}), ("exponential", {}))
    ],
    "dropout, momentum and clipping": [
        {**MODELS["mlp"], "optimizer": "sgd", "replay": "simple", "epochs": 3, **more}
        for more in (
            {},
            {"dropout": 0.4, "lr_schedule": "cosine"},
            {"momentum": 0.9, "clip_norm": 0.5},
            {"momentum": 0.5, "dropout": 0.2, "freeze_encoder": True},
        )
    ],
    "momentum that is kept, smoothed labels": [
        {**MODELS["comparison"], "optimizer": "rmsprop", "lr": 1e-3, "label_smoothing": 0.1, **more}
        for more in ({"epochs": 2}, {"epochs": 2, "momentum": 0.5, "dropout": 0.3})
    ],
    "continual VAE": [
        {**MODELS["mlp"], "n_tasks": 3, "generator": "continual", "labeler": name}
        for name in ("current", "at_generation")
    ],
    "continual VAE beside one for each task": [
        {**MODELS["comparison"], "n_tasks": 3, "generator": name, "optimizer_state": "reset"}
        for name in ("continual", "per_task")
    ],
    "labels by each task's classifier": [
        {**MODELS["mlp"], "n_tasks": 3, "labeler": "per_task", "label_temperature": t}
        for t in (1.0, 2.0)
    ],
    "total scope": [
        {**MODELS["mlp"], "n_tasks": 3, "replay": "simple", "n_replay_scope": "total", **more}
        for more in (
            {"selection": "herding", "selection_features": "encoder"},
            {"selection": "reservoir"},
            {"selection": "ring"},
            {"selection": "kmeans_centroids"},
        )
    ],
    "continual decoder": [
        {"n_tasks": 3, "generator": "continual", "beta_1": beta_1} for beta_1 in (-0.5, 0.5)
    ],
    "joint, averaged": [
        {"experiment": "joint", "n_tasks": 3, "ema_decay": 0.9, "epochs": 3, "lr": lr}
        for lr in (1e-3, 2e-3)
    ],
}


@pytest.mark.parametrize("lanes", BREAKS.values(), ids=BREAKS)
def test_run_resumed_after_any_epoch_gives_the_rows_of_an_uninterrupted_one(
    lanes: list[Settings], small: Source
) -> None:
    check_resume(lanes_of(SMALL, *lanes), small)


def test_resumed_run_that_lost_a_lane_keeps_the_averages_of_the_others(small: Source) -> None:
    base = SMALL | {"experiment": "vib", "ema_decay": 0.9, "epochs": 3}
    check_resume(lanes_of(base, {"beta_1": 0.5}, {"lr": 1e9}, {}), small)


# --- divergence -----------------------------------------------------------------------------------

HUGE: Settings = {"lr": 1e9}
LOST: dict[str, tuple[Settings, list[Settings], Settings, str]] = {
    "mlp": (
        MODELS["mlp"],
        [{"replay": "none"}, {"replay": "simple"}, {}],
        HUGE | {"weight_decay": 0.01},
        "train_task_1",
    ),
    "mir": (
        MODELS["mlp"]
        | {"retrieval": "mir", "n_candidates": 30, "replay": "simple"}
        | {"tasks": "split_mnist", "batch_size": 8, "n_replay": 70},
        [{}, {"lr": 1e-3}],
        # Digits 0 and 1 are learned at once, and 2 and 3 then taken for them.
        {"loss_above": 1.0, "replay_weight": 0.0},
        "train_task_2",
    ),
    "continual VAE": (
        MODELS["mlp"] | {"n_tasks": 3, "generator": "continual"},
        [{}, {"generator_replay_weight": 0.2}],
        {"generator_lr": 1e9},
        "train_generator_1",
    ),
    "continual VIB": (
        {"n_tasks": 3, "generator": "continual"},
        [{"beta_1": -0.5}, {"beta_1": 0.5}, {"beta_1": 0.0}],
        HUGE | {"beta_1": -0.1},
        "train_task_1",
    ),
    "averaged weights": (
        {"experiment": "vib", "ema_decay": 0.9, "epochs": 2},
        [{"beta_1": 0.5}, {"lr": 1e-3}],
        HUGE,
        "train_task_1",
    ),
    "dropout, momentum and clipping": (
        MODELS["mlp"] | {"optimizer": "sgd", "replay": "simple"},
        [{}, {"dropout": 0.3}, {"momentum": 0.9, "clip_norm": 1.0}],
        HUGE | {"momentum": 0.5, "dropout": 0.5, "clip_norm": 100.0},
        "train_task_1",
    ),
    "joint": (
        {"experiment": "joint", "model": "mlp", "n_tasks": 2, "ema_decay": 0.5},
        [{"lr": 1e-2}, {"lr": 1e-3}],
        {"loss_above": 1.0},
        "train_joint",
    ),
}


@pytest.mark.parametrize(("base", "lanes", "bad", "stage"), LOST.values(), ids=LOST)
def test_diverging_lane_leaves_the_others_unchanged(
    base: Settings, lanes: list[Settings], bad: Settings, stage: str, small: Source
) -> None:
    good, (lost,) = lanes_of(SMALL | base, *lanes), lanes_of(SMALL | base, bad)
    alone = run_alone([*good, lost], small)
    for company in ([lost, *good], [good[0], lost, *good[1:]]):
        tables = run_pack(company, small)
        assert_same(tables, alone)
        check_diverged(tables[lost.id], stage, 1)
    assert all(alone[c.id]["trials"][0]["status"] == "finished" for c in good)


POISONED: dict[str, tuple[Settings, Settings, str]] = {
    "dropout, momentum and clipping": (
        MODELS["mlp"] | {"optimizer": "rmsprop", "replay": "simple"},
        {"momentum": 0.5, "dropout": 0.5, "clip_norm": 1.0, "lr": 1e-3},
        "train_task_2",
    ),
    "mir": (
        MODELS["mlp"] | {"retrieval": "mir", "n_candidates": 100, "replay": "simple"},
        {"lr": 2e-3},
        "train_task_2",
    ),
    "continual VAE": (
        MODELS["mlp"] | {"n_tasks": 3, "generator": "continual"},
        {"generator_replay_weight": 0.3},
        "train_generator_2",
    ),
    "continual VIB": (
        {"n_tasks": 3, "generator": "continual"},
        {"beta_1": -0.3},
        "train_task_2",
    ),
    "averaged weights": (
        {"experiment": "vib", "ema_decay": 0.9, "lr_schedule": "exponential"},
        {"beta_1": -0.3},
        "train_task_1",
    ),
}


@pytest.mark.parametrize(("base", "own", "stage"), POISONED.values(), ids=POISONED)
def test_lane_that_turns_nan_later_leaves_the_others_unchanged(
    base: Settings, own: Settings, stage: str, small: Source
) -> None:
    base = SMALL | {"epochs": 2} | base
    first, lost, last = lanes_of(base, {}, own, {"beta_2": 0.04, "lr": 7e-3})
    run = PackRun([first, lost, last], small)
    tables = empty(run.configs)
    is_poisoned = False
    while not run.is_done:
        report = run.advance()
        add(report, tables)
        rows = [row for row in report.epochs if row["config_id"] == lost.id]
        if not is_poisoned and rows and (rows[0]["stage"], rows[0]["epoch"]) == (stage, 1):
            poison(run, lost)
            is_poisoned = True
    check_diverged(tables.pop(lost.id), stage, 2)
    assert_same(tables, run_alone([first, last], small))


# --- shared stages --------------------------------------------------------------------------------


@pytest.fixture
def worked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list of the stages that are trained or filled, by name, once for each lane."""
    names: list[str] = []

    class Spy(TrainGroup):
        def __init__(self, context: Any, lanes: Sequence[Lane], *more: Any) -> None:
            names.extend(lane.stage.name for lane in lanes)
            super().__init__(context, lanes, *more)

    fill = pack_module.fill_buffers

    def spy(context: Any, lanes: Sequence[Lane]) -> Any:
        names.extend(lane.stage.name for lane in lanes)
        return fill(context, lanes)

    monkeypatch.setattr(pack_module, "TrainGroup", Spy)
    monkeypatch.setattr(pack_module, "fill_buffers", spy)
    return names


SHARED: dict[str, tuple[Settings, list[Settings], dict[str, int]]] = {
    "pixel selection, whatever the model": (
        MODELS["mlp"] | {"replay": "simple", "selection": "herding"},
        [{"lr": 1e-3}, {"lr": 1e-2}, {"lr": 1e-2, "retrieval": "mir"}, {"weight_decay": 0.1}],
        {"train_task_1": 3, "fill_buffer_1": 1, "train_task_2": 4},
    ),
    "selection by encoder features, each its own": (
        MODELS["mlp"] | {"replay": "simple", "selection": "kmeans"},
        [{"lr": lr, "selection_features": "encoder"} for lr in (1e-3, 1e-2)]
        + [{"lr": lr} for lr in (1e-3, 1e-2)],
        {"train_task_1": 2, "fill_buffer_1": 3, "train_task_2": 4},
    ),
    "retrievals": (
        MODELS["vib"],
        [
            {},
            {"retrieval": "mir"},
            {"retrieval": "mir", "n_candidates": 110},
            {"retrieval": "generative_mir"},
            {"retrieval": "generative_mir", "mir_steps": 1},
        ],
        {"train_task_1": 1, "fill_buffer_1": 1, "train_task_2": 5},
    ),
    "replay weights and schedules": (
        MODELS["mlp"] | {"n_tasks": 3, "replay": "simple"},
        [
            {"replay_weight": 0.5},
            {"replay_schedule": "1-1/t"},  # 1/2 at task 2
            {"replay_weight": 0.5, "replay_schedule": "exponential"},
        ],
        {
            "train_task_1": 1,
            "fill_buffer_1": 1,
            "train_task_2": 1,
            "fill_buffer_2": 1,
            "train_task_3": 3,
        },
    ),
    "continual VAEs and those of each task": (
        MODELS["mlp"] | {"n_tasks": 3, "n_replay_scope": "total"},
        [
            {"generator": "continual"},
            {"generator": "continual", "generator_replay_weight": 0.9},
            {"generator": "per_task"},
            {"generator": "per_task", "labeler": "per_task"},
        ],
        {
            "train_task_1": 1,
            "train_generator_1": 1,
            "fill_buffer_1": 3,
            "train_task_2": 3,
            "train_generator_2": 3,
            "fill_buffer_2": 4,
            "train_task_3": 4,
        },
    ),
    "label temperatures": (
        MODELS["comparison"],
        [
            {"label_temperature": 2.0},
            {},
            {"replay_labels": "hard"},  # to which no temperature applies
        ],
        {"train_task_1": 1, "train_generator_1": 1, "fill_buffer_1": 3, "train_task_2": 3},
    ),
}


@pytest.mark.parametrize(("base", "lanes", "counts"), SHARED.values(), ids=SHARED)
def test_shared_stages_run_once_and_give_the_rows_of_unshared_runs(
    base: Settings,
    lanes: list[Settings],
    counts: dict[str, int],
    small: Source,
    worked: list[str],
) -> None:
    configs = lanes_of(SMALL | {"n_replay": 120} | {"n_candidates": 100} | base, *lanes)
    n_distinct = sum(map(len, group_stages(configs)))
    assert n_distinct < sum(len(stages_of(config)) for config in configs)
    tables = run_pack(configs, small)
    assert {name: worked.count(name) for name in worked} == counts
    assert sum(counts.values()) == n_distinct
    assert_same(tables, run_alone(configs, small))
