"""Means over seeds: their interval, and which setting is called the best."""

import json
import math
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from table_rows import frame_of

from raysweep.analysis import leaderboard as script
from raysweep.errors import InputError
from raysweep.learning.config import Config
from raysweep.tables.ranking import format_leaderboard, leaderboard, summarise, varied_settings
from raysweep.tables.schemas import config_columns

# Two-sided 95 % points of Student's t, as printed in textbooks, by degrees of freedom.
T_TABLE = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 9: 2.262, 30: 2.042, 120: 1.980}


def trials(
    accuracies: dict[float, list[float | None]], metric: str = "average_accuracy"
) -> pd.DataFrame:
    """Make a row for each learning rate and seed; None is one that diverged."""
    rows = []
    for lr, values in accuracies.items():
        for seed, value in enumerate(values):
            status = "diverged" if value is None else "finished"
            columns = config_columns(Config(lr=lr, seed=seed))
            rows.append({**columns, "status": status, metric: value})
    return frame_of(rows)


@pytest.mark.parametrize("df", T_TABLE)
def test_half_width_uses_the_published_t_quantile(df: int) -> None:
    values = [float(i % 7) for i in range(df + 1)]
    mean, sd, half_width, n = summarise(values)
    assert n == df + 1
    assert mean == pytest.approx(sum(values) / n)
    assert sd == pytest.approx(statistics.stdev(values))
    assert half_width is not None and sd is not None
    assert half_width * math.sqrt(n) / sd == pytest.approx(T_TABLE[df], abs=5e-4)


def test_one_value_has_no_spread() -> None:
    assert summarise([0.5]) == (0.5, None, None, 1)


def test_leaderboard_gives_the_interval_of_each_mean() -> None:
    values = [0.8, 0.9, 0.85]
    board = leaderboard(trials({1e-3: [*values], 1e-2: [0.7, None, None]}))
    mean, sd, half_width, _ = summarise(values)
    spread = board[["mean", "sd", "ci95"]]
    assert spread.iloc[0].tolist() == pytest.approx([mean, sd, half_width])
    assert spread.isna().iloc[1].tolist() == [False, True, True]


def test_a_setting_with_fewer_finished_seeds_wins_by_no_lucky_one() -> None:
    board = leaderboard(
        trials(
            {
                1e-1: [0.99, None, None],
                1e-2: [0.95, 0.97, None],
                1e-3: [0.6, 0.7, 0.65],
                1e-4: [0.7, 0.8, 0.75],
                1e-5: [None, 0.96, 0.98],
            }
        )
    )
    assert list(board["lr"]) == [1e-4, 1e-3, 1e-5, 1e-2, 1e-1]
    assert list(board["seeds"]) == ["3/3", "3/3", "2/3", "2/3", "1/3"]


def test_a_lower_metric_is_ranked_by_the_same_rule() -> None:
    board = leaderboard(
        trials({1e-1: [0.01, None], 1e-2: [0.3, 0.2], 1e-3: [0.1, 0.2]}, "forgetting"),
        "forgetting",
    )
    assert list(board["lr"]) == [1e-3, 1e-2, 1e-1]


def test_more_backward_transfer_is_better() -> None:
    board = leaderboard(
        trials({1e-1: [-0.3, -0.2], 1e-2: [0.1, 0.0]}, "backward_transfer"), "backward_transfer"
    )
    assert list(board["lr"]) == [1e-2, 1e-1]


def test_where_all_settings_lost_a_seed_the_mean_still_decides() -> None:
    board = leaderboard(trials({1e-1: [0.6, None], 1e-2: [None, 0.8]}))
    assert list(board["lr"]) == [1e-2, 1e-1]


def test_where_nothing_has_finished_there_is_no_leaderboard() -> None:
    board = leaderboard(trials({1e-1: [None, None], 1e-2: [None, None]}))
    assert format_leaderboard(board) == "no configuration has finished yet"
    assert "ci95" in board


def test_text_shows_the_spread_only_where_there_is_one() -> None:
    several = format_leaderboard(leaderboard(trials({1e-2: [0.8, 0.9], 1e-3: [0.7, 0.7]})))
    assert several.splitlines()[0].split()[:4] == ["average_accuracy", "sd", "ci95", "seeds"]
    assert several.splitlines()[1].split()[1:5] == ["0.8500", "0.0707", "0.6353", "2/2"]
    single = format_leaderboard(leaderboard(trials({1e-2: [0.8], 1e-3: [0.7]})))
    assert single.splitlines()[0].split()[:2] == ["average_accuracy", "seeds"]


