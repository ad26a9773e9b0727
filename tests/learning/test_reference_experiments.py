"""``PackRun`` against the plain program: every experiment and what can be set in it.

Cases of the two-task experiment are in ``test_reference``. A case that differs from another of its
family by settings that it names must give other numbers: see the last test.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from plain_program import Experiment
from plain_results import Trace
from reference_runs import assert_same, run_product
from small_configs import configure

from raysweep.learning.data.sources import Source

pytestmark = pytest.mark.slow

MLP = {"experiment": "replay", "n_tasks": 3, "model": "mlp"}
SIMPLE = MLP | {"replay": "simple"}
CONTINUAL = MLP | {"generator": "continual"}
COMPARISON = {"model": "comparison", "n_tasks": 3}
VIB = {"model": "vib", "n_tasks": 3}
TWO_VIB = {"model": "vib", "generator": "continual"}
JOINT = {"experiment": "joint", "n_tasks": 3}
MIR = {"retrieval": "mir", "batch_size": 30, "n_candidates": 50}
CLIMB = {"retrieval": "generative_mir", "mir_shell": 0.5, "mir_interference": 2.0}
UNEVEN = {"batch_size": 64, "drop_last": False, "n_replay": 90}
TOTAL, PER_TASK = {"n_replay_scope": "total"}, {"n_replay_scope": "per_task"}
KEPT = {"labeler": "at_generation"}
SPLIT = {"tasks": "split_mnist", "batch_size": 16}
NORMAL = {"normalize": True, "nonlinearity": "tanh"}
FALLING_LR = {"lr_schedule": "exponential", "lr_decay": 0.5}
FALLING_REPLAY = {"replay_schedule": "exponential", "replay_decay": 0.6}
COSINE = {"lr_schedule": "cosine", "epochs": 3}
DROPOUT, SMOOTH = {"dropout": 0.3}, {"label_smoothing": 0.2}
SGD = {"optimizer": "sgd", "lr": 0.05, "generator_lr": 1e-4}
MOMENTUM = {"momentum": 0.9}
RMSPROP = {"optimizer": "rmsprop", "lr": 1e-3, "momentum": 0.5, "weight_decay": 0.01}
OWN_OPTIMISER = {"generator_optimizer": "adagrad", "generator_lr": 0.01, "weight_decay": 0.1}

CASES: dict[str, dict[str, Any]] = {
    "mlp with a vae for each task": MLP,
    "mlp without replay": MLP | {"replay": "none"},
    "mlp that minimises sums": MLP | {"reduction": "sum"},
    "mlp with sgd": MLP | {"optimizer": "sgd", "lr": 0.05, "generator_lr": 1e-4},
    "mlp with adagrad and weight decay": MLP | {"optimizer": "adagrad", "weight_decay": 0.3},
    "mlp with adamw": MLP | {"optimizer": "adamw", "weight_decay": 0.3},
    "mlp with rmsprop": MLP | {"optimizer": "rmsprop", "lr": 1e-3},
    "mlp with rmsprop and momentum": MLP | RMSPROP,
    "mlp with momentum": MLP | SGD | MOMENTUM,
    "mlp with momentum from new at each task": MLP | SGD | MOMENTUM | {"optimizer_state": "reset"},
    "mlp with momentum beside a vae without": MLP
    | SGD
    | MOMENTUM
    | {"generator_optimizer": "adam"},
    "mlp beside a vae with momentum": MLP
    | MOMENTUM
    | {"generator_optimizer": "rmsprop", "generator_lr": 1e-4},
    "mlp with clipping": MLP | {"clip_norm": 0.5},
    "mlp with clipping, momentum and weight decay": MLP
    | SGD
    | MOMENTUM
    | {"clip_norm": 0.3, "weight_decay": 0.1, "generator_lr": 1e-3},
    "mlp with clipping, frozen": SIMPLE
    | {"clip_norm": 0.1, "freeze_encoder": True, "class_decoder_widths": (9,)}
    | SGD,
    "mlp with a cosine": MLP | COSINE,
    "mlp with smoothed labels": MLP | SMOOTH,
    "mlp with smoothed labels of sums, frozen": MLP
    | SMOOTH
    | {"reduction": "sum", "freeze_encoder": True},
    "mlp with dropout": MLP | DROPOUT,
    "mlp with dropout, rests of batches": MLP | DROPOUT | UNEVEN | NORMAL,
    "mlp with dropout, frozen": SIMPLE
    | DROPOUT
    | {"freeze_encoder": True, "class_decoder_widths": (9,)},
    "mlp with dropout and averaged weights": SIMPLE | DROPOUT | {"ema_decay": 0.9},
    "mlp with dropout and herding by its encoder": SIMPLE
    | DROPOUT
    | {"selection": "herding", "selection_features": "encoder"},
    "mlp with dropout and interfered replay": SIMPLE | MIR | DROPOUT | {"nonlinearity": "elu"},
    "mlp with dropout and labels of each task's classifier": MLP
    | DROPOUT
    | {"labeler": "per_task", "nonlinearity": "sigmoid"},
    "mlp with interfered replay, smoothed labels": SIMPLE | MIR | SMOOTH,
    "mlp with interfered replay, a cosine and clipping": SIMPLE
    | MIR
    | COSINE
    | {"clip_norm": 0.5, "momentum": 0.9, "optimizer": "sgd", "lr": 0.05},
    "mlp that resets its optimiser": MLP | {"optimizer_state": "reset"},
    "mlp frozen": MLP | {"freeze_encoder": True},
    "mlp with layers behind the frozen ones": MLP
    | {"freeze_encoder": True, "class_decoder_widths": (9, 7), "nonlinearity": "leaky_relu"},
    "mlp without hidden layers": MLP | {"encoder_widths": ()},
    "mlp normalised": MLP | NORMAL,
    "mlp with rests of batches": MLP | UNEVEN,
    "mlp on split digits": MLP | SPLIT | {"n_tasks": 5},
    "mlp on shuffled split digits": MLP | SPLIT | {"shuffle_tasks": True},
    "mlp on few samples of each task": MLP | {"task_samples": 120},
    "mlp with averaged weights": MLP | {"ema_decay": 0.9},
    "mlp with a falling learning rate": MLP | FALLING_LR,
    "mlp with a falling weight of replay": MLP | FALLING_REPLAY,
    "mlp where each task counts the same": MLP | {"replay_schedule": "1-1/t"},
    "mlp with generated replay in all": MLP | TOTAL,
    "mlp with hard labels": MLP | {"replay_labels": "hard"},
    "mlp with soft labels at a temperature": MLP | {"label_temperature": 2.0},
    "mlp with labels of each task's classifier": MLP | {"labeler": "per_task"},
    "mlp with labels kept": MLP | KEPT,
    "mlp with labels kept in all": MLP | KEPT | TOTAL,
    "mlp with a vae of other epochs": MLP | {"generator_epochs": 3},
    "mlp with a vae's own optimiser": MLP | OWN_OPTIMISER,
    "mlp with interfered generated replay": MLP | MIR,
    "mlp with simple replay": SIMPLE,
    "mlp with simple replay in all": SIMPLE | TOTAL | {"n_replay": 71},
    "mlp with a reservoir": SIMPLE | {"selection": "reservoir"},
    "mlp with rings": SIMPLE | {"selection": "ring", "batch_size": 60},
    "mlp with balanced classes in all": SIMPLE | TOTAL | {"selection": "class_balanced"},
    "mlp with herding by its encoder": SIMPLE
    | {"selection": "herding", "selection_features": "encoder"},
    "mlp with mean images": SIMPLE | TOTAL | {"selection": "kmeans_centroids"},
    "mlp with more room than samples": SIMPLE | TOTAL | {"n_replay": 900, "task_samples": 200},
    "mlp with a buffer smaller than a batch": MLP | {"n_replay": 20},
    "mlp with one sample a batch": SIMPLE | {"batch_size": 1, "task_samples": 30, "n_replay": 10},
    "mlp with interfered replay": SIMPLE | MIR,
    "mlp with interfered replay, all rests": SIMPLE | MIR | {"batch_size": 28, "drop_last": False},
    "mlp with interfered replay and averaged weights": SIMPLE | MIR | {"ema_decay": 0.9},
    "mlp with interfered replay, normalised": SIMPLE | MIR | NORMAL,
    "mlp with interfered replay, frozen": SIMPLE
    | MIR
    | {"freeze_encoder": True, "class_decoder_widths": (9,)},
    "mlp with interfered replay, falling learning rate": SIMPLE | MIR | FALLING_LR,
    "mlp with interfered replay of sums": SIMPLE | MIR | {"reduction": "sum", "weight_decay": 0.1},
    "mlp with a continual vae": CONTINUAL,
    "continual vae with more replay of its own": CONTINUAL | {"generator_replay_weight": 0.8},
    "continual vae for each task's budget": CONTINUAL | PER_TASK,
    "continual vae with labels kept": CONTINUAL | KEPT,
    "continual vae with its own optimiser": CONTINUAL | OWN_OPTIMISER | {"generator_epochs": 3},
    "continual vae with adagrad": CONTINUAL | {"generator_optimizer": "adagrad"},
    "continual vae with momentum and clipping": CONTINUAL
    | MOMENTUM
    | {"generator_optimizer": "sgd", "generator_lr": 1e-3, "clip_norm": 50.0},
    "continual vae with rmsprop": CONTINUAL | RMSPROP,
    "continual vae with adamw": CONTINUAL | {"generator_optimizer": "adamw", "weight_decay": 0.3},
    "continual vae with climbed samples and dropout": CONTINUAL | CLIMB | DROPOUT | SMOOTH,
    "continual vae with rests of batches": CONTINUAL | UNEVEN | NORMAL,
    "continual vae with climbed samples": CONTINUAL | CLIMB,
    "comparison of three tasks": COMPARISON,
    "comparison with softplus": COMPARISON | {"variance": "softplus", "eval_samples": 2},
    "comparison with means": COMPARISON | {"reduction": "mean"},
    "comparison with a continual vae": COMPARISON
    | {"generator": "continual", "freeze_encoder": True},
    "comparison with labels of each task's classifier": COMPARISON
    | {"labeler": "per_task", "label_temperature": 0.5, "normalize": True},
    "comparison with labels kept": COMPARISON | KEPT | TOTAL | {"replay_labels": "hard"},
    "comparison with averaged weights": COMPARISON | {"ema_decay": 0.7, "eval_samples": 1},
    "comparison with dropout": COMPARISON | DROPOUT | {"variance": "softplus", "eval_samples": 2},
    "comparison with dropout, frozen": COMPARISON | DROPOUT | {"freeze_encoder": True},
    "comparison with dropout and interfered replay": COMPARISON | MIR | DROPOUT | SMOOTH,
    "comparison with rmsprop and a cosine": COMPARISON | RMSPROP | COSINE,
    "comparison with means of features": COMPARISON
    | {"replay": "simple", "selection": "mean_of_features", "selection_features": "encoder"},
    "comparison that replays alone": COMPARISON | {"replay_weight": 1.0},
    "comparison with interfered replay": COMPARISON | MIR | {"replay": "simple", "beta_2": 0.5},
    "comparison with interfered replay and softplus": COMPARISON
    | MIR
    | {"variance": "softplus", "normalize": True},
    "comparison with climbed samples": COMPARISON
    | CLIMB
    | {"generator": "continual", "freeze_encoder": True, "normalize": True},
    "vib of three tasks": VIB,
    "vib with beta_1 > 0": VIB | {"beta_1": 0.02},
    "vib with beta_1 > 0 and weight decay": VIB | {"beta_1": 0.02, "weight_decay": 0.1},
    "vib with beta_1 = 0": VIB | {"beta_1": 0.0, "weight_decay": 0.1},
    "vib with simple replay": VIB | {"replay": "simple"} | TOTAL,
    "vib that keeps its optimiser": VIB | {"optimizer_state": "keep"},
    "vib frozen": VIB | {"freeze_encoder": True},
    "vib with means": VIB | {"reduction": "mean"},
    "vib with sgd and a falling learning rate": VIB | FALLING_LR | {"optimizer": "sgd", "lr": 3e-4},
    "vib with softplus": VIB | {"variance": "softplus"},
    "vib with dropout": VIB | DROPOUT,
    "vib with dropout, means and leaky_relu": VIB
    | DROPOUT
    | {"reduction": "mean", "nonlinearity": "leaky_relu"},
    "vib with dropout and interfered replay, frozen": VIB
    | MIR
    | DROPOUT
    | {"freeze_encoder": True},
    "vib with dropout and climbed samples": VIB | CLIMB | DROPOUT,
    "vib with smoothed labels and a cosine": VIB | SMOOTH | COSINE,
    "vib with adamw kept": VIB
    | {"optimizer": "adamw", "weight_decay": 0.5, "optimizer_state": "keep"},
    "vib with momentum kept, clipping": VIB
    | MOMENTUM
    | {"optimizer": "sgd", "lr": 1e-3, "clip_norm": 50.0, "optimizer_state": "keep"},
    "vib for each task's budget": VIB | PER_TASK | {"label_temperature": 3.0},
    "vib with labels kept": VIB | KEPT,
    "vib with labels kept for each task": VIB | KEPT | PER_TASK | {"replay_labels": "hard"},
    "vib with averaged weights": VIB | {"ema_decay": 0.5, "eval_samples": 3},
    "vib with rests of batches, normalised": VIB | UNEVEN | NORMAL,
    "vib with interfered replay": VIB | MIR | {"beta_1": -0.5},
    "vib with interfered replay and KL alone": VIB | MIR | {"beta_1": 0.3},
    "vib with interfered replay, frozen": VIB | MIR | {"freeze_encoder": True, "reduction": "mean"},
    "vib with climbed samples": VIB | CLIMB | {"mir_steps": 2},
    "vib with climbed samples, uneven": VIB | CLIMB | NORMAL | UNEVEN,
    "vib of two tasks, climbed samples": CLIMB | {"model": "vib", "variance": "softplus"},
    "vib on split digits": VIB | SPLIT | {"drop_last": False},
    "vib of two tasks, continual": TWO_VIB,
    "vib of two tasks, each task's labels": TWO_VIB | {"labeler": "per_task", "n_replay": 60},
    "one vib": {"experiment": "vib"},
    "one vib with sampled evaluation": {"experiment": "vib", "eval_samples": 2},
    "one vib with softplus and means": {"experiment": "vib", "variance": "softplus"}
    | {"reduction": "mean", "ema_decay": 0.9},
    "one vib on few samples": {"experiment": "vib", "task_samples": 130, "drop_last": False},
    "joint mlp": JOINT,
    "joint mlp on split digits": JOINT | SPLIT | {"n_tasks": 5},
    "joint mlp with rests of batches": JOINT | UNEVEN | {"task_samples": 110, "normalize": True},
    "joint mlp with averaged weights": JOINT | {"ema_decay": 0.9} | FALLING_LR,
    "joint mlp with dropout and smoothed labels": JOINT | DROPOUT | SMOOTH | COSINE,
    "joint vib with dropout and rmsprop": JOINT | DROPOUT | RMSPROP | {"model": "vib"},
    "joint comparison": JOINT | {"model": "comparison", "eval_samples": 2},
    "joint vib": JOINT | {"model": "vib"},
    "joint vib with means": JOINT | {"model": "vib", "reduction": "mean", "eval_samples": 1},
}


@pytest.fixture(scope="module")
def smaller(source: Source, cut: Callable[..., Source]) -> Source:
    """Return 280 training and 200 test samples: rests of batches, and little to compute."""
    return cut(source, 280)


@pytest.fixture(scope="module")
def product(smaller: Source) -> Callable[[str], Trace]:
    """Return a function that runs the product on a case, once."""
    return cache(lambda name: run_product(configure(**CASES[name]), smaller))


@pytest.mark.parametrize("case", CASES)
def test_run_equals_the_plain_program(
    case: str, product: Callable[[str], Trace], smaller: Source
) -> None:
    assert_same(product(case), Experiment(configure(**CASES[case]), smaller).run())


def test_settings_of_the_cases_change_the_result(product: Callable[[str], Trace]) -> None:
    # Without this the comparison above could pass with a setting that neither program reads.
    cases: dict[tuple[float, ...], str] = {}
    for name in CASES:
        trace = product(name)
        last_row = list(trace.epochs.values())[-1]
        result = (last_row["loss"], *trace.matrix.values())
        assert cases.setdefault(result, name) == name
