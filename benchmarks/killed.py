"""Benchmark of killed searches: counts the rows of each suggestion."""

import json
import subprocess
import sys
import time
from argparse import Namespace
from collections import Counter
from pathlib import Path

import pandas as pd

from benchmarks.figures import Table
from benchmarks.search_spaces import search_file, space_in
from benchmarks.sweeps import ROOT
from raysweep.tables.reader import read_trials
from raysweep.tables.schemas import config_of

N_SAMPLES, SEEDS = 60, (0, 1)
_DEADLINE_S = 300.0


def kill(table: Table, folder: Path, arguments: Namespace) -> None:
    """Kill searches at a third of their rows and run them again; count rows by suggestion."""
    ends = [_killed_search(folder, seed) for seed in range(arguments.repetitions)]
    more: dict[str, object] = {
        "n_suggestions": N_SAMPLES,
        "n_seeds": len(SEEDS),
        "n_rows_at_kill": [end["n_before"] for end in ends],
        "n_open_at_kill": [end["n_open"] for end in ends],
    }
    rows = [end["rows"] for end in ends]
    table.add("rows a suggestion and seed, killed", rows, 1, "higher", unit="rows", **more)
    for key, name in (
        ("n_uneven", "suggestions with other than one row a seed, killed"),
        ("n_lost", "suggestions open at the kill that have no row, killed"),
        ("n_changed", "rows from before the kill that changed, killed"),
    ):
        values = [end[key] for end in ends]
        # Report the worst of the repetitions, as a median could hide it.
        table.add(name, [max(values)], 0, "lower", unit="rows", of_each=values, **more)


def _killed_search(folder: Path, seed: int) -> dict[str, float]:
    """Kill a search with SIGKILL and run it again to its end; count the rows of the table."""
    file = search_file(
        folder / f"killed_{seed}.yaml", n_samples=N_SAMPLES, pack=8, seed=seed, seeds=SEEDS
    )
    results = folder / "results"
    location = results / file.stem
    words = [sys.executable, "-m", "raysweep.tune", str(file), "--results", str(results)]
    n_all = N_SAMPLES * len(SEEDS)
    driver = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _wait_for_rows(driver, location, n_all / 3)
    driver.kill()
    driver.wait()
    before = read_trials(location).set_index("config_id").sort_index()
    space = space_in(file)
    kept = json.loads((location / "suggestions.json").read_text())
    left = [p for p in kept if any(c.id not in before.index for c in space.configs(p))]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the search failed: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    trials = pd.read_parquet(location / "trials.parquet")  # not read_trials: it drops duplicates
    found = [space.parameters_of(config_of(row)) for _, row in trials.iterrows()]
    by_suggestion = Counter(json.dumps(p, sort_keys=True) for p in found)
    after = trials.set_index("config_id")
    is_same = [after.loc[[i]].equals(before.loc[[i], after.columns]) for i in before.index]
    ids = set(after.index)
    print(f"{file.name}: killed at {len(before)} rows, {len(trials)} at last", file=sys.stderr)
    return {
        "n_before": len(before),
        "n_open": len(left),
        "rows": len(trials) / n_all,
        "n_uneven": sum(n != len(SEEDS) for n in by_suggestion.values())
        + abs(len(by_suggestion) - N_SAMPLES),
        "n_lost": sum(any(c.id not in ids for c in space.configs(p)) for p in left),
        "n_changed": is_same.count(False),
    }


def _wait_for_rows(driver: subprocess.Popen[bytes], location: Path, n: float) -> None:
    """Wait until a running search has the given number of rows."""
    end = time.monotonic() + _DEADLINE_S
    while not (location / "parts").is_dir() or len(read_trials(location)) < n:
        if driver.poll() is not None or time.monotonic() > end:
            driver.kill()
            raise RuntimeError(f"expected {n:.0f} rows in {location} before the search ended")
        time.sleep(0.1)
