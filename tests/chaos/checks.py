"""What must hold after every fault: no row lost, doubled, torn or changed."""

from collections.abc import Collection
from pathlib import Path
from typing import TypeAlias

import pandas as pd
from loads import Load
from sweep_runs import CIRCUMSTANCES, tables

from raysweep.tables.reader import read_accuracy, read_epochs, read_trials

_READERS = {"trials": read_trials, "epochs": read_epochs, "accuracy": read_accuracy}
_KEYS = {
    "trials": ["config_id"],
    "epochs": ["config_id", "stage", "epoch"],
    "accuracy": ["config_id", "after_task", "on_task"],
}
Rows: TypeAlias = dict[str, pd.DataFrame]


def acknowledged(folder: Path) -> Rows:
    """Read all rows that are there at this moment, circumstances too."""
    if not (folder / "parts").is_dir():
        return {}
    # Trials first: the rows that they vouch for were written before them.
    return {name: read(folder) for name, read in _READERS.items()}


def assert_kept(before: Rows, folder: Path) -> None:
    """Hold a folder to rows that were there before: each is there still, and the same.

    Rows of configurations that had not ended may have been written again, with another duration.
    """
    after = acknowledged(folder)
    ended = set(before["trials"]["config_id"]) if before else set()
    for name, rows in before.items():
        both = rows[_KEYS[name]].merge(
            after[name], on=_KEYS[name], how="left", validate="1:1", indicator="found"
        )
        n_lost = int((both["found"] != "both").sum())
        assert n_lost == 0, f"{name}: {n_lost} of {len(rows)} acknowledged rows are lost"
        both = both[rows.columns].astype(rows.dtypes.to_dict())
        kept = rows["config_id"].isin(ended)
        pd.testing.assert_frame_equal(both[kept], rows[kept], check_exact=True, obj=name)
        metrics = [column for column in rows if column not in CIRCUMSTANCES]
        pd.testing.assert_frame_equal(both[metrics], rows[metrics], check_exact=True, obj=name)


def _same(ours: pd.DataFrame, theirs: pd.DataFrame, name: str) -> None:
    theirs = theirs.reset_index(drop=True)
    # A column without values has another type than one with some.
    ours = ours.reset_index(drop=True).astype(theirs.dtypes.to_dict())
    pd.testing.assert_frame_equal(ours, theirs, check_exact=True, obj=name)


def assert_true_so_far(folder: Path, undisturbed: Rows) -> None:
    """Hold whatever rows there are to the undisturbed ones; an ended configuration has them all."""
    ours = tables(folder)
    ended = set(ours["trials"]["config_id"])
    for name, rows in ours.items():
        theirs = undisturbed[name]
        whole = rows[rows["config_id"].isin(ended)]
        _same(whole, theirs[theirs["config_id"].isin(ended)], name)
        partial = rows[~rows["config_id"].isin(ended)].reset_index(drop=True)
        _same(partial, partial[_KEYS[name]].merge(theirs, on=_KEYS[name], how="left"), name)


def assert_whole(
    folder: Path,
    load: Load,
    undisturbed: Rows,
    other: Collection[str] = (),
) -> None:
    """Hold a sweep that ended to the undisturbed one: each configuration once, to the last bit.

    Configurations in ``other`` have to have ended, however they did.
    """
    wanted = {config.id for config in load.configs()}
    for name, keys in _KEYS.items():
        file = pd.read_parquet(folder / f"{name}.parquet")  # as it is: readers drop doubles
        assert not file.duplicated(keys).any(), f"{name}.parquet has a row twice"
    assert not list(folder.rglob("part-*.parquet")), "parts were left"
    ours = tables(folder)
    ids = list(ours["trials"]["config_id"])
    assert sorted(ids) == sorted(wanted), f"{len(ids)} of {len(wanted)} configurations"
    compared = wanted - set(other)
    status = ours["trials"].set_index("config_id")["status"]
    assert set(status.loc[sorted(compared)]) == {"finished"}
    for name, rows in ours.items():
        theirs = undisturbed[name]
        _same(
            rows[rows["config_id"].isin(compared)],
            theirs[theirs["config_id"].isin(compared)],
            name,
        )
