"""Combinations of settings: experiments, what auto stands for, what is refused."""

import re
from pathlib import Path
from typing import Any

import pytest

from raysweep.errors import InputError
from raysweep.learning.config import DECLARATIONS, Config, defaults_of
from raysweep.learning.experiments import EXPERIMENTS
from raysweep.learning.models import MODELS
from raysweep.learning.stage_graph import stages_of
from raysweep.settings.sweep import Sweep, load_sweep
from raysweep.settings.yaml_text import dump_yaml


def load(folder: Path, text: str) -> Sweep:
    file = folder / "vib.yaml"
    file.write_text(text, encoding="utf-8")
    return load_sweep(file)


def refusal(folder: Path, text: str) -> str:
    with pytest.raises(InputError) as caught:
        load(folder, text)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return re.sub(r" \(line \d+, column \d+\)$", "", message)  # tests/settings/bad_input has these


SPLIT = "data: {tasks: split_mnist, n_tasks: 5}\n"
MLP = f"experiment: replay\n{SPLIT}"
SIMPLE = f"{MLP}space: {{replay: simple, "
RING = f"{SIMPLE}selection: ring, "
MIR = f"{MLP}training: {{batch_size: 10}}\nspace: {{retrieval: mir, "
NO_CANDIDATES = "space.retrieval: expected cycle, as"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        # experiments and their models
        (
            "experiment: replay\nspace: {model: vib}",
            "space.model: expected mlp with experiment replay, got vib, "
            "a model of experiment replay_vib or vib or joint",
        ),
        (
            "space: {model: mlp}",
            "space.model: expected comparison or vib with experiment replay_vib (the default), got "
            "mlp, a model of experiment replay or joint",
        ),
        (
            "experiment: vib\nspace: {model: comparison}",
            "space.model: expected vib with experiment vib, got comparison, "
            "a model of experiment replay_vib or joint",
        ),
        (
            "experiment: vib\ndata: {n_tasks: 2}",
            "data.n_tasks: expected 1 with experiment vib, got 2; for more "
            "tasks use experiment replay_vib",
        ),
        (
            "data: {n_tasks: 2}\nspace: {any_of: [{model: vib}, {experiment: vib}]}",
            "data.n_tasks: expected 1 with experiment vib, got 2; for more "
            "tasks use experiment replay_vib",
        ),
        # samples
        (
            "experiment: joint\ndata: {tasks: split_mnist, n_tasks: 6}",
            "data.n_tasks: expected at most 5 tasks of two classes with split_mnist, got 6",
        ),
        (
            "data: {task_samples: 4001}",
            "data.task_samples: expected at most the 4000 training samples of mnist_5k, got 4001; "
            "0 takes all",
        ),
        (
            "data: {task_samples: 60001}",
            "data.task_samples: expected a whole number from 0 to 60000, got 60001",
        ),
        (
            "data: {task_samples: 99}",
            "training.batch_size: expected at most the 99 training samples of a task "
            "(data.task_samples), got 100 (the default); lower it or set drop_last false",
        ),
        (
            "experiment: joint\ndata: {task_samples: 30, n_tasks: 3}",
            "training.batch_size: expected at most the 90 training samples of all tasks, got 100 "
            "(the default); lower it or set drop_last false",
        ),
        (
            "experiment: joint\ndata: {n_tasks: 2}\ntraining: {batch_size: 8001}",
            "training.batch_size: expected at most the 8000 training samples of all tasks, "
            "got 8001; lower it or set drop_last false",
        ),
        (
            f"experiment: joint\n{SPLIT}training: {{batch_size: 4001}}",
            "training.batch_size: expected at most the 4000 training samples of mnist_5k, "
            "got 4001; lower it or set drop_last false",
        ),
        # generators and labelers
        (
            "space: {generator: per_task}",
            "space.generator: expected frozen or continual with model vib (the default), "
            "got per_task",
        ),
        (
            "space: {model: comparison, generator: frozen}",
            "space.generator: expected per_task or continual with model comparison, got frozen",
        ),
        (
            "experiment: replay\nspace: {generator: frozen}",
            "space.generator: expected per_task or continual with model mlp (the default), "
            "got frozen",
        ),
        (
            f"{SPLIT}space: {{generator: frozen}}",
            "data.n_tasks: expected at most 2 with generator frozen (it learns task 1 only), "
            "got 5; use generator continual",
        ),
        (
            f"{MLP}space: {{generator: continual, labeler: per_task}}",
            "space.labeler: expected current or at_generation with generator continual (its images "
            "belong to no task), got per_task",
        ),
        (
            f"{SPLIT}space: {{labeler: per_task}}",  # auto is continual
            "space.labeler: expected current or at_generation with generator continual (the "
            "default; its images belong to no task), got per_task",
        ),
        # selections and budgets
        (
            f"{SIMPLE}selection: reservoir, n_replay_scope: per_task}}",
            "space.n_replay_scope: expected total with selection reservoir (it samples the whole "
            "stream), got per_task; use selection: random to draw equally from each task",
        ),
        (
            f"{SIMPLE}n_replay: 3, n_replay_scope: total}}",
            "space.n_replay: expected at least 4, one sample for each of 4 stored tasks, got 3; "
            "raise it or set n_replay_scope per_task",
        ),
        (
            f"{RING}n_replay: 7, n_replay_scope: total}}",
            "space.n_replay: expected at least 8, one sample for each of 2 classes of 4 stored "
            "tasks, got 7; raise it or set n_replay_scope per_task",
        ),
        (
            "space: {replay: simple, selection: herding, n_replay: 9, n_replay_scope: total}",
            "space.n_replay: expected at least 10, one sample for each of 10 classes of 1 stored "
            "task, got 9; raise it or set n_replay_scope per_task",
        ),
        (
            f"{RING}n_replay: 1}}",
            "space.n_replay: expected at least 2, one sample for each of 2 classes, got 1",
        ),
        (
            "space: {replay: simple, selection: kmeans, n_replay: 9}",
            "space.n_replay: expected at least 10, one sample for each of 10 classes, got 9",
        ),
        (
            f"{MLP}space: {{n_replay: 3, n_replay_scope: total}}",  # a VAE for each task
            "space.n_replay: expected at least 4, one sample for each of 4 stored tasks, got 3; "
            "raise it or set n_replay_scope per_task",
        ),
        (
            f"{MLP}space: {{n_replay: 3, generator: continual, labeler: at_generation}}",
            "space.n_replay: expected at least 4, one sample for each of 4 stored tasks, got 3; "
            "raise it or set n_replay_scope per_task",
        ),
        (
            f"{SPLIT}space: {{n_replay: 3, labeler: at_generation}}",  # VIB, continual
            "space.n_replay: expected at least 4, one sample for each of 4 stored tasks, got 3; "
            "raise it or set n_replay_scope per_task",
        ),
        # retrieval
        (
            f"{MIR}replay: none}}",
            f"{NO_CANDIDATES} mir has no candidates to choose from without replay, got mir",
        ),
        (
            f"{MLP}space: {{replay: none, retrieval: generative_mir}}",
            f"{NO_CANDIDATES} generative_mir has no candidates to choose from "
            "without replay, got generative_mir",
        ),
        (
            "data: {n_tasks: 1}\nspace: {replay: simple, retrieval: mir, n_candidates: 100}",
            f"{NO_CANDIDATES} mir has no candidates to choose from with one task, got mir",
        ),
        (
            f"{SIMPLE}retrieval: generative_mir}}",
            "space.retrieval: expected cycle or mir with replay simple, got generative_mir; it "
            "needs replay generative",
        ),
        (
            f"{MLP}space: {{retrieval: generative_mir}}",
            "space.retrieval: expected cycle or mir with generator per_task (the default), got "
            "generative_mir; "
            "it needs one generator: set generator continual",
        ),
        (
            f"{MIR}replay: simple, n_candidates: 9}}",
            "space.n_candidates: expected from 10 (mir chooses a batch from them) to "
            "1000 (the buffer after task 1), got 9",
        ),
        (
            f"{MIR}replay: simple, n_candidates: 301, n_replay: 300}}",
            "space.n_candidates: expected from 10 (mir chooses a batch from them) to "
            "300 (the buffer after task 1), got 301",
        ),
        (
            f"{MIR}n_candidates: 301, n_replay: 300}}",
            "space.n_candidates: expected from 10 (mir chooses a batch from them) to "
            "300 (the buffer after task 1), got 301",
        ),
        (  # rings already have their final size
            f"{MIR}replay: simple, selection: ring, n_replay: 300, n_replay_scope: total, "
            f"n_candidates: 76}}",
            "space.n_candidates: expected from 10 (mir chooses a batch from them) to "
            "74 (the buffer after task 1), got 76",
        ),
        (
            f"{MIR}replay: simple, selection: ring, n_replay: 39, n_replay_scope: total}}",
            "space.n_replay: expected a buffer of at least 10 samples (one batch) after task 1 "
            "with retrieval mir, got 8 (n_replay 39); raise it or lower training.batch_size",
        ),
        (
            "space: {replay: simple, retrieval: mir, n_replay: 99}",
            "space.n_replay: expected a buffer of at least 100 samples (one batch) after task 1 "
            "with retrieval mir, got 99 (n_replay 99); raise it or lower training.batch_size",
        ),
        # limits of the numbers
        (
            "training: {ema_decay: 1}",
            "training.ema_decay: expected a number from 0 to below 1, got 1",
        ),
        (
            "training: {label_smoothing: 1.1}",
            "training.label_smoothing: expected a number from 0 to 1, got 1.1",
        ),
        ("space: {dropout: 1}", "space.dropout: expected a number from 0 to below 1, got 1"),
        ("space: {dropout: -1}", "space.dropout: expected a number from 0 to below 1, got -1"),
        ("space: {momentum: 1}", "space.momentum: expected a number from 0 to below 1, got 1"),
        ("space: {clip_norm: -1}", "space.clip_norm: expected a number >= 0, got -1"),
        ("space: {lr_decay: 0}", "space.lr_decay: expected a number > 0, at most 1, got 0"),
        ("space: {lr_decay: 1.1}", "space.lr_decay: expected a number > 0, at most 1, got 1.1"),
        ("space: {generator_lr: -1}", "space.generator_lr: expected a number >= 0, got -1"),
        ("space: {label_temperature: 0}", "space.label_temperature: expected a number > 0, got 0"),
        (
            "space: {replay_schedule: 1/t}",
            "space.replay_schedule: expected one of constant, exponential, 1-1/t, got '1/t' "
            "(did you mean 1-1/t?)",
        ),
        (
            "space: {experiment: vbi}",
            "space.experiment: expected one of replay_vib, replay, vib, joint, got 'vbi' "
            "(did you mean vib?)",
        ),
        (
            "data: {experiment: vib}",
            "data: expected a known setting, got 'experiment'; write `experiment:` at the top of "
            "the file",
        ),
    ],
)
def test_settings_that_do_not_go_together_are_refused_in_one_line(
    tmp_path: Path, text: str, message: str
) -> None:
    assert refusal(tmp_path, text) == f"vib.yaml: {message}"


