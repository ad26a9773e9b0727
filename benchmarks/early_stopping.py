"""Benchmark of early stopping: the cost of finding a grid's best when lagging lanes stop."""

from argparse import Namespace
from pathlib import Path

import pandas as pd

from benchmarks.figures import Table
from benchmarks.search_spaces import METRIC
from benchmarks.sweeps import SweepRun, run_command, write_space
from raysweep.learning.stage_graph import stages_of
from raysweep.tables.reader import read_epochs, read_trials
from raysweep.tables.schemas import config_of

SPACE = {
    "n_bottleneck": 16,
    "encoder_widths": [100],
    "rec_decoder_widths": [100],
    "lr": {"grid_search": [1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2]},
    "beta_1": {"grid_search": [-0.1, -0.01, 0.0, 0.1]},
    "beta_2": {"grid_search": [0.0, 1e-3, 1e-2, 0.1, 1.0]},
    "replay": {"grid_search": ["none", "simple"]},
    "n_replay": 500,
}
N_CONFIGS = 240
TRAINING = {"epochs": 9, "batch_size": 100}
RULES = {
    "asha": {"method": "asha", "grace_period": 1, "reduction_factor": 4},
    "hyperband": {"method": "hyperband", "grace_period": 1, "reduction_factor": 4, "brackets": 2},
    "median": {"method": "median", "grace_period": 1},
}
SHARE_GOAL, MARGIN = 1 / 3, 0.005
_VALUES = ("loss", "class_loss", "kl_loss", "rec_loss", "train_accuracy", "test_accuracy")


def early_stopping(table: Table, folder: Path, arguments: Namespace) -> None:
    """Run a full grid and one with each rule; compare the best, the epochs and every number."""
    for seed in range(arguments.grids):
        whole = _run(folder, "grid", seed, None)
        for name, rule in RULES.items():
            goal = (SHARE_GOAL, MARGIN) if name == "asha" else (None, None)
            _compare(table, name, whole, _run(folder, name, seed, rule), seed, goal)


def _run(folder: Path, name: str, seed: int, rule: dict[str, object] | None) -> SweepRun:
    more = {"early_stopping": rule} if rule else {}
    file = write_space(
        folder / f"{name}_{seed}.yaml", SPACE, training=TRAINING, seeds=[seed], **more
    )
    return run_command(file, n_configs=N_CONFIGS, may_diverge=True)


def _compare(
    table: Table,
    name: str,
    whole: SweepRun,
    early: SweepRun,
    seed: int,
    goal: tuple[float | None, float | None],
) -> None:
    grid, trials = read_trials(whole.folder), read_trials(early.folder)
    n_grid, n_early = _epochs(whole.folder, grid), _epochs(early.folder, trials)
    best, found = float(grid[METRIC].max()), float(trials[METRIC].max())
    more: dict[str, object] = {
        "rule": RULES[name],
        "seed": seed,
        "n_configs": len(grid),
        "statuses": trials["status"].value_counts().to_dict(),
    }
    share = n_early["configurations"] / n_grid["configurations"]
    table.add(
        f"{name}, epochs to the grid's",
        [share],
        goal[0],
        "lower",
        unit="ratio",
        epochs={"grid": n_grid, name: n_early},
        trained=n_early["trained"] / n_grid["trained"],
        **more,
    )
    table.add(
        f"{name}, the grid's best less its own",
        [best - found],
        goal[1],
        "lower",
        unit="accuracy",
        best=best,
        **more,
    )
    n_unequal = _unequal(whole.folder, early.folder, grid, trials)
    table.add(f"{name}, numbers unlike the grid's", [n_unequal], 0, "lower", unit="numbers", **more)
    walls = {"grid": whole.wall_s, name: early.wall_s}
    ratio = whole.wall_s / early.wall_s
    table.add(
        f"{name}, wall of the grid to its own", [ratio], None, "higher", unit="ratio", **walls
    )


def _epochs(folder: Path, trials: pd.DataFrame) -> dict[str, int]:
    """Count epochs by configuration, and as trained, where shared epochs count once."""
    epochs = read_epochs(folder)
    stages = {
        (row["config_id"], stage.name): stage.fingerprint
        for _, row in trials.iterrows()
        for stage in stages_of(config_of(row))
    }
    keys = zip(epochs["config_id"], epochs["stage"], epochs["epoch"], strict=True)
    trained = {(stages[config_id, stage], epoch) for config_id, stage, epoch in keys}
    return {"configurations": len(epochs), "trained": len(trained)}


def _unequal(whole: Path, early: Path, grid: pd.DataFrame, trials: pd.DataFrame) -> int:
    """Count the numbers of a sweep that differ from the full grid's, or are missing there."""
    key = ["config_id", "stage", "epoch"]
    ours, theirs = (read_epochs(f).set_index(key)[[*_VALUES]] for f in (early, whole))
    n_unequal = _differing(ours, theirs.reindex(ours.index))
    finished = trials[trials["status"] == "finished"].set_index("config_id")[[METRIC, "forgetting"]]
    other = grid.set_index("config_id").reindex(finished.index)[[METRIC, "forgetting"]]
    return n_unequal + _differing(finished, other)


def _differing(ours: pd.DataFrame, theirs: pd.DataFrame) -> int:
    return int(((ours != theirs) & ~(ours.isna() & theirs.isna())).to_numpy().sum())
