"""``PackRun`` against a slow, plain program of the two-task experiment, written with torch.nn.

The other experiments, and what else can be set, are in ``test_reference_experiments``.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from plain_models import F64
from plain_program import Experiment
from plain_results import Trace
from reference_runs import assert_same, run_product
from small_configs import configure

from raysweep.learning.data.sources import Source
from raysweep.packs.run import PackRun

pytestmark = pytest.mark.slow

VIB = {"model": "vib", "beta_1": -0.02, "beta_2": 0.01}
COMPARISON = {"model": "comparison", "beta_2": 0.01}
CASES: dict[str, dict[str, Any]] = {
    "vib": VIB,
    "vib without reconstruction weight": VIB | {"beta_1": 0.0},
    "vib with beta_1 > 0": VIB | {"beta_1": 0.02},
    "vib with simple replay": VIB | {"replay": "simple"},
    "vib without replay": VIB | {"replay": "none"},
    "vib frozen": VIB | {"freeze_encoder": True},
    "vib with weight decay": VIB | {"weight_decay": 0.3},
    "vib with hard labels": VIB | {"replay_labels": "hard"},
    "vib that keeps its optimiser": VIB | {"optimizer_state": "keep"},
    "vib with adagrad": VIB | {"optimizer": "adagrad", "lr": 0.02, "weight_decay": 0.3},
    "vib with adagrad kept": VIB | {"optimizer": "adagrad", "optimizer_state": "keep"},
    "vib with sgd": VIB | {"optimizer": "sgd", "lr": 3e-4, "weight_decay": 0.3},
    "vib with adamw": VIB | {"optimizer": "adamw", "weight_decay": 0.3},
    "vib with rmsprop": VIB | {"optimizer": "rmsprop", "lr": 1e-3, "weight_decay": 0.3},
    "vib with momentum": VIB | {"optimizer": "sgd", "lr": 1e-4, "momentum": 0.9},
    "vib with momentum kept": VIB
    | {"optimizer": "rmsprop", "lr": 1e-3, "momentum": 0.8, "optimizer_state": "keep"},
    "vib with clipping": VIB | {"clip_norm": 20.0, "optimizer": "sgd", "lr": 1e-3},
    "vib with a cosine": VIB | {"lr_schedule": "cosine", "epochs": 3},
    "vib with smoothed labels": VIB | {"label_smoothing": 0.2},
    "vib with dropout": VIB | {"dropout": 0.3},
    "vib with a rest of a batch": VIB | {"batch_size": 64, "drop_last": False, "n_replay": 90},
    "vib that drops the rest": VIB | {"batch_size": 64, "n_replay": 30},
    "vib with sampled evaluation": VIB | {"eval_samples": 1},
    "vib normalised": VIB | {"normalize": True, "nonlinearity": "tanh", "eval_samples": 3},
    "vib on split digits": VIB | {"tasks": "split_mnist", "batch_size": 16, "drop_last": False},
    "vib with deep decoder": VIB | {"class_decoder_widths": (9,), "nonlinearity": "leaky_relu"},
    "comparison": COMPARISON,
    "comparison ignores beta_1": COMPARISON | {"beta_1": 0.5},
    "comparison with simple replay": COMPARISON | {"replay": "simple"},
    "comparison without replay": COMPARISON | {"replay": "none"},
    "comparison frozen": COMPARISON | {"freeze_encoder": True},
    "comparison with weight decay": COMPARISON | {"weight_decay": 0.3},
    "comparison with hard labels": COMPARISON | {"replay_labels": "hard"},
    "comparison that resets": COMPARISON | {"optimizer_state": "reset"},
    "comparison with sampled evaluation": COMPARISON | {"eval_samples": 2, "nonlinearity": "elu"},
    "comparison normalised": COMPARISON | {"normalize": True, "nonlinearity": "sigmoid"},
    "comparison with dropout": COMPARISON | {"dropout": 0.5, "eval_samples": 1},
    "comparison with all at once": COMPARISON
    | {"dropout": 0.1, "label_smoothing": 0.1, "lr_schedule": "cosine", "epochs": 3}
    | {"optimizer": "rmsprop", "momentum": 0.9, "clip_norm": 100.0, "lr": 1e-4},
    "comparison from unpermuted": COMPARISON | {"first_task_identity": True, "replay_weight": 1},
}


@pytest.fixture(scope="module")
def product(small: Source) -> Callable[[str], Trace]:
    """Return a function that runs the product on a case, once."""
    return cache(lambda name: run_product(configure(**CASES[name]), small))


@pytest.mark.parametrize("case", CASES)
def test_run_equals_the_plain_program(
    case: str, product: Callable[[str], Trace], small: Source
) -> None:
    expected, actual = Experiment(configure(**CASES[case]), small).run(), product(case)
    assert_same(actual, expected)


def test_settings_of_the_cases_change_the_result(product: Callable[[str], Trace]) -> None:
    # Without this the comparison above could pass with a setting that neither program reads.
    losses = {name: product(name).epochs["train_task_2", 2]["loss"] for name in CASES}
    assert losses.pop("comparison ignores beta_1") == losses["comparison"]
    assert losses.pop("vib with sampled evaluation") == losses["vib"]
    assert len(set(losses.values())) == len(losses)


def lone_peak(steps: dict[str, list[float]], stage: str) -> tuple[int, float] | None:
    """Return the step of a stage's largest loss and a threshold that no earlier loss passes.

    None where the peak is in the first epoch, or at an epoch's first step, or not the first.
    """
    losses = steps[stage]
    second, largest = sorted(losses)[-2:]
    threshold, step = (second + largest) / 2, losses.index(largest) + 1
    earlier = [x for name in list(steps)[: list(steps).index(stage)] for x in steps[name]]
    n_per_epoch = len(losses) // 2
    if step <= n_per_epoch + 1 or max(earlier, default=0.0) > threshold:
        return None
    return step, threshold


@pytest.mark.parametrize("stage", ["train_task_1", "train_generator_1", "train_task_2"])
def test_divergence_is_reported_at_the_step_whose_loss_passes_the_threshold(
    stage: str, small: Source
) -> None:
    # At a tiny learning rate the loss goes up and down with the batches. A threshold between a
    # stage's two largest losses is passed at one step, which the plain program knows.
    replay = "generative" if stage == "train_generator_1" else "simple"
    settings = COMPARISON | {"batch_size": 50, "lr": 1e-9, "replay": replay}
    for seed in range(30):
        steps = Experiment(configure(**settings, seed=seed), small).run().step_losses
        if peak := lone_peak(steps, stage):
            break
    assert peak is not None, "no seed has its largest loss inside the second epoch"
    step, threshold = peak
    limited = configure(**settings, seed=seed, loss_above=threshold)
    run, trials, epochs = PackRun([limited], small, dtype=F64), [], []
    while not run.is_done:
        report = run.advance()
        trials += report.trials
        epochs += report.epochs
    (trial,) = trials
    assert trial["status"] == "diverged"
    assert trial["diverged_stage"] == stage
    assert (trial["diverged_epoch"], trial["diverged_step"]) == (2, step)
    assert trial["last_finite_loss"] == pytest.approx(max(steps[stage]), rel=1e-9)
    assert (epochs[-1]["stage"], epochs[-1]["epoch"]) == (stage, 2)
    assert epochs[-1].get("loss") is None
