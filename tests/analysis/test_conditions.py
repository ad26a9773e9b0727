"""Conditions of --where: what they select, and that they reach nothing but columns."""

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from raysweep.analysis import conditions
from raysweep.analysis.sweeps import Sweeps, with_short_names
from raysweep.errors import InputError
from tests.figure_rows import row, sweep_folder, table

ROWS = [
    row(model="vib", beta_1=-0.1, replay="none", lr=1e-3, average_accuracy=0.5, host="node-1"),
    row(model="vib", beta_1=-0.01, replay="simple", lr=1e-2, average_accuracy=0.6, host="node-2"),
    row(model="comparison", replay="simple", lr=1e-1, average_accuracy=0.7, seed=1),
    row("failed", model="comparison", replay="none", lr=1e-3, seed=2, error="died; of\n`x`"),
]
"""The model of the last two has no beta_1; the last has neither a metric nor a host."""


def trials() -> pd.DataFrame:
    frame = table("trials", ROWS)
    frame["started_at"] = pd.to_datetime(
        [datetime(2026, 1, day, tzinfo=UTC) for day in (1, 2, 3)] + [None], utc=True
    )
    return frame


def rows_of(where: str) -> list[int]:
    return trials().index[conditions.meets(trials(), where)].tolist()


@pytest.mark.parametrize(
    "where",
    [
        "lr < 0.1",
        "lr < 0.1 and replay == 'simple'",
        "lr < 0.1 or seed == 2",
        "not replay == 'none'",
        "0.001 < lr <= 0.1",
        "replay in ['simple', 'mir']",
        "replay not in ('none',)",
        "replay == ['none', 'simple']",
        "beta_1 < 0",
        "beta_1 != -0.1",
        "not beta_1 < 0",
        "beta_1 == beta_1",
        "beta_1 not in [-0.1]",
        "beta_1.isna()",
        "beta_1.isnull() or lr == 0.01",
        "average_accuracy.notna() and seed == 1",
        "replay.str.contains('imp')",
        "replay.str.startswith('n') and lr < 1",
        "model.str.upper() == 'VIB'",
        "(lr < 0.1) & (replay == 'simple') | (seed == 2)",
        "~(lr < 0.1)",
        "lr * 10 - 0.05 > 2 ** -4",
        "seed % 2 == 1",
        "seed // 2 == 1 and -seed < 0",
        "(seed == 0) == (n_tasks == 2)",
        "status == 'failed'",
        "`average_accuracy` > 0.55",
        "host < 'node-2'",
        "config_id == 'none'or lr > 0",
        "average_accuracy / 0 > 1",
        "status != 'finished' and error != ''",
    ],
)
def test_conditions_select_what_pandas_selects(where: str) -> None:
    wanted = with_short_names(trials()).query(where, engine="python").index.tolist()
    assert rows_of(where) == wanted
    assert "isna" in where or wanted


@pytest.mark.parametrize(
    ("where", "rows"),
    [
        ("beta_1 == null", [2, 3]),
        ("beta_1 is None", [2, 3]),
        ("beta_1 != null", [0, 1]),
        ("beta_1 is not null and lr < 0.01", [0]),
        ("beta_1 in [-0.1, null]", [0, 2, 3]),
        ("`config/lr` == 0.1", [2]),
        ("abs(beta_1) > 0.05", [0]),
        ("replay.contains('imp')", [1, 2]),
        ("host.endswith('-2')", [1]),
        ("replay.contains('.')", []),
        ("error.contains('`')", [3]),
        ("freeze_encoder == true", []),
        ("started_at >= '2026-01-02'", [1, 2]),
        ("started_at < '2026-01-02T01:00+01:00'", [0]),
        ("lr < 1" + "0" * 400, None),
        ("lr < 1" + "0" * 200, [0, 1, 2, 3]),
        ("10 ** 10 ** 10 > lr", [0, 1, 2, 3]),
        ("seed ** 99999999999 > 1", [3]),
        ("config_id in [" + ", ".join(f"'{i}'" for i in range(5000)) + "] or lr == 0.1", [2]),
    ],
)
def test_nulls_backquotes_methods_and_large_numbers(where: str, rows: list[int] | None) -> None:
    tick = time.monotonic()
    if rows is None:
        with pytest.raises(InputError, match="expected numbers up to 1e308"):
            rows_of(where)
    else:
        assert rows_of(where) == rows
    assert time.monotonic() - tick < 5


