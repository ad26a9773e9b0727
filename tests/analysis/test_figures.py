"""Heatmaps, maps of divergence and trade-offs: what their cells, points and words say."""

import math
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Polygon, Rectangle

from raysweep.analysis import heatmap, stability, tradeoff
from raysweep.analysis.command import run
from raysweep.analysis.figures import metric_label
from raysweep.analysis.heatmap_grid import color_scale, text_color
from raysweep.analysis.panels import averaged_over, layout
from raysweep.analysis.stage_names import stage_order, stage_words
from raysweep.errors import InputError
from tests.figure_rows import diverged, row, run_command, sweep_folder, table

pytestmark = pytest.mark.usefixtures("closed_figures")

ROWS = [
    *(row(beta_1=-0.1, beta_2=0.01, seed=i, average_accuracy=a) for i, a in enumerate([0.8, 0.9])),
    row(beta_1=0.1, beta_2=0.01, seed=0, average_accuracy=0.6),
    diverged("train_task_1", 2, beta_1=0.1, beta_2=0.01, seed=1),
    diverged("train_task_2", 3, beta_1=0.1, beta_2=0.1, seed=0),
    diverged("train_task_2", 3, beta_1=0.1, beta_2=0.1, seed=1),
    row("failed", beta_1=1, beta_2=0.01, seed=0, error="broken"),
]
"""A cell of each kind: a mean, one seed of two lost, both lost, failed; the other two never run."""


def texts(figure: Figure, axes: int = 0) -> list[str]:
    return [text.get_text() for text in figure.axes[axes].texts]


def title(figure: Figure) -> str:
    return " ".join(figure.get_suptitle().split())


def states(figure: Figure, state: str, axes: int = 0) -> list[tuple[float, float]]:
    """Return the places (column, row) of the cells drawn in a state that is no plain value."""
    found = [patch for patch in figure.axes[axes].patches if patch.get_gid() == state]
    if state == "partial":
        corners = [patch.get_xy()[0] for patch in found if isinstance(patch, Polygon)]
        return [(x - 0.5, y - 0.5) for x, y in corners]
    return [(p.get_x() + 0.5, p.get_y() + 0.5) for p in found if isinstance(p, Rectangle)]


def values(figure: Figure, axes: int = 0) -> np.ndarray[Any, np.dtype[np.float64]]:
    mesh = figure.axes[axes].collections[0].get_array()
    return np.ma.filled(mesh, np.nan)


def test_means_have_the_mark_of_each_divergence() -> None:
    means = heatmap.means(
        table("trials", ROWS), "average_accuracy", ["config/beta_2", "config/beta_1"]
    )
    by = means.set_index(["config/beta_1", "config/beta_2"])
    assert by.loc[(-0.1, 0.01), "mean"] == pytest.approx(0.85)
    assert by.loc[(0.1, 0.01), ["mean", "n_diverged", "n", "mark"]].tolist() == [
        *(0.6, 1, 2),
        "task 1, ep. 2",
    ]
    assert by.loc[(0.1, 0.1), "mark"] == "task 2, ep. 3"
    assert math.isnan(by.loc[(0.1, 0.1), "mean"])
    assert pd.isna(by.loc[(-0.1, 0.01), "mark"])


def test_a_heatmap_tells_all_kinds_of_cells_apart() -> None:
    figure = heatmap.figure(table("trials", ROWS))
    # Columns are beta_1 -0.1, 0.1, 1; rows beta_2 0.01, 0.1.
    assert values(figure)[0, :2] == pytest.approx([0.85, 0.6])
    assert np.isnan(values(figure)[[0, 1, 1, 1], [2, 0, 1, 2]]).all()
    assert states(figure, "partial") == [(1, 0)]
    assert states(figure, "diverged") == [(1, 1)]
    assert states(figure, "null") == [(2, 0)]
    assert sorted(states(figure, "absent")) == [(0, 1), (2, 1)]
    assert set(texts(figure)) == {"0.850", "0.600\n1/2 div.", "task 2\nep. 3", "\N{EN DASH}"}
    legend = figure.legends[0]
    assert len(legend.get_texts()) == 4
    assert [tick.get_text() for tick in figure.axes[0].get_xticklabels()] == [
        "\N{MINUS SIGN}0.1",
        "0.1",
        "1",
    ]
    assert title(figure) == "Average accuracy Mean over up to 2 seeds"


