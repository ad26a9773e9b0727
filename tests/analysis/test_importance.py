"""Which setting matters: what was put into a metric comes out, and noise is called noise."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from sklearn.ensemble import RandomForestRegressor
from table_rows import frame_of

from raysweep.analysis import importance as script
from raysweep.analysis.importance import figure, importance
from raysweep.errors import InputError
from raysweep.learning.config import Config
from raysweep.tables.schemas import config_columns

pytestmark = pytest.mark.slow

LR = [1e-4, 1e-3, 1e-2, 1e-1]
BETA_2 = [0.0, 1e-3, 1e-2]
KINDS = ["none", "simple", "generative"]


@pytest.fixture(autouse=True)
def _few_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "_N_TREES", 20)
    monkeypatch.setattr(script, "_N_SHUFFLES", 2)


def table(n_seeds: int = 2) -> pd.DataFrame:
    """Make rows of a grid with no outcome yet."""
    rows = [
        {**config_columns(Config(lr=lr, beta_2=beta_2, replay=kind, seed=seed))}
        | {"status": "finished", "average_accuracy": 0.0}
        for lr in LR
        for beta_2 in BETA_2
        for kind in KINDS
        for seed in range(n_seeds)
    ]
    return frame_of(rows)


def with_outcome(n_seeds: int = 2, noise: float = 0.0) -> pd.DataFrame:
    """Let lr count three times as much as replay, and beta_2 nothing."""
    frame = table(n_seeds)
    effect = 3.0 * frame["config/lr"].map(LR.index) / 3 + 1.0 * (frame["config/replay"] == "simple")
    draws = np.random.default_rng(5).normal(size=len(frame))
    return frame.assign(average_accuracy=effect + noise * draws)


def by_setting(found: Any) -> dict[str, float]:
    return dict(zip(found.table["setting"], found.table["importance"], strict=True))


def test_settings_are_ordered_as_they_matter() -> None:
    found = importance(with_outcome(noise=0.05), "average_accuracy", n_repeats=2)
    assert found.table["setting"].tolist()[:2] == ["lr", "replay"]
    values = by_setting(found)
    assert values["lr"] > 3 * values["replay"]
    assert values["replay"] > 10 * abs(values["beta_2"])
    assert abs(values["beta_2"]) < 0.02
    assert abs(values["seed"]) < 0.02
    assert found.r2 > 0.9
    assert (found.n_rows, found.n_settings) == (72, 36)
    assert found.table["n_values"].tolist()[:2] == [4, 3]


def test_importance_is_twice_the_share_of_variance_of_a_setting_on_its_own() -> None:
    # Shuffling x in y = f(x) + g(z) gives E (f(x) - f(x'))^2 = 2 Var f where f, g are learnt.
    frame = with_outcome()
    found = by_setting(importance(frame, "average_accuracy", n_repeats=3))
    target = frame["average_accuracy"]
    for name in ("lr", "replay"):
        share = target.groupby(frame[f"config/{name}"]).transform("mean").var() / target.var()
        assert found[name] == pytest.approx(2 * share, rel=0.25)


def test_noise_alone_gives_a_low_r2_and_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frame = table().assign(average_accuracy=np.random.default_rng(0).normal(size=72))
    found = importance(frame, "average_accuracy", n_repeats=2)
    assert found.r2 < 0.2
    (tmp_path / "parts").mkdir()
    frame.to_parquet(tmp_path / "trials.parquet")
    script.show([str(tmp_path)])
    assert "warning: the forest predicts poorly" in capsys.readouterr().out


def test_noise_is_the_variance_between_seeds_and_counted_by_hand() -> None:
    frame = with_outcome(n_seeds=3, noise=0.3)
    found = importance(frame, "average_accuracy", n_repeats=1)
    cells = frame["average_accuracy"].to_numpy().reshape(-1, 3)
    expected = cells.var(axis=1, ddof=1).mean() / cells.var(ddof=1)
    assert found.noise == pytest.approx(expected)
    assert found.table["ci95"].isna().all()
    alone = importance(with_outcome(n_seeds=1), "average_accuracy", n_repeats=1)
    assert alone.noise is None
    assert "seed" not in by_setting(alone)


def test_seeds_of_a_setting_are_never_on_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    learnt: list[set[float]] = []

    class Spy(RandomForestRegressor):
        def fit(self, X: Any, y: Any) -> Any:
            learnt.append(set(y))
            return super().fit(X, y)

    monkeypatch.setattr(script, "RandomForestRegressor", Spy)
    frame = table(n_seeds=3)
    cell = frame.groupby(["config/lr", "config/beta_2", "config/replay"]).ngroup()
    frame["average_accuracy"] = cell.astype(float)
    importance(frame, "average_accuracy", n_repeats=1)
    assert len(learnt) == 5
    assert sum(36 - len(known) for known in learnt) == 36  # each is held out once, with all seeds


def test_the_same_rows_give_the_same_numbers_twice() -> None:
    frame = with_outcome(noise=0.2)
    one, other = (importance(frame, "average_accuracy", n_repeats=2).table for _ in range(2))
    pd.testing.assert_frame_equal(one, other, check_exact=True)


def test_nulls_are_a_value_of_a_setting() -> None:
    frame = with_outcome()
    frame["config/replay_weight"] = frame["config/lr"].where(frame["config/replay"] != "none")
    frame["config/label_kind"] = frame["config/replay"].where(frame["config/lr"] > 1e-3)
    is_null = frame["config/label_kind"].isna()
    frame["average_accuracy"] = is_null.astype(float)
    found = importance(frame, "average_accuracy", n_repeats=1)
    assert found.r2 > 0.95
    assert found.table["importance"].notna().all()


def test_rows_that_diverged_do_not_count_but_can_be_what_is_asked() -> None:
    frame = with_outcome()
    is_lost = (frame["config/lr"] == 1e-1) | (frame["config/beta_2"] == 1e-2)
    frame.loc[is_lost, "status"] = "diverged"
    frame.loc[is_lost, "average_accuracy"] = None
    frame.loc[0, "status"] = "failed"
    assert importance(frame, "average_accuracy", n_repeats=1).n_rows == (~is_lost).sum() - 1
    found = importance(frame, "diverged", n_repeats=1)
    assert found.n_rows == 71
    assert set(found.table["setting"][:2]) == {"lr", "beta_2"}
    assert abs(by_setting(found)["replay"]) < 0.05


def test_a_configuration_of_two_sweeps_counts_once() -> None:
    frame = with_outcome()
    twice = pd.concat([frame.assign(sweep="a"), frame.assign(sweep="b")])
    found = importance(twice, "average_accuracy", n_repeats=1)
    assert found.n_rows == 72
    pd.testing.assert_frame_equal(
        found.table, importance(frame, "average_accuracy", n_repeats=1).table
    )


@pytest.mark.parametrize(
    ("change", "metric", "message"),
    [
        ({"average_accuracy": 0.5}, "average_accuracy", "to differ among rows, all are equal"),
        ({"average_accuracy": np.nan}, "average_accuracy", "expected finished rows with average"),
        ({"status": "diverged"}, "average_accuracy", "expected finished rows with average"),
        ({"status": "diverged"}, "diverged", "to differ among rows, all are equal"),
        ({}, "accuracy", "expected a metric, got 'accuracy'"),
        ({}, "few", "at least 10 settings with average_accuracy, got 3"),
        ({}, "one", "expected settings that differ among rows, found none"),
    ],
)
def test_too_little_to_learn_from_is_an_error(
    change: dict[str, Any], metric: str, message: str
) -> None:
    frame = with_outcome().assign(**change)
    if metric in ("few", "one"):
        frame = frame.head({"few": 6, "one": 2}[metric])
        metric = "average_accuracy"
    with pytest.raises(InputError) as caught:
        importance(frame, metric)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_figure_has_a_bar_for_each_setting_and_says_what_is_behind_it() -> None:
    found = importance(with_outcome(noise=0.05), "average_accuracy", n_repeats=2)
    (axes,) = figure(found, "average_accuracy").axes
    widths = [patch.get_width() for patch in axes.patches]
    assert widths == found.table["importance"].tolist()[::-1]
    labels = [text.get_text() for text in axes.get_yticklabels()]
    assert labels[::-1][:2] == ["learning rate", "replay"]
    assert "72 rows of 36 settings" in axes.get_title(loc="left")
    plt.close("all")


def test_the_command_writes_table_and_figure(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    with_outcome(noise=0.05).to_parquet(tmp_path / "trials.parquet")
    out, picture = tmp_path / "table.json", tmp_path / "bars.svg"
    script.show([str(tmp_path)], out=out, figure_file=picture)
    rows = json.loads(out.read_text())
    assert [row["setting"] for row in rows[:2]] == ["lr", "replay"]
    assert rows[0]["n_rows"] == 72
    assert rows[0]["ci95"] > 0
    assert "learning rate" in picture.read_text()


def test_a_wrong_ending_of_the_picture_leaves_no_table(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    with_outcome().to_parquet(tmp_path / "trials.parquet")
    with pytest.raises(InputError, match="expected one of png, svg, pdf, got 'gif'"):
        script.show([str(tmp_path)], out=tmp_path / "a.csv", figure_file=tmp_path / "b.gif")
    assert not (tmp_path / "a.csv").exists()
