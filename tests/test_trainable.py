"""The Tune trainable without a Tune run: reuse, checkpoints, failures."""

import json
from pathlib import Path
from typing import Any

import pytest

from raysweep.data.sources import load_source
from raysweep.settings import Config
from raysweep.trainable import TRIAL, PackTrainable, trial_config

SOURCES = {"mnist_5k": load_source("mnist_5k", Path("data"))}
SHAPE = {"epochs": 2, "batch_size": 500, "encoder_widths": (20,), "rec_decoder_widths": (20,)}


def pack(**settings: Any) -> dict[str, Any]:
    base = {**SHAPE, "n_bottleneck": 5, "n_replay": 200, "beta_1": -0.1}
    configs = [Config(**{**base, **settings, "replay": kind}) for kind in ("none", "generative")]
    return {TRIAL: trial_config("key", configs, 1, 0)}


class Bare(PackTrainable):
    """The trainable with its data, as ``tune.with_parameters`` provides it."""

    def setup(self, config: dict[str, Any], sources: Any = None) -> None:
        super().setup(config, SOURCES)


def rows_of(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    rows = []
    for result in results:
        for table in json.loads(result["rows"]).values():
            rows += table
    timed = ("duration_s", "started_at", "ended_at")
    return [{k: v for k, v in row.items() if k not in timed} for row in rows]


def train_to_end(trainable: PackTrainable) -> list[dict[str, Any]]:
    results = []
    while not (results and results[-1]["done"]):
        results.append(trainable.train())
    return results


def test_a_step_is_an_epoch_and_the_last_one_is_done() -> None:
    results = train_to_end(Bare(pack()))
    # Task 1 together, task 2 once without and once with replay, two epochs each.
    assert [result["done"] for result in results] == [False] * 5 + [True]
    trials = [row for row in rows_of(results) if "status" in row]
    assert [row["status"] for row in trials] == ["finished"] * 2


def test_a_reused_worker_gives_the_rows_of_a_fresh_one() -> None:
    reused = Bare(pack(seed=1))
    train_to_end(reused)
    for other in (pack(model="comparison"), pack(n_bottleneck=7), pack(seed=1)):
        assert reused.reset(dict(other))
        again = rows_of(train_to_end(reused))
        assert again == rows_of(train_to_end(Bare(dict(other))))


def test_a_reused_worker_forgets_a_pack_that_was_not_finished() -> None:
    reused = Bare(pack(seed=1))
    reused.train()
    assert reused.reset(pack())
    assert rows_of(train_to_end(reused)) == rows_of(train_to_end(Bare(pack())))


@pytest.mark.parametrize("n_before", range(1, 6))
def test_a_restored_worker_goes_on_as_if_nothing_had_happened(
    tmp_path: Path, n_before: int
) -> None:
    whole = train_to_end(Bare(pack()))
    first = Bare(pack())
    for _ in range(n_before):
        first.train()
    first.save_checkpoint(str(tmp_path))
    second = Bare(pack())
    second.load_checkpoint(str(tmp_path))
    assert rows_of(train_to_end(second)) == rows_of(whole[n_before:])


def test_an_exception_of_a_stage_ends_the_trial_with_its_traceback() -> None:
    class Poor(PackTrainable):
        def setup(self, config: dict[str, Any], sources: Any = None) -> None:
            super().setup(config, {})

    result = Poor(pack()).train()
    assert result["done"]
    assert result["error"] == "KeyError: 'mnist_5k'"
    assert "Traceback" in result["traceback"]
