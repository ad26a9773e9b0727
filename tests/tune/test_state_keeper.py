"""States on the driver's disk, from and to workers that do not see it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from raysweep.tune.scheduling import trainable
from raysweep.tune.scheduling.state_keeper import StateKeeper, StateMail, start_keeper
from raysweep.tune.scheduling.trainable import TRIAL, trial_config
from tests.tune.test_damaged_states import configs_of
from tests.tune.test_trainable import Bare, pack, rows_of, train_to_end

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def keeper(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str, Any]]:
    root = tmp_path_factory.mktemp("sweep")
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        yield root, *start_keeper(root)
    finally:
        ray.shutdown()


def config_of(mail: list[str], *states: str) -> dict[str, Any]:
    files = list(map(Path, states))
    config = trial_config("key", configs_of(pack()), has_checkpoints=False, states=files, mail=mail)
    return {TRIAL: config}


def test_states_travel_to_the_keeper_and_back(
    keeper: tuple[Path, str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, name, _ = keeper
    whole = rows_of(train_to_end(Bare(pack())))
    mail = [name, str(root / ".tune" / "aside")]
    quick = Bare(config_of(mail))
    results = train_to_end(quick)
    assert not any(result["sent"] for result in results)  # so short a pack needs none
    monkeypatch.setattr(trainable, "_SAVE_SHARE", float("inf"))
    worker = Bare(config_of(mail))
    results = [worker.train() for _ in range(3)]
    sent = [result["sent"] for result in results]
    assert sorted(map(Path, sent)) == sorted((root / ".tune" / "aside").iterdir())
    assert not any(result["should_checkpoint"] for result in results)
    rest = train_to_end(Bare(config_of(mail, sent[-1])))
    assert len(rest) == 3 and not rest[0]["notes"]
    assert rows_of(results + rest) == whole
    content = Path(sent[-1]).read_bytes()
    Path(sent[-1]).write_bytes(content[: len(content) // 2] + bytes(len(content) // 2))
    again = train_to_end(Bare(config_of(mail, sent[-1])))
    assert rows_of(again) == whole
    assert again[0]["notes"] == [
        f"a pack starts over: its state {sent[-1]} is damaged or incomplete"
    ]


def test_a_keeper_that_is_gone_or_a_state_that_is_too_large_costs_only_a_note(
    keeper: tuple[Path, str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, name, _ = keeper
    whole = rows_of(train_to_end(Bare(pack())))
    monkeypatch.setattr(trainable, "_SAVE_SHARE", float("inf"))
    gone = train_to_end(Bare(config_of(["raysweep-states-none", str(root)])))
    assert rows_of(gone) == whole
    assert gone[0]["notes"][0].startswith("a pack's state did not reach the driver's node: ")
    monkeypatch.setattr(trainable, "MOST_BYTES", 1000)
    large = train_to_end(Bare(config_of([name, str(root)])))
    assert rows_of(large) == whole
    assert "expected at most" in large[0]["notes"][0]
    assert json.dumps(large[0]["notes"])


def test_a_keeper_serves_no_other_folder(keeper: tuple[Path, str, Any], tmp_path: Path) -> None:
    root, name, _ = keeper
    (tmp_path / "file").write_bytes(b"secret")
    for path in (tmp_path / "file", root / ".." / "file", root.parent / "file"):
        with pytest.raises(OSError, match="is not in"):
            StateMail(name, str(root)).fetch(str(path))
        with pytest.raises(OSError, match="is not in"):
            StateKeeper(str(root)).write(str(path), b"")
    with pytest.raises(OSError, match="No such file"):
        StateMail(name, str(root)).fetch(str(root / "none"))
