"""The same loop over a pool of two processes."""

import itertools
import json
from multiprocessing import Pool
from pathlib import Path

import pandas as pd
import torch

from benchmarks.peers.trainer import Data, load, train

data: Data = {}


def prepare() -> None:
    torch.set_num_threads(1)
    data.update(load())


def work(settings: dict[str, float]) -> dict[str, float]:
    return settings | train(data, **settings)


if __name__ == "__main__":
    grid = json.loads(Path("grid.json").read_text())
    configs = [dict(zip(grid, v, strict=True)) for v in itertools.product(*grid.values())]
    with Pool(2, prepare) as workers:
        rows = list(workers.imap_unordered(work, configs))
    pd.DataFrame(rows).to_csv("table.csv")
