"""Packs go on where a run was stopped: with the rows of a run without a break."""

import copy
import json
import signal
from pathlib import Path
from typing import Any

import pytest
from checkpoints import passed_through_a_file, write_state
from ray import tune
from small_configs import configure
from sweep_runs import ROOT, SMALL, assert_same_tables, n_rows, run, start, wait_until, write
from table_rows import trial_row

from raysweep.learning.config import Config
from raysweep.learning.data.sources import Source
from raysweep.packs.merging import joined
from raysweep.packs.pack import Pack
from raysweep.packs.planning.estimates import memory_bytes
from raysweep.packs.run import PackRun
from raysweep.packs.states import STATE_FILE, rows_in
from raysweep.sealed import seal, unseal
from raysweep.tables.folder import ResultsFolder
from raysweep.tables.paths import ResultsPath
from raysweep.tables.paused import PAUSED, partly_trained, state_files
from raysweep.tables.reader import read_epochs
from raysweep.tables.writer import Writer
from raysweep.tune.scheduling.queue import Job
from raysweep.tune.scheduling.resume import keep_states, paused_jobs
from raysweep.tune.scheduling.trainable import TRIAL, trial_config
from tests.packs.test_lanes import add, assert_same, empty, run_alone
from tests.tune.test_trainable import Bare, pack, rows_of, train_to_end

TEXT = SMALL.replace("epochs: 2", "epochs: 4") + "pack: 4\n"
FAULTS = ROOT / "tests" / "chaos" / "faults"


@pytest.mark.slow
def test_an_interrupted_sweep_goes_on_with_the_epochs_that_it_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path, TEXT)
    folder = tmp_path / "results" / "small"
    go = tmp_path / "go"
    slow = {"kind": "slow", "seconds": 0.5, "until": str(go)}
    with monkeypatch.context() as patch:
        patch.setenv("RAYSWEEP_FAULTS", json.dumps([{"kind": "save"}, slow]))
        patch.setenv("PYTHONPATH", str(FAULTS))
        process = start(file)
    saved = f".tune/packs/*/checkpoint_*/{STATE_FILE}"
    wait_until(lambda: any(folder.glob(saved)) and n_rows(folder, "epochs") > 0, process)
    process.send_signal(signal.SIGINT)
    out = process.communicate(timeout=120)[0]
    assert process.returncode == 3, out
    entries = json.loads((folder / PAUSED / "packs.json").read_bytes())
    files = [name for entry in entries for name in entry["files"]]
    assert state_files(folder / PAUSED) == sorted(files)
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
    assert [set(rows_in(path)) for path in job.states] == [{a.id, b.id}]
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
    assert len(state_files(tmp_path / PAUSED)) == 2
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
    assert job.states == (folder / NAME,)


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
