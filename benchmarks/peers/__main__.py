"""Measure and print all figures; ``benchmarks/peers/__init__.py`` says how."""

import argparse
import math
import sys
import tempfile
from collections import Counter
from importlib.metadata import distributions
from pathlib import Path
from statistics import fmean

import benchmarks.peers
from benchmarks.figures import Table
from benchmarks.peers.measured import Ended, run
from benchmarks.peers.tools import HERE, TOOLS, Grid, Tool, count_lines
from benchmarks.peers.trainer import EPOCHS, N_TASKS
from benchmarks.sweeps import ROOT

GRID: Grid = {
    "lr": [0.0003, 0.001, 0.003, 0.01, 0.03, 0.1],
    "replay_weight": [0.2, 0.4, 0.6, 0.8],
}
NO_SHARED_STAGE: Grid = {
    "lr": [round(0.0003 * 300 ** (k / 23), 8) for k in range(24)],
    "replay_weight": [0.4],
}
LARGE_LR = [round(0.0003 * 300 ** (k / 95), 8) for k in range(96)]
LARGE: Grid = {**NO_SHARED_STAGE, "replay_weight": GRID["replay_weight"]}
GROWN: Grid = {**GRID, "lr": [*GRID["lr"], 0.002]}
DIVERGING: Grid = {"lr": [0.001, 1e12], "replay_weight": [0.4, 0.8]}
FIRST: Grid = {"lr": [0.001], "replay_weight": [0.4]}
EACH = N_TASKS * EPOCHS
"""Epochs of a configuration."""


class Bench:
    """Runs of tools in folders below one."""

    def __init__(self, folder: Path, hydra: Path) -> None:
        self.folder = folder
        self.hydra = hydra
        self.n_runs = 0

    def new_folder(self, tool: Tool, grid: Grid) -> Path:
        """Make a folder with what the tool reads."""
        self.n_runs += 1
        folder = self.folder / str(self.n_runs)
        tool.prepare(folder, grid)
        return folder

    def run(
        self,
        tool: Tool,
        grid: Grid,
        folder: Path,
        *,
        stop_at: int | None = None,
        is_gentle: bool = False,
    ) -> Ended:
        """Run a tool; kill it, or if ``is_gentle`` interrupt it, at so many epochs."""
        words, paths = tool.command(grid), tool.paths(self.hydra)
        is_late = (lambda: n_epochs(folder).total() >= stop_at) if stop_at else None
        ended = run(words, folder, paths, stop_if=is_late, is_gentle=is_gentle)
        note = f"{tool.name}: {ended.wall_s:.1f} s, {ended.cpu_s:.1f} s of processors"
        print(f"{note}, exit code {ended.code}", file=sys.stderr, flush=True)
        return ended

    def whole(self, tool: Tool, grid: Grid) -> tuple[Ended, float]:
        """Run a tool on a grid from nothing; give the mean accuracy of its table, too."""
        folder = self.new_folder(tool, grid)
        ended = self.run(tool, grid, folder)
        rows, n = tool.rows(folder), math.prod(map(len, grid.values()))
        # Optuna's workers may train a point of the grid twice.
        if ended.code or len(rows) < n:
            raise RuntimeError(f"{tool.name}: {len(rows)} of {n} rows: {ended.output[-2000:]}")
        column = next(c for c in ("average_accuracy", "value") if c in rows)
        return ended, float(rows[column].mean())


def n_epochs(folder: Path) -> Counter[str]:
    """Count by configuration, task and epoch how often each was trained."""
    file = folder / "epochs.log"
    return Counter(file.read_text().splitlines() if file.exists() else [])


def name_of(line: str) -> str:
    """Name the configuration of a line of the log."""
    return line.rsplit(" ", 2)[0]


def complete(epochs: Counter[str]) -> set[str]:
    """Name the configurations all of whose epochs were trained."""
    counts = Counter(map(name_of, epochs))
    return {name for name, n in counts.items() if n == EACH}


def time_grids(table: Table, bench: Bench, tools: list[Tool], n_rounds: int) -> None:
    """Compare the time of the whole grid, tool by tool in turns."""
    ends: dict[str, list[Ended]] = {}
    accuracies: dict[str, float] = {}
    for i in range(n_rounds):
        turn = [(tool.name, tool, GRID) for tool in tools]
        turn.insert(1, ("raysweep, no stage in common", tools[0], NO_SHARED_STAGE))
        for name, tool, grid in turn[i % len(turn) :] + turn[: i % len(turn)]:
            ended, accuracies[name] = bench.whole(tool, grid)
            ends.setdefault(name, []).append(ended)
    for name, runs in ends.items():
        for what, unit in (("wall_s", "wall"), ("cpu_s", "processor time")):
            ours = [getattr(ended, what) for ended in ends["raysweep"]]
            theirs = [getattr(ended, what) for ended in runs]
            ratios = [their / our for their, our in zip(theirs, ours, strict=True)]
            more: dict[str, object] = {what: theirs, "ratios": ratios, "mean": fmean(ratios)}
            more["mean_accuracy"] = accuracies[name]
            table.add(f"{unit}, {name} to raysweep", ratios, None, "higher", unit="ratio", **more)


def time_first_rows(table: Table, bench: Bench, tools: list[Tool], n_rounds: int) -> None:
    """Time a command of one configuration."""
    ends: dict[str, list[Ended]] = {}
    for _ in range(n_rounds):
        for tool in tools:
            ends.setdefault(tool.name, []).append(bench.whole(tool, FIRST)[0])
    for name, runs in ends.items():
        walls, cpus = [ended.wall_s for ended in runs], [ended.cpu_s for ended in runs]
        table.add(f"one configuration, {name}", walls, None, "lower", unit="s", cpu_s=cpus)