@pytest.mark.parametrize(
    "text",
    [
        f"{SIMPLE}n_replay: 4, n_replay_scope: total}}",
        f"{SIMPLE}n_replay: 1}}",
        f"{SIMPLE}n_replay: 1, selection: reservoir}}",
        f"{RING}n_replay: 8, n_replay_scope: total}}",
        f"{RING}n_replay: 2}}",
        f"{MLP}space: {{n_replay: 4, n_replay_scope: total}}",
        f"{MLP}space: {{n_replay: 1, generator: continual}}",  # one generator, drawn again
        f"{MLP}space: {{n_replay: 4, generator: continual, labeler: at_generation}}",
        f"{MLP}space: {{n_replay: 1, labeler: at_generation}}",
        f"{MLP}space: {{n_replay: 1, labeler: per_task}}",
        "space: {labeler: per_task, n_replay: 1}",
        "space: {labeler: per_task, generator: continual}",
        "space: {replay: none, n_replay: 1, n_replay_scope: total}",
        "data: {n_tasks: 1}\nspace: {replay: simple, selection: ring, n_replay: 1}",
        f"{MIR}replay: simple, n_candidates: 10, n_replay: 10}}",
        f"{MIR}replay: simple, selection: ring, n_replay: 40, n_candidates: 10, "
        f"n_replay_scope: total}}",
        f"{MIR}n_candidates: 10, n_replay: 10}}",
        f"{MIR}generator: continual, n_candidates: 10, n_replay: 10}}",
        f"{MLP}space: {{retrieval: generative_mir, generator: continual}}",
        "space: {retrieval: generative_mir}",
        "experiment: replay\nspace: {retrieval: generative_mir}",
        "experiment: joint\ndata: {n_tasks: 100}",
        "experiment: joint\ndata: {n_tasks: 2}\ntraining: {batch_size: 8000}",
        "experiment: joint\ndata: {task_samples: 30, n_tasks: 4}",
        "data: {task_samples: 100}",
        "data: {task_samples: 4000}",
        f"experiment: joint\n{SPLIT}space: {{replay: simple, retrieval: mir, n_replay: 1}}",
    ],
)
def test_settings_that_just_go_together_are_accepted(tmp_path: Path, text: str) -> None:
    assert len(load(tmp_path, text).configs) == 1


