"""Settings that do not apply to some configurations: every figure shows these, with a dash."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from report_sweeps import rows_of, write_sweep
from small_configs import configure

from raysweep.analysis import compare, curves, heatmap, heatmap_grid, samples, stability, tradeoff
from raysweep.analysis.command import give_table
from raysweep.analysis.panels import layout
from raysweep.analysis.report.collect import _coded, collect
from raysweep.analysis.report.page import page
from raysweep.analysis.sweeps import Sweeps
from raysweep.learning.config import Config
from raysweep.packs.examples import Examples, Reconstructed, has_examples
from raysweep.tables.schemas import config_columns
from tests.figure_rows import diverged, epoch_rows, row, table

DASH = "\N{EN DASH}"
MODELS: list[dict[str, Any]] = [
    {"model": "vib", "beta_1": -0.1},
    {"model": "vib", "beta_1": -0.01},
    {"model": "comparison"},
]
ROWS = [
    row(**of, beta_2=beta_2, replay=replay, average_accuracy=0.5 + i / 10, forgetting=0.1 * i)
    for i, (of, beta_2, replay) in enumerate(
        [(of, b, r) for of in MODELS for b, r in ((0.01, "none"), (0.1, "simple"))]
    )
]
"""Two of each beta_1, and two of the model that has none."""


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    plt.close("all")


def labels(ticks: Any) -> list[str]:
    return [tick.get_text() for tick in ticks]


def legend(figure: Figure) -> list[str]:
    return labels(figure.legends[0].get_texts())


def n_points(figure: Figure) -> int:
    """Count the points of the first panel that are drawn with a colour and somewhere."""
    collections = [c for c in figure.axes[0].collections if c.get_gid() is None]
    return sum(len(c.get_offsets()) for c in collections)


def test_a_heatmap_has_a_column_for_null_after_the_numbers() -> None:
    figure = heatmap.figure(table("trials", ROWS))
    assert labels(figure.axes[0].get_xticklabels()) == [
        "\N{MINUS SIGN}0.1",
        "\N{MINUS SIGN}0.01",
        DASH,
    ]
    values = figure.axes[0].collections[0].get_array()
    assert values[:, 2].tolist() == pytest.approx([0.9, 1.0])


def test_where_not_all_values_have_room_null_is_still_written() -> None:
    assert heatmap_grid._written([*"abcdefg", DASH], 3) == [0, 3, 7]
    assert heatmap_grid._written([*"abcdef", DASH], 3) == [0, 3, 6]
    assert heatmap_grid._written([*"abcdef"], 3) == [0, 3]
    assert heatmap_grid._written([DASH], 5) == [0]


def test_a_facet_has_a_panel_for_null() -> None:
    plan = layout(table("trials", ROWS), ["config/beta_1"])
    assert [panel.top for panel in plan.panels][-1] == f"β₁ {DASH}"
    assert len(plan.panels[-1].of(table("trials", ROWS))) == 2
    both = layout(table("trials", ROWS), ["config/beta_1", "config/n_replay"])
    assert [panel.top for panel in both.panels if panel.top][-1] == f"β₁ {DASH}"
    assert [panel.right for panel in both.panels if panel.right][-1] == f"n replay {DASH}"


def test_the_map_of_divergence_counts_them() -> None:
    rows = [*ROWS, diverged("train_task_1", 2, model="comparison", beta_2=0.01, replay="simple")]
    found = stability.divergence(table("trials", rows), ["config/beta_1"])
    assert found[["n", "n_diverged"]].to_numpy().tolist() == [[2, 0], [2, 0], [3, 1]]
    assert found["where"].tolist()[2] == "task 1 ep. 2: 1 run"
    figure = stability.figure(table("trials", rows), y="beta_1", x="lr")
    assert labels(figure.axes[0].get_yticklabels())[-1] == DASH


def test_its_table_as_text_has_dashes(capsys: pytest.CaptureFixture[str]) -> None:
    give_table(stability.divergence(table("trials", ROWS), ["config/beta_1"]), None, None)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["-0.1", "-0.01", DASH]
    assert "nan" not in " ".join(lines).lower()
    assert "None" not in " ".join(lines)


def test_points_of_null_are_drawn_and_named() -> None:
    pair = tradeoff.Pair("forgetting", "average_accuracy", "none")
    figure = tradeoff.figure(table("trials", ROWS), [pair], "beta_1")
    assert legend(figure) == ["\N{MINUS SIGN}0.1", "\N{MINUS SIGN}0.01", DASH]
    assert n_points(figure) == len(ROWS)


def test_beside_a_colour_bar_null_has_its_own_mark() -> None:
    many = [
        row(model="vib", beta_1=-0.1 * i, average_accuracy=0.5 + i / 99, forgetting=i / 99)
        for i in range(1, 11)
    ]
    rows = [*many, row(model="comparison", average_accuracy=0.9, forgetting=0.3)]
    pair = tradeoff.Pair("forgetting", "average_accuracy", "none")
    figure = tradeoff.figure(table("trials", rows), [pair], "beta_1")
    assert legend(figure) == [f"β₁ {DASH}"]
    assert n_points(figure) == len(rows)
    (null,) = [c for c in figure.axes[0].collections if len(c.get_offsets()) == 1]
    assert null.get_facecolor()[0][3] > 0
    without = tradeoff.figure(table("trials", many), [pair], "beta_1")
    assert not without.legends


def test_seeds_that_were_lost_are_counted_where_a_setting_is_null() -> None:
    rows = [row(seed=i, **of, average_accuracy=0.5) for of in MODELS for i in (0, 1)]
    rows += [diverged("train_task_1", 1, seed=2, model="comparison")]
    found = tradeoff.points(table("trials", rows), ["average_accuracy"])
    counts = found[["n_finished", "n"]].to_numpy().tolist()
    assert sorted(counts) == [[2, 2], [2, 2], [2, 3]]
    assert found.loc[found["config/beta_1"].isna(), "n"].tolist() == [3]


def test_a_curve_is_drawn_and_named() -> None:
    epochs = [e for of in ROWS for e in epoch_rows(of, "train_task_1", [0.4, 0.5])]
    figure = curves.figure(table("epochs", epochs), table("trials", ROWS), by=["beta_1"])
    assert legend(figure) == ["β₁ \N{MINUS SIGN}0.1", "β₁ \N{MINUS SIGN}0.01", f"β₁ {DASH}"]
    lines = [line for line in figure.axes[0].lines if str(line.get_gid()).startswith("mean")]
    assert sorted(str(line.get_gid()) for line in lines) == ["mean-0", "mean-1", "mean-2"]


def test_compared_settings_are_listed_with_a_dash() -> None:
    first, second = (table("trials", rows) for rows in (ROWS[:2], ROWS[4:]))
    found = compare.settings_that_differ(first, second).set_index("setting")
    assert compare._values(found.loc["beta_1", "first"]) == "-0.1"
    assert compare._values(found.loc["beta_1", "second"]) == DASH
    pairs = compare.pair(table("trials", ROWS), table("trials", ROWS), "average_accuracy")
    assert len(pairs.rows) == len(ROWS)
    text = compare._layout(
        compare.paired_differences(pairs, "average_accuracy", ["config/beta_1"]), ["beta_1"]
    )
    assert [line.split()[0] for line in text.splitlines()[1:]] == ["-0.1", "-0.01", DASH, "all"]


def test_the_report_has_null_as_the_last_level() -> None:
    beta_1 = _coded(table("trials", ROWS), "config/beta_1")
    assert beta_1["levels"] == ["-0.1", "-0.01", DASH]
    assert (beta_1["null"], beta_1["is_number"]) == (2, True)
    assert beta_1["codes"] == [0, 0, 1, 1, 2, 2]
    model = _coded(table("trials", ROWS), "config/model")
    assert (model["null"], model["is_number"]) == (None, False)
    near = [row(model="vib", beta_1=-0.1 - i * 1e-9) for i in range(2)]
    alike = _coded(table("trials", [*near, ROWS[-1]]), "config/beta_1")
    assert alike["levels"] == ["-0.100000001", "-0.1", DASH]


@pytest.mark.skipif(not shutil.which("node"), reason="needs Node.js")
def test_the_page_shows_a_dash_in_table_filters_and_charts(tmp_path: Path) -> None:
    betas = [round(-0.01 * i, 2) for i in range(13, 0, -1)]
    configs = [*(Config(beta_1=beta, replay="none") for beta in betas)]
    configs += [Config(model="comparison", replay="none", beta_2=b) for b in (0.001, 0.1)]
    folder = write_sweep(tmp_path / "sweep", [rows_of(config, False) for config in configs])
    file = tmp_path / "report.html"
    file.write_text(page(collect(Sweeps([str(folder)]), "average_accuracy")))
    script = Path(__file__).with_name("report_dom.js")
    done = subprocess.run(["node", script, file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    at = shown["head"].index("beta_1")
    assert shown["classes"][at] == "number"
    texts = [f"{beta:g}" for beta in betas]
    assert [cells[at] for cells in shown["rising"]] == [*texts, DASH, DASH]
    assert [cells[at] for cells in shown["falling"]] == [*texts[::-1], DASH, DASH]
    assert shown["filters"]["beta_1"] == ["all", *texts, DASH]
    # Of more than twelve values every second is written, and null.
    assert shown["parallel"]["beta_1"] == [*texts[:-1:2], DASH]
    assert shown["heatmap"]["x"] == [*texts, DASH]
    assert [line[-1] is not None for line in shown["heatmap"]["values"]].count(True) == 2


# --- what has images follows from what applies --------------------------------------------------

KINDS: list[dict[str, Any]] = [
    {"replay": "generative", "beta_1": 0.1},
    {"replay": "generative", "n_tasks": 3},
    {"replay": "simple", "beta_1": 0.1},
    {"replay": "simple", "model": "comparison"},
    {"replay": "simple", "experiment": "replay", "model": "mlp", "tasks": "split_mnist"},
    {"replay": "none"},
    {"replay": "none", "beta_1": 0.1},
    {"replay": "none", "model": "comparison"},
    {"replay": "none", "experiment": "joint", "model": "vib"},
    {"replay": "none", "experiment": "joint", "model": "vib", "beta_1": 0.1},
    {"replay": "none", "experiment": "joint", "model": "mlp"},
    {"replay": "none", "experiment": "vib", "n_tasks": 1},
    {"replay": "simple", "model": "vib", "n_tasks": 1, "beta_1": 0.1},
]


@pytest.mark.parametrize("settings", KINDS, ids=str)
def test_a_row_tells_whether_its_configuration_has_images(settings: dict[str, Any]) -> None:
    config = configure(**settings)
    frame = table("trials", [{**config_columns(config), "status": "finished"}])
    assert samples._has_images(frame).tolist() == [has_examples(config)]


def test_the_best_of_joint_training_is_chosen_too() -> None:
    configs = [
        Config(experiment="joint", model="vib", beta_1=-0.1),
        Config(experiment="joint", model="vib", beta_1=-0.2),
        Config(replay="simple", beta_1=-0.1),
    ]
    frame = table(
        "trials",
        [
            {**config_columns(config), "status": "finished", "average_accuracy": 0.9 - i / 10}
            for i, config in enumerate(configs)
        ],
    )
    assert pd.isna(frame["config/replay"]).tolist() == [True, True, False]
    assert samples.choose(frame, [], 9).index.tolist() == [0, 2, 1]


def test_words_under_images_follow_from_the_configuration() -> None:
    def shown(**settings: Any) -> Examples:
        return Examples(configure(**settings), (1, 1), {}, None, ())

    assert samples._class_word(shown(tasks="split_mnist")) == "class "
    assert samples._class_word(shown(tasks="perm_mnist")) == ""
    none = np.zeros((1, 1))
    pair = Reconstructed(1, 2, none, none, np.zeros(1, dtype=np.int64))

    def by(**settings: Any) -> str:
        return samples._pair(shown(**settings), pair)[1].beside.split(" the ")[1]

    assert by(replay="none", experiment="joint", model="vib") == "VIB"
    assert by(replay="simple") == "VIB after task 2"
    assert by(replay="generative", model="comparison") == "VAE of task 2"


def test_a_caption_has_a_dash_for_what_does_not_apply(monkeypatch: pytest.MonkeyPatch) -> None:
    config = configure(replay="simple", experiment="replay", model="mlp")
    nothing = Examples(config, (1, 1), config_columns(config), None, ())
    monkeypatch.setattr("raysweep.packs.examples.examples", lambda *given: nothing)
    frame = table("trials", [{**config_columns(config), "status": "finished"}])
    block = samples._block(frame.iloc[0], 3, None, None, samples._TITLE)
    title = " ".join(block.title.split())
    assert title.endswith(
        f"model mlp, replay simple, learning rate 0.003, β₁ {DASH}, β₂ {DASH}, seed 3"
    )
