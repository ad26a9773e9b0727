"""Stages are shared and packed exactly as the rules say, over the settings of all experiments."""

import itertools
from collections.abc import Sequence
from typing import Any

import pytest

from raysweep.errors import InputError
from raysweep.learning.config import Config
from raysweep.learning.declarations.replay import FEATURE_SELECTIONS
from raysweep.learning.stage_graph import LANE_SETTINGS, epochs_of, stages_of
from raysweep.packs.pack import Pack, pack_key
from raysweep.packs.planning.estimates import memory_bytes
from raysweep.packs.planning.packing import make_plan
from tests.draws import draw_of, some_of
from tests.packs.test_fingerprints_results import BASES, CHANGES, TINY, VIB

Facts = tuple[Any, ...]


def facts_of_data(config: Config) -> Facts:
    return (
        *(config.tasks, config.n_tasks, config.source, config.task_samples, config.normalize),
        config.shuffle_tasks if config.tasks == "split_mnist" else config.first_task_identity,
        *(config.drop_last, config.seed, config.tf32),
    )


def facts_of_steps(config: Config) -> Facts:
    limits = (config.loss_above, config.loss_factor, config.loss_patience)
    own = (config.batch_size, config.weight_decay, config.clip_norm)
    return (*facts_of_data(config), *own, limits)


def momentum_of(config: Config, optimizer: str) -> float | None:
    return config.momentum if optimizer in ("sgd", "rmsprop") else None


def facts_of_classifier(config: Config) -> Facts:
    """Return what every stage of a classifier depends on."""
    shapes = (config.encoder_widths, config.class_decoder_widths, config.nonlinearity)
    schedules = {"constant": None, "exponential": config.lr_decay, "cosine": "cosine"}
    rates = (config.lr, schedules[config.lr_schedule])
    steps: Facts = (config.epochs, config.optimizer, rates, config.reduction, config.ema_decay)
    steps += (momentum_of(config, config.optimizer), config.dropout, config.label_smoothing)
    latent: Facts = ()
    if config.model != "mlp":
        latent = (config.n_bottleneck, config.eval_samples, config.variance)
    return (*facts_of_steps(config), config.model, shapes, steps, latent)


def weights(config: Config) -> Facts:
    """Return what weighs reconstruction and KL on task 1, and what reconstructs."""
    if config.model == "mlp":
        return ()
    if config.model == "comparison":
        return (config.beta_2,)
    rec, kl = max(-config.beta_1, 0.0), max(config.beta_1, 0.0) + config.beta_2
    return (rec, kl, config.rec_decoder_widths)


def share_of_replay(config: Config, task: int) -> float:
    if config.replay_schedule == "1-1/t":
        return (task - 1) / task
    is_exponential = config.replay_schedule == "exponential"
    return config.replay_weight * (config.replay_decay ** (task - 2) if is_exponential else 1)


def facts_of_vae(config: Config, task: int, vaes: Sequence[Facts], buffer: Facts) -> Facts:
    facts: Facts = (
        *("VAE", task, facts_of_steps(config), config.n_bottleneck, config.rec_decoder_widths),
        config.generator_epochs or config.epochs,
        config.generator_optimizer,
        momentum_of(config, config.generator_optimizer),
        config.generator_lr or config.lr,
    )
    if config.generator == "continual" and task > 1:
        facts += (vaes[-1], buffer, config.generator_replay_weight)
    return facts


def facts_of_buffer(
    config: Config, task: int, models: Sequence[Facts], vaes: Sequence[Facts], buffer: Facts
) -> Facts:
    facts = ("buffer", config.replay, task, facts_of_data(config))
    facts += (config.n_replay, config.n_replay_scope)
    if config.replay == "simple":
        facts += (config.selection, buffer)
        if config.selection == "ring":
            facts += (config.epochs, config.batch_size)
        if config.selection in FEATURE_SELECTIONS:
            facts += (models[-1] if config.selection_features == "encoder" else "pixels",)
        return facts
    temperature = config.label_temperature if config.replay_labels == "soft" else None
    facts += (config.replay_labels, temperature, config.labeler, config.generator)
    if config.labeler == "at_generation":
        return (*facts, buffer, models[-1], vaes[-1] if vaes else ())
    labelers = tuple(models) if config.labeler == "per_task" else models[-1]
    is_one = not vaes or config.generator == "continual"
    return (*facts, labelers, tuple(vaes[-1:] if is_one else vaes))