def test_a_heatmap_averages_over_what_is_not_named_and_says_so() -> None:
    rows = [
        row(beta_1=-0.1, beta_2=0.01, replay=replay, lr=lr, seed=seed, average_accuracy=accuracy)
        for replay, lr, seed, accuracy in [
            ("none", 1e-3, 0, 0.1),
            ("none", 1e-3, 1, 0.2),
            ("none", 1e-2, 0, 0.3),
            ("simple", 1e-3, 0, 0.9),
        ]
    ]
    trials = table("trials", rows)
    whole = heatmap.figure(trials)
    assert values(whole).tolist() == [[pytest.approx(0.375)]]
    assert "Mean over learning rate (2 values), replay (2 values) and 2 seeds" in title(whole)
    split = heatmap.figure(trials, facets=["replay", "lr"])
    assert "Mean over up to 2 seeds" in title(split)
    panels = {ax.get_title(): ax for ax in split.axes if ax.get_title()}
    assert set(panels) == {"replay none", "replay simple"}
    # lr 0.01 was only run without replay: its panel with replay has no value.
    assert [values(split, i).item() for i in range(3)] == pytest.approx([0.15, 0.9, 0.3])
    assert states(split, "absent", 3) == [(0, 0)]


def test_several_sweeps_get_a_panel_each_on_one_scale() -> None:
    one = table("trials", [row(beta_1=-0.1, beta_2=0.01, average_accuracy=0.2)], "one")
    two = table("trials", [row(beta_1=-0.1, beta_2=0.01, average_accuracy=0.8)], "two")
    figure = heatmap.figure(pd.concat([one, two], ignore_index=True))
    assert [ax.get_title() for ax in figure.axes[:2]] == ["one", "two"]
    norms = [ax.collections[0].norm for ax in figure.axes[:2]]
    assert norms[0] is norms[1]
    assert (norms[0].vmin, norms[0].vmax) == (0.2, 0.8)


def test_a_heatmap_where_all_diverged_has_marks_and_no_colour_bar() -> None:
    rows = [diverged("train_task_1", epoch, beta_1=-0.1, seed=epoch) for epoch in (1, 3)]
    figure = heatmap.figure(table("trials", rows))
    assert len(figure.axes) == 1
    assert texts(figure) == ["task 1\nep. 1-3"]


def test_values_are_left_out_where_there_is_no_room() -> None:
    rows = [
        row(beta_1=-i / 1000, beta_2=j / 10, average_accuracy=i * j / 500)
        for i in range(1, 101)
        for j in range(1, 5)
    ]
    trials = table("trials", rows)
    few = heatmap.figure(trials.head(40))
    assert len(texts(few)) == 40
    assert all(text.get_fontsize() >= 5 for text in few.axes[0].texts)
    many = heatmap.figure(trials)
    assert texts(many) == []
    assert many.get_figwidth() < 20


def test_texts_have_the_contrast_of_wcag_aa() -> None:
    for name in ("cividis", "Blues"):
        colors = color_scale([0, 1], name)
        for value in np.linspace(0, 1, 51):
            shade = np.array(plt.get_cmap(name)(value)[:3])
            linear = np.where(shade <= 0.04045, shade / 12.92, ((shade + 0.055) / 1.055) ** 2.4)
            luminance = linear @ [0.2126, 0.7152, 0.0722]
            text = 0.0 if text_color(value, colors) == "black" else 1.0
            light, dark = max(luminance, text), min(luminance, text)
            assert (light + 0.05) / (dark + 0.05) >= 4.5