def time_large_grids(table: Table, bench: Bench, tools: list[Tool], n_rounds: int) -> None:
    """Time raysweep on four times as many configurations."""
    for grid in (LARGE, {**NO_SHARED_STAGE, "lr": LARGE_LR}):
        runs = [bench.whole(tools[0], grid)[0] for _ in range(n_rounds)]
        n = math.prod(map(len, grid.values()))
        what = "" if grid is LARGE else ", no stage in common"
        walls, cpus = [ended.wall_s for ended in runs], [ended.cpu_s for ended in runs]
        name = f"{n} configurations, raysweep{what}"
        table.add(name, walls, None, "lower", unit="s", cpu_s=cpus)


def count_again(table: Table, bench: Bench, tool: Tool) -> None:
    """Kill a command half-way and run it again, and interrupt another; then grow its grid."""
    n = math.prod(map(len, GRID.values()))
    for how, is_gentle in (("ctrl-c", True), ("a kill", False)):
        folder = bench.new_folder(tool, GRID)
        bench.run(tool, GRID, folder, stop_at=n * EACH // 2, is_gentle=is_gentle)
        before = n_epochs(folder)
        bench.run(tool, GRID, folder)
        after = n_epochs(folder)
        finished = complete(before)
        again = {name_of(line) for line, count in after.items() if count > before[line] > 0}
        table.add(
            f"epochs trained twice after {how}, {tool.name}",
            [after.total() - len(after)],
            None,
            "lower",
            unit="epochs",
            n_epochs=n * EACH,
            n_epochs_at_end=before.total(),
            n_configs_finished=len(finished),
            n_configs_finished_then_trained_again=len(finished & again),
            n_rows=len(tool.rows(folder)),
            n_rows_wanted=n,
        )
    tool.prepare(folder, GROWN)
    ended = bench.run(tool, GROWN, folder)
    grown = n_epochs(folder)
    n_new = math.prod(map(len, GROWN.values())) - n
    table.add(
        f"configurations trained after {n_new} were added to {n}, {tool.name}",
        [(grown.total() - after.total()) / EACH],
        None,
        "lower",
        unit="configurations",
        n_new=n_new,
        n_new_trained=len(complete(grown) - complete(after)),
        n_rows=len(tool.rows(folder)),
        exit_code=ended.code,
        output_end=ended.output[-300:],
    )


def diverge(table: Table, bench: Bench, tool: Tool) -> None:
    """Count the rows of a grid half of which diverges."""
    folder = bench.new_folder(tool, DIVERGING)
    ended = bench.run(tool, DIVERGING, folder)
    rows = tool.rows(folder)
    table.add(
        f"rows of 4 configurations of which 2 diverge, {tool.name}",
        [len(rows)],
        None,
        "higher",
        unit="rows",
        exit_code=ended.code,
        states=sorted(map(str, rows.get("status", rows.get("state", [])))),
        output_end=ended.output[-300:],
    )


def main() -> int:
    """Measure and print all figures."""
    description = str(benchmarks.peers.__doc__).splitlines()[0]
    parser = argparse.ArgumentParser("benchmarks.peers", description=description)
    parser.add_argument("--rounds", type=int, default=3, help="of the grid (3)")
    parser.add_argument("--first-rows", type=int, default=3, help="of one configuration (3)")
    parser.add_argument("--large", type=int, default=3, help="of raysweep's 96 configurations (3)")
    parser.add_argument("--hydra", type=Path, default=ROOT / "build" / "hydra")
    parser.add_argument("--tools", nargs="*", metavar="NAME", help="these and raysweep (all)")
    parser.add_argument("--no-faults", action="store_true", help="times only")
    arguments = parser.parse_args()
    names = [tool.name for tool in TOOLS]
    if unknown := set(arguments.tools or ()) - set(names):
        parser.error(f"expected tools of: {', '.join(names)}; got {', '.join(sorted(unknown))}")
    tools = [t for t in TOOLS if not arguments.tools or t.name in arguments.tools or not t.files]
    if not (arguments.hydra / "hydra").is_dir():
        print(f"no Hydra in {arguments.hydra}: left out", file=sys.stderr)
        tools = [tool for tool in tools if not tool.joins_grid]
    found = {d.name: d.version for d in distributions(path=[str(arguments.hydra), *sys.path])}
    packages = ("ray", "optuna", "hydra-core", "hydra-joblib-launcher", "joblib", "wandb", "torch")
    table = Table()
    trainer_lines = count_lines((HERE / "trainer.py").read_text())
    for tool in tools:
        table.add(f"lines of code, {tool.name}", [tool.n_lines()], None, "lower", unit="lines",
                  trainer=trainer_lines if tool.files else 0,
                  packages={name: found.get(name) for name in packages})  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="peers-") as name:
        bench = Bench(Path(name), arguments.hydra.resolve())
        if arguments.rounds:
            time_grids(table, bench, tools, arguments.rounds)
        if arguments.first_rows:
            time_first_rows(table, bench, tools, arguments.first_rows)
        if arguments.large:
            time_large_grids(table, bench, tools, arguments.large)
        if not arguments.no_faults:
            for tool in tools:
                diverge(table, bench, tool)
                count_again(table, bench, tool)
    return table.close()


if __name__ == "__main__":
    sys.exit(main())
