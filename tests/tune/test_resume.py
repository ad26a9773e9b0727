"""Packs go on where a run was stopped: with the rows of a run without a break."""

import contextlib
import copy
import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from checkpoints import passed_through_a_file, write_state
from ray import tune
from small_configs import configure
from sweep_runs import (
    SMALL,
    assert_same_tables,
    n_rows,
    run,
    start_held_back,
    wait_until,
    workers_of,
    write,
)
from table_rows import trial_row

from raysweep.errors import InputError
from raysweep.learning.config import Config
from raysweep.learning.data.sources import Source
from raysweep.packs.merging import joined
from raysweep.packs.pack import Pack
from raysweep.packs.planning.estimates import memory_bytes
from raysweep.packs.rows import accuracy_rows, next_trail
from raysweep.packs.run import PackRun
from raysweep.packs.states import STATE_FILE, RowsBehind, StateError, rows_in
from raysweep.sealed import seal, unseal
from raysweep.settings.sweep import load_sweep
from raysweep.tables.folder import ResultsFolder, WriteError
from raysweep.tables.paths import ResultsPath
from raysweep.tables.paused import PAUSED, partly_trained, state_files
from raysweep.tables.reader import read_epochs, statuses
from raysweep.tables.writer import Writer
from raysweep.tune.reporting.screen import Screen
from raysweep.tune.scheduling.ledger import Ledger
from raysweep.tune.scheduling.queue import Job
from raysweep.tune.scheduling.remaining_work import RemainingWork
from raysweep.tune.scheduling.resume import fold_and_keep_states, keep_states, paused_jobs
from raysweep.tune.scheduling.trainable import TRIAL, trial_config
from tests.packs.test_lanes import add, assert_same, empty, run_alone
from tests.tune.test_trainable import Bare, pack, rows_of, train_to_end


def behind_of(path: Path | ResultsPath) -> dict[str, RowsBehind]:
    """Return what a state stands behind, by configuration."""
    with ResultsPath.of(path).opened() as file:
        return rows_in(file)


TEXT = SMALL.replace("epochs: 2", "epochs: 4") + "pack: 4\n"


@pytest.mark.slow
def test_an_interrupted_sweep_goes_on_with_the_epochs_that_it_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path, TEXT)
    folder = tmp_path / "results" / "small"
    go = tmp_path / "go"
    process = start_held_back(monkeypatch, file, go)
    saved = f".tune/packs/*/checkpoint_*/{STATE_FILE}"
    wait_until(lambda: any(folder.glob(saved)) and n_rows(folder, "epochs") > 0, process)
    process.send_signal(signal.SIGINT)
    out = process.communicate(timeout=120)[0]
    assert process.returncode == 3, out
    entries = json.loads((folder / PAUSED / "packs.json").read_bytes())
    files = [name for entry in entries for name in entry["files"]]
    assert state_files(ResultsPath(folder / PAUSED)) == sorted(files)
    before = read_epochs(folder)
    go.touch()
    done = run(file)
    assert done.returncode == 0, done.stdout + done.stderr
    n_configs = sum(len(entry["configs"]) for entry in entries)
    assert f"{n_configs} of them continue where the last run stopped" in done.stderr
    after = read_epochs(folder)
    keys = ["config_id", "stage", "epoch"]
    first = before[before["config_id"] == entries[0]["configs"][0]].sort_values(keys).head(1)
    again = after.merge(first, on=keys)
    assert len(again) == 1
    assert (again["duration_s_x"] == again["duration_s_y"]).all()  # it was not trained again
    assert not (folder / PAUSED).exists()
    whole = write(tmp_path / "whole", TEXT)
    assert run(whole).returncode == 0
    assert_same_tables(folder, tmp_path / "whole" / "results" / "small")


