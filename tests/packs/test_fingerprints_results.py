"""Equal fingerprints are equal results: stages are run, alone, and compared bit by bit.

A setting that matters and is missing from a fingerprint would serve a wrong number.
"""

import hashlib
from collections.abc import Iterator
from typing import Any

import pytest

from raysweep.errors import InputError
from raysweep.learning.config import Config
from raysweep.learning.data.sources import Source
from raysweep.learning.stage_graph import stages_of
from raysweep.packs.run import PackRun
from tests.draws import draw_of, some_of

TINY: dict[str, Any] = {
    "n_bottleneck": 3,
    "encoder_widths": (6, 5),
    "rec_decoder_widths": (7, 4),
    "epochs": 2,
    "batch_size": 20,
    "task_samples": 75,
    "n_replay": 40,
    "n_candidates": 30,
    "mir_steps": 2,
    "lr": 1e-2,
    "beta_1": -0.02,
    "beta_2": 0.01,
    "eval_samples": 1,
    "seed": 3,
}
"""A base where each setting below can change something; a last batch is not full."""

CHANGES: dict[str, list[Any]] = {
    "tasks": ["split_mnist"],
    "n_tasks": [4],
    "task_samples": [65],
    "normalize": [True],
    "shuffle_tasks": [True],
    "first_task_identity": [True],
    "drop_last": [False],
    "epochs": [3],
    "generator_epochs": [1],
    "batch_size": [30],
    "eval_samples": [0, 2],
    "reduction": ["sum", "mean"],
    "label_smoothing": [0.2],
    "ema_decay": [0.9],
    "n_bottleneck": [4],
    "encoder_widths": [(6,)],
    "class_decoder_widths": [(4,)],
    "rec_decoder_widths": [(7,)],
    "nonlinearity": ["tanh"],
    "dropout": [0.3],
    "variance": ["softplus"],
    "optimizer": ["sgd", "adamw", "rmsprop"],
    "lr": [2e-2],
    "lr_schedule": ["exponential", "cosine"],
    "lr_decay": [0.5],
    "weight_decay": [0.1],
    "momentum": [0.5],
    "clip_norm": [0.5],
    "optimizer_state": ["reset", "keep"],
    "beta_1": [-1.0, 0.0, 0.5],
    "beta_2": [0.5],
    "replay": ["none", "simple", "generative"],
    "n_replay": [50],
    "n_replay_scope": ["total", "per_task"],
    "selection": ["random", "reservoir", "ring", "class_balanced", "herding", "kmeans"],
    "selection_features": ["encoder"],
    "retrieval": ["cycle", "mir", "generative_mir"],
    "n_candidates": [25],
    "mir_steps": [1],
    "mir_interference": [1.0],
    "mir_entropy": [0.5],
    "mir_shell": [0.5],
    "replay_weight": [0.25],
    "replay_schedule": ["exponential", "1-1/t"],
    "replay_decay": [0.5],
    "replay_labels": ["hard"],
    "label_temperature": [3.0],
    "labeler": ["per_task", "at_generation"],
    "generator": ["per_task", "continual"],
    "generator_optimizer": ["adagrad", "rmsprop"],
    "generator_lr": [3e-2],
    "generator_replay_weight": [0.25],
    "freeze_encoder": [True],
    "loss_above": [1e5],
    "loss_factor": [1.5],
    "loss_patience": [3],
    "seed": [4],
}
NOT_CHANGED = {"experiment", "model", "source", "tf32"}
"""Each base has its own; tf32 changes nothing on a CPU."""