ATTACKS = [
    "@pd.io.common.os.system('touch {mark}') == 0",
    "@pd.read_pickle('{mark}') == 0",
    "lr.to_csv('{mark}') == 0",
    "lr.to_pickle('{mark}') == 0",
    "lr.__class__.__init__.__globals__['os'].system('touch {mark}') == 0",
    "lr.map(print)",
    "lr.pipe(eval, \"open('{mark}', 'w')\")",
    "lr.str.__class__",
    "__import__('os').system('touch {mark}')",
    "open('{mark}', 'w') == lr",
    "abs(open('{mark}', 'w')) == lr",
    "[x for x in [1]] == lr",
    "(lambda: 1)() == lr",
    "f\"{{open('{mark}', 'w')}}\" == replay",
    "lr[lr.index.values.tofile('{mark}')] == 0",
    "(x := 1) == lr",
    "replay.contains(open('{mark}', 'w'))",
    "replay.str.str.contains('a')",
    "replay.contains('a', na=open('{mark}', 'w'))",
    "replay.contains(*['a'])",
    "`lr`.to_csv('{mark}')",
    "lr @ lr",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sweep_folder(tmp_path_factory.mktemp("sweeps") / "one", {"trials": ROWS})


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_condition_reaches_nothing_but_columns(folder: Path, tmp_path: Path, attack: str) -> None:
    mark = tmp_path / "mark"
    with pytest.raises(InputError) as caught:
        _ = Sweeps([folder], attack.format(mark=mark)).trials
    assert not mark.exists()
    assert_is_ours(str(caught.value))


def assert_is_ours(message: str) -> None:
    """Check that a message is one line of our own words."""
    assert message.startswith("--where: expected a condition such as")
    assert "\n" not in message
    assert len(message) < 600
    for word in ("Visitor", "pandas", "numpy", "dtype", "Error", "Series", "<unknown>"):
        assert word not in message.partition(", got ")[2]


BAD: list[Any] = [
    ("", "it is empty"),
    ("lr >", "it can't be read"),
    ("lr = 0.1", "write == to compare"),
    ("lr < 1 && lr > 0", "write and in place of &&"),
    ("lr < @x", "write the value in place of @name"),
    ("nope == 1", "no column 'nope'"),
    ("lrr == 1", "no column 'lrr'"),
    ("repla == 'none'", "did you mean replay"),
    ("lr", "expected a comparison, got a number"),
    ("lr == '0.1'", "got a number and a text"),
    ("replay < 1", "got a text and a number"),
    ("replay + 'x' == 'y'", "expected a number to compute with, got a text"),
    ("'a' * 10 ** 10 == replay", "expected a number to compute with, got a text"),
    ("'imp' in replay", "write name.contains('...') for a part"),
    ("lr in ['a']", "expected values like a number in the list, got a text"),
    ("lr in [lr]", "expected numbers or texts in a list"),
    ("lr < null", "write `== null` for nulls"),
    ("lr.contains('a')", "expected a text to search in, got a number"),
    ("replay.contains(1)", "expected a text to search for, got a number"),
    ("started_at > 'soon'", "expected a time such as"),
    ("started_at > 1", "got a time and a number"),
    ("lr == 1j", "complex is not allowed"),
    ("lr == b'a'", "bytes is not allowed"),
    ("lr == ...", "ellipsis is not allowed"),
    ("lr < 1" + "0" * 5000, "it can't be read"),
    ("not " * 3000 + "lr < 1", "it nests more than"),
    ("not " * 60 + "lr < 1", "it nests more than"),
    ("-" * 90_000 + "lr < 1", "it nests more than"),
    ("(" * 1000 + "lr < 1" + ")" * 1000, "it can't be read"),
    ("lr" + " + lr" * 15_000 + " < 1", "it nests more than"),
    ("lr" + ".a" * 20_000, "it nests more than"),
    (" or ".join(["lr < 1"] * 5000), "it has more than 1,000 parts"),
    ("lr < 1 or " * 20_000 + "lr < 1", "it has more than 100,000 characters"),
    ("lr < '\ud800'", "it can't be read"),
    ("lr < 1 \0", "it can't be read"),
    ("lr\x1b[2J < 1", "it can't be read"),
    (3, "it is no text"),
]


@pytest.mark.parametrize(("where", "problem"), BAD, ids=[str(where)[:20] for where, _ in BAD])
def test_a_mistake_gives_one_line(where: Any, problem: str) -> None:
    tick = time.monotonic()
    with pytest.raises(InputError) as caught:
        conditions.meets(trials(), where)
    assert time.monotonic() - tick < 5
    assert problem in str(caught.value)
    assert_is_ours(str(caught.value))
    assert "\x1b" not in str(caught.value)
