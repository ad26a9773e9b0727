"""The Pareto front of a sweep: against its definition, as printed, and as a table."""

import itertools
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
from sweep_runs import write
from table_rows import frame_of, trial_row

from raysweep.analysis import leaderboard as script
from raysweep.errors import InputError
from raysweep.learning.config import Config
from raysweep.settings.sweep import Sweep, load_sweep
from raysweep.tables.folder import ResultsFolder
from raysweep.tables.pareto import pareto_settings, read_pareto
from raysweep.tables.reader import read_trials
from raysweep.tables.schemas import TABLES
from raysweep.tables.writer import Writer
from raysweep.tune.reporting.summary import conclude

pytest.importorskip("hypothesis")
from hypothesis import given, settings
from hypothesis import strategies as st

METRICS = ("average_accuracy", "forgetting", "duration_s")
SEARCH = """
search: {method: optuna, n_samples: 40, metric: METRIC}
space: {lr: {loguniform: [1e-4, 1]}, beta_2: 0.5}
seeds: [0, 1]
"""


def row(config: Config, values: dict[str, float | None], status: str = "finished") -> Any:
    return trial_row(config, status, **values)


def expected_front(
    rows: Sequence[dict[str, Any]], metrics: Sequence[str], modes: Sequence[str], n_seeds: int
) -> dict[float, tuple[float, ...]]:
    """Return the means by learning rate of the settings on the front, by its definition."""
    means = {}
    for lr in {row["config/lr"] for row in rows}:
        mine = [row for row in rows if row["config/lr"] == lr]
        values = [[row[name] for row in mine] for name in metrics]
        is_whole = all(row["status"] == "finished" for row in mine)
        if is_whole and len(mine) == n_seeds and not any(None in column for column in values):
            means[lr] = tuple(sum(column) / n_seeds for column in values)

    def beats(other: tuple[float, ...], one: tuple[float, ...]) -> bool:
        signs = [1 if mode == "max" else -1 for mode in modes]
        gains = [s * (a - b) for s, a, b in zip(signs, other, one, strict=True)]
        return min(gains) >= 0 and max(gains) > 0

    return {lr: m for lr, m in means.items() if not any(beats(o, m) for o in means.values())}


# Few values that are exact in binary: means tie, and differ by no rounding.
measured = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])
outcomes = st.fixed_dictionaries(
    {name: measured if name == "duration_s" else measured | st.none() for name in METRICS}
)
ends = st.sampled_from(["finished"] * 6 + ["diverged", "failed", "none"])
sweeps = st.lists(
    st.lists(st.tuples(ends, outcomes | outcomes.filter(all)), min_size=2, max_size=2),
    max_size=12,
)


@pytest.mark.slow
@settings(derandomize=True, deadline=None, database=None, max_examples=60)
@given(
    sweeps,
    st.integers(2, 3).flatmap(lambda n: st.permutations(METRICS).map(lambda m: tuple(m[:n]))),
    st.tuples(*[st.sampled_from(["max", "min"])] * 3) | st.none(),
)
def test_the_front_of_settings_is_what_the_definition_says(
    given_sweep: list[list[tuple[str, dict[str, float | None]]]],
    metrics: tuple[str, ...],
    given_modes: tuple[str, ...] | None,
) -> None:
    rows = [
        row(Config(lr=(i + 1) / 64, seed=seed), values, status)
        for i, seeds in enumerate(given_sweep)
        for seed, (status, values) in enumerate(seeds)
        if status != "none"  # a seed that is still to come
    ]
    modes = given_modes and given_modes[: len(metrics)]
    usual = ["max" if name == "average_accuracy" else "min" for name in metrics]
    expected = expected_front(rows, metrics, modes or usual, 2)
    front = pareto_settings(frame_of(rows), metrics, modes, n_seeds=2)
    means = [tuple(values) for values in front[[*metrics]].to_numpy()]
    assert dict(zip(front["config/lr"], means, strict=True)) == expected
    assert len(front) == len(expected)
    assert (front["n_seeds"] == 2).all()
    first = front[metrics[0]].tolist()
    assert first == sorted(first, reverse=(modes or usual)[0] == "max")


def test_without_a_number_of_seeds_it_is_the_most_that_a_sweep_has() -> None:
    def rows(sweep: str, values: dict[float, list[float]]) -> pd.DataFrame:
        found = [
            row(Config(lr=lr, seed=seed), {"average_accuracy": value, "forgetting": 0.5})
            for lr, mine in values.items()
            for seed, value in enumerate(mine)
        ]
        return frame_of(found).assign(sweep=sweep)

    one = rows("one", {0.1: [0.5, 0.5], 0.2: [1.0]})
    assert pareto_settings(one, METRICS[:2])["config/lr"].tolist() == [0.1]
    both = pd.concat([one, rows("other", {0.3: [0.5]})], ignore_index=True)
    front = pareto_settings(both, METRICS[:2])
    assert list(zip(front["sweep"], front["config/lr"], front["n_seeds"], strict=True)) == [
        ("one", 0.1, 2),
        ("other", 0.3, 1),
    ]