def test_a_refused_pair_of_settings_can_be_excluded(tmp_path: Path) -> None:
    grid = (
        "experiment: {grid_search: [replay_vib, replay, joint]}, model: {grid_search: [vib, mlp]}"
    )
    with pytest.raises(InputError, match=r"vib.yaml: 2 mistakes\n  space.model: .*\n  space.model"):
        load(tmp_path, f"space: {{{grid}}}")
    exclude = "[{experiment: replay_vib, model: mlp}, {experiment: replay, model: vib}]"
    sweep = load(tmp_path, f"space: {{{grid}, exclude: {exclude}}}")
    assert [(c.experiment, c.model) for c in sweep.configs] == [
        ("replay_vib", "vib"),
        ("replay", "mlp"),
        ("joint", "vib"),
        ("joint", "mlp"),
    ]


# Experiments


def test_every_experiment_has_its_models_and_known_defaults() -> None:
    assert {name for model in MODELS.values() for name in model.experiments} == set(EXPERIMENTS)
    for experiment, of in EXPERIMENTS.items():
        config = Config(experiment=experiment)
        assert experiment in MODELS[config.model].experiments
        assert {name: getattr(config, name) for name in of.defaults} == of.defaults
        assert defaults_of(experiment) == defaults_of("replay_vib") | dict(of.defaults) | {
            "experiment": experiment
        }


