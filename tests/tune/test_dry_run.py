"""What a dry run says of time, hours and tables, and that it leaves nothing behind."""

import math
import os
import re
import signal
import subprocess
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from small_configs import configure
from sweep_runs import ROOT, SMALL, command, run, write

from raysweep.learning.config import Config
from raysweep.learning.data.sources import load_source
from raysweep.packs.pack import Pack
from raysweep.packs.planning.estimates import cost
from raysweep.packs.run import PackRun
from raysweep.settings.execution import Resources
from raysweep.settings.sweep import load_sweep
from raysweep.tables.folder import ResultsFolder
from raysweep.tables.reader import read_accuracy, read_epochs, read_trials
from raysweep.tables.schemas import config_columns
from raysweep.tables.writer import Writer
from raysweep.tune.preview import dry_run
from raysweep.tune.preview.dry_run import hours, look_ahead, packs_of_search
from raysweep.tune.preview.measuring import Measured, measure
from raysweep.tune.preview.table_size import n_bytes, n_rows
from raysweep.tune.reporting.summary import lay_out
from raysweep.tune.search.suggestions import EarlierSuggestions

pytestmark = pytest.mark.slow

ONE = Resources(cpu=1, gpu=0)
SOURCES = {"mnist_5k": load_source("mnist_5k", Path())}
DATA: dict[str, Any] = {"task_samples": 300, "n_tasks": 3}
MLP: dict[str, Any] = DATA | {"experiment": "replay", "model": "mlp", "n_bottleneck": 6}
KINDS: dict[str, list[Config]] = {
    "vib": [
        configure(**DATA, replay=replay, lr=lr)
        for replay in ("none", "simple", "generative")
        for lr in (1e-3, 3e-3)
    ],
    "comparison": [
        configure(**DATA, model="comparison", replay=replay, generator="continual")
        for replay in ("none", "simple", "generative")
    ],
    "per_task": [
        configure(**MLP, replay="generative", generator="per_task", lr=lr) for lr in (0.01, 0.1)
    ],
    "mir": [
        configure(**MLP, replay="simple", retrieval=retrieval) for retrieval in ("cycle", "mir")
    ],
    "joint": [configure(**DATA, experiment="joint", model="mlp", ema_decay=0.9)],
    "one task": [configure(experiment="vib", n_tasks=1, task_samples=300, eval_samples=2)],
}
SEARCH = """
experiment: replay_vib
data: {tasks: perm_mnist, source: mnist_5k, task_samples: 200}
training: {epochs: 4, batch_size: 100}
search: {method: optuna, n_samples: 21}
space:
  n_bottleneck: {choice: [4, 8]}
  encoder_widths: [16]
  rec_decoder_widths: [16]
  lr: {loguniform: [1e-4, 1e-1]}
  replay: none
seeds: [0, 1]
pack: 4
"""


def dry(file: Path, *arguments: str) -> str:
    done = run(file, *arguments, "--dry-run")
    assert done.returncode == 0, done.stderr
    return done.stdout


def said_rows(text: str) -> dict[str, int]:
    found = re.findall(r"([\d,]+) of (trials|epochs|accuracy)", text)
    return {table: int(n.replace(",", "")) for n, table in found}


@pytest.mark.parametrize("kind", KINDS)
def test_every_pack_takes_some_seconds(kind: str) -> None:
    n_threads = torch.get_num_threads()
    measured = measure([Pack(tuple(KINDS[kind]))], SOURCES, ONE)
    (seconds,) = measured.seconds
    assert 0 < seconds < math.inf
    assert (measured.device, measured.n_shapes, measured.n_measured) == ("cpu", 1, 1)
    assert torch.get_num_threads() == n_threads


def packs_of(*changes: dict[str, Any]) -> list[Pack]:
    return [Pack((configure(n_tasks=2, task_samples=300, **change),)) for change in changes]


def test_packs_that_differ_in_their_seeds_are_one_shape() -> None:
    changes: list[dict[str, Any]] = [
        {"seed": 0},
        {"seed": 1},
        {"seed": 1, "beta_1": 0.1},  # no reconstruction: fewer products
        {"replay": "simple"},
        {"batch_size": 100},
    ]
    measured = measure(packs_of(*changes), SOURCES, ONE)
    assert (measured.n_shapes, measured.n_measured) == (4, 4)
    assert measured.seconds[0] == pytest.approx(measured.seconds[1])


