"""A for-loop in one process."""

import itertools
import json
from pathlib import Path

import pandas as pd
import torch

from benchmarks.peers.trainer import load, train

if __name__ == "__main__":
    torch.set_num_threads(1)
    grid = json.loads(Path("grid.json").read_text())
    data = load()
    rows = []
    for values in itertools.product(*grid.values()):
        settings = dict(zip(grid, values, strict=True))
        rows.append(settings | train(data, **settings))
    pd.DataFrame(rows).to_csv("table.csv")
