"""Two sweeps side by side: which rows are paired, and what their differences are."""

import json
import math
import statistics
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from small_configs import configure
from table_rows import frame_of

from raysweep.analysis import compare
from raysweep.analysis.compare import (
    pair,
    paired_differences,
    settings_that_differ,
    status_changes,
    unequal,
)
from raysweep.errors import InputError
from raysweep.tables.schemas import config_columns

T_OF_2 = 4.302652729911275  # two-sided 95 % point of Student's t with 2 degrees of freedom

Cell = tuple[dict[str, Any], float | None]
"""Settings, and the accuracy of a configuration that finished, None for one that diverged."""


def table(*cells: Cell, **common: Any) -> pd.DataFrame:
    rows = []
    for settings, value in cells:
        status = "diverged" if value is None else "finished"
        columns = config_columns(configure(**(common | settings)))
        rows.append({**columns, "status": status, "average_accuracy": value, "forgetting": value})
    return frame_of(rows)


def seeds(values: list[float | None], **settings: Any) -> list[Cell]:
    return [({**settings, "seed": seed}, value) for seed, value in enumerate(values)]


ACCURACY = "average_accuracy"


def test_settings_that_differ_are_told_with_their_values() -> None:
    first = table(({"lr": 1e-3}, 0.1), ({"lr": 1e-2}, 0.2), epochs=2)
    second = table(({"lr": 1e-3}, 0.1), ({"lr": 1e-1}, 0.2), epochs=3)
    differ = settings_that_differ(first, second).set_index("setting")
    assert differ.to_dict("index") == {
        "epochs": {"first": [2], "second": [3], "is_constant": True},
        "lr": {"first": [1e-3, 1e-2], "second": [1e-3, 1e-1], "is_constant": False},
    }
    assert settings_that_differ(first, first).empty


def test_differences_are_of_pairs_with_one_seed_and_their_interval_is_students() -> None:
    # In another order, with seeds far from each other: pairs of wrong rows would show.
    first = table(*seeds([0.1, 0.5, 0.9]), epochs=2)
    second = table(*seeds([0.2, 0.7, 0.95])[::-1], epochs=3)
    (row,) = paired_differences(pair(first, second, ACCURACY), ACCURACY).to_dict("records")
    differences = [0.1, 0.2, 0.05]
    assert row["difference"] == pytest.approx(statistics.fmean(differences))
    expected = T_OF_2 * statistics.stdev(differences) / math.sqrt(3)
    assert row["ci95"] == pytest.approx(expected)
    assert (row["first"], row["second"]) == (pytest.approx(0.5), pytest.approx(1.85 / 3))
    assert (row["n_pairs"], row["n_better"]) == (3, 3)


def test_groups_have_their_own_means_and_the_last_row_is_over_all() -> None:
    kinds = {"simple": [0.4, 0.6], "none": [0.1, 0.1]}
    cells = [cell for kind, values in kinds.items() for cell in seeds([*values], replay=kind)]
    first = table(*cells, epochs=2)
    second = table(*[(s, (v or 0) + (0.2 if s["replay"] == "none" else -0.1)) for s, v in cells])
    second["config/epochs"] = 3
    found = paired_differences(pair(first, second, ACCURACY), ACCURACY, ["config/replay"])
    assert found["replay"].tolist()[:2] == ["none", "simple"]
    assert found["replay"].isna().tolist() == [False, False, True]
    assert found["difference"].tolist() == pytest.approx([0.2, -0.1, 0.05])
    assert found["n_better"].tolist() == [2, 0, 2]


def test_less_forgetting_is_better() -> None:
    first, second = table(*seeds([0.5, 0.5]), epochs=2), table(*seeds([0.4, 0.6]), epochs=3)
    (row,) = paired_differences(pair(first, second, "forgetting"), "forgetting").to_dict("records")
    assert row["n_better"] == 1
    second["forgetting"] = 0.1
    (row,) = paired_differences(pair(first, second, "forgetting"), "forgetting").to_dict("records")
    assert row["n_better"] == 2


def test_rows_without_a_partner_are_counted_and_not_used() -> None:
    first = table(*seeds([0.1, 0.2, 0.3]), ({"lr": 0.5, "seed": 0}, 0.4))
    second = table(*seeds([0.2, 0.2]), ({"lr": 0.25, "seed": 0}, 0.9), epochs=3)
    pairs = pair(first, second, ACCURACY)
    assert sorted(pairs.rows["config/seed"]) == [0, 1]
    assert (pairs.n_only_first, pairs.n_only_second) == (2, 1)
    assert "config/epochs" not in pairs.keys
    assert {"config/lr", "config/seed"} <= {*pairs.keys}


def test_other_seeds_are_no_partners_even_where_each_sweep_has_one() -> None:
    first, second = table(({"seed": 0}, 0.1)), table(({"seed": 1}, 0.2))
    assert pair(first, second, ACCURACY).rows.empty


def test_a_setting_that_one_table_does_not_know_is_left_out() -> None:
    first, second = table(*seeds([0.1, 0.2])), table(*seeds([0.2, 0.3]))
    first["config/tf32"] = None  # as where it came after the rows were written
    assert len(pair(first, second, ACCURACY).rows) == 2


