"""Whether configurations that have ended have all their rows: no table vouches for another.

A row of ``trials`` says how many rows its configuration has in the other tables. For a row of an
earlier version (up to 0.3.0), the numbers are computed from its settings and how it ended.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from raysweep.errors import InputError
from raysweep.learning.config import Config
from raysweep.learning.stage_graph import epochs_of, stages_of
from raysweep.statuses import Status
from raysweep.tables.columns import SETTING
from raysweep.tables.schemas import TABLES, config_of

if TYPE_CHECKING:
    import pandas as pd

COUNTS = {"epochs": "n_epoch_rows", "accuracy": "n_accuracy_rows"}
"""The columns of ``trials`` with the number of rows of a configuration, by table."""
OUTCOME = ("config_id", "status", "attempt", *COUNTS.values())
"""The columns of ``trials`` that are read first: enough, unless a row is of an earlier version."""
_CHECKED = (Status.FINISHED, Status.DIVERGED, Status.STOPPED)
_SEED = f"{SETTING}seed"
_ENDS = ["status", "diverged_stage", "diverged_epoch", "stopped_rung", "forward_transfer"]


@dataclass(frozen=True)
class Gap:
    """Configurations that have ended but lack rows of a table.

    ``rows`` maps their ids to how many rows are there, and how many must be.
    """

    table: str
    rows: Mapping[str, tuple[int, int]]

    @property
    def ids(self) -> Collection[str]:
        """The ids of the configurations."""
        return self.rows.keys()

    def among(self, ids: Collection[str]) -> "Gap | None":
        """Return the part of the gap that is about the configurations in ``ids``, if any."""
        rows = {config_id: n for config_id, n in self.rows.items() if config_id in ids}
        return Gap(self.table, rows) if rows else None

    def __str__(self) -> str:
        n_there, n_needed = (sum(each) for each in zip(*self.rows.values(), strict=True))
        return f"{n_there:,} of {n_needed:,} rows of {self.table}"


def rows_needed(config: Config, outcome: Mapping[Any, Any]) -> dict[str, int]:
    """Return how many rows of ``epochs`` and ``accuracy`` a configuration must have, by column.

    ``outcome`` is its row of ``trials``. For a configuration that stopped early these are the rows
    up to the epoch it was stopped after (it may have more); for one that failed, none.
    """
    status, rung = outcome["status"], outcome.get("stopped_rung")
    n_epochs, n_trained, n_tested = 0, 0, 1  # accuracy is also measured before any training
    is_whole = status == Status.FINISHED
    for stage in stages_of(config):
        n = epochs_of(config, stage)
        if status == Status.DIVERGED and stage.name == outcome.get("diverged_stage"):
            n_epochs += int(outcome.get("diverged_epoch") or 0)
            is_whole = True
            break
        if status == Status.STOPPED and stage.is_classifier and rung is not None:
            n = min(n, int(rung) - n_trained)
        n_epochs += n
        if stage.is_classifier:
            n_trained += n
            n_tested += n == config.epochs
        if status == Status.STOPPED and n_trained == rung:
            is_whole = True
            break
    if not is_whole:
        return dict.fromkeys(COUNTS.values(), 0)
    return {COUNTS["epochs"]: n_epochs, COUNTS["accuracy"]: n_tested * config.n_tasks}


def counted(rows: pa.Table) -> dict[str, int]:
    """Count the rows of a table by configuration."""
    counts = rows.select(["config_id"]).group_by("config_id").aggregate([([], "count_all")])
    ids, numbers = counts["config_id"].to_pylist(), counts["count_all"].to_pylist()
    return dict(zip(ids, numbers, strict=True))


def is_early(trials: "pd.DataFrame") -> bool:
    """Return whether ``trials`` has a row without the numbers of rows, from an earlier version."""
    checked = trials[trials["status"].isin(_CHECKED)]
    return any(name not in checked or bool(checked[name].isna().any()) for name in COUNTS.values())


def find_gaps(trials: "pd.DataFrame", tables: Mapping[str, Mapping[str, int]]) -> list[Gap]:
    """Compare rows of ``trials`` with the numbers of rows in other ``tables``, by configuration.

    If ``is_early(trials)``, all of its columns are needed.
    """
    checked = trials[trials["status"].isin(_CHECKED)]
    needed = _needed(checked)
    gaps = []
    for table, counts in tables.items():
        pairs = zip(checked["config_id"], needed[COUNTS[table]], strict=True)
        short = {i: (counts.get(i, 0), n) for i, n in pairs if counts.get(i, 0) < n}
        if short:
            gaps.append(Gap(table, short))
    return gaps


def describe_gaps(gaps: Sequence[Gap], n_ended: int) -> str:
    """Describe gaps in a line: how many configurations lack rows, and of which tables."""
    n_ids = len(frozenset().union(*(gap.ids for gap in gaps)))
    return (
        f"{n_ids:,} of {n_ended:,} configurations that have ended lack rows: only "
        f"{' and '.join(map(str, gaps))} are there (files were deleted, lost or replaced)"
    )


def _needed(trials: "pd.DataFrame") -> dict[str, list[int]]:
    """Return the numbers of rows that rows of ``trials`` must have, by column."""
    names = list(COUNTS.values())
    if not is_early(trials):
        return {name: trials[name].astype("int64").tolist() for name in names}
    needed = trials.reindex(columns=names).astype("float64")
    early = trials[needed.isna().any(axis=1)]
    # Few kinds of rows need different numbers, and rebuilding a configuration takes a while.
    ends = early.reindex(columns=_ENDS)
    ends["forward_transfer"] = ends["forward_transfer"].notna()
    by = [ends[name] for name in _ENDS] + [early[name] for name in _settings_of_stages(early)]
    kind = early.groupby(by, dropna=False, sort=False).ngroup()
    firsts = early[~kind.duplicated()]
    found = {kind[label]: _needed_early(row) for label, row in firsts.iterrows()}
    for i, name in enumerate(names):
        needed.loc[early.index, name] = kind.map({k: numbers[i] for k, numbers in found.items()})
    return {name: needed[name].astype("int64").tolist() for name in names}


def _needed_early(row: "pd.Series[Any]") -> list[int]:
    """Return the numbers for a row of an earlier version, 0 if they are unknown."""
    outcome = {name: row.get(name) for name in _ENDS}
    outcome = {name: value if value == value else None for name, value in outcome.items()}  # noqa: PLR0124 (NaN)
    try:
        config = config_of(row)
    except InputError:  # written by another version: its rows can't be foreseen
        return [0] * len(COUNTS)
    n_epochs, n_accuracy = rows_needed(config, outcome).values()
    # Before 0.2.0, accuracy was not measured before any training, so there is no forward transfer.
    if n_accuracy and outcome["forward_transfer"] is None:
        n_accuracy -= config.n_tasks
    return [n_epochs, n_accuracy]


def _settings_of_stages(trials: "pd.DataFrame") -> list[str]:
    """List the columns of settings on which the stages and their epochs may depend.

    They depend on no real number and not on the seed.
    """
    return [
        column.name
        for column in TABLES["trials"].columns
        if column.is_setting
        and not pa.types.is_floating(column.type)
        and column.name != _SEED
        and column.name in trials
    ]
