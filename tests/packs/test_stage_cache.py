"""The stage cache: what is served is what would be trained, and nothing damaged is ever used."""

import errno
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import small_configs
import torch
from checkpoints import passed_through_a_file
from safetensors.torch import save
from sweep_runs import assert_same_tables, run, write

from raysweep.errors import InputError
from raysweep.learning.config import Config
from raysweep.learning.data.sources import Source
from raysweep.learning.stage_graph import stages_of
from raysweep.learning.training.loop import TrainGroup
from raysweep.local_folder import LocalFolder
from raysweep.packs import run as pack_module
from raysweep.packs.run import PackRun
from raysweep.packs.stage_cache import entries
from raysweep.packs.stage_cache.entries import Entry, StageCache, environment, stored_stages
from raysweep.settings.execution import StageCaching
from raysweep.settings.sweep import load_sweep
from raysweep.settings.yaml_text import dump_yaml
from raysweep.tables.reader import read_epochs, read_trials
from raysweep.tune.scheduling.trainable import TRIAL, PackTrainable, trial_config

pytestmark = pytest.mark.slow

Rows = dict[str, list[dict[str, Any]]]
"""A run's rows by table."""

GB = 10**9
CPU = torch.device("cpu")


def configure(**settings: Any) -> Config:
    narrow: dict[str, Any] = {
        "n_bottleneck": 4,
        "encoder_widths": (12,),
        "rec_decoder_widths": (12,),
        "n_replay": 40,
        "replay_weight": 0.5,
    }
    return small_configs.configure(**(narrow | settings))


def mixed(**settings: Any) -> list[Config]:
    """Make configurations of one pack key that differ in all that decides what is stored."""
    lanes: list[dict[str, Any]] = [
        {},
        {"replay": "simple"},
        {"replay": "none", "lr": 1e-3},
        {"replay_labels": "hard", "freeze_encoder": True},
        {"replay_weight": 0.2, "optimizer_state": "keep"},
        {"replay": "none", "optimizer_state": "reset"},
    ]
    return [configure(**(settings | lane)) for lane in lanes]


def rows_of(pack: PackRun) -> Rows:
    """Advance to the end; give all rows, those of a configuration in their order."""
    rows: Rows = {"epochs": [], "accuracy": [], "trials": []}
    while not pack.is_done:
        report = pack.advance()
        for table in rows:
            rows[table] += getattr(report, table)
    return sorted_rows(rows)


def sorted_rows(rows: Rows) -> Rows:
    return {table: sorted(found, key=lambda r: r["config_id"]) for table, found in rows.items()}


def results(rows: Rows) -> Rows:
    """Drop what may differ between a stage that was trained and one that was served."""
    timed = ("duration_s", "n_stored_stages")
    return {
        table: [{k: v for k, v in row.items() if k not in timed} for row in found]
        for table, found in rows.items()
    }


def n_stored(rows: Rows) -> dict[str, int]:
    return {row["config_id"]: row["n_stored_stages"] for row in rows["trials"]}


def everything(configs: Sequence[Config]) -> dict[str, int]:
    return {config.id: len(stages_of(config)) for config in configs}


def fingerprint(config: Config, name: str) -> str:
    return next(s.fingerprint for s in stages_of(config) if s.name == name)


@pytest.fixture
def store(tmp_path: Path) -> StageCache:
    return StageCache(tmp_path / ".stages", GB)