def test_changes_of_status_are_counted_and_only_finished_pairs_have_a_difference() -> None:
    first = table(*seeds([0.1, 0.2, None, None]))
    second = table(*seeds([0.2, None, 0.3, None]), epochs=3)
    pairs = pair(first, second, ACCURACY)
    changes = status_changes(pairs).set_index(["first", "second"])["n"].to_dict()
    assert changes == {
        ("finished", "finished"): 1,
        ("finished", "diverged"): 1,
        ("diverged", "finished"): 1,
        ("diverged", "diverged"): 1,
    }
    (row,) = paired_differences(pairs, ACCURACY).to_dict("records")
    assert (row["n_pairs"], row["difference"]) == (1, pytest.approx(0.1))
    assert math.isnan(row["ci95"])


def test_ignored_settings_are_paired_across() -> None:
    first = table(({"lr": 0.5}, 0.1), ({"lr": 0.25, "beta_2": 1.0}, 0.2))
    second = table(({"lr": 0.125}, 0.3), ({"lr": 0.0625, "beta_2": 1.0}, 0.5))
    assert pair(first, second, ACCURACY).rows.empty
    pairs = pair(first, second, ACCURACY, ["config/lr"])
    assert sorted(pairs.rows["difference"]) == pytest.approx([0.2, 0.3])
    with pytest.raises(
        InputError, match="configurations of one sweep still differ, got lr, beta_2"
    ):
        pair(first, second, ACCURACY, ["config/lr", "config/beta_2"])


def test_one_id_with_other_numbers_is_reported() -> None:
    first, second = table(*seeds([0.1, 0.2, None])), table(*seeds([0.1, 0.2, None, 0.4]))
    n, found = unequal(first, second)
    assert n == 3
    assert found.empty
    second.loc[1, ACCURACY] = 0.2 + 1e-12
    second["duration_s"] = 5.0
    n, found = unequal(first, second)
    assert found[["config_id", "column"]].to_numpy().tolist() == [[first["config_id"][1], ACCURACY]]
    assert found[["first", "second"]].to_numpy().tolist() == [[0.2, 0.2 + 1e-12]]


@pytest.fixture
def folders(tmp_path: Path) -> list[str]:
    first = table(*seeds([0.1, 0.2, None], replay="simple"), *seeds([0.3], replay="none"))
    second = table(*seeds([0.2, 0.4, 0.5], replay="simple"), epochs=3)
    for name, frame in (("one", first), ("two", second)):
        (tmp_path / name / "parts").mkdir(parents=True)
        frame.to_parquet(tmp_path / name / "trials.parquet")
    return [str(tmp_path / name) for name in ("one", "two")]


def test_the_command_tells_all(folders: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    compare.show(folders, by=["replay"])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["epochs", "2", "3"] in lines
    assert ["2", "finished", "in", "both"] in lines
    assert ["1", "diverged,", "then", "finished"] in lines
    assert ["simple", "0.1500", "0.3000", "0.1500", "0.6353", "2", "2"] in lines
    assert ["all", "0.1500", "0.3000", "0.1500", "0.6353", "2", "2"] in lines
    assert any("1 of the first, 0 of the second" in " ".join(line) for line in lines)


def test_rows_that_should_be_equal_are_named_if_they_are_not(
    folders: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    other = Path(folders[0]).with_name("other")
    (other / "parts").mkdir(parents=True)
    frame = pd.read_parquet(Path(folders[0]) / "trials.parquet")
    frame.to_parquet(other / "trials.parquet")
    compare.show([folders[0], str(other)])
    said = capsys.readouterr().out
    assert "all settings have the same values" in said
    assert "4 configurations are in both, with identical numbers" in said
    frame.loc[0, ACCURACY] = 0.75
    frame.to_parquet(other / "trials.parquet")
    compare.show([folders[0], str(other)])
    said = capsys.readouterr().out
    assert "4 configurations are in both, 1 of them with different numbers" in said
    assert f"{frame['config_id'][0]}: average_accuracy 0.1, then 0.75" in said


def test_other_formats_have_the_table(
    folders: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    compare.show(folders, table_format="json")
    (row,) = json.loads(capsys.readouterr().out)
    assert row["difference"] == pytest.approx(0.15)
    assert list(row) == ["first", "second", "difference", "ci95", "n_pairs", "n_better"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"folders": 1}, "expected the folders of two sweeps"),
        ({"folders": 3}, "expected the folders of two sweeps"),
        ({"by": ["sweep"]}, "--by: expected a setting of pairs"),
        ({"by": ["rl"]}, "expected a setting, got 'rl'"),
        ({"metric": "accuracy"}, "expected a metric, got 'accuracy'"),
        ({"where": "replay == 'none'"}, "two: expected configurations that have ended, found none"),
        ({"where": "seed == 2"}, "expected pairs with average_accuracy in both, found none of 1"),
        ({"where": "(seed == 0) == (epochs == 3)"}, "same settings and seed in both, found none"),
    ],
)
def test_a_mistake_is_an_error_of_one_line(
    folders: list[str], change: dict[str, Any], message: str
) -> None:
    n = change.pop("folders", 2)
    with pytest.raises(InputError) as caught:
        compare.show((folders * 2)[:n], **change)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
