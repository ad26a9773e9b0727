"""``max_packs``: at most so many packs at once, whatever the room."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from sweep_runs import SMALL, run, write

import raysweep
from raysweep.errors import InputError
from raysweep.learning.config import Config
from raysweep.packs.pack import Pack
from raysweep.settings.execution import Resources
from raysweep.settings.sweep import Sweep, sweep_of
from raysweep.tables.reader import read_trials
from raysweep.tune.cluster.gpu_share import choose_share
from raysweep.tune.cluster.nodes import Node
from raysweep.tune.reporting.progress import Progress
from raysweep.tune.scheduling.queue import JobQueue
from raysweep.tune.scheduling.remaining_work import Capacity

NODES = [Node(8, 0), Node(4, 0)]
GRID: dict[str, Any] = {"seeds": list(range(8)), "pack": 2}


def sweep(**more: Any) -> Sweep:
    return sweep_of("space", {**GRID, **more})


@pytest.mark.parametrize(("given", "n_slots"), [(1, 1), (5, 5), (100, 12), (None, 12), ("off", 12)])
def test_slots_are_at_most_so_many(given: Any, n_slots: int) -> None:
    asked = sweep(max_packs=given)
    assert Capacity.of(asked, asked.configs, NODES).n_slots == n_slots
    assert asked.resolved["max_packs"] == (given if isinstance(given, int) else None)
    assert sweep_of("space", asked.resolved) == asked


@pytest.mark.parametrize("given", [0, -1, 1.5, "two", True, [2]])
def test_anything_but_a_number_is_one_line(given: Any) -> None:
    with pytest.raises(InputError, match="max_packs: expected a whole number"):
        sweep(max_packs=given)


def test_words_of_others_are_told_of_it() -> None:
    for word in ("max_concurrent_trials", "n_jobs"):
        with pytest.raises(InputError, match=r"max_packs: 2"):
            sweep(**{word: 4})


def test_no_more_are_handed_out_than_that() -> None:
    progress = Progress(n_total=6, n_slots=2, max_packs=2, total_work=1.0)
    queue = JobQueue([Pack((Config(seed=i),)) for i in range(6)], progress.n_at_once)
    out = [queue.next(), queue.next()]
    assert all(out) and queue.next() is None
    assert out[0]
    queue.leave(out[0])
    assert queue.next() and queue.next() is None
    # One waits beside those that run, where nothing is said.
    assert Progress(n_total=6, n_slots=2, total_work=1.0).n_at_once() == 3


def test_a_gpu_is_shared_by_no_more_than_that() -> None:
    auto, card = Resources(is_gpu_auto=True, gpu=1), [Node(16, 1, gpu_memory=80 * 10**9)]
    configs = [Config(lr=1e-3, n_bottleneck=n) for n in range(1, 9)]
    assert choose_share(auto, configs, card)[0].gpu == 0.25
    alone, why = choose_share(auto, configs, card, 1)
    assert alone.gpu == 1 and why.endswith("limited by max_packs")


@pytest.mark.slow
def test_a_plan_says_so(tmp_path: Path) -> None:
    for more in ({}, {"search": {"method": "optuna", "n_samples": 8}}):
        space = {"lr": {"loguniform": [1e-4, 1e-2]}} if more else {}
        asked = {**GRID, **more, "space": space, "max_packs": 1}
        plan = raysweep.plan(asked, results=tmp_path, measure=False)
        assert plan.n_at_once == 1
        assert "1 at once (set by pack: and max_packs:)" in str(plan.text)


@pytest.mark.slow
def test_one_pack_at_a_time_is_trained(tmp_path: Path) -> None:
    more = "pack: 1\nmax_packs: 1\n"
    done = run(write(tmp_path, SMALL + more), "space.replay=none")
    assert done.returncode == 0, done.stderr
    rows = read_trials(tmp_path / "results" / "small").sort_values("started_at")
    assert len(rows) == 4
    assert (rows["started_at"].iloc[1:].array >= rows["ended_at"].iloc[:-1].array).all()
    # The worker is used again: it starts once.
    gaps = rows["started_at"].iloc[1:].array - rows["ended_at"].iloc[:-1].array
    assert pd.Series(gaps).max() < pd.Timedelta(seconds=8)
