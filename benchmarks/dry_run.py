"""Compare a dry run's estimate of a pack's time with training that pack.

    python -m benchmarks.dry_run [--packs N]

The default sweep and three smaller ones on ``mnist_5k``: ten tasks of an MLP with replay from a
single VAE and from one per task, maximally interfered retrieval, and a VIB on one task with and
without a reconstruction. The N longest packs of each are measured as in a dry run, then trained to
the end, both in processor seconds with one thread: a busy machine makes them a little longer, not
several times. Ray's share is not included. About two minutes.

Prints figures as JSON lines to stdout and a table to stderr; exit code 1 if a goal is missed. The
error is predicted / actual - 1, as the median over a sweep's packs.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.figures import Table
from benchmarks.sweeps import ROOT, write_space
from raysweep.learning.data.sources import load_source
from raysweep.packs.pack import Pack
from raysweep.packs.planning.estimates import CPU
from raysweep.packs.planning.packing import make_plan
from raysweep.packs.run import PackRun
from raysweep.settings.sweep import load_sweep
from raysweep.tune.preview.measuring import measure

GOAL = 0.25
N_SLOTS = 2


def spaces(folder: Path) -> dict[str, Path]:
    """Return the search spaces by name, writing those that the project does not have."""
    mlp = {"encoder_widths": [200, 200], "optimizer": "sgd", "lr": 0.02}
    vae = {"n_bottleneck": 50, "rec_decoder_widths": [200, 200], "generator_optimizer": "adam"}
    generators = {"grid_search": ["per_task", "continual"]}
    replay = {"replay": "generative", "generator": generators, "generator_lr": 1e-3}
    mir = {"replay": "simple", "n_replay": 200, "retrieval": {"grid_search": ["cycle", "mir"]}}
    betas = {"beta_1": {"grid_search": [-1, -0.1, 0.1, 1]}, "n_bottleneck": 100, "lr": 1e-3}
    training = {"epochs": 3, "batch_size": 100}
    return {
        "default": ROOT / "search_spaces" / "vib.yaml",
        "ten tasks": write_space(
            folder / "tasks.yaml",
            {**mlp, **vae, **replay},
            experiment="replay",
            data={"n_tasks": 10},
            training=training,
        ),
        "retrieval": write_space(
            folder / "mir.yaml",
            {**mlp, **mir},
            experiment="replay",
            data={"tasks": "split_mnist", "n_tasks": 5},
            training={"epochs": 3, "batch_size": 10},
        ),
        "one task": write_space(folder / "betas.yaml", betas, experiment="vib", training=training),
    }


def trained_s(pack: Pack) -> float:
    """Train a pack to the end and return the processor seconds."""
    start = time.process_time()
    run = PackRun(pack.configs, load_source("mnist_5k", Path()))
    load_s = time.process_time() - start
    while not run.is_done:
        run.advance()
    return time.process_time() - start - load_s


def main() -> int:
    """Measure and print all figures."""
    parser = argparse.ArgumentParser("benchmarks.dry_run", description=__doc__.splitlines()[0])
    parser.add_argument("--packs", type=int, default=2, help="of each sweep (2)")
    n_packs = parser.parse_args().packs
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # as a worker does
    sources = {"mnist_5k": load_source("mnist_5k", Path())}
    table = Table()
    with tempfile.TemporaryDirectory(prefix="dry-run-") as name:
        for title, file in spaces(Path(name)).items():
            sweep = load_sweep(file)
            packs = make_plan(sweep.configs, N_SLOTS, max_lanes=sweep.pack).packs[:n_packs]
            start = time.perf_counter()
            measured = measure(packs, sources, sweep.resources, clock=time.process_time)
            took_s = time.perf_counter() - start
            # Without what is added for Ray's part.
            said = [
                s - CPU.pack_s - pack.n_epochs * CPU.epoch_s
                for s, pack in zip(measured.seconds, packs, strict=True)
            ]
            actual = [trained_s(pack) for pack in packs]
            ratios = [s / a for s, a in zip(said, actual, strict=True)]
            table.add(
                f"error of the predicted time, {title}",
                [abs(ratio - 1) for ratio in ratios],
                GOAL,
                "lower",
                unit="ratio",
                predicted_s=[round(s, 2) for s in said],
                actual_s=[round(a, 2) for a in actual],
                measuring_s=round(took_s, 2),
                n_shapes=measured.n_shapes,
            )
    return table.close()


if __name__ == "__main__":
    sys.exit(main())
