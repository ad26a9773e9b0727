"""Packs resume from states in an object store, on a real S3 server."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray import tune
from s3_server import S3Server, only_credentials, serve
from sweep_runs import SMALL, assert_same_tables, start, start_held_back, wait_until, write

from raysweep.errors import InputError
from raysweep.learning.config import Config
from raysweep.packs.pack import Pack
from raysweep.packs.states import STATE_FILE
from raysweep.tables import conditions
from raysweep.tables.folder import ResultsFolder
from raysweep.tables.paths import ResultsPath
from raysweep.tables.paused import PAUSED, has_states, partly_trained, state_files
from raysweep.tables.reader import read_epochs
from raysweep.tables.writer import Writer
from raysweep.tune.scheduling.queue import Job
from raysweep.tune.scheduling.resume import keep_states, paused_jobs
from raysweep.tune.scheduling.trainable import TRIAL, trial_config
from tests.tune.test_damaged_states import configs_of
from tests.tune.test_trainable import Bare, pack, rows_of, train_to_end

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with serve() as server:
        yield server


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    only_credentials(monkeypatch)
    monkeypatch.setattr(conditions, "_SETTLE_S", 0.05)


def checkpointed(folder: ResultsFolder, tmp_path: Path) -> Job:
    """Train a pack for three epochs and leave its rows and its checkpoint in the store."""
    worker, writer = Bare(pack()), Writer(folder)
    for _ in range(3):
        rows = json.loads(worker.train()["rows"])
        writer.add("epochs", rows["epochs"])
        writer.add("accuracy", rows["accuracy"])
    writer.flush()
    worker.save_checkpoint(str(tmp_path))
    checkpoint = folder.scratch / "packs/pack_1/checkpoint_000001"
    (checkpoint / STATE_FILE).write_bytes((tmp_path / STATE_FILE).read_bytes())
    configs = tuple(configs_of(pack()))
    storage = tune.Checkpoint(checkpoint.key, checkpoint.filesystem)
    return Job(configs[0].id, Pack(configs), checkpoint=storage)


def assert_goes_on(location: ResultsPath, configs: tuple[Config, ...]) -> None:
    (job,) = paused_jobs(location, configs)
    assert set(job.pack.configs) == set(configs)
    config = {TRIAL: trial_config("key", configs, states=job.states, is_paused=True)}
    results = train_to_end(Bare(config))
    rows, whole = rows_of(results), rows_of(train_to_end(Bare(pack())))
    assert len(results) == 3 and rows == whole[-len(rows) :] and not results[0]["notes"]


@pytest.mark.parametrize("is_killed", [False, True], ids=["stopped", "killed"])
def test_a_pack_goes_on_from_a_state_in_the_store(
    is_killed: bool, server: S3Server, tmp_path: Path
) -> None:
    folder = ResultsFolder(server.address(f"results/going_on_{is_killed}"))
    folder.open()
    location = folder.location
    assert not has_states(location)
    job = checkpointed(folder, tmp_path)
    if not is_killed:
        assert keep_states(location, [job]) == 1
        assert partly_trained(location) == {config.id for config in job.pack.configs}
        folder.close()
    else:
        folder._lock.release()  # type: ignore[union-attr]
    again = ResultsFolder(location)
    again.open()
    assert again.scratch.tree() == [] and has_states(location)
    assert_goes_on(location, job.pack.configs)
    (name,) = state_files(location / PAUSED)
    content = (location / PAUSED / name).read_bytes()
    at = len(content) // 3
    damaged = content[:at] + bytes(4096) + content[at + 4096 :]
    (location / PAUSED / name).write_bytes(damaged)
    said: list[str] = []
    jobs = paused_jobs(location, job.pack.configs, say=said.append)
    if is_killed:
        (note,) = said
        assert jobs == [] and "is damaged or incomplete" in note
    else:
        states = jobs[0].states
        config = {TRIAL: trial_config("key", job.pack.configs, states=states, is_paused=True)}
        results = train_to_end(Bare(config))
        assert rows_of(results) == rows_of(train_to_end(Bare(pack())))
        assert results[0]["notes"] == [
            f"a pack starts over: its state {location / PAUSED / name} is damaged or incomplete"
        ]
    keep_states(location, [])
    assert state_files(location / PAUSED) == ([] if is_killed else [name])
    again.close()


def test_an_interrupted_sweep_in_a_store_goes_on_with_its_epochs(
    server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = SMALL.replace("epochs: 2", "epochs: 4") + "pack: 4\n"
    file, go = write(tmp_path, text), tmp_path / "go"
    address = server.address("sweeps")
    location = ResultsPath.of(address) / "small"
    process = start_held_back(monkeypatch, file, go, "--results", address)

    def is_under_way() -> bool:
        try:
            names = (location / ".tune").tree()
            return any(STATE_FILE in name for name in names) and len(read_epochs(location)) > 0
        except (InputError, OSError):
            return False

    wait_until(is_under_way, process)
    process.send_signal(signal.SIGINT)
    out = process.communicate(timeout=120)[0]
    assert process.returncode == 3, out
    n_paused = len(partly_trained(location))
    assert n_paused
    go.touch()
    process = start(file, "--results", address)
    out = process.communicate(timeout=300)[0]
    assert process.returncode == 0, out
    assert f"{n_paused} of them continue where the last run stopped" in out
    assert not has_states(location)
    whole = write(tmp_path / "whole", text)
    process = start(whole)
    assert process.wait(timeout=300) == 0
    assert_same_tables(str(location), tmp_path / "whole" / "results" / "small")