@pytest.fixture
def train(small: Source, store: StageCache) -> Callable[..., Rows]:
    """Return a function that runs a pack to its end, in float64 and with the cache."""

    def run_pack(configs: Sequence[Config], **options: Any) -> Rows:
        return rows_of(
            PackRun(configs, small, **{"dtype": torch.float64, "store": store} | options)
        )

    return run_pack


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list of the stages that were set up to train, by name; fills are not in it."""
    names: list[str] = []

    class Spy(TrainGroup):
        def __init__(self, context: Any, lanes: Sequence[Any], *more: Any) -> None:
            names.extend(lane.stage.name for lane in lanes)
            super().__init__(context, lanes, *more)

    monkeypatch.setattr(pack_module, "TrainGroup", Spy)
    return names


# --- served = trained ---------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("model", ["vib", "comparison"])
def test_a_served_pack_has_the_rows_of_a_trained_one(
    model: str, dtype: torch.dtype, train: Callable[..., Rows], trained: list[str]
) -> None:
    configs = mixed(model=model)
    without = train(configs, dtype=dtype, store=None)
    assert set(n_stored(without).values()) == {0}
    first = train(configs, dtype=dtype)
    assert results(first) == results(without)
    assert set(n_stored(first).values()) == {0}
    trained.clear()
    second = train(configs, dtype=dtype)
    assert trained == []
    assert results(second) == results(without)
    assert n_stored(second) == everything(configs)
    assert all(row["duration_s"] is None for row in second["epochs"])
    assert all(row["duration_s"] == 0 for row in second["trials"])


@pytest.mark.parametrize("n_before", range(1, 6))
@pytest.mark.parametrize("model", ["vib", "comparison"])
def test_a_pack_of_which_a_part_is_stored_has_the_rows_of_a_trained_one(
    model: str, n_before: int, train: Callable[..., Rows]
) -> None:
    configs = mixed(model=model)
    train(configs[:n_before])
    rows = train(configs[::-1])
    assert results(rows) == results(train(configs, store=None))
    known = everything(configs[:n_before])
    if model == "vib" and n_before < 5:
        # The lane that keeps its moments needs those of task 1, which were not kept without it.
        again = fingerprint(configs[4], "train_task_1")
        for config in configs[:n_before]:
            known[config.id] -= again in [stage.fingerprint for stage in stages_of(config)]
    assert {i: n for i, n in n_stored(rows).items() if i in known} == known


@pytest.mark.parametrize("optimizer", ["adam", "adagrad", "sgd"])
def test_three_tasks_begin_with_what_is_stored_of_the_second(
    optimizer: str, train: Callable[..., Rows], store: StageCache
) -> None:
    lr = 1e-4 if optimizer == "sgd" else 3e-3
    settings = {"model": "comparison", "n_tasks": 3, "optimizer": optimizer, "lr": lr, "epochs": 1}
    configs = [configure(**settings, replay=kind) for kind in ("none", "simple")]
    whole = train(configs)
    for config in configs:
        (last,) = store.folder.glob(f"{fingerprint(config, 'train_task_3')}-*")
        last.unlink()
    rows = train(configs)
    assert results(rows) == results(whole)
    assert n_stored(rows) == {i: n - 1 for i, n in everything(configs).items()}


@pytest.mark.parametrize("replay", ["simple", "generative"])
@pytest.mark.parametrize("model", ["vib", "comparison"])
def test_more_replay_weights_train_second_tasks_only(
    model: str, replay: str, train: Callable[..., Rows], trained: list[str]
) -> None:
    train([configure(model=model, replay=replay, replay_weight=0.5)])
    trained.clear()
    more = [configure(model=model, replay=replay, replay_weight=w) for w in (0.1, 0.9)]
    rows = train(more)
    assert trained == ["train_task_2"] * 2
    assert n_stored(rows) == {i: n - 1 for i, n in everything(more).items()}
    assert results(rows) == results(train(more, store=None))


def test_only_what_a_stage_to_run_begins_with_is_loaded(
    small: Source, train: Callable[..., Rows], store: StageCache
) -> None:
    train([configure(model="comparison", replay_weight=0.5)])
    config = configure(model="comparison", replay_weight=0.1)
    run = PackRun([config], small, dtype=torch.float64, store=store)
    run.advance()
    assert set(run._models) == {fingerprint(config, "train_task_1")}
    assert set(run._buffers) == {fingerprint(config, "fill_buffer_1")}


def test_the_last_model_is_not_kept_since_no_stage_begins_with_it(
    small: Source, train: Callable[..., Rows], store: StageCache
) -> None:
    config = configure(replay="none")
    train([config])
    here = environment(small, CPU, torch.float64)
    first, last = (store.read(stage.fingerprint, here) for stage in stages_of(config))
    assert first is not None and first.tensors
    assert last is not None and not last.tensors and len(last.record["epochs"]) == 2


# --- later stages -------------------------------------------------------------------------------

MLP: dict[str, Any] = {"experiment": "replay", "model": "mlp", "n_tasks": 3, "epochs": 1}
LATER: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {
    "mlp, a continual VAE": (
        MLP | {"generator": "continual", "optimizer_state": "reset"},
        [{}, {"labeler": "at_generation"}, {"generator_replay_weight": 0.9}],
    ),
    "mlp, a VAE for each task": (
        MLP,
        [{"labeler": "current"}, {"labeler": "per_task"}, {"label_temperature": 2.0}],
    ),
    "buffers of one size": (
        MLP | {"replay": "simple", "n_replay_scope": "total", "n_replay": 60},
        [
            {"selection": "herding", "selection_features": "encoder"},
            {"selection": "reservoir"},
            {"selection": "ring"},
            {"selection": "kmeans_centroids", "retrieval": "mir", "n_candidates": 50},
        ],
    ),
    "a continual decoder, averaged": (
        {"n_tasks": 3, "epochs": 1, "generator": "continual", "ema_decay": 0.5},
        [{"beta_1": -0.5}, {"beta_1": 0.5}],
    ),
    "joint": (
        {"experiment": "joint", "model": "mlp", "n_tasks": 3},
        [{"lr": 1e-2}, {"lr": 1e-3}],
    ),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("base", "lanes"), LATER.values(), ids=LATER)
def test_a_served_pack_of_later_stages_has_the_rows_of_a_trained_one(
    base: dict[str, Any],
    lanes: list[dict[str, Any]],
    dtype: torch.dtype,
    train: Callable[..., Rows],
    trained: list[str],
) -> None:
    configs = [configure(**(base | lane)) for lane in lanes]
    without = train(configs, dtype=dtype, store=None)
    assert {row["after_task"] for row in without["accuracy"]} >= {0, 3}
    assert results(train(configs, dtype=dtype)) == results(without)
    trained.clear()
    rows = train(configs, dtype=dtype)
    assert trained == []
    assert results(rows) == results(without)
    assert n_stored(rows) == everything(configs)


@pytest.mark.parametrize(("base", "lanes"), LATER.values(), ids=LATER)
def test_a_pack_goes_on_from_any_stage_that_is_stored(
    base: dict[str, Any],
    lanes: list[dict[str, Any]],
    train: Callable[..., Rows],
    trained: list[str],
    store: StageCache,
) -> None:
    configs = [configure(**(base | lane)) for lane in lanes]
    whole = train(configs)
    names = {stage.name for config in configs for stage in stages_of(config)}
    for name in sorted(names):
        lost = {fingerprint(config, name) for config in configs}
        for path in [path for f in lost for path in store.folder.glob(f"{f}-*")]:
            path.unlink()
        trained.clear()
        rows = train(configs)
        assert results(rows) == results(whole)
        # No model that a later stage begins with was lost, so that nothing else is trained.
        assert trained == ([] if name.startswith("fill") else [name] * len(lost))


def test_a_continual_vae_goes_on_with_its_moments_where_classifiers_start_anew(
    train: Callable[..., Rows], trained: list[str]
) -> None:
    base = MLP | {"optimizer_state": "reset"}
    one_each = configure(**base, generator="per_task")
    continual = configure(**base, generator="continual")
    first = fingerprint(continual, "train_generator_1")
    assert first == fingerprint(one_each, "train_generator_1")
    train([one_each])  # keeps no moments
    trained.clear()
    rows = train([continual])
    assert "train_generator_1" in trained
    assert results(rows) == results(train([continual], store=None))
    # What has moments took the place of what had none.
    more = configure(**base, generator="continual", generator_replay_weight=0.9)
    trained.clear()
    assert results(train([more])) == results(train([more], store=None))
    assert trained.count("train_generator_1") == 1  # without the cache


# --- moments ------------------------------------------------------------------------------------


def test_a_model_without_moments_is_not_used_where_they_are_needed(
    train: Callable[..., Rows], trained: list[str]
) -> None:
    # Both share task 1; only the second goes on with its moments.
    reset = configure(replay="none", optimizer_state="reset")
    keep = configure(replay="none", optimizer_state="keep")
    assert fingerprint(reset, "train_task_1") == fingerprint(keep, "train_task_1")
    train([reset])
    trained.clear()
    rows = train([keep])
    assert trained == ["train_task_1", "train_task_2"]
    assert results(rows) == results(train([keep], store=None))
    # What has moments took the place of what had none, and serves both.
    other = configure(replay="simple", optimizer_state="keep")
    assert n_stored(train([reset, keep])) == everything([reset, keep])
    assert n_stored(train([other])) == {other.id: 1}


def test_moments_that_are_there_change_nothing_where_they_are_not_wanted(
    train: Callable[..., Rows],
) -> None:
    train([configure(replay="none", optimizer_state="keep")])
    reset = [configure(replay="none", optimizer_state="reset")]
    rows = train(reset)
    assert set(n_stored(rows).values()) == {1}
    assert results(rows) == results(train(reset, store=None))


# --- divergence ---------------------------------------------------------------------------------

LOST: dict[str, dict[str, Any]] = {
    "train_task_1": {"lr": 1e6},
    # Classifier losses stay below 100, the VAE's start at 784 * log 2 = 543.
    "train_generator_1": {"loss_above": 100.0},
    "not a number": {"lr": 1e30, "loss_above": 1e300},
}


@pytest.mark.parametrize("lost", LOST.values(), ids=LOST)
def test_a_diverged_stage_comes_back_as_diverged(
    lost: dict[str, Any], train: Callable[..., Rows], trained: list[str]
) -> None:
    configs = [configure(model="comparison", **lost), *mixed(model="comparison")[:3]]
    without = train(configs, store=None)
    assert results(train(configs)) == results(without)
    trained.clear()
    rows = train(configs)
    assert trained == []
    assert results(rows) == results(without)
    (diverged,) = [row for row in rows["trials"] if row["status"] == "diverged"]
    assert diverged["config_id"] == configs[0].id
    assert diverged["n_stored_stages"] == (2 if "loss_above" in lost and "lr" not in lost else 1)


def test_what_shares_nothing_with_a_diverged_stage_trains_beside_it(
    train: Callable[..., Rows],
) -> None:
    lost = configure(model="comparison", beta_2=1e12)
    train([lost])
    configs = [lost, configure(model="comparison")]
    assert results(train(configs)) == results(train(configs, store=None))


# --- damage -------------------------------------------------------------------------------------


def small_entry() -> Entry:
    tensors = {"images": torch.arange(6.0).reshape(2, 3), "labels": torch.ones(2, 2)}
    return Entry({"epochs": [{"loss": 0.1}], "accuracy": [0.5], "divergence": None}, tensors)


def assert_equal(entry: Entry | None, expected: Entry) -> None:
    assert entry is not None
    assert entry.record == expected.record
    assert entry.tensors.keys() == expected.tensors.keys()
    assert all(torch.equal(t, expected.tensors[name]) for name, t in entry.tensors.items())


def test_an_entry_comes_back_as_it_was_to_the_last_bit(store: StageCache) -> None:
    record = {"x": 0.1 + 0.2, "tiny": 5e-324, "none": None, "n": 3, "inf": float("inf")}
    tensors = {
        "a": torch.randn(3, 4, dtype=torch.float64),
        "transposed": torch.randn(3, 4).T,
        "view": torch.randn(10)[3:5],
        "special": torch.tensor([float("nan"), float("-inf"), -0.0]),
        "empty": torch.zeros(0, 4),
    }
    store.write("ab", {"e": 1}, Entry(record, tensors))
    entry = store.read("ab", {"e": 1})
    assert entry is not None and entry.record == record
    for name, tensor in tensors.items():
        got = entry.tensors[name]
        assert (got.dtype, got.shape) == (tensor.dtype, tensor.shape)
        assert got.numpy().tobytes() == tensor.contiguous().numpy().tobytes()


def test_a_flip_of_any_byte_is_found(store: StageCache) -> None:
    store.write("ab", {}, small_entry())
    path = store.path("ab", {})
    data = path.read_bytes()
    for bit in (0x01, 0x20, 0x80):
        for position in range(len(data)):
            flipped = bytes([*data[:position], data[position] ^ bit, *data[position + 1 :]])
            path.write_bytes(flipped)
            assert store.read("ab", {}) is None, (position, bit)
            assert not path.exists()
    path.write_bytes(data)
    assert_equal(store.read("ab", {}), small_entry())


def test_a_loss_of_any_number_of_bytes_is_found(store: StageCache) -> None:
    store.write("ab", {}, small_entry())
    path = store.path("ab", {})
    data = path.read_bytes()
    for length in range(len(data)):
        path.write_bytes(data[:length])
        assert store.read("ab", {}) is None, length
    path.write_bytes(data + b"\0")
    assert store.read("ab", {}) is None


class Bomb:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def pickled(data: bytes, path: Path) -> bytes:
    file = io.BytesIO()
    torch.save(Bomb(path.with_name("exploded")), file)
    return file.getvalue()


def foreign(data: bytes, path: Path) -> bytes:
    return save({"images": torch.ones(2, 3)}, metadata={"content": "{}", "blake2b": "0" * 64})


def flipped(at: float) -> Callable[[bytes, Path], bytes]:
    def flip(data: bytes, path: Path) -> bytes:
        position = min(int(at * len(data)), len(data) - 1)
        return bytes([*data[:position], data[position] ^ 1, *data[position + 1 :]])

    return flip


DAMAGE: dict[str, Callable[[bytes, Path], bytes]] = {
    "empty": lambda data, path: b"",
    "cut in the header": lambda data, path: data[:100],
    "cut in the middle": lambda data, path: data[: len(data) // 2],
    "cut by a byte": lambda data, path: data[:-1],
    "flip at the start": flipped(0),
    "flip in the middle": flipped(0.5),
    "flip at the end": flipped(1),
    "zeros": lambda data, path: bytes(len(data)),
    "foreign safetensors": foreign,
    "plain safetensors": lambda data, path: save({"images": torch.ones(2, 3)}),
    "pickle": pickled,
    "text": lambda data, path: b"what is this?",
    "no JSON": lambda data, path: (5).to_bytes(8, "little") + b"{'a':" + data[13:],
    "endless header": lambda data, path: (2**62).to_bytes(8, "little") + data[8:],
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_damaged_entries_are_never_used_and_computed_again(
    damage: Callable[[bytes, Path], bytes],
    train: Callable[..., Rows],
    store: StageCache,
    trained: list[str],
) -> None:
    configs = [configure(model="comparison", epochs=1, replay_weight=w) for w in (0.3, 0.6)]
    expected = results(train(configs))
    paths = sorted(store.folder.iterdir())
    whole = {path: path.read_bytes() for path in paths}
    for path in paths:
        path.write_bytes(damage(whole[path], path))
    n_first = len(trained)
    rows = train(configs)
    assert results(rows) == expected
    assert set(n_stored(rows).values()) == {0}
    assert len(trained) == 2 * n_first
    assert n_stored(train(configs)) == everything(configs)
    assert not (store.folder / "exploded").exists()


def test_an_entry_of_another_stage_is_not_used_under_any_name(
    train: Callable[..., Rows], store: StageCache
) -> None:
    # Stages of equal shapes: nothing but what is written inside tells them apart.
    configs = [configure(replay="none", lr=lr) for lr in (1e-3, 2e-3)]
    expected = results(train(configs))
    for name in ("train_task_1", "train_task_2"):
        one, other = (next(store.folder.glob(f"{fingerprint(c, name)}-*")) for c in configs)
        data = one.read_bytes(), other.read_bytes()
        one.write_bytes(data[1])
        other.write_bytes(data[0])
    rows = train(configs)
    assert results(rows) == expected
    assert set(n_stored(rows).values()) == {0}


@pytest.mark.parametrize("name", ["train_task_1", "fill_buffer_1", "train_generator_1"])
def test_an_entry_without_the_tensors_that_are_needed_is_not_used(
    name: str, small: Source, train: Callable[..., Rows], store: StageCache
) -> None:
    first = configure(model="comparison", replay_weight=0.5)
    train([first])
    here = environment(small, CPU, torch.float64)
    entry = store.read(fingerprint(first, name), here)
    assert entry is not None
    rest = dict(list(entry.tensors.items())[:1]) if "images" in entry.tensors else {}
    store.write(fingerprint(first, name), here, Entry(entry.record, rest), replaces=True)
    # The second needs the buffer and task 1; hard labels need the models behind the buffer.
    changes: list[dict[str, Any]] = [{"replay_labels": "hard"}, {"replay_weight": 0.1}]
    more = [configure(model="comparison", **change) for change in changes]
    rows = train(more)
    assert results(rows) == results(train(more, store=None))


def test_an_entry_removed_after_it_was_found_is_computed_again(
    small: Source, train: Callable[..., Rows], store: StageCache
) -> None:
    class Emptied(StageCache):
        """A store that another process empties once its entries were found."""

        def read(self, stage: str, environment: Mapping[str, Any]) -> Entry | None:
            entry = super().read(stage, environment)
            self.path(stage, environment).unlink(missing_ok=True)
            return entry

    train([configure(model="comparison", replay_weight=0.5)])
    config = configure(model="comparison", replay_weight=0.1)
    rows = train([config], store=Emptied(store.folder, GB))
    assert results(rows) == results(train([config], store=None))
    # With the buffer its parents are missing, and they are gone, too.
    assert n_stored(rows) == {config.id: 0}


# --- what else can change a bit -----------------------------------------------------------------


def test_another_torch_precision_thread_count_or_data_makes_other_entries(
    small: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    def key() -> str:
        return json.dumps(environment(small, CPU, torch.float32), sort_keys=True)

    torch.set_flush_denormal(False)  # workers in other tests switch it on
    usual = key()
    assert key() == usual
    assert json.dumps(environment(small, CPU, torch.float64), sort_keys=True) != usual
    other = replace(small, train_labels=small.train_labels[::-1])
    assert json.dumps(environment(other, CPU, torch.float32), sort_keys=True) != usual
    torch.set_num_threads(2)
    assert key() != usual
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    assert key() != usual
    torch.set_flush_denormal(False)
    for owner, name, value in (
        (torch, "__version__", "9.9.9"),
        (torch.backends.cpu, "get_cpu_capability", lambda: "AVX1024"),
        (entries, "_processor", lambda: "another"),
        (entries, "_code", lambda: "edited"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, value)
            assert key() != usual, name
    assert key() == usual


def test_entries_of_another_torch_or_precision_are_not_used_and_stay(
    train: Callable[..., Rows], monkeypatch: pytest.MonkeyPatch, store: StageCache
) -> None:
    configs = [configure(replay="none", epochs=1)]
    train(configs)
    assert set(n_stored(train(configs, dtype=torch.float32)).values()) == {0}
    monkeypatch.setattr(torch, "__version__", "9.9.9")
    assert set(n_stored(train(configs)).values()) == {0}
    assert n_stored(train(configs)) == everything(configs)
    monkeypatch.undo()
    assert n_stored(train(configs)) == everything(configs)
    assert len(list(store.folder.iterdir())) == 3 * len(stages_of(configs[0]))
    assert stored_stages(store.folder) == {s.fingerprint for s in stages_of(configs[0])}


# --- breaks -------------------------------------------------------------------------------------


def advances(run: PackRun) -> list[Rows]:
    reports = []
    while not run.is_done:
        report = run.advance()
        rows = {"epochs": report.epochs, "accuracy": report.accuracy, "trials": report.trials}
        reports.append(results(rows))
    return reports


@pytest.mark.parametrize("n_before", [0, 2, 5])
@pytest.mark.parametrize("model", ["vib", "comparison"])
def test_a_run_restored_with_another_store_gives_the_rows_of_an_uninterrupted_one(
    model: str, n_before: int, small: Source, train: Callable[..., Rows], tmp_path: Path
) -> None:
    # Once with the entries gone, once with all of them there: the state says what is served.
    configs = mixed(model=model)
    full = StageCache(tmp_path / "full", GB)
    train(configs, store=full)
    if n_before:
        train(configs[:n_before])
    whole, states = [], []
    run = PackRun(configs, small, dtype=torch.float64, store=StageCache(tmp_path / ".stages", GB))
    while not run.is_done:
        report = run.advance()
        rows = {"epochs": report.epochs, "accuracy": report.accuracy, "trials": report.trials}
        whole.append(results(rows))
        states.append(passed_through_a_file(run.state()))
    for n_done, state in enumerate(states, 1):
        for other in (StageCache(tmp_path / f"empty_{n_done}", GB), full, None):
            resumed = PackRun(configs, small, dtype=torch.float64, store=other)
            resumed.restore(state)
            assert advances(resumed) == whole[n_done:]


def test_a_stage_broken_off_and_resumed_is_stored_whole(
    small: Source, train: Callable[..., Rows], store: StageCache
) -> None:
    configs = [configure(model="comparison", replay_weight=w) for w in (0.3, 0.6)]
    run = PackRun(configs, small, dtype=torch.float64, store=store)
    while not run.is_done:
        run.advance()
        state = passed_through_a_file(run.state())
        run = PackRun(configs, small, dtype=torch.float64, store=store)
        run.restore(state)
    rows = train(configs)
    assert n_stored(rows) == everything(configs)
    assert results(rows) == results(train(configs, store=None))


# --- limits and errors --------------------------------------------------------------------------


def test_what_was_not_used_for_longest_goes_first(tmp_path: Path) -> None:
    entry = small_entry()
    StageCache(tmp_path, GB).write("size", {}, entry)
    (path,) = tmp_path.iterdir()
    size = path.stat().st_size
    path.unlink()
    store = StageCache(tmp_path, int(4.5 * size))  # to which four come close enough
    names = ["aa", "bb", "cc", "dd"]
    for age, name in enumerate(names):
        store.write(name, {}, entry)
        os.utime(store.path(name, {}), (1000 + age, 1000 + age))
    assert store.read("aa", {}) is not None  # now it is the one used last
    store.write("ee", {}, entry)
    assert stored_stages(tmp_path) == {"aa", "cc", "dd", "ee"}
    assert_equal(store.read("aa", {}), entry)


def test_the_folder_stays_within_its_limit(tmp_path: Path) -> None:
    limit = 50_000
    store = StageCache(tmp_path, limit)
    for i in range(60):
        store.write(f"{i:04x}", {}, Entry({}, {"a": torch.zeros(10 + 40 * (i % 9))}))
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= limit
    assert store.read(f"{59:04x}", {}) is not None
    assert store.failure is None


def test_an_entry_larger_than_the_limit_drives_nothing_out(tmp_path: Path) -> None:
    store = StageCache(tmp_path, 2000)
    store.write("aa", {}, small_entry())
    store.write("bb", {}, Entry({}, {"a": torch.zeros(1000)}))
    assert stored_stages(tmp_path) == {"aa"}


def test_a_store_that_is_too_small_changes_no_row(
    train: Callable[..., Rows], store: StageCache
) -> None:
    configs = mixed(model="comparison")
    whole = results(train(configs, store=None))
    tight = StageCache(store.folder, 400_000)
    for _ in range(3):
        assert results(train(configs, store=tight)) == whole
        assert sum(path.stat().st_size for path in store.folder.iterdir()) <= 400_000


WRITER = """
import sys
from pathlib import Path
import torch
from raysweep.packs.stage_cache.entries import Entry, StageCache