MLP, VIB, COMPARISON = {"experiment": "replay"}, {"model": "vib"}, {"model": "comparison"}
BASES: dict[str, dict[str, Any]] = {
    "joint mlp": {"experiment": "joint", "n_tasks": 3},
    "joint vib": {"experiment": "joint", "model": "vib", "n_tasks": 2},
    "vib, rmsprop": {"experiment": "vib", "optimizer": "rmsprop", "lr": 1e-3},
    "mlp, reservoir, mir": MLP
    | {"n_tasks": 3, "replay": "simple", "selection": "reservoir", "retrieval": "mir"},
    "vib, herding by encoder": VIB
    | {"n_tasks": 3, "replay": "simple", "selection": "herding", "selection_features": "encoder"},
    "mlp with sgd, VAE a task with adam": MLP
    | {"n_tasks": 3, "optimizer": "sgd", "generator_optimizer": "adam"},
    "comparison, continual VAE, generative MIR": COMPARISON
    | {"n_tasks": 3, "generator": "continual", "retrieval": "generative_mir"}
    | {"generator_optimizer": "rmsprop", "generator_lr": 1e-3},
    "vib, frozen decoder": VIB | {"n_tasks": 2, "freeze_encoder": True},
    "vib, continual decoder": VIB | {"n_tasks": 3, "replay_schedule": "exponential"},
}
QUICK = ("joint vib", "vib, rmsprop")
"""Bases that are tried by `bin/test --fast`, too."""


def varied(base: dict[str, Any], n_random: int = 12) -> Iterator[Config]:
    """Return the base, each change of it alone, and some of several changes at once."""
    settings: list[dict[str, Any]] = [{}]
    settings += [{name: value} for name, values in CHANGES.items() for value in values]
    for key in (f"{base}/{number}" for number in range(n_random)):
        names = some_of(CHANGES, 3, key)
        settings.append({name: draw_of(key, name).choice(CHANGES[name]) for name in names})
    seen = set()
    for changes in settings:
        try:
            config = Config.model_validate(TINY | base | changes)
        except InputError:
            continue
        # Not by id: a setting that should not apply is tried, too.
        if (values := config.model_dump_json()) not in seen:
            seen.add(values)
            yield config


class KeepingRun(PackRun):
    """A run that forgets no model and no buffer."""

    def _release(self) -> None:
        pass


def outcomes(config: Config, source: Source) -> dict[str, str]:
    """Run a configuration alone; digest by fingerprint all that a stage gives."""
    run = KeepingRun([config], source)
    given: dict[str, list[Any]] = {stage.name: [] for stage in stages_of(config)}
    places = {
        0: stages_of(config)[0].name,
        **{stage.task: stage.name for stage in stages_of(config) if stage.is_classifier},
    }
    while not run.is_done:
        report = run.advance()
        for row in report.epochs:
            kept = {k: v for k, v in row.items() if k not in ("config_id", "duration_s")}
            given[row["stage"]].append(sorted(kept.items()))
        for row in report.accuracy:
            given[places[row["after_task"]]].append((row["on_task"], row["accuracy"]))
        assert all(row["status"] == "finished" for row in report.trials)
    digests = {}
    for stage in stages_of(config):
        digest = hashlib.sha256(repr(given[stage.name]).encode())
        model, buffer = run._models.get(stage.fingerprint), run._buffers.get(stage.fingerprint)
        tensors = dict(model.parameters) if model else buffer.tensors() if buffer else {}
        assert tensors
        for name, tensor in sorted(tensors.items()):
            digest.update(f"{name}{tuple(tensor.shape)}".encode())
            digest.update(tensor.contiguous().numpy().tobytes())
        digests[stage.fingerprint] = digest.hexdigest()
    return digests


def test_every_setting_is_changed() -> None:
    assert set(CHANGES) | NOT_CHANGED == set(Config.model_fields)


@pytest.mark.parametrize(
    "name",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in BASES],
)
def test_stages_of_one_fingerprint_give_the_same_bits(name: str, small: Source) -> None:
    found: dict[str, tuple[str, Config]] = {}
    n_shared = 0
    for config in varied(BASES[name]):
        for fingerprint, digest in outcomes(config, small).items():
            if fingerprint in found:
                n_shared += 1
                other, other_config = found[fingerprint]
                differs = {
                    field
                    for field in Config.model_fields
                    if getattr(config, field) != getattr(other_config, field)
                }
                assert digest == other, differs
            found[fingerprint] = (digest, config)
    assert n_shared > 0
