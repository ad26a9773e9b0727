"""A look at all tables of a sweep at once: what has ended, and whether its rows are all there."""

from collections.abc import Collection
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from raysweep.tables.completeness import (
    COUNTS,
    OUTCOME,
    Gap,
    describe_gaps,
    find_gaps,
    needs_settings,
)
from raysweep.tables.origins import odd_ones
from raysweep.tables.part_files import stray_note
from raysweep.tables.paths import ResultsPath
from raysweep.tables.reader import (
    ask_files,
    expect_bucket,
    foreign_error,
    read_arrow,
    statuses_in,
    unite,
)
from raysweep.tables.schemas import TABLES

TRAIN_AGAIN = "run the sweep again to train them again"


@dataclass(frozen=True)
class Survey:
    """The status and attempt of each configuration (by id) that has ended, and what is amiss.

    ``strays`` is a line about files in the folder that are not ours, if there are any.
    """

    rows: dict[str, tuple[str, int]] = field(default_factory=dict)
    gaps: list[Gap] = field(default_factory=list)
    strays: str | None = None

    @cached_property
    def lacking(self) -> frozenset[str]:
        """The ids of the configurations that lack rows."""
        return frozenset().union(*(gap.ids for gap in self.gaps))

    def gap_note(self, ids: Collection[str] | None = None) -> str | None:
        """Return a line about what is lacking; None if nothing is.

        ``ids`` limits it to some configurations.
        """
        ended = self.rows if ids is None else self.rows.keys() & set(ids)
        gaps = [part for gap in self.gaps if (part := gap.among(ended))]
        return describe_gaps(gaps, len(ended)) if gaps else None


def survey(folder: str | Path | ResultsPath) -> Survey:
    """Look at all tables in a folder.

    Raise ``InputError`` for a file that is damaged or belongs to another table or sweep, better
    before a run than when it folds them, and if the folder cannot be read.
    """
    location = ResultsPath.of(folder)
    # First, as the rows of a configuration's other tables are written before its row of trials.
    trials = ask_files(location, "trials", OUTCOME)
    rows = unite(location, "trials", trials.tables, OUTCOME)
    if location.local is None and not len(rows):
        expect_bucket(location, "trials")
    keys = {}
    sweeps = {f"{location / 'trials'}.parquet": trials.sweep}
    for table in COUNTS:
        key = TABLES[table].key
        files = ask_files(location, table, key)
        sweeps[f"{location / table}.parquet"] = files.sweep
        keys[table] = unite(location, table, files.tables, key)
    if odd := odd_ones(sweeps):
        raise foreign_error(odd)
    frame = rows.to_pandas()
    if needs_settings(frame):
        frame = read_arrow(location, "trials").to_pandas()
        frame = frame[frame["config_id"].isin(rows["config_id"].to_pylist())]
    return Survey(statuses_in(rows), find_gaps(frame, keys), stray_note(location))


def loss_notes(location: ResultsPath, ids: Collection[str] | None = None) -> list[str]:
    """Return lines for the reader of results: what rows are lost, and what files are not ours.

    ``ids`` limits it to some configurations. Raise ``InputError`` like ``survey``.
    """
    found = survey(location)
    gaps = found.gap_note(ids)
    notes = [f"{gaps}; {TRAIN_AGAIN}"] if gaps else []
    return [*notes, found.strays] if found.strays else notes
