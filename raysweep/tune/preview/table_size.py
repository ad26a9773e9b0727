"""Size of the tables of a sweep: count the rows, and estimate the bytes by writing some rows."""

import random
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from raysweep.learning.config import Config
from raysweep.learning.stage_graph import epochs_of, model_of, stages_of
from raysweep.learning.stages import Stage
from raysweep.statuses import Status
from raysweep.tables.checksums import encode
from raysweep.tables.completeness import COUNTS, rows_needed
from raysweep.tables.schemas import TABLES, column_of, config_columns

_N_WRITTEN = 20_000
"""Rows of a table that are written to measure their size; further rows take as much each."""
_N_TESTED = 1000
_REAL = pa.float64()
_Row = dict[str, Any]


def n_rows(configs: Sequence[Config]) -> dict[str, int]:
    """Count the rows that configurations will have in each table if none of them diverges."""
    counts = dict.fromkeys(TABLES, 0)
    for config in configs:
        for table, rows in _n_rows_of(config).items():
            counts[table] += rows
    return counts


def _n_rows_of(config: Config) -> dict[str, int]:
    needed = rows_needed(config, {"status": Status.FINISHED})
    return {"trials": 1, **{table: needed[column] for table, column in COUNTS.items()}}


def n_bytes(configs: Sequence[Config]) -> int:
    """Estimate the size of the tables' files by encoding rows like the expected ones.

    As in the tables, configurations have equal values in a stage that they share.
    """
    makers = {"epochs": _epochs, "accuracy": _accuracy, "trials": _trials}
    total = 0.0
    for table, make in makers.items():
        written: list[_Row] = []
        n_whole = 0
        for config in configs:
            written += make(config)
            n_whole += 1
            if len(written) >= _N_WRITTEN:
                break
        content = encode(pa.Table.from_pylist(written, schema=TABLES[table].arrow))
        total += len(content) * (len(configs) / n_whole if n_whole else 1)
    return round(total)


def _epochs(config: Config) -> Iterator[_Row]:
    for stage in stages_of(config):
        chance = _chance(stage.fingerprint)
        losses = _losses(config, stage)
        for epoch in range(1, epochs_of(config, stage) + 1):
            yield {
                "config_id": config.id,
                "stage": stage.name,
                "epoch": epoch,
                "task": stage.task,
                "n_steps": 100,
                "n_samples": 10_000,
                **{name: _metric(name, chance) for name in losses},
                "duration_s": chance.random(),
            }


def _chance(text: str) -> random.Random:
    """Make a random generator seeded by a text."""
    return random.Random(text)  # noqa: S311 (figures that only have to take space)


def _metric(name: str, chance: random.Random) -> float:
    """Draw a metric; accuracies are counts of samples, so they take fewer bytes."""
    column = column_of(name)
    is_share = column is not None and column.is_share
    return chance.randrange(_N_TESTED) / _N_TESTED if is_share else chance.random()


def _losses(config: Config, stage: Stage) -> list[str]:
    """List the metrics that a stage's epochs have."""
    model = model_of(config, stage)
    kinds = ["class"] if stage.is_classifier else []
    kinds += ["kl"] if model.has_latent else []
    kinds += ["rec"] if model.decodes_images else []
    names = ["loss", *(f"{kind}_loss" for kind in kinds)]
    if stage.parent("buffer"):
        names += [f"replay_{kind}_loss" for kind in kinds]
    return names + (["train_accuracy", "test_accuracy"] if stage.is_classifier else [])


def _accuracy(config: Config) -> Iterator[_Row]:
    stages = [stage for stage in stages_of(config) if stage.is_classifier]
    chance = _chance("before any training")
    for after_task, stage in [(0, None), *((stage.task, stage) for stage in stages)]:
        chance = _chance(stage.fingerprint) if stage else chance
        for on_task in range(1, config.n_tasks + 1):
            yield {
                "config_id": config.id,
                "after_task": after_task,
                "on_task": on_task,
                "accuracy": chance.randrange(_N_TESTED) / _N_TESTED,
            }


def _trials(config: Config) -> Iterator[_Row]:
    chance = _chance(config.id)
    row = config_columns(config) | {"status": Status.FINISHED, "host": "host", "device": "cpu"}
    now = datetime.now(UTC)
    for column in TABLES["trials"].columns:
        if column.name in row or column.name.startswith(("diverged_", "stopped_")):
            continue
        if column.type == _REAL:
            row[column.name] = chance.random()
        elif pa.types.is_timestamp(column.type):
            row[column.name] = now.replace(microsecond=chance.randrange(10**6))
        elif column.type == pa.int64():
            row[column.name] = chance.randrange(10)
    yield row
