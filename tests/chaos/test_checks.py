"""The checks of this suite notice what they are there for."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from checks import Rows, acknowledged, assert_kept, assert_true_so_far, assert_whole
from loads import Load

_LOAD = Load(1)
Change = Callable[[pd.DataFrame], pd.DataFrame]


def _write(folder: Path, rows: Rows) -> None:
    (folder / "parts").mkdir(parents=True, exist_ok=True)
    for name, frame in rows.items():
        frame.to_parquet(folder / f"{name}.parquet", index=False)


def _raised(metric: str) -> Change:
    def change(frame: pd.DataFrame) -> pd.DataFrame:
        frame = frame.copy()
        frame.loc[3, metric] *= 1 + 2**-52
        return frame

    return change


_CHANGES: dict[str, tuple[str, Change]] = {
    "a lost trial": ("trials", lambda frame: frame.drop(index=3)),
    "a lost epoch": ("epochs", lambda frame: frame.drop(index=3)),
    "a lost accuracy": ("accuracy", lambda frame: frame.drop(index=3)),
    "a doubled trial": ("trials", lambda frame: pd.concat([frame, frame.iloc[3:4]])),
    "a changed trial": ("trials", _raised("average_accuracy")),
    "a changed epoch": ("epochs", _raised("loss")),
    "a changed accuracy": ("accuracy", _raised("accuracy")),
}


@pytest.mark.parametrize("change", _CHANGES)
def test_a_lost_doubled_or_changed_row_is_noticed(
    undisturbed: Callable[[Load], Rows], tmp_path: Path, change: str
) -> None:
    reference = undisturbed(_LOAD)
    ids = [config.id for config in _LOAD.configs()]
    good = {
        name: frame[frame["config_id"].isin(ids)].reset_index(drop=True)
        for name, frame in reference.items()
    }
    _write(tmp_path, good)
    before = acknowledged(tmp_path)
    assert_whole(tmp_path, _LOAD, reference)
    assert_true_so_far(tmp_path, reference)
    assert_kept(before, tmp_path)
    table, mutate = _CHANGES[change]
    _write(tmp_path, {**good, table: mutate(good[table])})
    with pytest.raises(AssertionError):
        assert_whole(tmp_path, _LOAD, reference)
    if "doubled" not in change:  # readers drop doubles: that is their work
        with pytest.raises(AssertionError):
            assert_kept(before, tmp_path)