@pytest.mark.slow
def test_a_killed_sweep_goes_on_with_the_epochs_that_it_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path, TEXT)
    folder = tmp_path / "results" / "small"
    go = tmp_path / "go"
    process = start_held_back(monkeypatch, file, go)

    def saved() -> dict[str, list[int]]:
        """Return the numbers of epochs of each configuration that checkpoints stand behind."""
        found: dict[str, list[int]] = {}
        for path in folder.glob(f".tune/packs/*/checkpoint_*/{STATE_FILE}"):
            with contextlib.suppress(StateError, OSError):
                for config_id, behind in behind_of(path).items():
                    n_epochs = sum(n for n, _ in behind["epochs"].values())
                    found.setdefault(config_id, []).append(n_epochs)
        return found

    wait_until(lambda: any(max(numbers) >= 4 for numbers in saved().values()), process)
    workers = workers_of(process.pid)
    process.kill()
    process.communicate(timeout=120)
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        time.sleep(0.1)
    before = read_epochs(folder)
    n_before = before.groupby("config_id").size().to_dict()
    # Of each configuration the last state that the tables bear out.
    n_behind = {
        config_id: max(n for n in (0, *numbers) if n <= n_before.get(config_id, 0))
        for config_id, numbers in saved().items()
    }
    n_behind = {config_id: n for config_id, n in n_behind.items() if n}
    assert max(n_behind.values()) >= 2
    assert not (folder / PAUSED).exists() and not n_rows(folder, "trials")
    go.touch()
    done = run(file)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(n_behind)} of them continue where the last run stopped" in done.stderr
    keys = ["config_id", "stage", "epoch"]
    after = read_epochs(folder).merge(before, on=keys)
    kept = after[after["duration_s_x"] == after["duration_s_y"]]  # they were not trained again
    n_kept = kept.groupby("config_id").size().to_dict()
    assert n_kept == n_behind
    assert not (folder / PAUSED).exists()
    whole = write(tmp_path / "whole", TEXT)
    assert run(whole).returncode == 0
    assert_same_tables(folder, tmp_path / "whole" / "results" / "small")


# What is kept, and what is taken up again


def checkpointed(folder: Path, *configs: Config) -> Job:
    write_state(folder / STATE_FILE, *configs)
    job = Job(configs[0].id, Pack(configs), checkpoint=tune.Checkpoint(str(folder)))
    return job


def test_states_are_kept_until_their_configurations_have_ended(tmp_path: Path) -> None:
    location = ResultsPath(tmp_path)
    a, b, c, d = (Config(seed=seed) for seed in range(4))
    pair = checkpointed(tmp_path / "one", a, b)
    over = checkpointed(tmp_path / "two", c)
    over.ended.add(c.id)
    assert keep_states(location, [pair, over, Job(d.id, Pack((d,)))]) == 1
    (job,) = paused_jobs(location, [d, b, a, c])
    assert (job.pack.configs, job.is_paused) == ((a, b), True)
    assert [set(behind_of(path)) for path in job.states] == [{a.id, b.id}]
    (rest,) = paused_jobs(location, [b])  # of a search space without the other
    assert rest.pack.configs == (b,)
    assert paused_jobs(location, [c, d]) == []
    # Stopped again before there was a later state: the one there is stays.
    assert keep_states(location, [rest]) == 0  # none that is new
    again, other = paused_jobs(location, [a, b])
    assert (again.pack.configs, again.states) == ((b,), job.states)
    assert (other.pack.configs, other.states) == ((a,), job.states)
    later = checkpointed(tmp_path / "three", b)
    later.states = again.states
    assert keep_states(location, [later]) == 1
    assert len(state_files(ResultsPath(tmp_path / PAUSED))) == 2
    assert paused_jobs(location, [b])[0].states != job.states
    assert paused_jobs(location, [a])[0].states == job.states


def test_states_of_what_a_run_had_nothing_to_do_with_stay(tmp_path: Path) -> None:
    folder = ResultsFolder(tmp_path / "sweep")
    folder.open()
    location = folder.location
    a, b, c = (Config(seed=seed) for seed in range(3))
    assert keep_states(location, [checkpointed(tmp_path / "one", a, b, c)]) == 1
    # A run of a alone, as by --limit 1, which ends b's row before it is stopped.
    writer = Writer(folder)
    writer.add("trials", [trial_row(b)])
    writer.flush()
    assert keep_states(location, [Job(a.id, Pack((a,)))]) == 0
    (job,) = paused_jobs(location, [a, c])
    assert job.pack.configs == (a, c)  # a had not got to a state of its own
    for config in (a, c):
        writer.add("trials", [trial_row(config)])
    writer.flush()
    assert keep_states(location, []) == 0
    assert not (tmp_path / "sweep" / PAUSED).exists()
    folder.close()


