"""Whether configurations that have ended have all their rows: no table vouches for another.

A row of ``trials`` says how many rows its configuration has in the other tables. For a row of an
earlier version (up to 0.3.0), the numbers are computed from its settings and how it ended.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from raysweep.errors import InputError
from raysweep.learning.config import Config
from raysweep.learning.stage_graph import epochs_of, stages_of
from raysweep.statuses import Status
from raysweep.tables.columns import SETTING
from raysweep.tables.schemas import TABLES, config_of

if TYPE_CHECKING:
    import pandas as pd

T = TypeVar("T")

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


@dataclass(frozen=True)
class _Extent:
    """How far a configuration was trained: epochs by stage, and how often accuracy was measured."""

    epochs: Mapping[str, int]
    n_tested: int


def _extent_of(config: Config, outcome: Mapping[Any, Any]) -> _Extent | None:
    """Return how far a configuration was trained that ended so; None if it failed or is unknown."""
    status, rung = outcome["status"], outcome.get("stopped_rung")
    epochs: dict[str, int] = {}
    n_trained, n_tested = 0, 1  # accuracy is also measured before any training
    for stage in stages_of(config):
        n = epochs_of(config, stage)
        if status == Status.DIVERGED and stage.name == outcome.get("diverged_stage"):
            n = int(outcome.get("diverged_epoch") or 0)
            return _Extent({**epochs, stage.name: n}, n_tested)
        if status == Status.STOPPED and stage.is_classifier and rung is not None:
            n = min(n, int(rung) - n_trained)
        epochs[stage.name] = n
        if stage.is_classifier:
            n_trained += n
            n_tested += n == config.epochs
        if status == Status.STOPPED and n_trained == rung:
            return _Extent(epochs, n_tested)
    return _Extent(epochs, n_tested) if status == Status.FINISHED else None


def rows_needed(config: Config, outcome: Mapping[Any, Any]) -> dict[str, int]:
    """Return how many rows of ``epochs`` and ``accuracy`` a configuration must have, by column.

    ``outcome`` is its row of ``trials``. For a configuration that diverged or stopped early these
    are the rows up to that epoch (it may have later ones); for one that failed, none.
    """
    extent = _extent_of(config, outcome)
    if extent is None:
        return dict.fromkeys(COUNTS.values(), 0)
    n_epochs, n_accuracy = sum(extent.epochs.values()), extent.n_tested * config.n_tasks
    return {COUNTS["epochs"]: n_epochs, COUNTS["accuracy"]: n_accuracy}


def needs_settings(trials: "pd.DataFrame") -> bool:
    """Return whether ``find_gaps`` needs more columns of ``trials`` than ``OUTCOME``.

    It does for rows of an earlier version, and for those that diverged or stopped early.
    """
    checked = trials[trials["status"].isin(_CHECKED)]
    return _is_early(checked) or bool((checked["status"] != Status.FINISHED).any())


def keys_of(rows: "pd.DataFrame", table: str) -> pa.Table:
    """Return the key columns of a table's rows, for ``find_gaps``."""
    return pa.Table.from_pandas(rows[[*TABLES[table].key]], preserve_index=False)


def find_gaps(trials: "pd.DataFrame", tables: Mapping[str, pa.Table]) -> list[Gap]:
    """Compare rows of ``trials`` with those of other ``tables``, of which the key columns suffice.

    If ``needs_settings(trials)``, all of its columns are needed.
    """
    checked = trials[trials["status"].isin(_CHECKED)]
    needed = _needed(checked)
    extents = _extents(checked, needed[COUNTS["epochs"]])
    gaps = []
    for table, rows in tables.items():
        counts = _counted(table, rows, extents)
        pairs = zip(checked["config_id"], needed[COUNTS[table]], strict=True)
        short = {i: (counts[i], n) for i, n in pairs if counts[i] < n}
        if short:
            gaps.append(Gap(table, short))
    return gaps


def _extents(checked: "pd.DataFrame", n_epochs: Sequence[int]) -> dict[str, _Extent]:
    """Return how far each configuration was trained that diverged or stopped early."""

    def extent(row: "pd.Series[Any]") -> _Extent | None:
        try:
            return _extent_of(config_of(row), _outcome(row))
        except InputError:  # written by another version
            return None

    is_partial = checked["status"] != Status.FINISHED
    partial = checked[is_partial]
    numbers = [n for n, is_it in zip(n_epochs, is_partial, strict=True) if is_it]
    found = zip(partial["config_id"], _by_kind(partial, extent), numbers, strict=True)
    return {i: e for i, e, n in found if e is not None and sum(e.epochs.values()) == n}


