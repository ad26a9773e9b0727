"""Measure searches that learn: costs and gains of packs of suggestions, and recovery from kills.

    python -m benchmarks.search [PART ...] [--seeds N] [--configs N] [--repetitions N] ...

Parts, all by default:

- ``optuna``: the best accuracy of N configurations that Optuna's TPE suggests, in packs of 8 and
  one by one, paired by seed (of the search, of the data and of training). All run in processes of
  this benchmark with the command's own queue, searcher and trainer. One by one each suggestion
  knows of all before it, the strongest form. Packs as on two slots: two run and one waits, so 24
  or more suggestions have not been told when others are made; on one slot 16. No worse: the lower
  end of the 95 % interval (Student) of the mean difference is above -0.5 points. Random search is
  there to show that there is something to learn.
- ``wall``: the same search by the real command in fresh processes, ``pack: 8`` against ``pack: 1``,
  on the same slots, in alternating order; then as plain Ray Tune does it, a new actor for each
  trial, from a few trials. Wall is that of the whole command, the start of Ray included.
- ``early_stopping``: a grid of 240 configurations whole, and with each rule that stops lanes early:
  the share of epochs, the best, and every number that both have.
- ``kill``: a search whose driver is killed at a third of its rows and run again.

About ten minutes on two quiet cores. Figures are JSON lines on the standard output, a table goes to
the standard error; exit code 1 if a goal is missed.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean, median, stdev

from benchmarks.early_stopping import early_stopping
from benchmarks.figures import Table
from benchmarks.killed import kill
from benchmarks.mnist import be_a_worker
from benchmarks.search_spaces import METRIC, accuracy_with, search_file, search_here, space_in
from benchmarks.sweeps import ROOT, SweepRun, run_command
from raysweep.settings.sweep import load_sweep
from raysweep.tables.ranking import summarise
from raysweep.tables.reader import read_trials

PACK = 8
MARGIN, RATIO_GOAL = 0.005, 3.0
FORMS = {
    "packs on two slots": ("tpe", PACK, 3),
    "packs on one slot": ("tpe", PACK, 2),
    "one by one": ("tpe", 1, 1),
    "random": ("random", PACK, 3),
}
"""Sampler, configurations in a pack, packs that are asked for before the first is told."""
PAIRS = (
    ("packs on two slots", "one by one", -MARGIN),
    ("packs on one slot", "one by one", None),
    ("packs on two slots", "random", None),
)
"""What is compared, and the goal for the lower end of the interval."""
FRESH_SEEDS = range(1000, 1005)
_MARK = "seconds since the epoch: "


def optuna(table: Table, folder: Path, arguments: Namespace) -> None:
    """Compare the best of packs with the best of one by one, and with random search."""
    n = arguments.configs
    file = search_file(folder / "here.yaml", n_samples=n, pack=1)
    seeds = range(arguments.seeds)
    n_cores = len(os.sched_getaffinity(0))
    with ProcessPoolExecutor(n_cores, get_context("spawn"), be_a_worker) as pool:
        ends = list(pool.map(_search_each_form, repeat(file), seeds, repeat(n)))
    means = {form: fmean(end[form][0] for end in ends) for form in FORMS}
    spreads = {form: stdev([end[form][0] for end in ends]) for form in FORMS}
    for form, other, goal in PAIRS:
        for what, index in (("", 0), (" with fresh seeds", 1)):
            values = [end[form][index] - end[other][index] for end in ends]
            whole: dict[str, object] = {"n_configs": n, "differences": values}
            if not index:
                whole |= {"best": means, "best_sd": spreads}
            name = f"best{what}, {form} less {other}"
            _differences(table, name, values, None if index else goal, whole)


def _search_each_form(file: Path, seed: int, n_configs: int) -> dict[str, tuple[float, float]]:
    """Search in each form with one seed; return the best accuracy, and that with fresh seeds."""
    space = replace(space_in(file), seeds=(seed,))
    ends = {}
    for form, (sampler, pack, n_at_once) in FORMS.items():
        start = time.perf_counter()
        config, accuracy = search_here(space, sampler, seed, n_configs, pack, n_at_once).best
        ends[form] = accuracy, accuracy_with(config, FRESH_SEEDS)
        text = f"seed {seed}, {form}: {ends[form]} in {time.perf_counter() - start:.0f} s"
        print(text, file=sys.stderr, flush=True)
    return ends


def _differences(
    table: Table, name: str, values: list[float], goal: float | None, more: dict[str, object]
) -> None:
    """Print paired differences and the lower end of the interval of their mean."""
    mean, sd, half_width, n = summarise(values)
    ends = {"mean": mean, "sd": sd, "n_seeds": n}
    if half_width is not None:
        ends |= {"low": mean - half_width, "high": mean + half_width}
    table.add(name, values, None, "higher", unit="accuracy", **ends, **more)
    if half_width is not None:
        low = mean - half_width
        table.add(f"{name}, lower end", [low], goal, "higher", unit="accuracy", **ends)


def wall(table: Table, folder: Path, arguments: Namespace) -> None:
    """Compare the wall time of the command with packs and one by one."""
    n = arguments.configs
    starts = [_command(folder, 1, 1, seed) for seed in range(arguments.repetitions)]
    runs: dict[int, list[SweepRun]] = {1: [], PACK: []}
    loads = []
    for seed in range(arguments.repetitions):
        for pack in (1, PACK) if seed % 2 else (PACK, 1):
            runs[pack].append(_command(folder, n, pack, seed))
            loads.append(round(os.getloadavg()[0], 1))
    ones, packs = ([run.wall_s for run in runs[pack]] for pack in (1, PACK))
    start_s = median(run.wall_s for run in starts)
    common: dict[str, object] = {"n_configs": n, "load": loads, "start_s": start_s}
    common["slots"] = runs[PACK][0].stated(r"on (\d+) slots")
    for part in ("training", "Ray"):
        common[f"{part.lower()}_percent"] = {
            str(pack): [run.stated(rf"{part} (\d+) %") for run in runs[pack]] for pack in runs
        }
    common["best"] = {
        str(pack): [float(read_trials(run.folder)[METRIC].max()) for run in runs[pack]]
        for pack in runs
    }
    ratios = [one / pack for one, pack in zip(ones, packs, strict=True)]
    rest = [(a - start_s) / (b - start_s) for a, b in zip(ones, packs, strict=True)]
    walls = {"1": ones, str(PACK): packs}
    name = "wall, one by one to packs"
    table.add(name, ratios, RATIO_GOAL, "higher", unit="ratio", wall_s=walls, **common)
    table.add(f"{name}, less the start", rest, None, "higher", unit="ratio", **common)
    peer = _peer(folder, arguments.peer_trials)
    wall_s = peer["start_s"] + n * peer["each_s"]
    table.add(
        "wall, plain Ray Tune one by one to packs",
        [wall_s / seconds for seconds in packs],
        RATIO_GOAL,
        "higher",
        unit="ratio",
        n_trials=arguments.peer_trials,
        peer_start_s=peer["start_s"],
        peer_each_s=peer["each_s"],
        peer_estimated_wall_s=wall_s,
        n_configs=n,
    )


def _command(folder: Path, n_samples: int, pack: int, seed: int) -> SweepRun:
    name = f"search_{n_samples}_{pack}_{seed}.yaml"
    file = search_file(folder / name, n_samples=n_samples, pack=pack, seed=seed)
    run = run_command(file, n_configs=n_samples, may_diverge=True)
    print(f"{name}: {run.wall_s:.1f} s", file=sys.stderr, flush=True)
    return run


def _peer(folder: Path, n_trials: int) -> dict[str, float]:
    """Search with plain Ray Tune; return the seconds until it runs and those of each trial."""
    file = search_file(folder / "peer.yaml", n_samples=n_trials, pack=1)
    words = [sys.executable, "-m", "benchmarks.search", "--peer", str(file)]
    started = time.time()
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    ended = time.time()
    if done.returncode:
        raise RuntimeError(f"plain Ray Tune failed: {done.stderr[-2000:]}")
    ready = float(re.findall(rf"{_MARK}(\S+)", done.stdout)[-1])
    return {"start_s": ready - started, "each_s": (ended - ready) / n_trials}


def run_peer(file: Path) -> None:
    """Run as plain Ray Tune: a separate trial for each suggestion, one per slot at a time."""
    import ray
    from ray import tune

    from raysweep.tune.search.optuna_search import OptunaSearcher

    ray.init()
    ready = time.time()
    sweep, space = load_sweep(file), space_in(file)

    def trainable(parameters: dict[str, object]) -> None:
        from benchmarks.search_spaces import train
        from raysweep.learning.data.sources import data_folder, load_source

        be_a_worker()
        config = space.configs(parameters)[0]
        for row in train([config], load_source("mnist_5k", data_folder(None))):
            tune.report({METRIC: row[METRIC]})

    searcher = OptunaSearcher(space, "tpe", sweep.search.seed, [METRIC], ["max"])
    n_slots = len(os.sched_getaffinity(0))
    tuner = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=tune.search.ConcurrencyLimiter(searcher, n_slots),
            num_samples=sweep.search.n_samples,
        ),
        run_config=tune.RunConfig(storage_path=str(file.parent / "peer")),
    )
    results = tuner.fit()
    if results.errors or len(results) != sweep.search.n_samples:
        raise RuntimeError(f"{len(results)} trials ended: {results.errors}")
    print(f"\n{_MARK}{ready}", flush=True)


PARTS = {"optuna": optuna, "wall": wall, "early_stopping": early_stopping, "kill": kill}


def main() -> int:
    """Measure and print the figures of the parts that are asked for."""
    parser = argparse.ArgumentParser("benchmarks.search", description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of: {', '.join(PARTS)}")
    parser.add_argument("--seeds", type=int, default=10, help="of the searches, 2 or more (10)")
    parser.add_argument("--configs", type=int, default=200, help="of each search (200)")
    parser.add_argument("--repetitions", type=int, default=3, help="of the commands (3)")
    parser.add_argument("--grids", type=int, default=1, help="with early stopping, by seed (1)")
    parser.add_argument("--peer-trials", type=int, default=12, help="plain Ray Tune's (12)")
    parser.add_argument("--peer", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peer:
        run_peer(arguments.peer)
        return 0
    for name in arguments.parts:
        if name not in PARTS:
            parser.error(f"expected parts of: {', '.join(PARTS)}; got {name!r}")
    if arguments.seeds < 2:
        parser.error("--seeds: expected 2 or more, for an interval")
    table = Table()
    with tempfile.TemporaryDirectory(prefix="search-") as name:
        for part in arguments.parts or PARTS:
            PARTS[part](table, Path(name), arguments)
    return table.close()


if __name__ == "__main__":
    sys.exit(main())