def test_importing_the_results_leaves_scipy_alone() -> None:
    code = "import sys, raysweep.results; sys.exit('scipy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_sweep_counts_as_a_setting_where_there_are_several() -> None:
    one, other = trials({1e-1: [0.5, 0.7], 1e-2: [0.1, 0.2]}), trials({1e-1: [0.9, 0.9]})
    both = pd.concat([one.assign(sweep="one"), other.assign(sweep="other")], ignore_index=True)
    board = leaderboard(both)
    assert list(zip(board["sweep"], board["lr"], board["seeds"], strict=True)) == [
        ("other", 1e-1, "2/2"),
        ("one", 1e-1, "2/2"),
        ("one", 1e-2, "2/2"),
    ]
    assert "sweep" not in leaderboard(one.assign(sweep="one"))


@pytest.fixture
def folders(tmp_path: Path) -> list[str]:
    """Return the folders of two sweeps."""
    for name, accuracies in (
        ("one", {1e-1: [0.5, 0.7], 1e-2: [0.1, 0.2]}),
        ("other", {1e-1: [0.9, 0.9], 1e-3: [None, None]}),
    ):
        (tmp_path / name / "parts").mkdir(parents=True)
        trials(accuracies).to_parquet(tmp_path / name / "trials.parquet")
    return [str(tmp_path / name) for name in ("one", "other")]


def test_the_command_ranks_several_sweeps_into_a_file(folders: list[str], tmp_path: Path) -> None:
    out = tmp_path / "made" / "board.json"
    script.show(folders, out=out)
    rows = json.loads(out.read_text())
    assert [(row["sweep"], row["lr"], row["mean"]) for row in rows] == [
        ("other", 0.1, pytest.approx(0.9)),
        ("one", 0.1, pytest.approx(0.6)),
        ("one", 0.01, pytest.approx(0.15)),
    ]


def test_the_command_filters_rows(folders: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    script.show(folders[:1], where="lr < 0.1", table_format="csv")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("mean,sd,ci95,seeds")
    assert float(lines[1].split(",")[0]) == pytest.approx(0.15)


def test_where_nothing_finished_the_command_says_so(
    folders: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    script.show(folders[1:], where="lr < 0.1")
    assert capsys.readouterr().out == "no configuration has finished yet\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"metric": ["forgeting"]},
            "expected a metric, got 'forgeting' (did you mean forgetting?)",
        ),
        ({"metric": ["forgetting"]}, "--metric: expected a metric that was measured"),
        ({"where": "lr <<"}, "--where: expected a condition"),
        ({"where": "lr > 5"}, "--where: no row of 4 meets 'lr > 5'"),
        ({"table_format": "xml"}, "--format: expected one of text, csv, json, markdown"),
    ],
)
def test_a_mistake_is_an_error_of_one_line(
    folders: list[str], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError) as caught:
        script.show(folders[:1], **options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_command_line_ends_with_2_and_one_line(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "analysis.leaderboard", str(tmp_path / "none")]
    shown = subprocess.run(words, capture_output=True, text=True, check=False)
    assert shown.returncode == 2
    assert shown.stderr.startswith("error: ")
    assert shown.stderr.count("\n") == 1


def frame_with(settings: list[dict[str, Any]]) -> pd.DataFrame:
    rows = [config_columns(Config.model_validate(setting)) for setting in settings]
    return frame_of([{**row, "status": "finished", "average_accuracy": 0.5} for row in rows])


def test_a_setting_that_another_leaves_without_use_has_not_varied() -> None:
    # Null beside one value is the other setting's doing, and what is told by it repeats it.
    kinds = [{"replay": "none"}, {"replay": "simple"}, {"replay": "generative"}]
    both = [{"model": model, **kind} for model in ("vib", "comparison") for kind in kinds]
    assert varied_settings(frame_with(kinds)) == ["config/replay"]
    assert varied_settings(frame_with(both)) == ["config/model", "config/replay"]
    more = [*both, {"model": "vib", "replay": "simple", "n_replay": 7}]
    assert varied_settings(frame_with(more)) == ["config/model", "config/replay", "config/n_replay"]
    betas = [*both, {"model": "vib", "replay": "none", "beta_1": -0.5}]
    assert varied_settings(frame_with(betas)) == ["config/model", "config/beta_1", "config/replay"]