store = StageCache(Path(sys.argv[1]), 30_000)
for turn in range(20):
    for i in range(12):
        entry = store.read(f"{i:02x}", {})
        if entry is not None:
            assert entry.record == {"i": i} and bool((entry.tensors["a"] == i).all())
        store.write(f"{i:02x}", {}, Entry({"i": i}, {"a": torch.full((700,), float(i))}), turn % 2)
assert store.failure is None, store.failure
"""


def test_two_writers_at_once_leave_whole_entries(tmp_path: Path) -> None:
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    for writer in writers:
        _, errors = writer.communicate(timeout=240)
        assert writer.returncode == 0, errors.decode()
    left = {path.name for path in tmp_path.iterdir()}
    assert left and all(name.endswith(".safetensors") and name[0] != "." for name in left)
    store = StageCache(tmp_path, GB)
    for i in range(12):
        if store.path(f"{i:02x}", {}).exists():
            assert store.read(f"{i:02x}", {}) is not None


def test_a_folder_that_cannot_be_written_changes_no_row(
    train: Callable[..., Rows], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("not a folder")
    configs = mixed(model="vib")
    broken = StageCache(tmp_path / "file", GB)
    assert results(train(configs, store=broken)) == results(train(configs, store=None))
    assert broken.failure is not None and str(tmp_path / "file") in broken.failure


def test_a_worker_tells_the_driver_why_it_keeps_nothing(small: Source, tmp_path: Path) -> None:
    class Bare(PackTrainable):
        def setup(self, config: dict[str, Any], sources: Any = None) -> None:
            super().setup(config, {"mnist_5k": small})

    (tmp_path / "file").write_text("not a folder")
    configs = [configure(replay="none", epochs=1)]
    warnings_so_far = []
    for folder in (tmp_path / "file", tmp_path / ".stages"):
        trial = trial_config("key", configs, store=StageCache(folder, GB))
        worker = Bare({TRIAL: trial})
        results = [worker.train() for _ in range(2)]
        assert results[-1]["done"]
        warnings_so_far.append(results[-1]["notes"])
    assert warnings_so_far[1] == []
    (note,) = warnings_so_far[0]
    assert note.startswith(f"{tmp_path / 'file'}: expected to keep stages there, got: ")
    assert stored_stages(tmp_path / ".stages") == {s.fingerprint for s in stages_of(configs[0])}


def test_a_store_that_may_not_be_looked_into_fails_no_pack(
    train: Callable[..., Rows], store: StageCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs = [configure(replay="none", epochs=1)]
    expected = train(configs, store=None)

    def refuse(*_: object) -> bool:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(LocalFolder, "exists", refuse)
    assert results(train(configs)) == results(expected)
    assert store.failure is not None and "Permission denied" in store.failure


def test_a_full_disk_is_noted_once_and_leaves_no_rest(
    train: Callable[..., Rows], store: StageCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def full(file: int) -> None:
        calls.append(file)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    configs = mixed(model="vib")
    rows = train(configs)
    assert results(rows) == results(train(configs, store=None))
    assert len(calls) == 1
    assert store.failure is not None and "No space left on device" in store.failure
    assert list(store.folder.iterdir()) == []


def test_what_dead_writers_left_is_removed_and_what_is_being_written_stays(
    store: StageCache,
) -> None:
    store.folder.mkdir()
    dead, busy = (store.folder / f".tmp-host-{i}-aa-bb.safetensors" for i in (1, 2))
    for path in (dead, busy):
        path.write_bytes(b"half")
    os.utime(dead, (1000, 1000))
    store.write("aa", {}, small_entry())
    assert not dead.exists() and busy.exists()
    assert stored_stages(store.folder) == {"aa"}


def test_an_entry_that_is_there_stays_unless_it_is_replaced(store: StageCache) -> None:
    store.write("aa", {}, small_entry())
    path = store.path("aa", {})
    before = path.stat().st_ino
    store.write("aa", {}, Entry({}, {}))
    assert path.stat().st_ino == before
    store.write("aa", {}, Entry({}, {}), replaces=True)
    assert_equal(store.read("aa", {}), Entry({}, {}))


def test_what_is_served_is_not_written_again(train: Callable[..., Rows], store: StageCache) -> None:
    configs = [configure(replay="none", optimizer_state="reset", lr=lr) for lr in (1e-3, 2e-3)]
    train(configs[:1])
    before = {path: path.stat().st_ino for path in store.folder.iterdir()}
    train(configs)
    assert {path: path.stat().st_ino for path in before} == before


# --- the setting --------------------------------------------------------------------------------

READ: dict[str, StageCaching] = {
    "": StageCaching(False, 10),
    "stage_cache: false": StageCaching(False, 10),
    "stage_cache: no": StageCaching(False, 10),
    "stage_cache:": StageCaching(False, 10),
    "stage_cache: true": StageCaching(True, 10),
    "stage_cache: yes": StageCaching(True, 10),
    "stage_cache: {max_gb: 2.5}": StageCaching(True, 2.5),
    "stage_cache: {max_gb: 3}": StageCaching(True, 3),
}


@pytest.mark.parametrize("text", READ)
def test_the_stage_cache_key_is_read_and_written_out(text: str, tmp_path: Path) -> None:
    sweep = load_sweep(write(tmp_path, f"experiment: replay_vib\n{text}\n"))
    assert sweep.stage_cache == READ[text]
    written = {"max_gb": READ[text].max_gb} if READ[text].is_on else False
    assert sweep.resolved["stage_cache"] == written == READ[text].to_plain()
    again = load_sweep(write(tmp_path, dump_yaml(sweep.resolved)))
    assert again.stage_cache == READ[text]
    plain = load_sweep(write(tmp_path, "experiment: replay_vib\n"))
    assert [c.id for c in sweep.configs] == [c.id for c in plain.configs]


EXPECTED = "stage_cache: expected true, false or {max_gb: 10}, got"
REFUSED = {
    "stage_cache: ture": f"{EXPECTED} 'ture' (did you mean true?)",
    "stage_cache: keep": f"{EXPECTED} 'keep'",
    "stage_cache: 1": f"{EXPECTED} 1",
    "stage_cache: [true]": f"{EXPECTED} [True]",
    "stage_cache: {}": f"{EXPECTED} {{}}",
    "stage_cache: {max: 1}": "stage_cache.max: expected max_gb, got 'max' (did you mean max_gb?)",
    "stage_cache: {keep: true}": "stage_cache.keep: expected max_gb, got 'keep'",
    "stage_cache: {max_gb: 0}": "stage_cache.max_gb: expected a number > 0, at most 1e+09, got 0",
    "stage_cache: {max_gb: much}": "stage_cache.max_gb: expected a number > 0, at most 1e+09, "
    "got 'much'",
    "stage_cache: {max_gb: .inf}": "stage_cache.max_gb: expected a number > 0, at most 1e+09, "
    "got infinity",
    "stages: keep": "expected a known key, got 'stages'; write `stage_cache:` with true, false or "
    "{max_gb: 10}",
    "stage: keep": "expected a known key, got 'stage' (did you mean stage_cache?)",
    "space: {stage_cache: true}": "space: expected a known setting, got 'stage_cache'; write "
    "`stage_cache:` at the top of the file",
}


@pytest.mark.parametrize("text", REFUSED)
def test_a_wrong_stage_cache_key_is_refused_in_one_line(text: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as refused:
        load_sweep(write(tmp_path, f"experiment: replay_vib\n{text}\n"))
    message = re.sub(r" \(line \d+, column \d+\)$", "", str(refused.value))
    assert message == f"small.yaml: {REFUSED[text]}"


def test_counting_entries_does_not_import_torch() -> None:
    code = "import sys, raysweep.packs.stage_cache.entries; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- the whole path -----------------------------------------------------------------------------

SWEEP = """
experiment: replay_vib
training: {epochs: 2, batch_size: 500}
space:
  model: {grid_search: [vib, comparison]}
  n_bottleneck: 5
  encoder_widths: [20]
  rec_decoder_widths: [20]
  beta_1: -0.1
  replay: generative
  replay_weight: 0.5
  n_replay: 200