def test_what_failed_goes_on_from_a_state_of_its_own_only(tmp_path: Path) -> None:
    location = ResultsPath(tmp_path)
    a, b, c = (Config(seed=seed) for seed in range(3))
    keep_states(location, [checkpointed(tmp_path / "1", a), checkpointed(tmp_path / "2", b, c)])
    jobs = paused_jobs(location, [a, b, c], alone={a.id, b.id})
    assert [job.pack.configs for job in jobs] == [(a,), (c,)]


def test_packs_that_are_too_large_now_are_planned_anew(tmp_path: Path) -> None:
    location = ResultsPath(tmp_path)
    configs = [Config(seed=seed) for seed in range(4)]
    keep_states(
        location,
        [checkpointed(tmp_path / str(i), *configs[i : i + 2]) for i in (0, 2)],
    )
    need = memory_bytes(Pack(tuple(configs[:2])))
    assert len(paused_jobs(location, configs, most=2, memory=need, limit=4)) == 2
    assert len(paused_jobs(location, configs, limit=3)) == 1
    assert paused_jobs(location, configs, limit=1) == []
    assert paused_jobs(location, configs, most=1) == []
    assert paused_jobs(location, configs, memory=need - 1) == []


NAME = f"{'0' * 32}.safetensors"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"null",
        b"7",
        b"[1]",
        b"[{}]",
        b"[" * 200_000,
        b'[{"configs": 3, "files": ["NAME"]}]',
        b'[{"configs": ["ID"], "files": []}]',
        b'[{"configs": ["ID"], "files": ["../outside.safetensors"]}]',
        b'[{"configs": ["ID"], "files": ["x.safetensors"]}]',
        b'[{"configs": ["ID"], "files": [7]}]',
    ],
)
def test_a_list_that_is_damaged_or_leads_elsewhere_counts_for_nothing(
    content: bytes, tmp_path: Path
) -> None:
    config = Config()
    folder = tmp_path / PAUSED
    for path in (folder / "x.safetensors", tmp_path / "outside.safetensors"):
        write_state(path, config)
    text = content.replace(b"ID", config.id.encode()).replace(b"NAME", NAME.encode())
    (folder / "packs.json").write_bytes(text)
    assert paused_jobs(ResultsPath(tmp_path), [config]) == []
    assert partly_trained(tmp_path) == frozenset()
    write_state(folder / NAME, config)
    (job,) = paused_jobs(ResultsPath(tmp_path), [config])  # by what it says itself
    assert job.states == (ResultsPath(folder / NAME),)


def test_a_folder_that_cannot_be_written_keeps_what_it_has(tmp_path: Path) -> None:
    config = Config()
    keep_states(ResultsPath(tmp_path), [checkpointed(tmp_path / "one", config)])
    before = sorted((tmp_path / PAUSED).iterdir())
    broken = checkpointed(tmp_path / "two", config)

    class Unwritable(ResultsPath):
        def write_bytes(self, content: bytes) -> None:
            raise OSError("no room")

        def __truediv__(self, name: str) -> ResultsPath:
            assert self.local is not None
            return Unwritable(self.local / name)

    assert keep_states(Unwritable(tmp_path), [broken]) == 0
    assert set(before) <= set((tmp_path / PAUSED).iterdir())
    assert len(paused_jobs(ResultsPath(tmp_path), [config])) == 1


# What a killed run leaves


def reported(n_epochs: int, config: Config, folder: ResultsFolder | None = None) -> RowsBehind:
    """Return what a state stands behind after some epochs; write these rows into a folder."""
    trail, rows = "", []
    for epoch in range(1, n_epochs + 1):
        row = {"stage": "train_task_1", "epoch": epoch, "task": 1, "n_steps": 3, "loss": 1 / epoch}
        trail = next_trail(trail, row)
        rows.append({"config_id": config.id, **row, "duration_s": 0.1})
    initial = [0.1, 0.2]
    if folder is not None:
        writer = Writer(folder)
        writer.add("epochs", rows)
        writer.add("accuracy", accuracy_rows(config.id, 0, initial))
        writer.flush()
    return {"epochs": {"train_task_1": [n_epochs, trail]}, "accuracy": {"0": initial}}