def test_packs_that_share_a_processor_take_longer() -> None:
    packs = packs_of({"seed": 0}, {"batch_size": 100})
    alone, shared = (
        measure(packs, SOURCES, Resources(cpu=cpu), clock=map(float, count()).__next__)
        for cpu in (1, 0.25)
    )
    assert shared.seconds == pytest.approx([4 * seconds for seconds in alone.seconds])
    assert hours(shared.seconds, Resources(cpu=0.25)) == pytest.approx(hours(alone.seconds, ONE))


def test_shapes_for_which_there_is_no_time_take_what_their_cost_says() -> None:
    packs = packs_of({"epochs": 2}, {"epochs": 20}, {"epochs": 9})
    measured = measure(packs, SOURCES, ONE, most_s=0)
    assert (measured.n_shapes, measured.n_measured) == (3, 1)
    ratios = [s / cost(pack) for s, pack in zip(measured.seconds, packs, strict=True)]
    assert ratios == pytest.approx([ratios[1]] * 3)


def written(configs: Sequence[Config], path: Path) -> Path:
    """Train configurations and write their tables as a sweep does, without Ray."""
    folder = ResultsFolder(path)
    folder.open()
    writer = Writer(folder)
    pack = PackRun(configs, SOURCES["mnist_5k"])
    by_id = {config.id: config for config in configs}
    while not pack.is_done:
        report = pack.advance()
        writer.add("epochs", report.epochs)
        writer.add("accuracy", report.accuracy)
        trials = [config_columns(by_id[row["config_id"]]) | row for row in report.trials]
        writer.add("trials", trials)
    writer.fold()
    folder.close()
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_the_tables_have_the_rows_that_were_counted_and_about_the_bytes(
    kind: str, tmp_path: Path
) -> None:
    configs = KINDS[kind]
    folder = written(configs, tmp_path / "small")
    assert n_rows(configs) == {
        "trials": len(read_trials(folder)),
        "epochs": len(read_epochs(folder)),
        "accuracy": len(read_accuracy(folder)),
    }
    size = sum(file.stat().st_size for file in folder.glob("*.parquet"))
    assert 0.5 < n_bytes(configs) / size < 2


def test_bytes_grow_with_rows_beyond_those_that_are_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    configs = [configure(**DATA, lr=1e-4 * k, epochs=50) for k in range(1, 41)]
    whole = n_bytes(configs)
    monkeypatch.setattr("raysweep.tune.preview.table_size._N_WRITTEN", 1500)
    assert n_bytes(configs) == pytest.approx(whole, rel=0.5)
    assert n_bytes(configs[:20]) < 0.7 * n_bytes(configs)


def test_gpu_hours_are_the_share_of_a_gpu_times_the_hours_of_packs() -> None:
    assert hours([1800, 5400], Resources(cpu=4, gpu=0.25)) == (8, 0.5)
    assert hours([1800, 5400], ONE) == (2, 0)


def said(packs: Sequence[Pack], gpu: float = 0, stored: Any = ()) -> str:
    resources = Resources(cpu=1, gpu=gpu)
    outlook = look_ahead(
        packs,
        SOURCES,
        data=Path("data"),
        resources=resources,
        n_slots=2,
        stored=stored,
        say=lambda _: None,
    )
    return lay_out(outlook.lines)


def test_hours_and_time_on_slots_are_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    packs = packs_of({"seed": 0}, {"seed": 1}, {"seed": 2})
    known = Measured((3600.0, 1800.0, 1800.0), "NVIDIA H100", 2, 1)
    monkeypatch.setattr(dry_run, "measure", lambda *_: known)
    text = said(packs, gpu=0.5)
    # 3600 s beside 1800 s + 1800 s, and Ray's 10 s.
    assert "about 1 h 00 min on 2 slots" in text
    assert "2 CPU-hours, 1 GPU-hours" in text
    assert "1 of 2 shapes, one pack at a time, on NVIDIA H100; packs that share a GPU" in text
    assert "not taken off" not in text
    stored = {packs[2].groups[0][0].fingerprint}
    assert "stages from the stage cache are not subtracted" in said(packs, stored=stored)


def test_an_error_in_training_takes_the_place_of_the_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> Measured:
        raise RuntimeError("out of\nmemory")

    monkeypatch.setattr(dry_run, "measure", fail)
    time, tables = said(packs_of({})).splitlines()
    reason = "no estimate: the measured steps failed: RuntimeError: out of memory"
    assert time.removeprefix("time").strip() == reason
    assert said_rows(tables)["trials"] == 1


