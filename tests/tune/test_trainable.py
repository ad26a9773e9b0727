"""The Tune trainable without a Tune run: reuse, checkpoints, failures."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from ray import tune

from raysweep.learning.config import Config
from raysweep.learning.data.sources import load_source
from raysweep.tune.scheduling.trainable import TRIAL, PackTrainable, trial_config

SOURCES = {"mnist_5k": load_source("mnist_5k", Path("data"))}
SHAPE = {"epochs": 2, "batch_size": 500, "encoder_widths": (20,), "rec_decoder_widths": (20,)}


def pack(**settings: Any) -> dict[str, Any]:
    base = {**SHAPE, "n_bottleneck": 5, "n_replay": 200, "beta_1": -0.1}
    configs = [Config(**{**base, **settings, "replay": kind}) for kind in ("none", "generative")]
    return {TRIAL: trial_config("key", configs, cpu=1, gpu=0)}


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


@pytest.mark.slow
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


def failing(trainable: PackTrainable, error: Exception) -> None:
    """Let the next step of a pack raise an error."""

    def advance() -> None:
        raise error

    trainable._pack_run().advance = advance  # type: ignore[method-assign,assignment]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_a_worker_that_ran_out_of_memory_says_so_and_ends_itself(error: Exception) -> None:
    trainable = Bare(pack())
    trainable.train()
    failing(trainable, error)
    result = trainable.train()
    assert not result["done"] and type(error).__name__ in result["error"]
    with pytest.raises(RuntimeError, match="another takes its place"):
        trainable.train()


def test_a_worker_serves_other_packs_after_an_exception() -> None:
    trainable = Bare(pack())
    failing(trainable, ValueError("no"))
    result = trainable.train()
    assert result["done"] and result["error"] == "ValueError: no"
    assert trainable.reset(pack(seed=1))
    assert rows_of(train_to_end(trainable)) == rows_of(train_to_end(Bare(pack(seed=1))))


def test_a_pack_goes_on_from_the_checkpoint_in_its_config(tmp_path: Path) -> None:
    whole = Bare(pack())
    expected = train_to_end(whole)
    begun = Bare(pack())
    results = [begun.train() for _ in range(3)]
    begun.save_checkpoint(str(tmp_path))
    config = pack()
    config[TRIAL]["checkpoint"] = tune.Checkpoint(str(tmp_path))
    results += train_to_end(Bare(config))
    assert rows_of(results) == rows_of(expected)
    assert results[-1]["n_steps"] == len(expected)


def test_a_checkpoint_that_is_gone_lets_the_pack_start_over(tmp_path: Path) -> None:
    config = pack()
    config[TRIAL]["checkpoint"] = tune.Checkpoint(str(tmp_path / "gone"))
    results = train_to_end(Bare(config))
    assert rows_of(results) == rows_of(train_to_end(Bare(pack())))
    (note,) = results[0]["notes"]
    assert note.startswith(f"a pack starts over: its state {tmp_path / 'gone'} can't be read: ")


def test_a_worker_with_other_versions_trains_nothing() -> None:
    config = pack()
    versions = json.loads(config[TRIAL]["versions"])
    config[TRIAL]["versions"] = json.dumps({**versions, "torch": "1.0"})
    result = Bare(config).train()
    assert result["done"] and result["is_foreign"]
    assert result["error"].startswith("expected torch 1.0 on every node")


HUNG = """
import sys, time
sys.path.insert(0, {tests!r})
from test_trainable import Bare, TRIAL, pack
config = pack()
config[TRIAL]["max_seconds"] = 0.5
config[TRIAL]["hung"] = "{trace}"
trainable = Bare(config)
trainable._pack_run().advance = lambda: {hang}
print("hangs", flush=True)
trainable.train()
print("came back")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "hang",
    ["time.sleep(600)", "__import__('ctypes').PyDLL(None).sleep(600)"],
    ids=["in Python", "with the interpreter locked"],
)
def test_a_step_that_hangs_ends_its_process(hang: str, tmp_path: Path) -> None:
    code = HUNG.format(tests=str(Path(__file__).parent), hang=hang, trace=tmp_path / "hung.txt")
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 1
    assert "hangs" in done.stdout and "came back" not in done.stdout
    trace = (tmp_path / "hung.txt").read_text()
    assert "Timeout" in trace and "in step" in trace


def test_a_limit_that_is_kept_changes_nothing() -> None:
    config = pack()
    config[TRIAL]["max_seconds"] = 60.0
    assert rows_of(train_to_end(Bare(config))) == rows_of(train_to_end(Bare(pack())))


def test_packs_that_were_set_aside_go_on_in_one_worker_with_their_rows(tmp_path: Path) -> None:
    packs = [pack(lr=lr) for lr in (1e-3, 3e-3)]
    whole = rows_of([result for p in packs for result in train_to_end(Bare(p))])
    worker, results, left, turns = Bare(packs[0]), [], [], []
    for i, p in enumerate(packs):
        worker.reset(dict(p))
        results.append(worker.train())
        stays, goes = (Config(**values) for values in json.loads(p[TRIAL]["pack"]))
        worker.stop_lanes(json.dumps({goes.id: {"rung": 1, "reason": "behind"}}))
        worker.set_aside(str(tmp_path / "aside" / f"{i}.safetensors"))
        results.append(worker.train())
        assert results[-1]["done"]
        assert results[-1]["state"] == str(tmp_path / "aside" / f"{i}.safetensors")
        assert [row["status"] for row in rows_of(results[-1:])] == ["stopped"]
        left.append(stays)
        turns.append(results[-1]["turn"])
    assert turns[0] == turns[1]
    files = sorted((tmp_path / "aside").iterdir())
    worker.reset({TRIAL: trial_config("joined", left, cpu=1, gpu=0, states=files)})
    results += train_to_end(worker)
    ids = {config.id for config in left}

    def sorted_rows(rows: list[dict[str, Any]]) -> list[str]:
        return sorted(json.dumps(row) for row in rows if row["config_id"] in ids)

    assert sorted_rows(rows_of(results)) == sorted_rows(whole)
    # The first epoch was not trained again.
    assert len(results) == 2 * 2 + 3


def test_a_pack_whose_state_is_lost_or_cannot_be_written_trains_all_the_same(
    tmp_path: Path,
) -> None:
    whole = rows_of(train_to_end(Bare(pack())))
    configs = [Config(**values) for values in json.loads(pack()[TRIAL]["pack"])]
    lost = trial_config("key", configs, cpu=1, gpu=0, states=[tmp_path / "gone.safetensors"])
    assert rows_of(train_to_end(Bare({TRIAL: lost}))) == whole
    (tmp_path / "file").write_text("")
    worker = Bare(pack())
    results = [worker.train()]
    worker.set_aside(str(tmp_path / "file" / "0.safetensors"))
    results.append(worker.train())
    assert not results[-1]["done"]
    assert "state" not in results[-1]
    assert rows_of(results + train_to_end(worker)) == whole
