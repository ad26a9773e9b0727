"""CSV for spreadsheets: no cell runs as a formula, and numbers stay numbers."""

import csv
import io
from pathlib import Path

import pandas as pd
import pytest

from raysweep.analysis.command import give_table

FORMULAS = [
    '=HYPERLINK("http://x","y")',
    "+1+1",
    "-1+cmd|' /C calc'!A0",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
]


def written(frame: pd.DataFrame, capsys: pytest.CaptureFixture[str], name: str) -> str:
    give_table(frame, None, name)
    return capsys.readouterr().out


@pytest.mark.parametrize("text", [*FORMULAS, "\uff1d1+1", "a\r=1"])
def test_a_text_that_begins_like_a_formula_is_prefixed(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frame = pd.DataFrame({"source": [text, "mnist"], text: ["a", "b"]})
    out = tmp_path / "x.csv"
    give_table(frame, out, None)
    rows = list(csv.reader(io.StringIO(out.read_bytes().decode(), newline="")))
    prefix = "" if text.startswith("a") else "'"
    cell = (prefix + text).replace("\r", "\n")  # as only a line feed is quoted
    assert rows == [["source", cell], [cell, "a"], ["mnist", "b"]]


def test_numbers_and_other_texts_stay(capsys: pytest.CaptureFixture[str]) -> None:
    frame = pd.DataFrame(
        {
            "mean": [-0.5, 0.25],
            "n": pd.array([-1, None], dtype="Int64"),
            "mixed": pd.Series([-1e-3, "none"], dtype=object),
            "text": ["-0.1", "-inf"],
            "config/encoder_widths": ["400-200", ""],
            "kind": pd.Categorical(["=a", "b"]),
        }
    )
    assert written(frame, capsys, "csv").splitlines() == [
        "mean,n,mixed,text,config/encoder_widths,kind",
        "-0.5,-1,-0.001,-0.1,400-200,'=a",
        "0.25,,none,-inf,,b",
    ]
    assert '"kind":"=a"' in written(frame, capsys, "json").replace(" ", "")
