"""One timed run of the peer or of a pack, and the processes that are ready for it."""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor

from benchmarks.reference_like.peer import Peer, PeerTask, open_tasks
from raysweep.learning.config import Config
from raysweep.learning.data.sources import Source, load_source
from raysweep.learning.stacked import functional, layers
from raysweep.packs.run import PackRun

_START_TIMEOUT_S = 300.0


@dataclass(frozen=True)
class Cut:
    """Where MNIST lies and how many samples of it are used."""

    folder: Path
    n_train: int
    n_test: int


@dataclass(frozen=True)
class Run:
    """Wall and CPU time of one run; measures and steps of one configuration in it.

    ``products_s`` is the time inside a pack's matrix products, 0 for the peer.
    """

    seconds: float
    cpu_s: float
    measures: Mapping[str, float]
    n_steps: int
    products_s: float = 0.0


def time_peer(cut: Cut, config: Config, n_threads: int, cores: Sequence[int]) -> Run:
    """Run one configuration of the peer."""
    _settle(n_threads, cores)
    tasks = _tasks(cut, config.batch_size, config.n_tasks)
    torch.manual_seed(config.seed)
    start, cpu_start = time.perf_counter(), time.process_time()
    peer = Peer(config, tasks)
    measures = peer.run()
    times = time.perf_counter() - start, time.process_time() - cpu_start
    return Run(*times, measures, peer.n_steps)


def time_pack(cut: Cut, configs: Sequence[Config], cores: Sequence[int]) -> Run:
    """Run one pack in one thread; report on its first configuration."""
    _settle(1, cores)
    source, first = _source(cut), configs[0].id
    start, cpu_start = time.perf_counter(), time.process_time()
    run = PackRun(configs, source)
    epochs, trials = [], []
    with timed_products() as products:
        while not run.is_done:
            report = run.advance()
            epochs += report.epochs
            trials += report.trials
    times = time.perf_counter() - start, time.process_time() - cpu_start
    row = next(row for row in trials if row["config_id"] == first)
    n_steps = sum(row["n_steps"] for row in epochs if row["config_id"] == first)
    return Run(*times, row, n_steps, sum(products))


@contextmanager
def timed_products() -> Iterator[list[float]]:
    """Collect the seconds of each matrix product of training (evaluation's are left out)."""
    seconds: list[float] = []

    def timed(*operands: Tensor, **more: Tensor) -> Tensor:
        start = time.perf_counter()
        result = functional.product(*operands, **more)
        seconds.append(time.perf_counter() - start)
        return result

    with patch.object(layers, "product", timed):
        yield seconds


def start_peer(cut: Cut, config: Config) -> ProcessPoolExecutor:
    """Start the peer's process and wait until it is warm."""
    pool = ProcessPoolExecutor(1, get_context("spawn"), _prepare_peer, (cut, config))
    pool.submit(os.getpid).result()
    return pool


def start_workers(cut: Cut, config: Config, n_workers: int) -> ProcessPoolExecutor:
    """Start raysweep's processes and wait until all are warm."""
    context = get_context("spawn")
    arguments = (cut, config, context.Barrier(n_workers))
    pool = ProcessPoolExecutor(n_workers, context, _prepare_worker, arguments)
    for ready in [pool.submit(os.getpid) for _ in range(n_workers)]:
        ready.result()
    return pool


def _prepare_peer(cut: Cut, config: Config) -> None:
    # Most people would not set what raysweep set on import; MKL reads it at its first product.
    os.environ.pop("MKL_CBWR", None)
    time_peer(cut, config, 1, sorted(os.sched_getaffinity(0)))


def _prepare_worker(cut: Cut, config: Config, all_warm: Barrier) -> None:
    torch.set_flush_denormal(True)  # as in a worker of a sweep
    time_pack(cut, [config], sorted(os.sched_getaffinity(0)))
    all_warm.wait(_START_TIMEOUT_S)


def _settle(n_threads: int, cores: Sequence[int]) -> None:
    os.sched_setaffinity(0, cores)
    torch.set_num_threads(n_threads)


@cache
def _tasks(cut: Cut, batch_size: int, n_tasks: int) -> list[PeerTask]:
    return open_tasks(cut.folder, cut.n_train, cut.n_test, batch_size, n_tasks)


@cache
def _source(cut: Cut) -> Source:
    source = load_source("mnist", cut.folder)
    return replace(
        source,
        train_images=source.train_images[: cut.n_train],
        train_labels=source.train_labels[: cut.n_train],
        test_images=source.test_images[: cut.n_test],
        test_labels=source.test_labels[: cut.n_test],
    )