def facts_of_later_task(
    config: Config, task: int, model: Facts, vaes: Sequence[Facts], buffer: Facts
) -> Facts:
    facts: Facts = ("task", task, model, facts_of_classifier(config), config.freeze_encoder)
    facts += (config.optimizer_state == "keep" and not config.freeze_encoder,)
    is_continual = config.replay == "generative" and config.generator == "continual"
    if config.model == "vib" and is_continual:
        facts += ("decoder", weights(config))
    elif config.model != "mlp":
        facts += (config.beta_2,)
    if buffer:
        facts += (buffer, share_of_replay(config, task), config.retrieval)
    if config.retrieval == "mir":
        facts += (config.n_candidates,)
    if config.retrieval == "generative_mir":
        facts += (config.mir_steps, config.mir_interference, config.mir_entropy, config.mir_shell)
        facts += (tuple(vaes[-1:]),)
    return facts


def rules(config: Config) -> dict[str, Facts]:
    """Return what each stage's result depends on, by name, for all settings."""
    if config.experiment == "joint":
        return {"train_joint": ("joint", facts_of_classifier(config), weights(config))}
    stages: dict[str, Facts] = {}
    models: list[Facts] = [("task", 1, facts_of_classifier(config), weights(config))]
    vaes: list[Facts] = []
    buffer: Facts = ()
    stages["train_task_1"] = models[0]
    for task in range(1, config.n_tasks):
        if config.replay == "generative" and config.model != "vib":
            vaes.append(facts_of_vae(config, task, vaes, buffer))
            stages[f"train_generator_{task}"] = vaes[-1]
        if config.replay != "none":
            buffer = facts_of_buffer(config, task, models, vaes, buffer)
            stages[f"fill_buffer_{task}"] = buffer
        models.append(facts_of_later_task(config, task + 1, models[-1], vaes, buffer))
        stages[f"train_task_{task + 1}"] = models[-1]
    return stages


def drawn(number: int, n_most: int = 80) -> list[Config]:
    """Draw distinct configurations around one base: few settings vary, with few values each."""
    (base_name,) = some_of(BASES, 1, number)
    base = TINY | BASES[base_name]
    draws = {name: draw_of(number, name) for name in some_of(CHANGES, 11, number)}
    found: dict[str, Config] = {}
    for _ in range(n_most):
        changes = {name: draw.choice([None, *CHANGES[name]]) for name, draw in draws.items()}
        changes = {name: value for name, value in changes.items() if value is not None}
        try:
            config = Config.model_validate(base | changes)
        except InputError:
            continue
        found[config.id] = config
    return list(found.values())


GRIDS = [drawn(number) for number in range(80)]


@pytest.mark.parametrize("number", range(len(GRIDS)))
def test_stages_are_shared_exactly_where_the_rules_allow(number: int) -> None:
    by_rule: dict[Facts, str] = {}
    by_fingerprint: dict[str, Facts] = {}
    for config in GRIDS[number]:
        stages = {stage.name: stage.fingerprint for stage in stages_of(config)}
        expected = rules(config)
        assert list(stages) == list(expected) or set(stages) == set(expected)
        for name, fingerprint in stages.items():
            assert by_rule.setdefault(expected[name], fingerprint) == fingerprint
            assert by_fingerprint.setdefault(fingerprint, expected[name]) == expected[name]


def test_the_random_grids_share_and_reach_every_kind_of_stage() -> None:
    stages = [stage for configs in GRIDS for config in configs for stage in stages_of(config)]
    assert len({stage.fingerprint for stage in stages}) < 0.8 * len(stages)
    names = {stage.name for stage in stages}
    assert {"train_joint", "train_generator_2", "fill_buffer_3", "train_task_4"} <= names


@pytest.mark.slow
def test_distinct_stages_equal_a_brute_force_count() -> None:
    for configs, max_lanes in itertools.product(GRIDS, (None, 3)):
        plan = make_plan(configs, n_slots=2, max_lanes=max_lanes)
        assert plan.n_stages == sum(len(rules(config)) for config in configs)
        assert plan.n_distinct_stages == len({f for c in configs for f in rules(c).values()})
        assert plan.n_run_stages == sum(
            len({f for c in pack.configs for f in rules(c).values()}) for pack in plan.packs
        )


