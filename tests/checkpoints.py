"""States on their way through a checkpoint."""

from pathlib import Path
from typing import Any

from raysweep.learning.config import Config
from raysweep.packs.states import PackState, RowsBehind
from raysweep.sealed import seal, unseal


def passed_through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    """Save and load a state as a checkpoint does."""
    loaded: dict[str, Any] = unseal(seal(state))
    return loaded


def write_state(path: Path, *configs: Config, **rows: RowsBehind) -> Path:
    """Write a state that names configurations and, by id, the rows behind it; no pack is in it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nothing: RowsBehind = {"epochs": {}, "accuracy": {}}
    behind = {c.id: rows.get(c.id, nothing) for c in configs}
    path.write_bytes(PackState({}, behind, 0.0, 1, {}).encode())
    return path