def _counted(table: str, rows: pa.Table, extents: Mapping[str, _Extent]) -> Counter[str]:
    """Count the rows of a table by configuration, but none from beyond where one ended.

    Such rows are from an attempt that got further; they must not stand in for rows that are lost.
    """
    by_id = rows.select(["config_id"]).group_by("config_id").aggregate([([], "count_all")])
    ids, numbers = (by_id[name].to_pylist() for name in ("config_id", "count_all"))
    counts = Counter(dict(zip(ids, numbers, strict=True)))
    if not extents:
        return counts
    own = rows.filter(pc.is_in(rows["config_id"], pa.array(extents, pa.string())))
    ids = own["config_id"].to_pylist()
    if table == "epochs":
        places = zip(ids, own["stage"].to_pylist(), own["epoch"].to_pylist(), strict=True)
        within = (i for i, stage, n in places if n <= extents[i].epochs.get(stage, 0))
    else:
        pairs = zip(ids, own["after_task"].to_pylist(), strict=True)
        within = (i for i, n in pairs if n < extents[i].n_tested)
    return Counter({i: n for i, n in counts.items() if i not in extents}) + Counter(within)


def describe_gaps(gaps: Sequence[Gap], n_ended: int) -> str:
    """Describe gaps in a line: how many configurations lack rows, and of which tables."""
    n_ids = len(frozenset().union(*(gap.ids for gap in gaps)))
    return (
        f"{n_ids:,} of {n_ended:,} configurations that have ended lack rows: only "
        f"{' and '.join(map(str, gaps))} are there (files were deleted, lost or replaced)"
    )


def _is_early(checked: "pd.DataFrame") -> bool:
    names = COUNTS.values()
    return any(name not in checked or bool(checked[name].isna().any()) for name in names)


def _needed(checked: "pd.DataFrame") -> dict[str, list[int]]:
    """Return the numbers of rows that rows of ``trials`` must have, by column."""
    names = list(COUNTS.values())
    if not _is_early(checked):
        return {name: checked[name].astype("int64").tolist() for name in names}
    needed = checked.reindex(columns=names).astype("float64")
    early = needed.isna().any(axis=1)
    numbers = _by_kind(checked[early], _needed_early)
    for i, name in enumerate(names):
        needed.loc[early, name] = [float(each[i]) for each in numbers]
    return {name: needed[name].astype("int64").tolist() for name in names}


def _needed_early(row: "pd.Series[Any]") -> tuple[int, ...]:
    """Return the numbers for a row of an earlier version, 0 if they are unknown."""
    outcome = _outcome(row)
    try:
        config = config_of(row)
    except InputError:  # written by another version: its rows can't be foreseen
        return (0,) * len(COUNTS)
    n_epochs, n_accuracy = rows_needed(config, outcome).values()
    # Before 0.2.0, accuracy was not measured before any training, so there is no forward transfer.
    if n_accuracy and outcome["forward_transfer"] is None:
        n_accuracy -= config.n_tasks
    return n_epochs, n_accuracy


def _outcome(row: "pd.Series[Any]") -> dict[str, Any]:
    """Return how the configuration of a row ended, without NaN."""
    values = {name: row.get(name) for name in _ENDS}
    return {
        name: None if str(value) in ("nan", "<NA>") else value for name, value in values.items()
    }


def _by_kind(rows: "pd.DataFrame", answer: "Callable[[pd.Series[Any]], T]") -> list[T]:
    """Return the answer for each row of ``trials``, asked once for all that are alike.

    Few kinds of rows have different answers, and rebuilding a configuration takes a while.
    """
    ends = rows.reindex(columns=_ENDS)
    ends["forward_transfer"] = ends["forward_transfer"].notna()
    by = [ends[name] for name in _ENDS] + [rows[name] for name in _settings_of_stages(rows)]
    kinds = rows.groupby(by, dropna=False, sort=False).ngroup()
    answers: dict[int, T] = {}
    for place, kind in enumerate(kinds):
        if kind not in answers:
            answers[kind] = answer(rows.iloc[place])
    return [answers[kind] for kind in kinds]


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