def test_only_losses_and_durations_get_a_logarithmic_scale() -> None:
    for name, kind in (("reconstruction_loss", "LogNorm"), ("forgetting", "Normalize")):
        rows = [row(beta_1=b, beta_2=0.1, **{name: v}) for b, v in ((-1, 0.001), (-0.1, 0.5))]
        mesh = heatmap.figure(table("trials", rows), name).axes[0].collections[0]
        assert type(mesh.norm).__name__ == kind


def test_a_metric_that_is_null_everywhere_is_refused() -> None:
    trials = table("trials", [row(average_accuracy=0.5)])
    with pytest.raises(InputError, match="forgetting: expected finished configurations"):
        heatmap.figure(trials, "forgetting")
    with pytest.raises(InputError, match="expected finished configurations"):
        tradeoff.figure(trials)


def test_each_setting_has_one_place() -> None:
    trials = table("trials", ROWS)
    with pytest.raises(InputError, match="beta_1 twice"):
        heatmap.figure(trials, x="beta_1", y="beta_1")
    with pytest.raises(InputError, match="beta_2: expected each setting once in the figure"):
        heatmap.figure(trials, facets=["beta_2"])
    with pytest.raises(InputError, match="at most 48 panels, got 49"):
        layout(table("trials", [row(seed=i) for i in range(49)]), ["config/seed"])


def test_a_mean_over_nothing_is_called_none() -> None:
    assert averaged_over(table("trials", [row(lr=0.1), row(lr=0.2)]), ["config/lr"]) == ""


def test_stages_come_in_the_order_of_training() -> None:
    names = ["train_joint", "train_task_10", "train_task_2", "train_generator_1", "train_task_1"]
    assert [stage_words(name) for name in sorted(names, key=stage_order)] == [
        *("task 1", "generator 1", "task 2", "task 10", "joint")
    ]


def test_labels_have_the_units_of_the_tables() -> None:
    assert metric_label("reconstruction_loss") == "reconstruction loss (nats)"
    assert metric_label("duration_s") == "duration (s)"
    assert metric_label("average_accuracy") == "average accuracy"


def test_divergence_counts_runs_and_says_where() -> None:
    rows = [
        row(lr=0.1, seed=0),
        diverged("train_task_10", 1, lr=0.1, seed=1),
        diverged("train_task_2", 4, lr=0.1, seed=2),
        diverged("train_task_2", 3, lr=0.1, seed=3),
        row("failed", lr=0.01, seed=0),
    ]
    found = stability.divergence(table("trials", rows), ["config/lr"])
    assert found[["config/lr", "n", "n_diverged", "share"]].to_numpy().tolist() == [
        [0.01, 1, 0, 0],
        [0.1, 4, 3, 0.75],
    ]
    last = found.iloc[1]
    assert last[["first_stage", "first_epoch"]].tolist() == ["train_task_2", 3]
    assert last[["last_stage", "last_epoch"]].tolist() == ["train_task_10", 1]
    assert last["where"] == "task 2 ep. 3: 1 run, task 2 ep. 4: 1 run, task 10 ep. 1: 1 run"
    assert stability.mark(last) == "task 2, ep. 3+"
    assert found.iloc[0][["first_stage", "where"]].isna().all()


def test_where_nothing_diverged_the_map_is_whole() -> None:
    figure = stability.figure(table("trials", [row(lr=0.1, beta_1=b) for b in (-1, 0.1)]))
    assert values(figure).tolist() == [[0], [0]]
    assert texts(figure) == ["0/1", "0/1"]
    assert title(figure).startswith("Divergence: 0 of 2 runs")


