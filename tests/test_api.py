"""``import raysweep``: running, planning and loading sweeps from Python."""

import doctest
import os
import pickle
import re
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sweep_runs import SMALL, assert_same_tables, run, small_sweep, write

import raysweep
from raysweep import api, sweep_results
from raysweep.results import read_trials
from raysweep.settings.yaml_text import parse_yaml

SPACE: dict[str, Any] = parse_yaml(SMALL)
NAMES = ["InputError", "NothingRunsError", "RaysweepError", "SweepPlan", "SweepResults"]
NAMES += ["SweepStoppedError", "__version__", "load", "plan", "run"]


def test_the_package_gives_the_api_and_only_that() -> None:
    assert dir(raysweep) == NAMES
    for name in NAMES:
        assert getattr(raysweep, name)
    with pytest.raises(AttributeError, match="'raysweep' has no attribute 'train'"):
        _ = raysweep.train  # type: ignore[attr-defined]
    for error in (raysweep.InputError, raysweep.NothingRunsError, raysweep.SweepStoppedError):
        assert issubclass(error, raysweep.RaysweepError)


def test_importing_the_package_imports_nothing_large() -> None:
    code = "import sys, raysweep; print({'torch', 'ray', 'pandas', 'pyarrow'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("space", "given", "message"),
    [
        (SPACE, {"spcae": {}}, "got 'spcae' (did you mean space?)"),
        (SPACE, {"resutls": "x"}, "got 'resutls' (did you mean results?)"),
        (SPACE, {"data": "mnist"}, "the data folder is data_folder='mnist'"),
        (SPACE, {"name": "../x"}, "name: expected letters, digits"),
        (SPACE, {"limit": 0}, "limit: expected a whole number from 1, got 0"),
        (SPACE, {"limit": 1.5}, "limit: expected a whole number from 1, got 1.5"),
        (SPACE, {"limit": "3"}, "limit: expected a whole number from 1, got '3'"),
        (SPACE, {"results": 3}, "results: expected a folder, got 3"),
        (SPACE, {"results": ""}, "results: expected a folder, got ''"),
        (SPACE, {"results": "a" * 300}, "File name too long"),
        (SPACE, {"data_folder": b"x"}, "data_folder: expected a folder, got bytes"),
        (SPACE, {"name": Path("x")}, "name: expected letters, digits"),
        (SPACE, {"name": ""}, "name: expected letters, digits"),
        (SPACE, {"fresh": "no"}, "fresh: expected True or False, got 'no'"),
        (SPACE, {"refuse_above": None}, "refuse_above: expected a whole number from 1, got None"),
        (SPACE, {"seeds": 3}, "got 3; write [0, 1, 2] for 3 seeds, or [3] for seed 3 alone"),
        (SPACE, {"lr": 1e-3}, "got 'lr'; write space={'lr': ...}"),
        (SPACE, {"learning_rate": 1e-3}, "got 'learning_rate'; write space={'lr': ...}"),
        (SPACE, {"stages": True}, "got 'stages'; write stage_cache="),
        (SPACE, {"space": {"lr=3": 1}}, "expected a known setting, got 'lr=3'"),
        (SPACE, {"space": {"a.b": 1}}, "expected a known setting, got 'a.b'"),
        (SPACE, {"space": {"": 1}}, "search space: space: expected a known setting, got ''"),
        (SPACE, {"space": {"lr": "fast"}}, "search space: space.lr: expected a number > 0"),
        (SPACE, {"space": {"lr": print}}, "space.lr: expected a number, text, a list or a dict"),
        (SPACE, {"refuse_above": 5}, "cut the grid or raise refuse_above"),
        (SMALL.replace("lr: 1e-3", "lr: fast"), {}, "line 10, column 7"),
        ("no_such.yaml", {}, "no_such.yaml: expected a search-space file, found none"),
        ("no_such_space", {}, "no_such_space: expected a search-space file or the name"),
        (3, {}, "search space: expected a file, the name of a shipped search space, YAML text"),
        ("", {}, "search space: expected a file, the name of a shipped search space, YAML text"),
        ("a" * 300, {}, "expected a readable file, got: File name too long"),
    ],
)
def test_mistakes_are_one_line_in_words_of_python(
    space: Any, given: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(raysweep.InputError) as error:
        raysweep.plan(space, **{"results": tmp_path, **given})
    text = str(error.value)
    assert message in text and "\n" not in text and "--" not in text
    assert not list(tmp_path.iterdir())


def test_a_plan_is_what_a_dry_run_prints(tmp_path: Path) -> None:
    file = write(tmp_path)
    plan = raysweep.plan(file, results=tmp_path / "results", measure=False)
    printed = run(file, "--dry-run").stdout
    for line in str(plan).splitlines():
        assert line in printed
    assert (plan.name, plan.n_configs, plan.n_done, plan.n_todo) == ("small", 12, 0, 12)
    assert plan.seconds is None and plan.n_rows["trials"] == 12
    assert sorted(plan.configs["config/replay"].unique()) == ["generative", "none", "simple"]
    assert set(plan.configs["status"]) == {"missing"}
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["small.yaml"]


def test_a_plan_is_measured_and_has_changes(tmp_path: Path) -> None:
    changes = {"space": {"lr": np.float64(2e-3), "replay": "none"}, "seeds": range(2)}
    plan = raysweep.plan(SPACE, results=tmp_path, limit=3, **changes)
    assert (plan.name, plan.n_configs, plan.n_todo) == ("sweep", 8, 3)
    assert set(plan.configs["config/lr"]) == {2e-3}
    assert plan.seconds is not None and plan.cpu_hours is not None
    assert plan.seconds > 10 and plan.cpu_hours > 0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"wait_for_nodes": "2"}, "wait_for_nodes: expected a whole number from 1, got '2'"),
        ({"wait_s": float("nan")}, "wait_s: expected seconds from 0, got nan"),
        ({"address": " "}, "address: expected text or None, got ' '"),
        ({"without_token": 1}, "without_token: expected True or False, got 1"),
        ({"verbose": "yes"}, "verbose: expected True or False, got 'yes'"),
    ],
)
def test_options_that_only_a_run_has_are_checked_first(
    given: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(raysweep.InputError, match=re.escape(message)):
        raysweep.run(SPACE, results=tmp_path, **given)
    assert not list(tmp_path.iterdir())


def test_changes_are_values_and_take_the_place_of_what_is_no_section(tmp_path: Path) -> None:
    file = write(tmp_path, SMALL + "stage_cache: true\nseeds: [5]\n")
    plan = raysweep.plan(
        file,
        results=tmp_path / "results",
        measure=False,
        stage_cache={"max_gb": np.int64(3)},
        seeds=np.arange(2),
        space={"replay": "none", "lr": {"grid_search": np.array([1e-3, 0.1], np.float32)}},
        training={},
    )
    assert plan.n_configs == 16
    assert sorted(plan.configs["config/lr"].unique()) == [1e-3, 0.1]


def test_a_folder_is_the_same_after_the_process_has_changed_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "home" / "res ü" / "small"
    (folder / "parts").mkdir(parents=True)
    (folder / "sweep.yaml").write_text(SMALL)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(folder)
    sweeps = [raysweep.load(given) for given in (".", "~/res ü/small/", "../small")]
    monkeypatch.chdir(tmp_path)
    for sweep in sweeps:
        assert sweep.trials.empty and sweep.failed.empty and sweep._repr_html_() is None
        assert repr(sweep).endswith("small: 12 to do>")
        with pytest.raises(raysweep.InputError, match="configurations that have ended, found none"):
            sweep.leaderboard()


def test_a_plan_of_a_search_has_the_columns_before_it_has_rows(tmp_path: Path) -> None:
    space = {"space": {"lr": {"loguniform": [1e-4, 1e-1]}, "n_bottleneck": 5}}
    search = {"method": "optuna", "n_samples": 4}
    plan = raysweep.plan(space, search=search, results=tmp_path, measure=False)
    assert (plan.n_configs, plan.n_todo, plan.n_stages) == (4, 4, None)
    assert plan.configs.empty and plan.configs["status"].empty and plan.configs["config/lr"].empty
    whole = raysweep.plan({"space": {"n_bottleneck": 5}}, results=tmp_path, measure=False)
    assert list(plan.configs) == list(whole.configs)


@pytest.mark.slow
def test_mistakes_in_questions_to_results_are_in_words_of_python(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    sweep = raysweep.load(small_sweep(tmp_path_factory))
    cases: list[tuple[dict[str, Any], str]] = [
        ({"where": "nope == 1"}, "where: expected a condition"),
        ({"where": "lr > 100"}, "where: no row of 12 meets"),
        ({"metric": 3}, "metric: expected text or a list of texts, got 3"),
        ({"metric": []}, "metric: expected text or a list of texts, got list"),
        ({"mode": ["max", "min"]}, "mode: expected max or min"),
        ({"metric": "acc"}, "metric: expected a metric, got 'acc' (did you mean average_accuracy?"),
        ({"n": -1}, "n: expected a whole number from 1, got -1"),
        ({"n": "5"}, "n: expected a whole number from 1, got '5'"),
    ]
    for given, message in cases:
        with pytest.raises(raysweep.InputError) as error:
            sweep.leaderboard(**given)
        assert str(error.value).startswith(message) and "--" not in str(error.value)
    (tmp_path / "file").touch()
    for file in (tmp_path, tmp_path / "file" / "x.html"):
        with pytest.raises(raysweep.InputError, match="expected a file to write, got: "):
            sweep.report(file, n_samples=0)
    with pytest.raises(raysweep.InputError, match="n_samples: expected a whole number from 0"):
        sweep.report(tmp_path / "x.html", n_samples=-1)
    with pytest.raises(raysweep.InputError, match="n_samples: expected a whole number from 0"):
        sweep.report(tmp_path / "x.html", n_samples="3")  # type: ignore[arg-type]


@pytest.mark.parametrize("given", [{"limit": 0}, {"pack": -1}, {"pack": -1, "seeds": 3}])
def test_errors_can_be_sent_to_another_process(given: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(raysweep.InputError) as caught:
        raysweep.plan(SPACE, results=tmp_path, **given)
    sent = pickle.loads(pickle.dumps(caught.value))
    assert type(sent) is type(caught.value) and str(sent) == str(caught.value)
    assert [str(one) for one in sent.mistakes] == [str(one) for one in caught.value.mistakes]


@pytest.mark.slow
def test_results_are_those_of_the_last_version_of_the_space(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    folder = small_sweep(tmp_path_factory)
    sweep = raysweep.load(folder)
    assert sweep.folder == folder
    pd.testing.assert_frame_equal(sweep.trials, read_trials(folder))
    assert (len(sweep.epochs), len(sweep.accuracy)) == (52, 72)
    board = sweep.leaderboard(n=3)
    assert len(board) == 3 and board["mean"].is_monotonic_decreasing
    front = sweep.leaderboard(["average_accuracy", "forgetting"], where="model == 'vib'")
    assert len(front) and "model" not in front
    assert sweep.failed.empty and list(sweep.failed.columns) == list(sweep.trials.columns)
    assert sweep.status.counts == {"finished": 12} and "12 finished" in str(sweep.status)
    assert repr(sweep) == f"<SweepResults {folder}: 12 finished>"
    assert "<table" in (sweep._repr_html_() or "")
    report = sweep.report(tmp_path / "new" / "small.html", n_samples=0)
    assert report.stat().st_size > 1_000_000
    # The space is cut: rows that it no longer has are left out.
    copy = tmp_path / "small"
    copy.mkdir()
    for name in ("trials.parquet", "epochs.parquet", "accuracy.parquet"):
        (copy / name).write_bytes((folder / name).read_bytes())
    resolved = (folder / "sweep.yaml").read_text().replace("[none, simple, generative]", "[none]")
    (copy / "sweep.yaml").write_text(resolved)
    cut = raysweep.load(copy)
    assert len(cut.trials) == 4 and set(cut.trials["config/replay"]) == {"none"}
    assert set(cut.epochs["config_id"]) == set(cut.trials["config_id"])
    assert "replay" not in cut.leaderboard()
    assert cut.report(tmp_path / "cut.html", n_samples=0).exists()
    with pytest.raises(raysweep.InputError, match="expected a metric, got 'forgeting'"):
        cut.leaderboard("forgeting")
    with pytest.raises(raysweep.InputError, match="mode: expected max or min"):
        cut.leaderboard(mode="up")


def test_a_folder_without_a_sweep_is_refused(tmp_path: Path) -> None:
    with pytest.raises(raysweep.InputError, match="expected"):
        raysweep.load(tmp_path / "nothing")


def test_a_sweep_is_looked_for_in_results_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("results/split/parts").mkdir(parents=True)
    with pytest.raises(raysweep.InputError, match=r"found none \(did you mean results/split\?\)$"):
        raysweep.load("split")
    with pytest.raises(raysweep.InputError, match="found none; `raysweep run FILE` creates one"):
        raysweep.load("other")


@pytest.mark.slow
def test_examples_of_docstrings_run(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(small_sweep(tmp_path_factory).parents[1])
    for module in (api, sweep_results):
        done = doctest.testmod(module, extraglobs={"raysweep": raysweep}, verbose=False)
        assert not done.failed
    assert done.attempted > 3


@pytest.mark.slow
def test_a_run_trains_once_as_the_command_does_and_leaves_the_process_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    code = f"""
    import os, signal
    import raysweep
    SPACE = {SPACE!r}
    before = dict(os.environ), signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    import warnings
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        first = raysweep.run(SPACE, results="results", name="small", limit=8, quiet=True)
    assert len(first.trials) == 8, first
    told = [str(w.message) for w in said if "raysweep" not in str(w.message)]
    assert any("limit 8 reached: 4 configurations are missing" in t for t in told), told
    assert not any("--" in t for t in told), told
    sweep = raysweep.run(SPACE, results="results", name="small")
    assert len(sweep.trials) == 12 and sweep.trials["attempt"].max() == 1
    import ray
    assert not ray.is_initialized()
    after = dict(os.environ), signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    assert before[1:] == after[1:]
    assert not [name for name in after[0] if name.startswith("TUNE_")]
    """
    done = python(code, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert "4 of 12 configurations to train" in done.stderr
    assert_same_tables(tmp_path / "results" / "small", small_sweep(tmp_path_factory))


def python(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a program in a folder, with the package of this checkout."""
    root = Path(raysweep.__file__).parents[1]
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.slow
def test_a_ray_that_runs_is_used_and_stays(tmp_path: Path) -> None:
    code = f"""
    import threading
    import ray
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    import raysweep
    SPACE = {SPACE!r}
    found = []
    # In a thread, too, where no signal handler may be set.
    thread = threading.Thread(target=lambda: found.append(
        raysweep.run(SPACE, space={{"replay": "none"}}, quiet=True)))
    thread.start()
    thread.join()
    assert len(found[0].trials) == 4, found
    assert ray.is_initialized()
    assert ray.get(ray.remote(lambda: 7).remote()) == 7
    try:
        raysweep.run(SPACE, address="auto", quiet=True)
    except raysweep.InputError as error:
        print(error)
    """
    done = python(code, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("address: expected none, since Ray already runs in this process")


CUT = (
    "training={'epochs': 60, 'batch_size': 20}, seeds=[0, 1], "
    "space={'model': 'comparison', 'beta_2': 0, 'replay': 'none'}"
)


@pytest.mark.slow
def test_a_cell_that_is_interrupted_continues_when_it_is_run_again(tmp_path: Path) -> None:
    import nbformat
    from nbclient import NotebookClient

    cells = [
        f"import raysweep\nSPACE = {SPACE!r}",
        f"sweep = raysweep.run(SPACE, {CUT})\nsweep",
        "sweep.leaderboard()",
        "raysweep.run(SPACE, space={'lr': 'fast'})",
        f"plan = raysweep.plan(SPACE, {CUT}, measure=False)\n"
        "print(plan.n_todo, plan.n_partly_trained, raysweep.load('results/sweep').status.notes)",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
    client = NotebookClient(
        notebook, timeout=300, allow_errors=True, resources={"metadata": {"path": str(tmp_path)}}
    )
    client.create_kernel_manager()
    first, rerun, last, mistake, between = notebook.cells
    with client.setup_kernel(
        env=os.environ | {"PYTHONPATH": str(Path(raysweep.__file__).parents[1])}
    ):
        client.execute_cell(first, 0)
        packs = tmp_path / "results" / "sweep" / ".tune" / "packs"
        ended = threading.Event()

        def interrupt() -> None:
            # A checkpoint is written after two seconds of training.
            while not list(packs.glob("*/checkpoint_*/*")) and not ended.wait(0.1):
                pass
            os.kill(client.km.provisioner.process.pid, 2)  # type: ignore[union-attr]

        thread = threading.Thread(target=interrupt)
        thread.start()
        client.execute_cell(rerun, 1)
        ended.set()
        thread.join()
        (error,) = [o for o in rerun.outputs if o.output_type == "error"]
        assert error.ename == "KeyboardInterrupt"
        assert re.search(r"[12] of them partly trained; run the same call again", error.evalue)
        client.execute_cell(between, 4)
        client.execute_cell(rerun, 1)
        client.execute_cell(last, 2)
        client.execute_cell(mistake, 3)
    said = between.outputs[0]["text"]
    assert re.match("2 [12] ", said) and "partly trained and resume where they stopped" in said
    (refused,) = mistake.outputs
    line = "InputError: search space: space.lr: expected a number > 0, got 'fast'"
    assert refused.traceback == [line]
    assert [o.output_type for o in rerun.outputs] == ["display_data", "execute_result"]
    progress, result = rerun.outputs
    assert "of them continue where the last run stopped" in progress["data"]["text/plain"]
    assert "2/2 done" in progress["data"]["text/plain"]
    assert "<pre" in progress["data"]["text/html"]
    assert "2 finished" in result["data"]["text/plain"]
    assert "<table" in last.outputs[0]["data"]["text/html"]
    assert read_trials(tmp_path / "results" / "sweep")["attempt"].max() == 1
