"""Optuna's grid sampler: two processes with a journal, or two threads in one process."""

import json
import sys
from multiprocessing import Pool
from pathlib import Path

import optuna
import torch
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from benchmarks.peers.trainer import load, train


def work(n_threads: int) -> None:
    torch.set_num_threads(1)
    grid = json.loads(Path("grid.json").read_text())
    data = load()

    def objective(trial: optuna.Trial) -> float:
        settings = {name: trial.suggest_float(name, 0, 1e12) for name in grid}
        metrics = train(data, **settings)
        trial.set_user_attr("forgetting", metrics["forgetting"])
        return metrics["average_accuracy"]

    study = optuna.create_study(
        study_name="grid",
        storage=JournalStorage(JournalFileBackend("journal.log")),
        sampler=optuna.samplers.GridSampler(grid, seed=0),
        direction="maximize",
        load_if_exists=True,
    )
    study.optimize(objective, n_jobs=n_threads)


if __name__ == "__main__":
    if sys.argv[1] == "threads":
        work(n_threads=2)
    else:
        with Pool(2) as workers:
            workers.map(work, [1, 1])
    storage = JournalStorage(JournalFileBackend("journal.log"))
    study = optuna.load_study(study_name="grid", storage=storage)
    study.trials_dataframe().to_csv("table.csv")
