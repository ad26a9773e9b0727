"""States that were damaged or swapped: never other numbers, always a note."""

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ray import tune

from raysweep.learning.config import Config
from raysweep.packs.states import STATE_FILE
from raysweep.tune.scheduling.trainable import TRIAL, trial_config
from tests.tune.test_trainable import Bare, pack, rows_of, train_to_end


def configs_of(config: dict[str, Any]) -> list[Config]:
    return [Config(**values) for values in json.loads(config[TRIAL]["pack"])]


def as_paused(file: Path) -> dict[str, Any]:
    """Return the config of a pack that resumes from a state of an earlier run."""
    configs = configs_of(pack())
    return {TRIAL: trial_config("key", configs, states=[file], is_paused=True)}


def as_lost(file: Path) -> dict[str, Any]:
    """Return the config of a pack that resumes from the checkpoint of a lost worker."""
    checkpoint = tune.Checkpoint(str(file.parent))
    return {TRIAL: trial_config("key", configs_of(pack()), checkpoint=checkpoint)}


def as_set_aside(file: Path) -> dict[str, Any]:
    """Return the config of a pack that early stopping set aside in this run."""
    return {TRIAL: trial_config("key", configs_of(pack()), states=[file])}


WAYS = {"paused": as_paused, "lost": as_lost, "set aside": as_set_aside}


@pytest.fixture(scope="module")
def whole() -> list[dict[str, Any]]:
    """Return the rows of the pack without a break."""
    return rows_of(train_to_end(Bare(pack())))


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Return a checkpoint of the pack, written in the midst of its last task."""
    worker = Bare(pack())
    for _ in range(3):
        worker.train()
    folder = tmp_path_factory.mktemp("state")
    worker.save_checkpoint(str(folder))
    return (folder / STATE_FILE).read_bytes()


def damages(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield what disks and crashes make of a file, mostly in its largest records."""
    draw = random.Random(11)
    head = 8 + int.from_bytes(data[:8], "little")
    records = json.loads(data[8:head])
    places = [r["data_offsets"] for name, r in records.items() if name != "__metadata__"]
    largest = sorted(places, key=lambda place: place[0] - place[1])[:5]
    for start, end in largest:
        n = min(4096, end - start)
        at = head + start + draw.randrange(end - start - n + 1)
        if any(data[at : at + n]):
            yield f"zeros at {at}", data[:at] + bytes(n) + data[at + n :]
        at = head + draw.randrange(start, end)
        flipped = bytes([data[at] ^ 1 << draw.randrange(8)])
        yield f"flip at {at}", data[:at] + flipped + data[at + 1 :]
    for at in (0, 7, 8, 100, head - 1, head, len(data) // 2, len(data) - 1):
        yield f"cut at {at}", data[:at]
        yield f"flip at {at}", data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
    yield "empty blocks", bytes(len(data))


@pytest.mark.parametrize("way", WAYS)
def test_a_whole_state_is_taken_without_a_note(
    way: str, state: bytes, whole: list[dict[str, Any]], tmp_path: Path
) -> None:
    (tmp_path / STATE_FILE).write_bytes(state)
    results = train_to_end(Bare(WAYS[way](tmp_path / STATE_FILE)))
    rows = rows_of(results)
    assert len(results) == 3 and not any(result["notes"] for result in results)
    assert [row for row in rows if row in whole] == rows


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_a_damaged_state_gives_no_other_numbers_and_a_note(
    way: str, state: bytes, whole: list[dict[str, Any]], tmp_path: Path
) -> None:
    file = tmp_path / STATE_FILE
    worker = Bare(pack())
    n = 0
    for what, content in damages(state):
        file.write_bytes(content)
        worker.reset(WAYS[way](file))
        results = train_to_end(worker)
        assert rows_of(results) == whole, what
        assert results[0]["notes"] == [
            f"a pack starts over: its state {file.parent if way == 'lost' else file} "
            "is damaged or incomplete"
        ], what
        n += 1
    assert n > 20


def other(**settings: Any) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        worker = Bare(pack(**settings))
        worker.train()
        worker.save_checkpoint(str(folder))

    return write


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "settings", [{"seed": 1}, {"lr": 3e-3}, {"n_bottleneck": 7}], ids=["seed", "lr", "shape"]
)
def test_the_state_of_another_pack_gives_no_other_numbers_and_a_note(
    way: str, settings: dict[str, Any], whole: list[dict[str, Any]], tmp_path: Path
) -> None:
    other(**settings)(tmp_path)
    results = train_to_end(Bare(WAYS[way](tmp_path / STATE_FILE)))
    assert rows_of(results) == whole
    (note,) = results[0]["notes"]
    assert note.endswith(" holds other configurations")
