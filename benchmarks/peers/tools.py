"""The tools that are compared: their commands, their code, and where their results are."""

import ast
import io
import json
import sys
import tokenize
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from benchmarks.peers.trainer import EPOCHS, N_REPLAY, WIDTH
from benchmarks.sweeps import ROOT
from raysweep.learning.data.sources import data_folder, load_source

HERE = Path(__file__).parent
Grid = dict[str, list[float]]
SPACE = {
    "experiment": "replay",
    "data": {"tasks": "perm_mnist", "n_tasks": 2, "source": "mnist_5k"},
    "training": {"epochs": EPOCHS},
}
SETTINGS = {"replay": "simple", "n_replay": N_REPLAY, "encoder_widths": [WIDTH, WIDTH]}


@dataclass(frozen=True)
class Tool:
    """One tool: its files in this folder, and the words after ``python FILE``."""

    name: str
    files: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    joins_grid: bool = field(default=False, kw_only=True)

    def prepare(self, folder: Path, grid: Grid) -> None:
        """Write what the tool reads; the data only once, so that a rerun finds its folder."""
        folder.mkdir(exist_ok=True)
        (folder / "grid.json").write_text(json.dumps(grid))
        space = {name: {"grid_search": values} for name, values in grid.items()}
        content = {**SPACE, "space": {**SETTINGS, **space}}
        (folder / "grid.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        if not (folder / "mnist_5k.npz").exists():
            source = load_source("mnist_5k", data_folder(None))
            arrays = {
                f"{letter}_{part}": np.asarray(getattr(source, f"{part}_{what}"))
                for part in ("train", "test")
                for letter, what in (("x", "images"), ("y", "labels"))
            }
            np.savez(folder / "mnist_5k.npz", **arrays)

    def command(self, grid: Grid) -> list[str]:
        """Return the command; it runs in the folder that was prepared."""
        if not self.files:
            return [sys.executable, "-m", "raysweep.tune", "grid.yaml"]
        overrides = [f"+{name}={','.join(map(str, values))}" for name, values in grid.items()]
        more = overrides if self.joins_grid else []
        return [sys.executable, str(HERE / self.files[0]), *self.words, *more]

    def paths(self, hydra: Path) -> list[Path]:
        """Return what goes on PYTHONPATH."""
        if self.joins_grid:
            return [hydra, ROOT]
        return [ROOT] if self.files else [HERE / "logged", ROOT]

    def n_lines(self) -> int:
        """Count the lines of code that a user of the tool writes, the trainer's left out."""
        return sum(count_lines((HERE / name).read_text()) for name in self.files) or n_yaml_lines()

    def rows(self, folder: Path) -> pd.DataFrame:
        """Read the table that the tool left; an empty one if there is none."""
        if not self.files:
            file = folder / "results" / "grid" / "trials.parquet"
            return pd.read_parquet(file) if file.exists() else pd.DataFrame()
        if self.joins_grid:
            files = (folder / "multirun").rglob("row.json")
            return pd.DataFrame([json.loads(file.read_text()) for file in files])
        file = folder / "table.csv"
        return pd.read_csv(file) if file.exists() else pd.DataFrame()


TOOLS = (
    Tool("raysweep"),
    Tool("for-loop", ("for_loop.py",)),
    Tool("pool of processes", ("pool.py",)),
    Tool("Ray Tune", ("ray_tune.py",)),
    Tool("Optuna, processes", ("optuna_grid.py",), ("processes",)),
    Tool("Optuna, threads", ("optuna_grid.py",), ("threads",)),
    Tool("Hydra, basic", ("hydra_app.py", "hydra_table.py"), ("--multirun",), joins_grid=True),
    Tool(
        "Hydra, joblib",
        ("hydra_app.py", "hydra_table.py"),
        ("--multirun", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"),
        joins_grid=True,
    ),
)


def n_yaml_lines() -> int:
    """Count the lines of the search space as a user writes it: a line a setting."""
    return len(SPACE) + 1 + len(SETTINGS) + 2


def count_lines(code: str) -> int:
    """Count lines that hold code: neither blank nor comment nor docstring."""
    skipped = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(code).readline):
        if token.type not in (*skipped, tokenize.ENDMARKER):
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            lines -= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(lines)
