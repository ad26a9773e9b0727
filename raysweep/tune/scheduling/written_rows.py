"""Whether the tables have the rows that a pack's state stands behind."""

from collections import defaultdict
from collections.abc import Collection
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from raysweep.packs.rows import next_trail
from raysweep.packs.states import RowsBehind
from raysweep.tables.paths import ResultsPath
from raysweep.tables.reader import read_arrow


class WrittenRows:
    """The rows of ``epochs`` and ``accuracy`` that some configurations (ids) have in the tables."""

    def __init__(self, location: ResultsPath, ids: Collection[str]) -> None:
        self._location = location
        self._ids = pa.array(list(ids), pa.string())

    def _rows(self, table: str) -> list[dict[str, Any]]:
        found = read_arrow(self._location, table)
        rows: list[dict[str, Any]]
        rows = found.filter(pc.is_in(found["config_id"], self._ids)).to_pylist()
        return rows

    @cached_property
    def _epochs(self) -> dict[tuple[str, str], dict[int, dict[str, Any]]]:
        """Rows by configuration, stage and epoch."""
        found: dict[tuple[str, str], dict[int, dict[str, Any]]] = defaultdict(dict)
        for row in self._rows("epochs"):
            found[row["config_id"], row["stage"]][row["epoch"]] = row
        return found

    @cached_property
    def _accuracy(self) -> dict[tuple[str, int], dict[int, float]]:
        """Accuracies by configuration, last task learned and task tested."""
        found: dict[tuple[str, int], dict[int, float]] = defaultdict(dict)
        for row in self._rows("accuracy"):
            found[row["config_id"], row["after_task"]][row["on_task"]] = row["accuracy"]
        return found

    def have(self, config_id: str, behind: RowsBehind) -> bool:
        """Return whether all rows behind a state are there, with the same values."""
        try:
            return all(
                self._trail(config_id, stage, n) == trail
                for stage, (n, trail) in behind["epochs"].items()
            ) and all(
                self._accuracies(config_id, int(after), len(values)) == list(map(repr, values))
                for after, values in behind["accuracy"].items()
            )
        except (AttributeError, KeyError, TypeError, ValueError):  # from a damaged state
            return False

    def _trail(self, config_id: str, stage: str, n_epochs: int) -> str | None:
        """Return the digest of a stage's first rows; None if one is missing."""
        rows, trail = self._epochs.get((config_id, stage), {}), ""
        for epoch in range(1, n_epochs + 1):
            if epoch not in rows:
                return None
            trail = next_trail(trail, rows[epoch])
        return trail

    def _accuracies(self, config_id: str, after_task: int, n_tasks: int) -> list[str]:
        rows = self._accuracy.get((config_id, after_task), {})
        return [repr(rows.get(on_task)) for on_task in range(1, n_tasks + 1)]