def left_by_a_kill(folder: Path, number: int, n_epochs: int, *configs: Config) -> Path:
    """Write a checkpoint as it lies in the scratch folder of a killed run."""
    path = folder / ".tune" / "packs" / "pack_1" / f"checkpoint_{number:06d}" / STATE_FILE
    return write_state(path, *configs, **{c.id: reported(n_epochs, c) for c in configs})


def reopened(folder: ResultsFolder) -> ResultsFolder:
    """Open a folder again, as the next run does."""
    folder._lock.release()  # type: ignore[union-attr]
    again = ResultsFolder(folder.location)
    again.open()
    return again


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[ResultsFolder]:
    folder = ResultsFolder(tmp_path / "sweep")
    folder.open()
    yield folder
    folder.close()


def test_the_latest_state_of_which_the_tables_have_all_rows_is_taken(
    folder: ResultsFolder,
) -> None:
    a, b, c = (Config(seed=seed) for seed in range(3))
    reported(8, a, folder)
    reported(7, b, folder)
    for number, n_epochs in enumerate((5, 7, 8)):
        left_by_a_kill(folder.path, number, n_epochs, a, b)
    said: list[str] = []
    folder = reopened(folder)
    assert not (folder.path / ".tune").exists()
    jobs = paused_jobs(folder.location, [a, b, c], say=said.append)
    # The tables lack an epoch of b: only a goes on from there.
    assert [job.pack.configs for job in jobs] == [(a,), (b,)]
    n_epochs = [behind_of(job.states[0])[a.id]["epochs"]["train_task_1"][0] for job in jobs]
    assert n_epochs == [8, 7]
    assert said == []
    assert keep_states(folder.location, jobs) == 0
    assert len(state_files(folder.location / PAUSED)) == 2  # the oldest is of no further use
    assert partly_trained(folder.path) == {a.id, b.id}


@pytest.mark.parametrize(
    ("table", "change"),
    [
        ("epochs", {"stage": "train_task_1", "epoch": 2, "task": 1, "n_steps": 3, "loss": 0.51}),
        ("epochs", {"stage": "train_task_1", "epoch": 1, "task": 1, "n_steps": 3, "kl_loss": 1.0}),
        ("accuracy", {"after_task": 0, "on_task": 2, "accuracy": 0.3}),
    ],
)
def test_a_state_is_not_taken_where_the_tables_say_something_else(
    table: str, change: dict[str, Any], folder: ResultsFolder
) -> None:
    a, b = Config(seed=1), Config(seed=2)
    reported(3, a, folder)
    reported(3, b, folder)
    writer = Writer(folder)
    writer.add(table, [{"config_id": a.id, **change}])
    writer.flush()
    left_by_a_kill(folder.path, 1, 3, a, b)
    folder = reopened(folder)
    (name,) = state_files(folder.location / PAUSED)
    said: list[str] = []
    (job,) = paused_jobs(folder.location, [a, b], say=said.append)
    assert job.pack.configs == (b,)
    assert said == [
        f"note: 1 configuration starts over: the state {PAUSED}/{name} "
        "stands behind rows that the tables do not have"
    ]


def test_tables_that_were_deleted_leave_nothing_to_resume_from(folder: ResultsFolder) -> None:
    a = Config()
    reported(3, a, folder)
    left_by_a_kill(folder.path, 1, 3, a)
    Writer(folder).fold()
    (folder.path / "accuracy.parquet").unlink()
    folder = reopened(folder)
    assert paused_jobs(folder.location, [a]) == []


def test_a_checkpoint_that_the_kill_cut_gives_way_to_the_one_before(folder: ResultsFolder) -> None:
    a, b = Config(seed=1), Config(seed=2)
    for config in (a, b):
        reported(8, config, folder)
    left_by_a_kill(folder.path, 1, 6, a, b)
    cut = left_by_a_kill(folder.path, 2, 8, a, b)
    cut.write_bytes(cut.read_bytes()[:-1])
    folder = reopened(folder)
    said: list[str] = []
    (job,) = paused_jobs(folder.location, [a, b], say=said.append)
    assert behind_of(job.states[0])[a.id]["epochs"]["train_task_1"][0] == 6
    (note,) = said
    assert note.endswith(
        "is damaged or incomplete: its configurations resume from an earlier one or start over"
    )


