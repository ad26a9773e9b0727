"""Who may join, and what files of others can do: docs/security.md as tests."""

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
from ray import tune
from sweep_runs import SMALL, run, write

from raysweep.errors import InputError
from raysweep.packs.states import STATE_FILE
from raysweep.settings.sweep import load_sweep
from raysweep.tune.cluster.auth import prepare_token, refuse_open
from raysweep.tune.scheduling.trainable import TRIAL
from tests.tune.test_trainable import Bare, pack, rows_of, train_to_end

TOKEN = "0123456789abcdef" * 4
SECRET = "never-in-a-file-5f1c"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without a token, and an environment that says nothing."""
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv(name, "")  # so that what the code sets is undone
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def put_token(home: Path, mode: int = 0o644) -> Path:
    file = home / ".ray" / "auth_token"
    file.parent.mkdir()
    file.write_text(TOKEN)
    file.chmod(mode)
    return file


def test_a_cluster_that_starts_here_asks_for_a_token_that_no_file_holds(home: Path) -> None:
    prepare_token(is_local=True, is_without=False)
    assert os.environ["RAY_AUTH_MODE"] == "token"
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64
    assert not list(home.iterdir())


def test_the_token_of_the_user_is_used_and_made_private(home: Path) -> None:
    file = put_token(home)
    for is_local in (True, False):
        prepare_token(is_local, is_without=False)
    assert "RAY_AUTH_TOKEN" not in os.environ
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.usefixtures("home")
def test_joining_without_a_token_is_refused_unless_the_user_says_so() -> None:
    with pytest.raises(InputError, match=r"expected the cluster's token in .*auth_token"):
        prepare_token(is_local=False, is_without=False)
    prepare_token(is_local=False, is_without=True)
    assert "RAY_AUTH_MODE" not in os.environ


@pytest.mark.parametrize("is_local", [True, False])
def test_authentication_switched_off_is_refused(
    home: Path, monkeypatch: pytest.MonkeyPatch, is_local: bool
) -> None:
    put_token(home)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with pytest.raises(InputError, match="expected token or nothing, got 'disabled'"):
        prepare_token(is_local, is_without=False)
    prepare_token(is_local, is_without=True)
    assert os.environ["RAY_AUTH_MODE"] == "disabled"


def test_one_open_node_is_enough_to_refuse_a_cluster() -> None:
    refuse_open({"a": True, "b": True}, "10.0.0.1:6379")
    with pytest.raises(InputError, match=r"but b of 10\.0\.0\.1:6379 lets anyone run code"):
        refuse_open({"a": True, "b": False}, "10.0.0.1:6379")


class Trap:
    """A pickle that leaves a mark when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self._mark,)


def test_a_planted_checkpoint_runs_nothing_and_the_pack_starts_over(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    mark = tmp_path / "mark"
    (folder / STATE_FILE).write_bytes(pickle.dumps(Trap(mark)))
    config = pack()
    config[TRIAL]["checkpoint"] = tune.Checkpoint(str(folder))
    results = train_to_end(Bare(config))
    assert not mark.exists()
    assert rows_of(results) == rows_of(train_to_end(Bare(pack())))
    pickle.loads((folder / STATE_FILE).read_bytes())
    assert mark.exists()  # the trap works


@pytest.mark.slow
def test_planted_pickles_run_nothing_and_secrets_stay_out_of_the_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path, SMALL + "stage_cache: true\n")
    folder = tmp_path / "results" / "small"
    mark = tmp_path / "mark"
    content = pickle.dumps(Trap(mark))
    names = ("tuner.pkl", "trainable.pkl", "searcher-state.pkl", "experiment_state.json")
    planted = [folder / ".tune" / "packs" / name for name in names]
    planted += [folder / "manifest.json", folder / "logs" / "driver.log", folder / "sweep.yaml"]
    planted += [tmp_path / "results" / ".stages" / f"{'0' * 64}-{'0' * 16}.safetensors"]
    for path in planted:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (folder / "parts").mkdir()
    overrides = ("seeds=[3]", "space.replay=generative")
    ids = [config.id for config in load_sweep(file, overrides).configs]
    (folder / "paused").mkdir()
    names = ["0" * 32 + ".pt", "1" * 32 + ".safetensors"]
    for name in names:
        (folder / "paused" / name).write_bytes(content)
    paused = [{"configs": [i], "files": [name]} for i, name in zip(ids, names, strict=False)]
    (folder / "paused" / "packs.json").write_text(json.dumps(paused))
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    done = run(file, *overrides)
    assert done.returncode == 0, done.stdout + done.stderr
    started_over = [
        line for line in done.stderr.splitlines() if "starts over: the state paused" in line
    ]
    assert len(started_over) == 2, done.stderr  # they were tried
    assert not (folder / "paused").exists()
    assert not mark.exists()
    for path in (p for p in (tmp_path / "results").rglob("*") if p.is_file()):
        found = path.read_bytes()
        assert TOKEN.encode() not in found and SECRET.encode() not in found, path
    assert TOKEN not in done.stdout + done.stderr


@pytest.mark.slow
def test_a_secret_as_an_override_is_refused_and_not_shown(tmp_path: Path) -> None:
    done = run(write(tmp_path), f"space.api_key={SECRET}")
    assert done.returncode == 2
    assert "api_key" in done.stderr and SECRET not in done.stderr + done.stdout
    assert not (tmp_path / "results").exists()