"""


def test_more_replay_weights_in_a_finished_sweep_train_second_tasks_only(tmp_path: Path) -> None:
    file = write(tmp_path, SWEEP)
    grid = "space.replay_weight={grid_search: [0.5, 0.1, 0.9]}"
    assert run(file, "stage_cache=true").returncode == 0
    # Another sweep of the same results folder; in it task 1, VAE and buffers are there.
    planned = run(file, grid, "stage_cache=true", "--name", "more", "pack=3", "--dry-run")
    assert "21 in all, 11 distinct, 4 will run, up to 7 come from the cache" in planned.stdout
    done = run(file, grid, "stage_cache=true", "--name", "more", "pack=3")
    assert done.returncode == 0, done.stderr
    without = run(file, grid, "--name", "without")
    assert without.returncode == 0, without.stderr
    folder = tmp_path / "results"
    assert_same_tables(folder / "more", folder / "without")
    trials = read_trials(folder / "more")
    n_run = trials["config/model"].map({"vib": 3, "comparison": 4}) - trials["n_stored_stages"]
    is_new = trials["config/replay_weight"].isin([0.1, 0.9])
    assert (n_run[is_new] == 1).all() and (n_run[~is_new] == 0).all()
    epochs = read_epochs(folder / "more")
    measured = epochs[epochs["duration_s"].notna()]
    assert set(measured["stage"]) == {"train_task_2"}
    assert len(measured) == 2 * 4
    assert pd.isna(epochs["duration_s"]).sum() == len(epochs) - 8
    assert (read_trials(folder / "without")["n_stored_stages"] == 0).all()