REPLAY_VALUES: dict[str, list[Any]] = {
    "replay": ["none", "simple", "generative"],
    "n_replay": [7, 100],
    "n_replay_scope": ["total", "per_task"],
    "selection": ["ring", "reservoir"],
    "selection_features": ["encoder"],
    "retrieval": ["mir", "generative_mir"],
    "n_candidates": [1],
    "mir_steps": [9],
    "mir_interference": [9.0],
    "mir_entropy": [9.0],
    "mir_shell": [9.0],
    "replay_weight": [0.1],
    "replay_schedule": ["1-1/t"],
    "replay_decay": [0.1],
    "replay_labels": ["hard"],
    "label_temperature": [9.0],
    "labeler": ["per_task", "at_generation"],
    "generator": ["frozen", "per_task", "continual"],
    "generator_epochs": [9],
    "generator_optimizer": ["sgd", "adagrad", "adamw", "rmsprop"],
    "generator_lr": [9.0],
    "generator_replay_weight": [0.1],
    "freeze_encoder": [True],
    "optimizer_state": ["reset", "keep"],
}


@pytest.mark.parametrize(
    ("experiment", "model"), [("vib", "vib"), ("joint", "vib"), ("joint", "mlp")]
)
def test_where_no_task_follows_another_settings_of_replay_make_no_other_config(
    experiment: str, model: str
) -> None:
    plain = Config(experiment=experiment, model=model)
    of_vib = {"beta_1", "n_bottleneck", "eval_samples", "rec_decoder_widths", "variance", "beta_2"}
    of_others = {"shuffle_tasks", "lr_decay", "momentum"}
    assert set(REPLAY_VALUES) == set(DECLARATIONS) - set(plain.applicable) - of_vib - of_others
    for name, values in REPLAY_VALUES.items():
        for value in values:
            changed = Config.model_validate(
                {"experiment": experiment, "model": model, "n_tasks": plain.n_tasks, name: value}
            )
            assert changed.id == plain.id and stages_of(changed) == stages_of(plain)
            assert name not in changed.applicable