def test_a_run_killed_at_its_end_leaves_no_states_behind(
    folder: ResultsFolder, tmp_path: Path
) -> None:
    sweep = load_sweep(write(tmp_path, TEXT))
    writer = Writer(folder)
    writer.add("trials", [trial_row(config) for config in sweep.configs])
    writer.flush()
    left_by_a_kill(folder.path, 1, 2, *sweep.configs)
    folder = reopened(folder)
    assert state_files(folder.location / PAUSED)
    ledger = Ledger(statuses(folder.location))
    RemainingWork(sweep, folder, ledger, None, None, Screen(0), "small").clear_states()
    assert not (folder.path / PAUSED).exists()


def test_a_kill_between_two_moves_loses_no_state(folder: ResultsFolder) -> None:
    a, b = Config(seed=1), Config(seed=2)
    for config in (a, b):
        reported(2, config, folder)
    left_by_a_kill(folder.path, 1, 2, a)
    folder = reopened(folder)  # and killed again: it is in its place, in no list
    left_by_a_kill(folder.path, 1, 2, b)
    folder = reopened(folder)
    jobs = paused_jobs(folder.location, [a, b])
    assert sorted(job.name for job in jobs) == sorted([a.id, b.id])


@pytest.mark.parametrize("is_lost", [False, True], ids=["disk full", "folder lost"])
def test_states_are_kept_where_rows_cannot_be_written_unless_the_folder_is_anothers(
    is_lost: bool, folder: ResultsFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = Config()
    job = checkpointed(tmp_path / "one", a)
    writer = Writer(folder)

    def fail() -> None:
        raise WriteError(folder.location, "no room")

    monkeypatch.setattr(writer, "fold", fail)
    assert folder._lock is not None
    if is_lost:
        monkeypatch.setattr(folder._lock, "holder", lambda: "another process")
    with pytest.raises(WriteError, match="no room"):
        fold_and_keep_states(writer, [job])
    monkeypatch.undo()
    assert [job.pack.configs for job in paused_jobs(folder.location, [a])] == (
        [] if is_lost else [(a,)]
    )


def test_a_list_that_names_anothers_state_is_put_right_with_a_note(tmp_path: Path) -> None:
    location = ResultsPath(tmp_path)
    a, b, c = (Config(seed=seed) for seed in range(3))
    keep_states(location, [checkpointed(tmp_path / "1", a), checkpointed(tmp_path / "2", b)])
    listing = tmp_path / PAUSED / "packs.json"
    entries = json.loads(listing.read_bytes())
    listing.write_text(json.dumps([{"configs": [c.id], "files": entries[1]["files"]}]))
    said: list[str] = []
    jobs = paused_jobs(location, [a, b, c], say=said.append)
    # Each state says itself whose it is.
    assert {job.pack.configs: behind_of(job.states[0]).keys() for job in jobs} == {
        (a,): {a.id},
        (b,): {b.id},
    }
    assert said == [
        f"note: 1 configuration starts over: the state {PAUSED}/{entries[1]['files'][0]} "
        "is not of the configurations that its list names"
    ]


def test_states_of_version_0_3_start_over_and_are_cleared_and_other_files_stay(
    tmp_path: Path,
) -> None:
    location = ResultsPath(tmp_path)
    a, b = Config(seed=1), Config(seed=2)
    folder = tmp_path / PAUSED
    folder.mkdir()
    name = "0123456789abcdef" * 2 + ".pt"
    (folder / name).write_bytes(b"PK")
    entries = [{"configs": [a.id, b.id], "files": [name]}]
    (folder / "packs.json").write_text(json.dumps(entries))
    theirs = ["my.pt", "model.safetensors", "0" * 31 + ".pt", "A" * 32 + ".pt", "notes.txt"]
    for other in theirs:
        (folder / other).write_bytes(b"mine")
    said: list[str] = []
    jobs = paused_jobs(location, [a, b], say=said.append)
    assert jobs == []
    assert said == [
        f"note: 2 configurations start over: the state {PAUSED}/{name} "
        "is from an earlier version of raysweep"
    ]
    assert keep_states(location, jobs) == 0
    assert sorted(path.name for path in folder.iterdir()) == sorted(theirs)


@pytest.mark.parametrize("name", [PAUSED, ".tune"])
def test_links_are_not_followed(name: str, folder: ResultsFolder, tmp_path: Path) -> None:
    a, b = Config(seed=1), Config(seed=2)
    reported(2, a, folder)
    outside = tmp_path / "outside"
    theirs = [
        write_state(outside / ("1" * 32 + ".safetensors"), b),
        write_state(outside / "packs" / "pack_1" / "checkpoint_0" / STATE_FILE, b),
    ]
    if name == PAUSED:
        left_by_a_kill(folder.path, 1, 2, a)
    (folder.path / name).symlink_to(outside)
    with pytest.raises(InputError, match=f"{name} is a link to {outside}"):
        reopened(folder)
    if name == PAUSED:  # swapped in while a driver runs
        assert paused_jobs(folder.location, [a, b]) == []
        assert keep_states(folder.location, [checkpointed(tmp_path / "one", a)]) == 0
    assert all(path.exists() for path in theirs)
    assert len([path for path in outside.rglob("*") if path.is_file()]) == 2


# Going on in a worker


def paused_after(n_steps: int, folder: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Train a pack for some steps; give their results, and the config of the one that goes on."""
    worker = Bare(pack())
    results = [worker.train() for _ in range(n_steps)]
    worker.save_checkpoint(str(folder))
    configs = [Config(**values) for values in json.loads(pack()[TRIAL]["pack"])]
    states = [folder / STATE_FILE]
    return results, {TRIAL: trial_config("key", configs, states=states, is_paused=True)}


def test_a_worker_goes_on_from_the_state_of_an_earlier_run(tmp_path: Path) -> None:
    results, config = paused_after(3, tmp_path)
    rest = train_to_end(Bare(config))
    assert len(rest) == 3
    assert rows_of(results + rest) == rows_of(train_to_end(Bare(pack())))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "value"),
    [("code", "another"), ("torch", "1.0"), ("data", "others"), ("keeps", {"stages": True})],
)
def test_a_state_that_would_give_other_numbers_is_not_taken(
    name: str, value: Any, tmp_path: Path
) -> None:
    _, config = paused_after(3, tmp_path)
    path = tmp_path / STATE_FILE
    state = unseal(path.read_bytes())
    assert state["made_with"][name] != value
    state["made_with"][name] = value
    path.write_bytes(seal(state))
    results = train_to_end(Bare(config))
    assert rows_of(results) == rows_of(train_to_end(Bare(pack())))
    (note,) = results[0]["notes"]
    assert note.startswith(f"a pack starts over: its state {path} was made with different")


def test_a_state_that_fits_by_half_leaves_no_trace(tmp_path: Path) -> None:
    _, config = paused_after(3, tmp_path)
    path = tmp_path / STATE_FILE
    state = unseal(path.read_bytes())
    del state["pack"]["group"]["flat"]  # found late: much is restored before
    path.write_bytes(seal(state))
    results = train_to_end(Bare(config))
    assert rows_of(results) == rows_of(train_to_end(Bare(pack())))
    assert results[0]["notes"] == [f"a pack starts over: its state {path} does not fit"]


@pytest.mark.parametrize("n_epochs", [3, 4, 5])
def test_a_state_goes_on_without_what_ended_after_it(n_epochs: int, small: Source) -> None:
    # After task 1 (two epochs) those with and without replay train in groups of their own.
    configs = [
        configure(lr=lr, replay=replay) for replay in ("none", "simple") for lr in (1e-3, 2e-3)
    ]
    tables = empty(configs)
    run = PackRun(configs, small)
    for _ in range(n_epochs):
        add(run.advance(), tables)
    state, at_state = passed_through_a_file(run.state()), copy.deepcopy(tables)
    while not any(rows["trials"] for rows in tables.values()):
        add(run.advance(), tables)
    left = [config for config in configs if not tables[config.id]["trials"]]
    assert len(left) == 2
    goes_on = {config.id: at_state[config.id] for config in left}
    rest = PackRun(left, small)
    rest.restore(joined([state], left))
    n_left = 0
    while not rest.is_done:
        add(rest.advance(), goes_on)
        n_left += 1
    assert n_left == min(2, 6 - n_epochs)  # nothing of what ended later is trained again
    assert_same(goes_on, run_alone(left, small))