def test_nothing_to_do_is_not_measured() -> None:
    assert said([]) == ""


def test_data_that_is_not_here_gives_a_line_and_no_download(tmp_path: Path) -> None:
    folder = tmp_path / "empty"
    text = dry(write(tmp_path), "data.source=mnist", "--data", str(folder))
    assert f"no estimate: a dry run downloads nothing, and {folder} lacks mnist" in text
    # Two epochs of a stage: 6 of a VIB in two tasks, 6 of the other model, 2 of these with a VAE.
    n_epochs = 2 * (12 * 2 + 2)
    assert said_rows(text) == {"trials": 12, "epochs": n_epochs, "accuracy": 12 * 3 * 2}
    assert not folder.exists()


def test_measuring_leaves_no_file_behind(tmp_path: Path) -> None:
    file = write(tmp_path)
    (tmp_path / "tmp").mkdir()
    done = subprocess.run(
        command(file, "--dry-run"),
        cwd=tmp_path,
        env=os.environ | {"TMPDIR": str(tmp_path / "tmp"), "HOME": str(tmp_path / "tmp")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "steps of 2 of 2 shapes" in done.stdout
    assert re.search(r"^time +about \d.* CPU-hours, 0 GPU-hours$", done.stdout, re.MULTILINE)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["small.yaml", "tmp"]


def test_a_search_is_measured_by_its_examples(tmp_path: Path) -> None:
    file = write(tmp_path, SEARCH)
    text = dry(file)
    assert said_rows(text) == {"trials": 42, "epochs": 42 * 8, "accuracy": 42 * 6}
    assert "steps of 2 of 2 shapes" in text
    sweep = load_sweep(file)
    assert sweep.space is not None
    ended = [sweep.space.parameters_of(config) for config in sweep.examples[:2]]
    known = EarlierSuggestions({}, [parameters for parameters in ended if parameters], [])
    sizes = [len(pack.configs) for pack in packs_of_search(sweep, known, 4, None)]
    assert sizes == [4, 4, 4, 4, 3] * 2  # 21 suggestions less 2, for either seed
    limited = packs_of_search(sweep, known, 4, 7)
    assert sum(len(pack.configs) for pack in limited) == 7
    ids = {config.id for pack in limited for config in pack.configs}
    assert len(ids) == 7


@pytest.mark.parametrize("wanted", ["{cpu: 64000}", "{cpu: 1, gpu: 64}"])
def test_resources_that_no_node_has_are_said_as_in_a_run(wanted: str, tmp_path: Path) -> None:
    file = write(tmp_path)
    dry, real = (run(file, f"resources={wanted}", *more) for more in (["--dry-run"], []))
    (line,) = (line for line in real.stderr.splitlines() if line.startswith("error: "))
    assert "resources: expected at most what one node has" in line
    assert dry.returncode == real.returncode == 4
    assert dry.stderr.splitlines() == [line]
    assert "12 in all" in dry.stdout and "\ntime " not in dry.stdout  # the plan, but no estimate
    elsewhere = run(file, f"resources={wanted}", "--dry-run", "--address", "10.0.0.1:6379")
    assert elsewhere.returncode == 0, elsewhere.stderr
    assert "note: this machine lacks what a pack needs" in elsewhere.stderr
    assert "the run will ask the cluster at 10.0.0.1:6379" in elsewhere.stderr


def test_ctrl_c_ends_a_dry_run_cleanly(tmp_path: Path) -> None:
    file = write(tmp_path, SMALL.replace("[20]", "[2000, 2000]"))
    process = subprocess.Popen(
        command(file, "--dry-run"),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout and process.stderr
    for line in process.stderr:
        if "training a few steps" in line:
            break
    process.send_signal(signal.SIGINT)
    text, said = process.communicate(timeout=60)
    assert process.returncode == 3
    assert said.startswith("interrupted") and "Traceback" not in said
    assert "12 in all" in text and "tables" not in text


def test_a_reader_that_leaves_ends_a_dry_run_quietly(tmp_path: Path) -> None:
    process = subprocess.Popen(
        command(write(tmp_path), "--dry-run"), cwd=ROOT, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout and process.stderr
    process.stdout.close()  # as `| head -1` does after a line
    said = process.stderr.read()
    assert process.wait(timeout=60) == 0, said
    assert "rror" not in said