def test_each_config_is_planned_once_and_runs_its_stages_after_their_parents() -> None:
    for configs in GRIDS:
        packs = make_plan(configs, n_slots=2, max_lanes=8).packs
        assert sorted(c.id for pack in packs for c in pack.configs) == sorted(c.id for c in configs)
        for pack in packs:
            done: set[str] = set()
            for group in pack.groups:
                for stage in group:
                    assert {fingerprint for _, fingerprint in stage.parents} <= done
                done |= {stage.fingerprint for stage in group}
            assert done == {s.fingerprint for c in pack.configs for s in stages_of(c)}


def n_different(base: dict[str, Any], varied: dict[str, list[Any]], stage: str) -> int:
    configs = [
        Config.model_validate(TINY | base | dict(zip(varied, values, strict=True)))
        for values in itertools.product(*varied.values())
    ]
    return len({s.fingerprint for c in configs for s in stages_of(c) if s.name == stage})


OF_REPLAY = list(CHANGES)[list(CHANGES).index("replay") : list(CHANGES).index("loss_above")]
OF_REPLAY += ["optimizer_state", "generator_epochs"]
"""Settings that mean nothing where no task follows another."""

MLP = {"experiment": "replay", "n_tasks": 3}
REAL = MLP | {"replay": "simple"}
VAE = MLP | {"generator": "per_task"}
CONTINUAL = MLP | {"generator": "continual"}
BETAS = {"beta_1": [-1, 0, 1], "beta_2": [0, 1]}
LATENT = {"n_bottleneck": [3, 4], "eval_samples": [0, 2], "variance": ["exp", "softplus"]}
MIR_SETTINGS = {"mir_steps": [1, 2], "mir_entropy": [0, 1], "mir_shell": [0, 1]}