def test_the_map_of_divergence_shows_shares_and_places() -> None:
    rows = [
        diverged("train_task_1", 2, lr=0.1, beta_1=-1, seed=0),
        row(lr=0.1, beta_1=-1, seed=1),
        row(lr=0.01, beta_1=-1, seed=0),
        row(lr=0.1, beta_1=0.1, seed=0),
    ]
    figure = stability.figure(table("trials", rows))
    np.testing.assert_allclose(values(figure), [[0, 0.5], [np.nan, 0]])
    assert set(texts(figure)) == {"0/1", "1/2\ntask 1\nep. 2"}
    assert states(figure, "absent") == [(0, 1)]


TRADES = [
    *(row(lr=1e-3, seed=i, average_accuracy=a, forgetting=0.1) for i, a in enumerate([0.7, 0.9])),
    *(row(lr=1e-2, seed=i, average_accuracy=0.6, forgetting=0.0) for i in range(2)),
    *(row(lr=3e-2, seed=i, average_accuracy=0.5, forgetting=0.3) for i in range(2)),
    row(lr=0.1, seed=0, average_accuracy=0.99, forgetting=-0.5),
    diverged("train_task_1", 1, lr=0.1, seed=1),
    diverged("train_task_1", 1, lr=1.0, seed=0),
]


def test_points_are_means_over_seeds_and_say_which_lost_some() -> None:
    points = tradeoff.points(table("trials", TRADES), ["average_accuracy", "forgetting"])
    points = points.set_index("config/lr")
    assert points.index.tolist() == [1e-3, 1e-2, 3e-2, 0.1]
    assert points["average_accuracy"].tolist() == pytest.approx([0.8, 0.6, 0.5, 0.99])
    assert points[["n_finished", "n"]].loc[0.1].tolist() == [1, 2]
    assert points["is_complete"].tolist() == [True, True, True, False]


def test_the_front_is_drawn_through_settings_with_all_seeds() -> None:
    pair = tradeoff.Pair("forgetting", "average_accuracy")
    figure = tradeoff.figure(table("trials", TRADES), [pair])
    (front,) = [line for line in figure.axes[0].lines if line.get_gid() == "front"]
    assert front.get_xydata().tolist() == [[0.0, pytest.approx(0.6)], [0.1, pytest.approx(0.8)]]
    assert figure.axes[0].get_title("left") == "Pareto front: 2 of 3 settings"
    assert figure.axes[0].get_xlabel() == "forgetting\n(lower is better)"
    hollow = [c for c in figure.axes[0].collections if not len(c.get_facecolor())]
    assert [-0.5, 0.99] in [offset.tolist() for c in hollow for offset in c.get_offsets()]


def test_the_line_is_that_of_least_squares() -> None:
    # Anscombe's first set: the published regression is y = 3.00 + 0.500 x, r^2 = 0.67, p = 0.00217,
    # with a standard error of 0.1179 of the slope.
    x = [10.0, 8, 13, 9, 11, 14, 6, 4, 12, 7, 5]
    y = [8.04, 6.95, 7.58, 8.81, 8.33, 9.96, 7.24, 4.26, 10.84, 4.82, 5.68]
    line = tradeoff.fit_line(x, y)
    assert line is not None
    assert (line.intercept, line.slope) == (
        pytest.approx(3.0001, abs=1e-4),
        pytest.approx(0.50009, abs=1e-5),
    )
    assert line.r**2 == pytest.approx(0.66654, abs=1e-5)
    assert line.p == pytest.approx(0.00217, abs=1e-5)
    assert line.slope_ci95 == pytest.approx(2.262157 * 0.1179, abs=1e-4)
    assert line.n == 11
    assert tradeoff.fit_line([1, 1, 1], [1, 2, 3]) is None
    assert tradeoff.fit_line([1, 2], [1, 2]) is None


