"""The tables of one or several sweeps, in the form that the scripts here use.

DataFrames have the columns of docs/tables.md, preceded by ``sweep``, the name of the sweep.
Settings are the columns ``config/...``; users may name one ``lr`` or ``config/lr``.
"""

import sys
from collections.abc import Callable, Collection, Sequence
from functools import cached_property
from pathlib import Path

import pandas as pd

from raysweep.analysis.conditions import meets
from raysweep.errors import InputError
from raysweep.statuses import ENDED
from raysweep.tables.columns import SETTING
from raysweep.tables.completeness import describe_gaps, find_gaps, keys_of
from raysweep.tables.part_files import stray_note
from raysweep.tables.paths import ResultsPath
from raysweep.tables.ranking import metrics_of
from raysweep.tables.reader import read_accuracy, read_epochs, read_trials
from raysweep.tables.survey import TRAIN_AGAIN
from raysweep.user_text.metric_hints import metric_hint
from raysweep.user_text.values import near, printable, show


class Sweeps:
    """The tables of sweeps, each read on first access; ``where`` filters trials.

    ``ids`` are the configurations to keep (None: all). Tables have only rows of configurations that
    have ended; a line on stderr tells of rows that are lost and of stray files. Raises
    ``InputError`` for a folder that is not a sweep's, a damaged table, a mistake in ``where``, and
    if no row is left.
    """

    def __init__(
        self,
        folders: Sequence[str | Path | ResultsPath],
        where: str | None = None,
        ids: Collection[str] | None = None,
    ) -> None:
        self.places = [ResultsPath.of(folder) for folder in folders]
        names = [location.name for location in self.places]
        self.names = [
            name if names.count(name) == 1 else str(location)
            for name, location in zip(names, self.places, strict=True)
        ]
        self._where = where
        self._ids = ids

    @cached_property
    def trials(self) -> pd.DataFrame:
        """Rows of ``trials``."""
        frame = self._read(read_trials)
        for location in self.places:
            if strays := stray_note(location):
                _say(strays)
        if self._ids is not None:
            frame = frame[frame["config_id"].isin(self._ids)].reset_index(drop=True)
        if frame.empty:
            raise InputError(
                f"{_listed(self.places)}: expected configurations that have ended, found none yet"
            )
        strange = set(frame["status"]) - set(ENDED)
        if strange:
            raise InputError(
                f"{_listed(self.places)}: expected the statuses {', '.join(ENDED)} in trials, got "
                f"{show(min(strange, key=str))}; it was not written by this version"
            )
        return frame if self._where is None else _filtered(frame, self._where)

    @cached_property
    def epochs(self) -> pd.DataFrame:
        """Rows of ``epochs``, of the configurations in ``trials``."""
        return self._of_trials("epochs", self._read(read_epochs))

    @cached_property
    def accuracy(self) -> pd.DataFrame:
        """Rows of ``accuracy``, of the configurations in ``trials``."""
        return self._of_trials("accuracy", self._read(read_accuracy))

    def _read(self, read: Callable[[ResultsPath], pd.DataFrame]) -> pd.DataFrame:
        frames = []
        for name, location in zip(self.names, self.places, strict=True):
            frame = read(location)
            frame.insert(0, "sweep", name)
            frames.append(frame)
        whole = [frame for frame in frames if not frame.empty] or frames[:1]
        return whole[0] if len(whole) == 1 else pd.concat(whole, ignore_index=True)

    def _of_trials(self, table: str, frame: pd.DataFrame) -> pd.DataFrame:
        """Return the rows of a table that belong to those of ``trials``; say if some are lost."""
        keys = self.trials[["sweep", "config_id"]]
        for name, location in zip(self.names, self.places, strict=True):
            rows = keys_of(frame[frame["sweep"] == name], table)
            trials = self.trials[self.trials["sweep"] == name]
            if gaps := find_gaps(trials, {table: rows}):
                _say(f"{location}: {describe_gaps(gaps, len(trials))}; {TRAIN_AGAIN}")
        return frame.merge(keys, on=["sweep", "config_id"])


def _say(note: str) -> None:
    print(printable(f"note: {note}", sys.stderr), file=sys.stderr)


def _listed(places: Sequence[ResultsPath]) -> str:
    return ", ".join(map(str, places))


def _filtered(trials: pd.DataFrame, where: str) -> pd.DataFrame:
    kept = trials[meets(trials, where)]
    if kept.empty:
        raise InputError(
            f"--where: no row of {len(trials)} meets {show(where)}; use a wider condition"
        )
    return kept.reset_index(drop=True)


def with_short_names(frame: pd.DataFrame) -> pd.DataFrame:
    """Rename ``config/lr`` to ``lr``, and so on."""
    return frame.rename(columns={name: short(name) for name in frame.columns})


def short(name: str) -> str:
    """Return the short name of a setting: ``lr``."""
    return name.removeprefix(SETTING)


def setting(trials: pd.DataFrame, name: str) -> str:
    """Find the column of a setting by its short or full name; ``sweep`` counts as one."""
    known = ["sweep", *(column for column in trials.columns if column.startswith(SETTING))]
    for column in (name, SETTING + name):
        if column in known:
            return column
    names = [short(column) for column in known]
    raise InputError(f"expected a setting, got {name!r}{near(name, names) or _known(names)}")


def metric(trials: pd.DataFrame, name: str, where: str = "--metric") -> str:
    """Check the name of a metric of ``trials``, and return it; ``where`` it was given."""
    metrics = metrics_of(trials)
    if name not in metrics:
        raise InputError(f"{where}: expected a metric, got {name!r}{metric_hint(name, metrics)}")
    return name


def _known(names: Sequence[str]) -> str:
    return f"; known: {', '.join(names)}"


def levels(trials: pd.DataFrame, column: str) -> list[object]:
    """List the values of a column in ascending order, null (if any) last."""
    values = trials[column].drop_duplicates()
    found = sorted(values.dropna().tolist())
    return [*found, None] if values.isna().any() else found
