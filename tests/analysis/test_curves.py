"""Learning curves and accuracy matrices: what their lines, bands, marks and cells say."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from raysweep.analysis import matrix
from raysweep.analysis.curves import curves, figure
from raysweep.analysis.stage_axis import Track
from raysweep.errors import InputError
from tests.figure_rows import (
    accuracy_rows,
    diverged,
    epoch_rows,
    row,
    run_command,
    sweep_folder,
    table,
)

pytestmark = pytest.mark.usefixtures("closed_figures")

SEEDS = {  # test accuracy by lr and seed, in two epochs of task 1
    (0.1, 0): [0.2, 0.4],
    (0.1, 1): [0.4, 0.6],
    (0.2, 0): [0.6, 0.8],
    (0.2, 1): [0.4, 0.8],
}
FINISHED = [row(lr=lr, seed=seed, replay="none") for lr, seed in SEEDS]
LOST = diverged("train_task_2", 2, lr=0.3, seed=0, replay="none")
EPOCHS = [
    *(
        e
        for of, v in zip(FINISHED, SEEDS.values(), strict=True)
        for e in epoch_rows(of, "train_task_1", v)
    ),
    *(e for of in FINISHED for e in epoch_rows(of, "train_task_2", [0.5, 0.5, 0.5])),
    *epoch_rows(LOST, "train_task_1", [0.1, 0.3]),
    *epoch_rows(LOST, "train_task_2", [0.7, None]),
]
MATRIX = {(0, 1): 0.1, (0, 2): 0.1, (1, 1): 0.9, (1, 2): 0.2, (2, 1): 0.5, (2, 2): 0.8}


@pytest.fixture
def tables() -> tuple[pd.DataFrame, pd.DataFrame]:
    return table("epochs", EPOCHS), table("trials", [*FINISHED, LOST])


def lines(ax: Axes, gid: str) -> list[list[tuple[float, float]]]:
    return [[*zip(*line.get_data(), strict=True)] for line in ax.lines if line.get_gid() == gid]


def title(drawn: Figure) -> str:
    return " ".join(drawn.get_suptitle().split())


def test_each_seed_counts_once_with_its_mean_over_other_settings(
    tables: tuple[pd.DataFrame, pd.DataFrame],
) -> None:
    found = curves(*tables, "test_accuracy", ["config/replay"]).set_index(["stage", "epoch"])
    first = found.loc[("train_task_1", 1)]
    # Seed 0: (0.2 + 0.6) / 2, seed 1: (0.4 + 0.4) / 2; the run that diverged is left out.
    assert first[["mean", "low", "high"]].tolist() == pytest.approx([0.4, 0.4, 0.4])
    assert first[["n_seeds", "n"]].tolist() == [2, 4]
    assert found.loc[("train_task_2", 3), "mean"] == pytest.approx(0.5)


def test_the_band_is_students_interval_or_the_range_of_seeds(
    tables: tuple[pd.DataFrame, pd.DataFrame],
) -> None:
    by = ["config/lr"]
    found = curves(*tables, "test_accuracy", by).set_index(["config/lr", "stage", "epoch"])
    # Two seeds, 0.2 and 0.4: sd 0.1414, t(0.975, 1) = 12.706.
    half_width = 12.7062 * 0.141421 / np.sqrt(2)
    low, high = found.loc[(0.1, "train_task_1", 1), ["low", "high"]]
    assert (low, high) == pytest.approx((0.3 - half_width, 0.3 + half_width), abs=1e-4)
    ranges = curves(*tables, "test_accuracy", by, "minmax").set_index([*by, "stage", "epoch"])
    assert ranges.loc[(0.1, "train_task_1", 1), ["low", "high"]].tolist() == [0.2, 0.4]


def test_one_seed_has_a_line_and_no_band() -> None:
    of = row(seed=3)
    epochs = table("epochs", epoch_rows(of, "train_task_1", [0.2, 0.5]))
    trials = table("trials", [of])
    found = curves(epochs, trials, "test_accuracy", ["config/replay"])
    assert found["mean"].tolist() == [0.2, 0.5]
    assert found[["low", "high"]].isna().all().all()
    drawn = figure(epochs, trials)
    assert lines(drawn.axes[0], "mean-0") == [[(1, 0.2), (2, 0.5)]]
    assert "one seed, no band" in title(drawn)


def test_stages_follow_each_other_as_long_as_their_longest() -> None:
    of, other = row(lr=0.1), row(lr=0.2)
    rows = [
        *epoch_rows(of, "train_task_2", [0.1] * 3),
        *epoch_rows(of, "train_task_1", [0.1] * 2),
        *epoch_rows(other, "train_task_1", [0.1] * 4),
        *epoch_rows(other, "train_generator_1", [None] * 5),
    ]
    track = Track.of(table("epochs", rows))
    assert track.starts == {"train_task_1": 0, "train_generator_1": 4, "train_task_2": 9}
    assert track.location(pd.DataFrame({"stage": ["train_task_2"], "epoch": [3]})) == [12]


def test_curves_have_boundaries_names_and_epochs_of_stages(
    tables: tuple[pd.DataFrame, pd.DataFrame],
) -> None:
    drawn = figure(*tables, by=["lr"])
    ax = drawn.axes[0]
    (boundary,) = lines(ax, "boundary")
    assert {x for x, _ in boundary} == {2.5}
    assert [t.get_text() for t in ax.texts if t.get_gid() == "stage"] == ["task 1", "task 2"]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["1", "2", "1", "3"]
    assert ax.get_xticks().tolist() == [1, 2, 3, 5]
    assert lines(ax, "mean-0")[1] == [(3, 0.5), (4, 0.5), (5, 0.5)]
    assert ax.get_ylabel() == "test accuracy"
    assert title(drawn).endswith(
        "Finished runs, mean over up to 2 seeds; band: Student's 95 % interval over seeds"
    )


def test_a_run_that_diverged_ends_with_a_mark_and_is_counted(
    tables: tuple[pd.DataFrame, pd.DataFrame],
) -> None:
    ax = figure(*tables, by=["lr"]).axes[0]
    assert lines(ax, "diverged") == [[(1, 0.1), (2, 0.3)], [(3, 0.7)]]
    assert lines(ax, "end") == [[(3, 0.7)]]
    ((mark,),) = lines(ax, "lost")
    assert mark[0] == 4  # epoch 2 of task 2
    assert "1" in [text.get_text() for text in ax.texts]
    # Nothing is drawn as a mean for the learning rate that never finished.
    assert lines(ax, "mean-2") == []


def test_where_all_diverged_there_are_marks() -> None:
    of = diverged("train_task_1", 1)
    epochs = table("epochs", epoch_rows(of, "train_task_1", [0.1]))
    ax = figure(epochs, table("trials", [of])).axes[0]
    assert len(lines(ax, "end")) == 1
    assert len(lines(ax, "lost")) == 1


def test_lines_differ_in_colour_dash_and_marker(tables: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    ax = figure(*tables, by=["lr"]).axes[0]
    looks = {
        (str(line.get_color()), str(line.get_linestyle()), str(line.get_marker()))
        for line in ax.lines
        if str(line.get_gid()).startswith("mean-")
    }
    assert [len(set(column)) for column in zip(*looks, strict=True)] == [2, 2, 2]


def test_mistakes_are_named(tables: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    with pytest.raises(InputError, match="--metric: expected a column of epochs, got 'los'"):
        figure(*tables, "los")
    with pytest.raises(InputError, match=r"got 'acc' \(did you mean test_accuracy\?\)"):
        figure(*tables, "acc")  # average_accuracy is null without early stopping
    with pytest.raises(InputError, match="class_loss: expected epochs with a value"):
        figure(*tables, "class_loss")
    with pytest.raises(InputError, match="lr: expected each setting once in the figure"):
        figure(*tables, by=["lr"], facets=["lr"])
    many = [row(lr=i / 10) for i in range(1, 12)]
    epochs = [e for of in many for e in epoch_rows(of, "train_task_1", [0.5])]
    with pytest.raises(InputError, match="--by: expected at most 8 groups, got 11"):
        figure(table("epochs", epochs), table("trials", many), by=["lr"])


def test_the_matrix_is_the_mean_of_finished_runs() -> None:
    one, two = row(seed=0), row(seed=1)
    lost = diverged("train_task_2", 1, seed=2)
    accuracy = table(
        "accuracy",
        [
            *accuracy_rows(one, MATRIX),
            *accuracy_rows(two, {key: value + 0.1 for key, value in MATRIX.items()}),
            *accuracy_rows(lost, {(1, 1): 0.0}),
        ],
    )
    trials = table("trials", [one, two, lost])
    found = matrix.matrix(accuracy, trials, ["config/replay"])
    assert found["n"].tolist() == [2] * 6
    cells = found.set_index(["after_task", "on_task"])["accuracy"]
    assert cells.to_dict() == pytest.approx({key: v + 0.05 for key, v in MATRIX.items()})
    drawn = matrix.figure(accuracy, trials, ["config/replay"])
    ax = drawn.axes[0]
    # The first row stands at the top: before any task.
    assert [t.get_text() for t in ax.get_yticklabels()] == ["2", "1", "before any"]
    np.testing.assert_allclose(
        ax.collections[0].get_array(), [[0.55, 0.85], [0.95, 0.25], [0.15, 0.15]]
    )
    frames = [p.get_xy() for p in ax.patches if p.get_gid() == "learned"]  # type: ignore[attr-defined]
    assert sorted(frames) == [(-0.46, 0.54), (0.54, -0.46)]
    assert title(drawn).endswith("Finished runs, mean over 3 seeds")


def test_joint_training_has_no_frames_and_says_what_was_not_measured() -> None:
    one, joint = row(experiment="replay", model="mlp"), row(experiment="joint", model="mlp")
    rows = [*accuracy_rows(one, MATRIX), *accuracy_rows(joint, {(2, 1): 0.9, (2, 2): 0.9})]
    drawn = matrix.figure(
        table("accuracy", rows), table("trials", [one, joint]), ["config/experiment"]
    )
    gids = [sorted(str(p.get_gid()) for p in ax.patches) for ax in drawn.axes[:2]]
    assert gids == [["absent"] * 4, ["learned"] * 2]
    assert [text.get_text() for text in drawn.legends[0].get_texts()] == ["not measured"]


@pytest.mark.slow
@pytest.mark.parametrize(("options", "ending"), [([], "svg"), (["--matrix"], "png")])
def test_the_script_writes_curves_and_the_matrix(
    tmp_path: Path, options: list[str], ending: str
) -> None:
    of = row()
    folder = sweep_folder(
        tmp_path / "sweep",
        {
            "epochs": epoch_rows(of, "train_task_1", [0.5, 0.6]),
            "accuracy": accuracy_rows(of, MATRIX),
            "trials": [of],
        },
    )
    out = tmp_path / f"it.{ending}"
    done = run_command("curves", folder, *options, "--out", out)
    assert (done.returncode, done.stderr) == (0, "")
    assert out.read_bytes().startswith({"svg": b"<?xml", "png": b"\x89PNG"}[ending])