def test_labels_without_entropy_are_no_part_of_its_line() -> None:
    rows = [
        row(lr=lr, replay=replay, replay_label_entropy=x, forgetting=y)
        for lr, replay, x, y in [
            (0.1, "simple", 0.0, 0.9),
            (0.1, "generative", 1.0, 0.5),
            (0.2, "generative", 2.0, 0.3),
            (0.3, "generative", 1.5, 0.4),
        ]
    ]
    figure = tradeoff.figure(table("trials", rows), [tradeoff.PAIRS[2]])
    (line,) = [line for line in figure.axes[0].lines if line.get_gid() == "line"]
    assert line.get_xydata().ravel().tolist() == pytest.approx([1, 0.5, 2, 0.3])
    assert "n = 3, soft labels only" in figure.axes[0].get_title("left")


def test_many_values_of_a_number_are_coloured_by_a_bar() -> None:
    rows = [row(lr=10.0**-i, average_accuracy=0.5, forgetting=0.1 * i) for i in range(1, 12)]
    pair = tradeoff.Pair("forgetting", "average_accuracy")
    figure = tradeoff.figure(table("trials", rows), [pair], "lr")
    assert figure.axes[-1].get_ylabel() == "learning rate"
    assert figure.axes[-1].get_yscale() == "log"


Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Return a function that runs a script's command line in this process: exit code and output."""

    def run_here(name: str, *arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [f"analysis.{name}", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            run(import_module(f"analysis.{name}").show)
        return int(ended.value.code or 0), *capsys.readouterr()

    return run_here


SCRIPTS = ["heatmap", "stability", "tradeoff", "curves"]
MAGIC = {"png": b"\x89PNG\r\n", "svg": b"<?xml", "pdf": b"%PDF-"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    location = tmp_path_factory.mktemp("figures") / "sweep"
    return sweep_folder(location, {"trials": TRADES})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "ending"), [("heatmap", "png"), ("stability", "svg"), ("tradeoff", "pdf")]
)
def test_a_script_writes_the_format_of_the_name(
    folder: Path, tmp_path: Path, name: str, ending: str
) -> None:
    out = tmp_path / "new" / f"it.{ending}"
    options = ["--x", "lr"] if name == "heatmap" else []
    done = run_command(name, folder, "--out", out, *options)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", f"written to {out}\n")
    assert out.read_bytes().startswith(MAGIC[ending])


@pytest.mark.slow
def test_stability_prints_its_table(folder: Path) -> None:
    done = run_command("stability", folder, "--format", "csv")
    header, *lines = done.stdout.splitlines()
    assert header.startswith("beta_1,lr,n,n_diverged,share,first_stage")
    assert len(lines) == 5
    assert lines[-1].endswith("1.0,1,1,1.0,train_task_1,1,train_task_1,1,task 1 ep. 1: 1 run")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("heatmap", ["--metric", "acuracy"], "expected a metric, got 'acuracy'"),
        ("heatmap", ["--x", "beta_3"], "expected a setting, got 'beta_3'"),
        ("stability", ["--where", "lr > 5"], "--where: no row of 9 meets"),
        ("tradeoff", ["--draw", "curve"], "--draw: expected one of front, line, none"),
        ("tradeoff", ["--x", "forgetting", "--y", "forgetting"], "expected two different metrics"),
        ("curves", ["--band", "sd"], "--band: expected one of ci95, minmax"),
        ("curves", [], "test_accuracy: expected epochs with a value, found none"),
        ("curves", ["--matrix"], "expected finished configurations with accuracies by task"),
        ("heatmap", ["--out", "it.gif"], "--out: expected one of png, svg, pdf, got 'gif'"),
    ],
)
def test_a_mistake_is_one_line(
    folder: Path, name: str, options: list[str], message: str, call: Call
) -> None:
    code, out, error = call(name, folder, *options)
    assert (code, out) == (2, "")
    assert message in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_folder_without_a_sweep_is_one_line(tmp_path: Path, name: str, call: Call) -> None:
    code, _, error = call(name, tmp_path / "none", "--out", tmp_path / "it.png")
    assert code == 2
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "it.png").exists()
