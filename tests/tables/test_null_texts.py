"""How people are shown a null of a table: a dash, in texts and on terminals of ASCII only."""

import io
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from raysweep.analysis import leaderboard as script
from raysweep.learning.config import Config
from raysweep.tables.pareto import format_pareto, pareto_leaderboard
from raysweep.tables.ranking import format_leaderboard, leaderboard
from raysweep.tables.schemas import TABLES, config_columns
from raysweep.user_text.values import NULL_TEXT, printable, show_value

DASH = "\N{EN DASH}"
KINDS: list[tuple[float, dict[str, Any]]] = [
    (0.9, {"experiment": "joint"}),
    (0.8, {"replay": "simple", "n_replay": 1000, "freeze_encoder": True}),
    (0.7, {"replay": "simple", "n_replay": 1_000_000, "freeze_encoder": True}),
    (0.6, {"replay": "none", "freeze_encoder": False}),
    (0.5, {"replay": "none", "model": "comparison", "freeze_encoder": True}),
]
"""Of joint training replay, its size and freezing are null; without replay the size is."""


def trials() -> pd.DataFrame:
    rows = [
        {**config_columns(Config(**settings)), "status": "finished", "average_accuracy": accuracy}
        for accuracy, settings in KINDS
    ]
    frame: pd.DataFrame = pa.Table.from_pylist(rows, schema=TABLES["trials"].arrow).to_pandas()
    return frame


def cells(text: str, name: str) -> list[str]:
    """Give a column of a text: its words stand at the right, and none has a space."""
    head, *lines = text.splitlines()
    at = head.split().index(name)
    return [line.split()[at + 1] for line in lines]


NULLS = [None, math.nan, np.float64("nan"), pd.NA, pd.NaT]


@pytest.mark.parametrize("null", NULLS, ids=repr)
def test_null_is_a_dash_whatever_pandas_has_for_it(null: object) -> None:
    assert show_value(null) == NULL_TEXT == DASH


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1000.0, "1000"),
        (1_000_000.0, "1000000"),
        (1_234_567.0, "1234567"),
        (1e30, "1e+30"),
        (1e-3 * 3 / 3, "0.001"),
        (3e-5, "3e-05"),
        (-0.1, "-0.1"),
        (0.0, "0"),
        (7, "7"),
        (True, "True"),
        ("simple", "simple"),
    ],
)
def test_other_values_are_as_short_as_can_be(value: object, text: str) -> None:
    assert show_value(value) == text
    assert DASH not in text


def test_the_leaderboard_has_a_dash_where_a_setting_does_not_apply() -> None:
    text = format_leaderboard(leaderboard(trials()))
    assert cells(text, "replay") == [DASH, "simple", "simple", "none", "none"]
    assert cells(text, "n_replay") == [DASH, "1000", "1000000", DASH, DASH]
    assert cells(text, "freeze_encoder") == [DASH, "True", "True", "False", "True"]
    assert not re.search(r"nan|none\b.*None|<NA>|\.0\b", text, re.IGNORECASE)


def test_the_front_has_it_too_and_keeps_the_rows() -> None:
    frame = trials().assign(forgetting=[0.5, 0.4, 0.3, 0.2, 0.1])
    front = pareto_leaderboard(frame, ["average_accuracy", "forgetting"])
    text = format_pareto(front, ["average_accuracy", "forgetting"]).split("\n", 1)[1]
    assert cells(text, "replay") == [DASH, "simple", "simple", "none", "none"]
    assert cells(text, "n_replay") == [DASH, "1000", "1000000", DASH, DASH]


@pytest.fixture
def folder(tmp_path: Path) -> str:
    (tmp_path / "one" / "parts").mkdir(parents=True)
    table = pa.Table.from_pandas(trials(), schema=TABLES["trials"].arrow, preserve_index=False)
    pa.parquet.write_table(table, tmp_path / "one" / "trials.parquet")
    return str(tmp_path / "one")


def test_in_csv_and_json_null_is_empty_and_whole_numbers_are_whole(
    folder: str, tmp_path: Path
) -> None:
    script.show([folder], out=tmp_path / "board.csv")
    text = (tmp_path / "board.csv").read_text()
    found = pd.read_csv(tmp_path / "board.csv", dtype=str, keep_default_na=False)
    assert found["n_replay"].tolist() == ["", "1000", "1000000", "", ""]
    assert found["replay"].tolist() == ["", "simple", "simple", "none", "none"]
    assert found["freeze_encoder"].tolist() == ["", "True", "True", "False", "True"]
    assert DASH not in text
    script.show([folder], out=tmp_path / "board.json")
    rows = json.loads((tmp_path / "board.json").read_text())
    assert [row["replay"] for row in rows] == [None, "simple", "simple", "none", "none"]
    assert json.dumps([row["n_replay"] for row in rows]) == "[null, 1000, 1000000, null, null]"


def test_in_markdown_null_is_a_dash(folder: str, tmp_path: Path) -> None:
    script.show([folder], out=tmp_path / "board.md")
    head, _, *lines = (tmp_path / "board.md").read_text().splitlines()
    at = head.split(" | ").index("n_replay")
    assert [line.split(" | ")[at] for line in lines] == [DASH, "1000", "1000000", DASH, DASH]


def test_where_a_terminal_has_only_ascii_null_is_a_hyphen(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(raw, encoding="ascii", write_through=True))
    script.show([folder])
    assert cells(raw.getvalue().decode("ascii"), "n_replay")[0] == "-"


def test_what_a_stream_can_print_is_left_as_it_is() -> None:
    text = f"β₁ {DASH}"
    assert printable(text, io.TextIOWrapper(io.BytesIO(), encoding="utf-8")) == text
    assert printable(text, io.TextIOWrapper(io.BytesIO(), encoding="ascii")) == "?? -"
    assert printable(text, io.StringIO()) == text