@pytest.mark.parametrize(
    ("base", "varied", "stage", "n"),
    [
        # an MLP has neither betas nor a bottleneck
        (REAL, BETAS | LATENT, "train_task_3", 1),
        ({"experiment": "joint"}, BETAS | LATENT, "train_joint", 1),
        ({"experiment": "joint", "model": "vib"}, {"beta_1": [-1, 1]}, "train_joint", 2),
        (VAE, BETAS | {"eval_samples": [0, 2]}, "train_task_3", 1),
        (VAE, {"n_bottleneck": [3, 4]}, "train_task_1", 1),
        (VAE, {"n_bottleneck": [3, 4]}, "train_task_2", 2),
        # what real samples are chosen depends on the model only where it measures
        (REAL, {"lr": [1, 2], "selection": ["herding", "kmeans"]}, "fill_buffer_2", 2),
        (
            REAL | {"selection": "herding", "selection_features": "encoder"},
            {"lr": [1, 2]},
            "fill_buffer_2",
            2,
        ),
        (
            REAL | {"selection": "class_balanced"},
            {"selection_features": ["pixels", "encoder"], "lr": [1, 2]},
            "fill_buffer_2",
            1,
        ),
        (REAL, {"epochs": [1, 2], "batch_size": [20, 30]}, "fill_buffer_1", 1),
        (
            REAL | {"selection": "ring"},
            {"epochs": [1, 2], "batch_size": [20, 30]},
            "fill_buffer_1",
            4,
        ),
        # schedules
        (REAL, {"lr_decay": [0.5, 0.9]}, "train_task_1", 1),
        (REAL | {"lr_schedule": "exponential"}, {"lr_decay": [0.5, 0.9]}, "train_task_1", 2),
        (VAE, {"lr_schedule": ["constant", "exponential"]}, "train_generator_1", 1),
        (REAL | {"lr_schedule": "cosine"}, {"lr_decay": [0.5, 0.9]}, "train_task_1", 1),
        (REAL, {"lr_schedule": ["constant", "exponential", "cosine"]}, "train_task_2", 3),
        # momentum of sgd and rmsprop, each stage by its own optimiser
        (REAL, {"momentum": [0, 0.9]}, "train_task_1", 1),
        (REAL | {"optimizer": "adamw"}, {"momentum": [0, 0.9]}, "train_task_1", 1),
        (REAL | {"optimizer": "sgd"}, {"momentum": [0, 0.9]}, "train_task_1", 2),
        (REAL | {"optimizer": "rmsprop"}, {"momentum": [0, 0.9]}, "train_task_2", 2),
        (VAE | {"generator_optimizer": "sgd"}, {"momentum": [0, 0.9]}, "train_task_1", 1),
        (VAE | {"generator_optimizer": "sgd"}, {"momentum": [0, 0.9]}, "train_generator_1", 2),
        (
            VAE | {"optimizer": "sgd", "generator_optimizer": "adam"},
            {"momentum": [0, 0.9]},
            "train_generator_1",
            1,
        ),
        # what concerns a classifier's new samples and its encoder is nothing to a VAE
        (VAE, {"dropout": [0, 0.5], "label_smoothing": [0, 0.1]}, "train_generator_1", 1),
        (VAE, {"dropout": [0, 0.5], "label_smoothing": [0, 0.1]}, "train_task_1", 4),
        (REAL, {"dropout": [0, 0.5], "label_smoothing": [0, 0.1]}, "fill_buffer_2", 1),
        (VAE, {"clip_norm": [0, 1]}, "train_generator_1", 2),
        (REAL, {"clip_norm": [0, 1]}, "fill_buffer_2", 1),
        (REAL, {"replay_decay": [0.5, 0.9]}, "train_task_3", 1),
        (
            REAL | {"replay_schedule": "exponential"},
            {"replay_decay": [0.5, 0.9]},
            "train_task_2",
            1,
        ),
        (
            REAL | {"replay_schedule": "exponential"},
            {"replay_decay": [0.5, 0.9]},
            "train_task_3",
            2,
        ),
        (REAL | {"replay_schedule": "1-1/t"}, {"replay_weight": [0.1, 0.9]}, "train_task_3", 1),
        # labels
        (VAE, {"label_temperature": [1, 2]}, "fill_buffer_1", 2),
        (VAE | {"replay_labels": "hard"}, {"label_temperature": [1, 2]}, "fill_buffer_1", 1),
        (
            REAL,
            {"label_temperature": [1, 2], "labeler": ["current", "per_task"]},
            "train_task_3",
            1,
        ),
        # retrieval
        (REAL, {"n_candidates": [20, 30]} | MIR_SETTINGS, "train_task_3", 1),
        (REAL | {"retrieval": "mir"}, {"n_candidates": [20, 30]}, "train_task_3", 2),
        (REAL | {"retrieval": "mir"}, MIR_SETTINGS, "train_task_3", 1),
        (CONTINUAL | {"retrieval": "generative_mir"}, MIR_SETTINGS, "train_task_2", 8),
        (
            CONTINUAL | {"retrieval": "generative_mir"},
            {"n_candidates": [20, 30]},
            "train_task_3",
            1,
        ),
        # generators
        (REAL, {"generator_lr": [0, 1], "generator_optimizer": ["auto", "sgd"]}, "train_task_3", 1),
        (
            VIB | {"n_tasks": 3},
            {"generator_lr": [0, 1], "generator_epochs": [0, 9], "generator_optimizer": ["sgd"]}
            | {"generator_replay_weight": [0.1, 0.9]},
            "train_task_3",
            1,
        ),
        (VAE, {"generator_lr": [0, 1], "generator_epochs": [0, 9]}, "train_generator_2", 4),
        (VAE | {"lr": 0.5}, {"generator_lr": [0, 0.5]}, "train_generator_2", 1),
        (VAE | {"epochs": 9}, {"generator_epochs": [0, 9]}, "train_generator_2", 1),
        (VAE | {"generator_lr": 1}, {"lr": [1, 2]}, "train_generator_2", 1),
        (VAE, {"generator_replay_weight": [0.1, 0.9]}, "train_task_3", 1),
        (CONTINUAL, {"generator_replay_weight": [0.1, 0.9]}, "train_generator_1", 1),
        (CONTINUAL, {"generator_replay_weight": [0.1, 0.9]}, "train_generator_2", 2),
        (MLP, {"generator": ["per_task", "continual"]}, "train_generator_1", 1),
        # a VAE for each task knows no classifier and no replay
        (
            VAE,
            {"encoder_widths": [[5], [6]], "ema_decay": [0, 0.5], "n_replay": [30, 40]}
            | {"replay_labels": ["soft", "hard"], "labeler": ["current", "per_task"]},
            "train_generator_2",
            1,
        ),
        (VAE, {"labeler": ["current", "per_task", "at_generation"]}, "fill_buffer_2", 3),
        # a continual decoder goes on with the weights of task 1
        (VIB | {"n_tasks": 3}, {"beta_1": [-1, 0]}, "train_task_2", 2),
        (
            VIB | {"n_tasks": 3},
            {"generator": ["continual"], "beta_1": [0.25, 0.5]},
            "train_task_3",
            2,
        ),
    ],
)
def test_a_stage_sees_only_what_can_change_its_result(
    base: dict[str, Any], varied: dict[str, list[Any]], stage: str, n: int
) -> None:
    assert n_different(base, varied, stage) == n


