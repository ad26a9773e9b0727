"""Sweeps for the report's tests and benchmark: rows of real configurations, without training."""

import itertools
import math
import random
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from raysweep.learning.config import Config
from raysweep.tables.folder import ResultsFolder
from raysweep.tables.schemas import config_columns
from raysweep.tables.writer import Writer

BEGIN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def configs(n_lrs: int, n_betas: int, n_seeds: int) -> Iterator[Config]:
    """Yield a grid of learning rates, both betas, two kinds of replay, and seeds."""
    lrs = [round(1e-4 * 2**i, 6) for i in range(n_lrs)]
    betas = [round(-0.5 + 0.01 * i, 4) for i in range(n_betas)]
    others = [round(1e-3 * i, 4) for i in range(n_betas)]
    replays = ("none", "simple")
    for lr, beta_1, beta_2, replay, seed in itertools.product(
        lrs, betas, others, replays, range(n_seeds)
    ):
        yield Config(lr=lr, beta_1=beta_1, beta_2=beta_2, replay=replay, seed=seed)


def rows_of(
    config: Config, diverges: bool, n_epochs: int = 3
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return a row of ``trials`` and its rows of ``epochs``; numbers follow from the settings."""
    stream = random.Random(config.id)
    level = 0.9 - 0.05 * abs(math.log10(config.lr) + 3) - 0.3 * abs(config.beta_1 + 0.4)
    level += 0.05 * (config.replay == "simple") + stream.uniform(-0.01, 0.01)
    common = {
        **config_columns(config),
        "duration_s": stream.uniform(1, 3),
        "started_at": BEGIN,
        "ended_at": BEGIN + timedelta(seconds=stream.uniform(10, 60)),
        "host": "node-1",
        "device": "cpu",
        "attempt": 1,
    }
    epochs = []
    for task, epoch in itertools.product((1, 2), range(1, n_epochs + 1)):
        if diverges and epoch > 1:
            break
        accuracy = None if diverges else level - 0.2 / epoch
        epochs.append(
            {
                "config_id": config.id,
                "stage": f"train_task_{task}",
                "task": task,
                "epoch": epoch,
                "test_accuracy": accuracy,
                "loss": None if diverges else 1 / epoch,
                "duration_s": 0.1,
            }
        )
        if diverges:
            break
    if diverges:
        gone = {"diverged_stage": "train_task_1", "diverged_epoch": 1, "diverged_step": 7}
        return {**common, "status": "diverged", **gone}, epochs
    metrics = {
        "average_accuracy": level,
        "forgetting": 0.3 * (config.replay == "none") + stream.uniform(0, 0.05),
        "last_task_accuracy": level + 0.01,
        "reconstruction_loss": 100 + 50 * config.beta_1,
    }
    return {**common, "status": "finished", **metrics}, epochs


def write_sweep(
    folder: Path, made: Sequence[tuple[dict[str, Any], list[dict[str, Any]]]], is_over: bool = True
) -> Path:
    """Write rows as a driver does; folded, with the end of its run, if ``is_over``."""
    results = ResultsFolder(folder)
    results.open()
    writer = Writer(results)
    writer.add("trials", [trial for trial, _ in made])
    writer.add("epochs", [row for _, epochs in made for row in epochs])
    results.write_text("sweep.yaml", "experiment: replay_vib\n")
    command = ["python", "-m", "raysweep.tune", "search spaces/demo.yaml", "--fresh"]
    run: dict[str, Any] = {
        "command": command,
        "start": BEGIN.isoformat(),
        "end": None,
        "driver": "laptop",
        "versions": {"torch": "2.0"},
        "git": {"commit": "0123abc", "is_dirty": False},
    }
    writer.flush()
    if is_over:
        writer.fold()
        run |= {"end": BEGIN.isoformat(), "counts": {"finished": len(made)}}
    results.add_run(run)
    results.close()
    return folder