def test_settings_that_are_no_metrics_or_modes_are_refused() -> None:
    trials = frame_of([row(Config(), {"average_accuracy": 0.5, "forgetting": 0.5})])
    with pytest.raises(InputError, match="did you mean forgetting"):
        pareto_settings(trials, ["average_accuracy", "forgeting"])
    with pytest.raises(InputError, match="modes: expected max or min for each of"):
        pareto_settings(trials, ["average_accuracy", "forgetting"], ["max"])
    with pytest.raises(InputError, match="got max, least"):
        pareto_settings(trials, ["average_accuracy", "forgetting"], ["max", "least"])


class Ended:
    """A search for some metrics whose rows are made, not trained: ``values`` by learning rate."""

    def __init__(self, location: Path) -> None:
        self._location = location
        self.folder = ResultsFolder(location / "results" / "search")
        self.folder.open()

    def rows(self, values: dict[float, list[dict[str, float | None]]]) -> None:
        writer = Writer(self.folder)
        for lr, seeds in values.items():
            for config, found in zip(self._space("forgetting", lr), seeds, strict=False):
                writer.add("trials", [row(config, found)])
        writer.fold()

    def _sweep(self, metric: str) -> Sweep:
        return load_sweep(write(self._location, SEARCH.replace("METRIC", metric)))

    def _space(self, metric: str, lr: float) -> tuple[Config, ...]:
        space = self._sweep(metric).space
        assert space is not None
        return space.configs({"lr": lr})

    def end(self, metric: str) -> list[str]:
        """Return the lines that the command prints at its end."""
        trials = read_trials(self.folder.location)
        configs = [self._space(metric, lr) for lr in sorted(set(trials["config/lr"]))]
        sweep = replace(self._sweep(metric), configs=tuple(itertools.chain(*configs)))
        return conclude(sweep, self.folder).strip().splitlines()


@pytest.fixture
def ended(tmp_path: Path) -> Any:
    ended = Ended(tmp_path)
    yield ended
    ended.folder.close()


def both(accuracy: float, forgetting: float | None) -> list[dict[str, float | None]]:
    """Return the rows of two seeds around these means."""
    return [
        {
            "average_accuracy": accuracy + d,
            "forgetting": None if forgetting is None else forgetting - d,
        }
        for d in (-0.125, 0.125)
    ]


def test_a_search_for_several_metrics_ends_with_its_front(ended: Ended) -> None:
    ended.rows(
        {
            0.01: both(0.5, 0.25),
            0.02: both(0.75, 0.5),
            0.03: both(0.5, 0.5),  # beaten by both
            0.04: both(0.875, None),
            0.05: both(0.875, 0.25)[:1],  # its other seed is to come
        }
    )
    caption, header, *lines = ended.end("[average_accuracy, forgetting]")
    assert caption == (
        "Pareto front: the settings that no other one beats in all of "
        "average_accuracy (max), forgetting (min)"
    )
    assert header.split() == ["average_accuracy", "forgetting", "seeds", "lr"]
    assert [line.split() for line in lines[:2]] == [
        ["1", "0.7500", "0.5000", "2", "0.02"],
        ["2", "0.5000", "0.2500", "2", "0.01"],
    ]
    assert lines[2:] == [
        "",
        "10 configurations: 9 finished, 1 missing",
        f"tables in {ended.folder.location}: "
        "trials.parquet, accuracy.parquet, epochs.parquet, pareto.parquet",
    ]


def test_a_front_that_is_longer_than_a_leaderboard_says_how_much(ended: Ended) -> None:
    ended.rows({lr / 100: both(lr / 16, lr / 16) for lr in range(1, 14)})
    _, _, *lines = ended.end("[forgetting, average_accuracy]")
    assert [line.split()[1] for line in lines[:10]] == [f"{n / 16:.4f}" for n in range(1, 11)]
    assert lines[10:12] == ["3 more", ""]
    assert len(read_pareto(ended.folder.location)) == 13


def test_the_modes_of_a_search_decide_its_front(ended: Ended) -> None:
    ended.rows({0.01: both(0.5, 0.25), 0.02: both(0.75, 0.5)})
    metric = "[average_accuracy, forgetting], mode: [max, max]"
    caption, _, line, rest, *_ = ended.end(metric)
    assert caption.endswith("average_accuracy (max), forgetting (max)")
    assert line.split() == ["1", "0.7500", "0.5000", "2", "0.02"]
    assert rest == ""


def test_where_no_setting_is_whole_there_is_an_empty_front(ended: Ended) -> None:
    ended.rows({0.01: both(0.5, 0.25)[:1], 0.02: both(0.5, None)})
    first, *_ = ended.end("[average_accuracy, forgetting]")
    assert first == (
        "no setting has finished for all of its seeds with a value of "
        "average_accuracy and forgetting"
    )
    front = read_pareto(ended.folder.location)
    assert front.empty
    assert {"config/lr", "average_accuracy", "forgetting", "n_seeds"} <= set(front)