def test_joint_training_is_one_stage_that_no_setting_of_replay_touches() -> None:
    configs = [
        Config.model_validate(TINY | {"experiment": "joint", "n_tasks": 3, name: value})
        for name in OF_REPLAY
        for value in CHANGES[name]
    ]
    stages = {stage for config in configs for stage in stages_of(config)}
    assert [(stage.name, stage.task, stage.parents) for stage in stages] == [("train_joint", 3, ())]


def test_the_same_task_alone_is_one_stage_in_all_experiments() -> None:
    vib = Config(experiment="vib")
    assert (
        stages_of(vib) == stages_of(Config(n_tasks=1)) == stages_of(Config(n_tasks=1, replay="no"))
    )


# Packs


@pytest.mark.parametrize("name", CHANGES)
def test_the_pack_key_is_every_setting_that_is_not_a_lanes(name: str) -> None:
    n_compared = 0
    for base, value in itertools.product(BASES.values(), CHANGES[name]):
        try:
            plain, changed = (
                Config.model_validate(TINY | base | more) for more in ({}, {name: value})
            )
        except InputError:
            continue
        differs = {n for n in Config.model_fields if getattr(plain, n) != getattr(changed, n)}
        assert (pack_key(plain) == pack_key(changed)) == (differs <= LANE_SETTINGS)
        n_compared += name in differs
    assert n_compared
    assert (name in LANE_SETTINGS) == (
        name
        in {*OF_REPLAY, "lr", "lr_schedule", "lr_decay", "weight_decay", "momentum", "clip_norm"}
        - {
            "generator_epochs",
            "generator_optimizer",
        }
        or name in ("beta_1", "beta_2", "dropout", "loss_above", "loss_factor", "loss_patience")
    )


def test_a_groups_epochs_are_those_of_each_of_its_configs() -> None:
    for configs in GRIDS:
        for pack in make_plan(configs, max_lanes=8).packs:
            for group in pack.groups:
                assert len({(stage.name, stage.group) for stage in group}) == 1
                assert len({epochs_of(config, group[0]) for config in pack.configs}) == 1


@pytest.mark.slow
@pytest.mark.parametrize("n_megabytes", [60, 300])
def test_packs_fit_into_the_memory_that_there_is(n_megabytes: int) -> None:
    for configs in GRIDS:
        for pack in make_plan(configs, memory=n_megabytes * 10**6).packs:
            assert len(pack.configs) == 1 or memory_bytes(pack) <= n_megabytes * 10**6


def test_memory_grows_with_everything_that_a_lane_holds() -> None:
    def of(**more: Any) -> int:
        return memory_bytes(Pack((Config.model_validate(TINY | more),)))

    real = {"experiment": "replay", "n_tasks": 3, "replay": "simple"}
    assert of(**real) < of(**real, ema_decay=0.5)
    assert of(**real) < of(**real, retrieval="mir") < of(**real, retrieval="mir", n_candidates=40)
    assert of(**real, n_replay_scope="total") < of(**real)
    joint = {"experiment": "joint", "n_tasks": 3, "tasks": "split_mnist"}
    assert of(**joint, task_samples=0) > of(**joint, task_samples=70)
    assert of(**joint, task_samples=0) > of(**real, tasks="split_mnist", task_samples=0)


# What applies


@pytest.mark.parametrize("number", range(0, len(GRIDS), 8))
def test_a_setting_applies_exactly_where_some_stage_reads_it(number: int) -> None:
    kinds: set[tuple[str, bool]] = set()
    for config in GRIDS[number][:6]:
        given = config.model_dump()
        for name, values in CHANGES.items():
            for value in values:
                try:
                    changed = Config.model_validate(given | {name: value})
                except InputError:
                    continue
                if getattr(changed, name) == getattr(config, name):
                    continue
                is_same = changed.applicable.keys() == config.applicable.keys()
                if name not in config.applicable:
                    assert stages_of(changed) == stages_of(config), name
                    assert changed.id == config.id, name
                elif is_same and name not in ("replay", "tasks"):
                    # Two that differ may still be one result: 1 - 1/t, betas of equal sums.
                    assert changed.id != config.id, name
                kinds.add((name, name in config.applicable))
    assert len(kinds) > 30 and {applies for _, applies in kinds} == {True, False}