def test_one_sweep_has_its_upper_bound_once(tmp_path: Path) -> None:
    text = f"""
experiment: replay
{SPLIT}
space:
  replay_weight: {{grid_search: [0.25, 0.5]}}
  n_replay: {{grid_search: [100, 200]}}
  any_of: [{{replay: simple}}, {{experiment: joint}}]
seeds: [0, 1]
"""
    sweep = load(tmp_path, text)
    kinds = [config.experiment for config in sweep.configs]
    assert (kinds.count("replay"), kinds.count("joint")) == (8, 2)
    assert sweep.n_duplicates == 6
    joint = [config for config in sweep.configs if config.experiment == "joint"]
    assert [config.id for config in joint] == [
        Config(experiment="joint", tasks="split_mnist", n_tasks=5, seed=seed).id for seed in (0, 1)
    ]


@pytest.mark.parametrize(
    "space",
    [
        {"any_of": [{"replay": "simple"}, {"experiment": "joint"}]},
        {"experiment": {"grid_search": ["replay", "joint"]}, "replay": "simple"},
    ],
    ids=["any_of", "grid"],
)
def test_an_experiment_under_space_is_that_at_the_top(
    tmp_path: Path, space: dict[str, Any]
) -> None:
    text = dump_yaml({"experiment": "replay", "data": {"n_tasks": 3}, "space": space})
    apart = [
        load(tmp_path, f"experiment: {kind}\ndata: {{n_tasks: 3}}\nspace: {{replay: simple}}")
        for kind in ("replay", "joint")
    ]
    ids = [config.id for sweep in apart for config in sweep.configs]
    assert [config.id for config in load(tmp_path, text).configs] == ids


# What auto stands for


@pytest.mark.parametrize(
    ("setting", "name", "value"),
    [
        ({}, "reduction", "sum"),
        ({"experiment": "replay"}, "reduction", "mean"),
        ({"experiment": "replay"}, "optimizer_state", "keep"),
        ({}, "generator", "frozen"),
        ({"n_tasks": 3}, "generator", "continual"),
        ({"model": "comparison", "n_tasks": 3}, "generator", "per_task"),
        ({"experiment": "replay"}, "generator", "per_task"),
        ({}, "n_replay_scope", "per_task"),
        ({"n_tasks": 3}, "n_replay_scope", "total"),
        ({"experiment": "replay"}, "n_replay_scope", "per_task"),
        ({"experiment": "replay", "generator": "continual"}, "n_replay_scope", "total"),
        ({"replay": "simple"}, "n_replay_scope", "per_task"),
        ({"replay": "simple", "n_tasks": 3}, "n_replay_scope", "per_task"),
        ({"replay": "simple", "selection": "reservoir"}, "n_replay_scope", "total"),
        ({"replay": "simple", "selection": "ring"}, "n_replay_scope", "per_task"),
        ({"optimizer": "sgd"}, "generator_optimizer", "sgd"),
        ({"optimizer": "rmsprop"}, "generator_optimizer", "rmsprop"),
        ({"optimizer": "sgd", "generator_optimizer": "adam"}, "generator_optimizer", "adam"),
    ],
)
def test_auto_stands_for_what_its_description_says(
    setting: dict[str, Any], name: str, value: str
) -> None:
    plain = Config(**setting)
    assert getattr(plain, name) == value
    assert Config.model_validate(setting | {name: value}).id == plain.id