@pytest.mark.parametrize(
    ("metric", "best", "column"),
    [
        ("average_accuracy", ["0.02", "0.01"], "average_accuracy"),
        ("forgetting", ["0.01", "0.02"], "forgetting"),
        ("forgetting, mode: max", ["0.02", "0.01"], "forgetting"),
    ],
)
def test_a_search_for_one_metric_is_ranked_by_it(
    ended: Ended, metric: str, best: list[str], column: str
) -> None:
    ended.rows({0.01: both(0.5, 0.25), 0.02: both(0.75, 0.5)})
    header, *lines = ended.end(metric)
    assert header.split()[:4] == [column, "sd", "ci95", "seeds"]
    assert [line.split()[-1] for line in lines[:2]] == best
    assert "pareto" not in lines[-1]


def test_a_metric_that_no_row_has_is_named(ended: Ended) -> None:
    ended.rows({0.01: both(0.5, None)})
    assert ended.end("forgetting")[0] == "no configuration has finished with a value of forgetting"


def test_the_table_has_the_settings_in_the_types_of_trials(ended: Ended) -> None:
    ended.rows({0.01: both(0.5, 0.25), 0.02: both(0.75, 0.5), 0.03: both(0.5, 0.5)})
    ended.end("[average_accuracy, forgetting]")
    location = ended.folder.path
    trials = TABLES["trials"].arrow
    names = [name for name in trials.names if name.startswith("config/")]
    names.remove("config/seed")
    stored = pq.read_schema(location / "pareto.parquet")
    assert stored.names == [*names, "average_accuracy", "forgetting", "n_seeds"]
    for name in names:
        assert stored.field(name).type == trials.field(name).type, name
    front = pd.read_parquet(location / "pareto.parquet")
    pd.testing.assert_frame_equal(front, read_pareto(location))
    assert front["config/lr"].tolist() == [0.02, 0.01]
    assert front["average_accuracy"].tolist() == [0.75, 0.5]
    assert front["config/encoder_widths"].tolist() == ["200-200", "200-200"]


def test_a_later_run_replaces_the_table_and_one_for_one_metric_deletes_it(ended: Ended) -> None:
    ended.rows({0.01: both(0.5, 0.25)})
    ended.end("[average_accuracy, forgetting]")
    ended.rows({0.02: both(0.75, 0.25)})
    ended.end("[average_accuracy, forgetting]")
    assert read_pareto(ended.folder.location)["config/lr"].tolist() == [0.02]
    ended.end("average_accuracy")
    assert "pareto.parquet" not in ended.folder.location.names()
    with pytest.raises(InputError, match="a run of such a search writes it when it ends"):
        read_pareto(ended.folder.location)
    ended.end("average_accuracy")


def test_a_damaged_table_is_named_and_written_anew(ended: Ended) -> None:
    ended.rows({0.01: both(0.5, 0.25)})
    ended.end("[average_accuracy, forgetting]")
    file = ended.folder.path / "pareto.parquet"
    content = bytearray(file.read_bytes())
    content[len(content) // 3] ^= 4
    file.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_pareto(ended.folder.location)
    assert str(caught.value).startswith(f"{file}: expected a complete Parquet file, got a")
    assert "\n" not in str(caught.value)
    ended.end("[average_accuracy, forgetting]")
    assert len(read_pareto(ended.folder.location)) == 1


def test_the_leaderboard_script_gives_the_front_of_several_metrics(
    ended: Ended, capsys: pytest.CaptureFixture[str]
) -> None:
    ended.rows({lr / 100: both(lr / 16, lr / 16) for lr in range(1, 5)})
    ended.rows({0.05: both(1 / 16, 2 / 16)})
    folder, names = [str(ended.folder.location)], ["forgetting", "average_accuracy"]
    script.show(folder, metric=names, n=3)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("Pareto front:")
    assert [line.split()[-1] for line in lines[2:5]] == ["0.01", "0.02", "0.03"]
    assert lines[5:] == ["1 more"]
    script.show(folder, metric=names, mode=["min", "min"], table_format="json")
    (found,) = json.loads(capsys.readouterr().out)
    assert found == {"forgetting": 0.0625, "average_accuracy": 0.0625, "seeds": 2, "lr": 0.01}
    script.show(folder, metric=names[:1], mode=["max"], n=1, table_format="json")
    (found,) = json.loads(capsys.readouterr().out)
    assert found["lr"] == 0.04


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric": ["forgetting", "forgetting"]}, "--metric: expected each metric once"),
        ({"metric": ["forgetting"], "mode": ["max", "min"]}, "--mode: expected max or min"),
        ({"mode": ["best"]}, "--mode: expected max or min for each of 1 metrics, got best"),
        ({"metric": ["forgetting", "learning_accuracy"]}, "got learning_accuracy, which is null"),
    ],
)
def test_a_mistake_in_metrics_is_an_error_of_one_line(
    ended: Ended, options: dict[str, Any], message: str
) -> None:
    ended.rows({0.01: both(0.5, 0.25)})
    with pytest.raises(InputError) as caught:
        script.show([str(ended.folder.location)], **options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
