"""Configurations trained again for their images: what is shown is what was replayed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from small_configs import configure
from table_rows import frame_of

from raysweep.analysis import samples
from raysweep.analysis.samples import choose, sample_figure
from raysweep.errors import InputError
from raysweep.learning.config import Config
from raysweep.learning.data.sources import Source
from raysweep.learning.data.task_sequences import make_tasks
from raysweep.learning.replay.buffers import Buffer
from raysweep.learning.stage_graph import stages_of
from raysweep.learning.training.loop import TrainGroup
from raysweep.packs import examples as examples_module
from raysweep.packs.examples import (
    Examples,
    differences,
    examples,
    has_examples,
    image_shape,
    in_turn,
)
from raysweep.packs.run import PackRun
from raysweep.packs.stage_cache.entries import STORE, StageCache
from raysweep.settings.sweep import load_sweep
from raysweep.tables.paths import ResultsPath
from raysweep.tables.schemas import TABLES, config_columns, config_of

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _small_source(monkeypatch: pytest.MonkeyPatch, small: Source) -> None:
    monkeypatch.setattr(examples_module, "load_source", lambda name, folder: small)


@pytest.fixture
def outcome(small: Source) -> Callable[..., dict[str, Any]]:
    """Return a function that trains configurations in one pack, for the row of the first."""

    def train(*configs: Config, store: StageCache | None = None) -> dict[str, Any]:
        torch.set_flush_denormal(True)
        run = PackRun(configs, small, store=store)
        rows = {}
        while not run.is_done:
            rows |= {row["config_id"]: row for row in run.advance().trials}
        return rows[configs[0].id]

    return train


def table(*rows: dict[str, Any]) -> pd.DataFrame:
    return frame_of(rows)


def row_of(config: Config, **more: Any) -> dict[str, Any]:
    return {**config_columns(config), "status": "finished", **more}


# --- from a row back to its configuration -------------------------------------------------------


@pytest.mark.parametrize("file", sorted((ROOT / "search_spaces").glob("*.yaml")), ids=str)
def test_every_shipped_configuration_comes_back_from_its_row(file: Path) -> None:
    configs = list(load_sweep(file, []).configs)[:200]
    frame = table(*map(config_columns, configs))
    for found in (frame.iterrows(), enumerate(frame.to_dict("records"))):
        again = [config_of(row) for _, row in found]
        assert [config.id for config in again] == [config.id for config in configs]
        assert [config.applicable for config in again] == [c.applicable for c in configs]


def test_widths_and_flags_come_back() -> None:
    config = Config(class_decoder_widths=(5, 7), encoder_widths=(9,), freeze_encoder=True, seed=4)
    assert config_of(table(config_columns(config)).iloc[0]) == config


def test_rows_from_before_a_setting_was_added_come_back() -> None:
    config = Config(lr=0.1)
    frame = table(config_columns(config)).drop(columns=["config/tf32", "config/selection"])
    frame["config/reduction"] = None
    assert config_of(frame.iloc[0]) == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"config/lr": None}, "config/lr of its row, found none"),
        ({"config/lr": -1.0}, "config/lr: expected a number > 0, got -1.0"),
        ({"config/encoder_widths": "2-x"}, "expected a list of whole numbers > 0"),
        ({"config/lr": 0.25}, "found those of "),
        ({"config/experiment": "vib", "config/n_tasks": 2}, "data.n_tasks: expected 1"),
    ],
)
def test_a_row_that_is_no_configuration_is_an_error_of_one_line(
    change: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError) as caught:
        config_of(config_columns(Config(lr=0.1)) | change)
    text = str(caught.value)
    assert text.startswith(f"configuration {Config(lr=0.1).id}: ")
    assert message in text
    assert "\n" not in text


# --- what is shown ------------------------------------------------------------------------------

KINDS: list[dict[str, Any]] = [
    {"replay": "generative"},
    {"replay": "generative", "n_tasks": 3},
    {"replay": "simple", "n_tasks": 3, "selection": "reservoir", "n_replay": 90},
    {"replay": "generative", "model": "comparison", "n_tasks": 3},
    {"replay": "simple", "experiment": "replay", "model": "mlp", "tasks": "split_mnist"},
    {"replay": "none"},
]


@pytest.mark.slow
@pytest.mark.parametrize("settings", KINDS, ids=str)
def test_training_again_gives_the_numbers_of_any_pack(
    settings: dict[str, Any], outcome: Callable[..., dict[str, Any]]
) -> None:
    config = configure(**settings)
    row = outcome(config, configure(**settings, lr=1e-2))
    assert differences(row, examples(config).outcome) == {}


def test_a_metric_of_another_machine_is_told() -> None:
    config = configure(replay="none")
    shown = examples(config)
    row = {**shown.outcome, "average_accuracy": 0.25, "forgetting": np.nan, "duration_s": -1.0}
    found = differences(row, shown.outcome)
    assert found.keys() == {"average_accuracy", "forgetting"}
    assert found["average_accuracy"] == (0.25, shown.outcome["average_accuracy"])


def nearest(images: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Return for each image the smallest largest difference to any of the others."""
    return np.array([np.abs(among - image).max(1).min() for image in images])


@pytest.mark.parametrize("selection", ["random", "reservoir", "class_balanced"])
def test_kept_images_of_permuted_tasks_are_the_digits_of_the_source(
    selection: str, small: Source
) -> None:
    config = configure(replay="simple", n_tasks=3, selection=selection, n_replay=60)
    shown = examples(config).replayed
    assert shown is not None
    digits = small.train_images / 255
    assert nearest(shown.images, digits).max() < 1e-6
    assert shown.is_guessed == (selection == "reservoir")
    # With its task's pixels in their places each is among what that task was trained on.
    tasks = make_tasks(config, small, torch.device("cpu"))
    for task in (1, 2):
        of_task = shown.images[shown.tasks == task]
        assert len(of_task) > 20
        seen = tasks[task - 1].train.images.numpy()
        moved = of_task[:, order_of(small.train_images, seen)]
        assert nearest(moved, seen / 255).max() < 1e-6


def test_the_task_of_a_permuted_image_is_guessed_right(small: Source) -> None:
    # A total budget that is not exceeded keeps what it got in order, so the task is known.
    config = configure(replay="simple", n_tasks=4, selection="reservoir", n_replay=1200)
    shown = examples(config).replayed
    assert shown is not None
    assert shown.is_guessed
    expected = np.repeat([1, 2, 3], len(small.train_images))
    assert (shown.tasks == expected).mean() > 0.98


def order_of(images: np.ndarray, permuted: np.ndarray) -> np.ndarray:
    """Find a permutation with permuted = images[:, order]; equal columns may swap."""
    columns: dict[bytes, list[int]] = {}
    for i, column in enumerate(images.T):
        columns.setdefault(column.tobytes(), []).append(i)
    return np.array([columns[column.tobytes()].pop() for column in permuted.T])


def test_what_is_shown_is_what_the_next_task_replays(
    small: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configure(replay="generative", model="comparison", tasks="split_mnist", n_tasks=3)
    seen: list[Buffer] = []

    class Spy(TrainGroup):
        def __init__(self, scene: Any, lanes: Any, *more: Any) -> None:
            seen.extend(lane.buffer for lane in lanes if lane.buffer is not None)
            super().__init__(scene, lanes, *more)

    monkeypatch.setattr("raysweep.packs.run.TrainGroup", Spy)
    shown = examples(config).replayed
    assert shown is not None
    np.testing.assert_array_equal(shown.images.astype(np.float32), seen[-1].images.numpy())
    np.testing.assert_array_equal(shown.labels.astype(np.float32), seen[-1].labels.numpy())
    assert shown.tasks.tolist() == [1] * 70 + [2] * 70
    assert shown.labels.sum(1) == pytest.approx(1)


@pytest.mark.slow
def test_reconstructions_stand_beside_the_digits_they_are_of(small: Source) -> None:
    wide = {"encoder_widths": (100,), "rec_decoder_widths": (100,), "n_bottleneck": 20}
    config = configure(replay="generative", beta_1=-1.0, beta_2=0.0, epochs=40, **wide)
    shown = examples(config, n=20)
    (pair,) = shown.reconstructed
    assert (pair.task, pair.of_task) == (1, 1)
    digits = small.test_images / 255
    index = [int(np.abs(digits - image).max(1).argmin()) for image in pair.originals]
    assert nearest(pair.originals, digits).max() < 1e-6
    assert small.test_labels[index].tolist() == pair.labels.tolist()
    # A trained decoder is nearer to its own original than to the others', as a rule.
    distance = ((pair.images[:, None] - pair.originals) ** 2).sum(-1)
    others = distance[~np.eye(20, dtype=bool)].mean()
    assert distance.diagonal().mean() < 0.7 * others
    loss = -(pair.originals * np.log(pair.images + 1e-12)).sum(1)
    loss -= ((1 - pair.originals) * np.log(1 - pair.images + 1e-12)).sum(1)
    assert loss.mean() == pytest.approx(shown.outcome["reconstruction_loss"], rel=0.5)


@pytest.mark.parametrize(
    ("settings", "pairs"),
    [
        ({"replay": "simple", "n_tasks": 3}, [(1, 1)]),
        ({"replay": "generative", "n_tasks": 3}, [(1, 3), (2, 3), (3, 3)]),
        ({"replay": "generative", "model": "comparison", "n_tasks": 3}, [(1, 1), (2, 2)]),
        (
            {
                "replay": "generative",
                "model": "comparison",
                "generator": "continual",
                "n_tasks": 3,
            },
            [(1, 2), (2, 2)],
        ),
        ({"experiment": "joint", "model": "vib", "n_tasks": 2}, [(1, 2), (2, 2)]),
        ({"experiment": "vib"}, [(1, 1)]),
        ({"replay": "none", "beta_1": 0.1}, []),
        ({"replay": "simple", "model": "comparison"}, []),
    ],
    ids=str,
)
def test_tasks_are_reconstructed_by_the_decoder_that_learned_them(
    settings: dict[str, Any], pairs: list[tuple[int, int]]
) -> None:
    base = {"n_tasks": 1, "replay": "none"} if settings.get("experiment") == "vib" else {}
    base |= {"replay": "none"} if settings.get("experiment") == "joint" else {}
    config = configure(**(base | {"epochs": 1, "n_replay": 50} | settings))
    shown = examples(config, n=3)
    assert [(pair.task, pair.of_task) for pair in shown.reconstructed] == pairs
    assert has_examples(config) == bool(pairs or shown.replayed)


# --- served from the stage cache, and leaving no trace ------------------------------------------


def same(one: Examples, other: Examples) -> None:
    assert one.replayed is not None
    assert other.replayed is not None
    np.testing.assert_array_equal(one.replayed.images, other.replayed.images)
    for ours, theirs in zip(one.reconstructed, other.reconstructed, strict=True):
        np.testing.assert_array_equal(ours.images, theirs.images)
    assert differences(one.outcome, other.outcome) == {}


@pytest.mark.parametrize("settings", [*KINDS[:2], KINDS[3]], ids=str)
def test_the_stage_store_gives_the_same_images_and_is_only_read(
    settings: dict[str, Any],
    tmp_path: Path,
    outcome: Callable[..., dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = configure(**settings)
    plain = examples(config)
    store = StageCache(tmp_path / STORE, 10**9)
    outcome(config, store=store)
    names = sorted(path.name for path in store.folder.iterdir())
    trained: list[str] = []

    class Spy(TrainGroup):
        def __init__(self, scene: Any, lanes: Any, *more: Any) -> None:
            trained.extend(lane.stage.name for lane in lanes)
            super().__init__(scene, lanes, *more)

    monkeypatch.setattr("raysweep.packs.run.TrainGroup", Spy)
    same(plain, examples(config, sweep=tmp_path / "sweep"))
    # A model that no stage goes on from is not kept: only where it is shown it is trained again.
    last = f"train_task_{config.n_tasks}"
    is_shown = config.model == "vib" and config.generator == "continual"
    assert trained == ([last] if is_shown else [])
    assert sorted(path.name for path in store.folder.iterdir()) == names
    for path in store.folder.glob(f"{stages_of(config)[0].fingerprint}*"):
        path.unlink()
    same(plain, examples(config, sweep=tmp_path / "sweep"))
    assert "train_task_1" in trained
    assert len(list(store.folder.iterdir())) == len(names) - 1


def test_wanted_outputs_change_no_row(small: Source) -> None:
    config = configure(replay="generative", n_tasks=3, model="comparison")

    def rows(wanted: list[str]) -> list[dict[str, Any]]:
        run, found = PackRun([config], small, wanted=wanted), []
        while not run.is_done:
            report = run.advance()
            found += [*report.epochs, *report.accuracy, *report.trials]
        assert all(run.output(fingerprint) is not None for fingerprint in wanted)
        return [{k: v for k, v in row.items() if k != "duration_s"} for row in found]

    assert rows([]) == rows([stage.fingerprint for stage in stages_of(config)])


def test_the_process_is_left_as_it_was() -> None:
    torch.set_num_threads(2)
    examples(configure(replay="none", epochs=1))
    assert torch.get_num_threads() == 2
    assert float(torch.tensor(1e-40) * 1) != 0


def test_samples_are_taken_of_each_label_in_turn() -> None:
    labels = np.array([3, 3, 3, 1, 1, 0])
    assert in_turn(labels, 4).tolist() == [5, 3, 4, 0]
    assert in_turn(labels, 3).tolist() == [5, 3, 0]
    assert in_turn(labels, 99).tolist() == [5, 3, 4, 0, 1, 2]


@pytest.mark.parametrize(
    ("n", "shape"), [(784, (28, 28)), (3 * 32**2, (32, 32, 3)), (128, (8, 16)), (13, (1, 13))]
)
def test_images_have_the_shape_that_their_size_tells(n: int, shape: tuple[int, ...]) -> None:
    assert image_shape(n) == shape


# --- choosing -----------------------------------------------------------------------------------


def boards() -> pd.DataFrame:
    def rows(accuracies: list[float], **settings: Any) -> list[dict[str, Any]]:
        return [
            row_of(configure(**settings, seed=seed), average_accuracy=accuracy)
            for seed, accuracy in enumerate(accuracies)
        ]

    return table(
        *rows([0.7, 0.7], replay="generative", beta_1=0.5),
        *rows([0.9, 0.9], replay="simple", beta_1=0.5),
        *rows([0.99, 0.99], replay="none", beta_1=0.5),
        *rows([0.6, 0.6], replay="none", beta_1=-0.5),
        *rows([0.8, 1.0], replay="simple", beta_1=-0.5),
    )


def chosen(frame: pd.DataFrame, n: int) -> list[tuple[str, float, int]]:
    names = ["config/replay", "config/beta_1", "config/seed"]
    return list(choose(frame, [], n)[names].itertuples(index=False, name=None))


def test_the_best_of_each_kind_with_images_come_first() -> None:
    assert chosen(boards(), 3) == [("simple", 0.5, 0), ("generative", 0.5, 0), ("none", -0.5, 0)]
    assert chosen(boards(), 9)[3:] == [("simple", -0.5, 0)]


def test_the_lowest_seed_that_finished_is_shown() -> None:
    frame = boards()
    frame.loc[2, ["status", "average_accuracy"]] = ["diverged", None]
    assert chosen(frame[frame["config/replay"] == "simple"], 9) == [
        ("simple", -0.5, 0),
        ("simple", 0.5, 1),
    ]


def test_ids_are_found_by_their_beginnings() -> None:
    frame = boards()
    whole, other = frame["config_id"][5], frame["config_id"][1]
    assert choose(frame, [whole[:7], other, whole], 1).index.tolist() == [5, 1]
    with pytest.raises(InputError, match="expected the id of a configuration, got 'zz'"):
        choose(frame, ["zz"], 1)
    with pytest.raises(InputError, match="a prefix of 2"):
        choose(frame.assign(config_id=["ab1", "ab2", *frame["config_id"][2:]]), ["ab"], 1)


def test_where_nothing_has_images_an_error_says_so() -> None:
    frame = boards()
    with pytest.raises(InputError, match="there are no images to show"):
        choose(frame[(frame["config/replay"] == "none") & (frame["config/beta_1"] > 0)], [], 3)


# --- the figure ---------------------------------------------------------------------------------


def texts(figure: Any) -> list[str]:
    found = [text.get_text() for text in figure.texts]
    return found + [text.get_text() for axes in figure.axes for text in axes.texts]


def test_the_figure_shows_labels_and_whether_the_numbers_are_the_tables(
    outcome: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    config = configure(replay="generative")
    frame = table({**config_columns(config), **outcome(config), "host": "far", "device": "cpu"})
    figure = sample_figure(frame.iloc[0], n=4, store_of=ResultsPath.of(tmp_path / "sweep"))
    shown = examples(config, n=4)
    assert shown.replayed is not None
    probabilities = shown.replayed.labels
    chosen = in_turn(probabilities.argmax(1), 4)
    expected = [f"{probabilities[i].argmax()}  {probabilities[i].max():.0%}" for i in chosen]
    words = texts(figure)
    assert [text for text in words if text in expected][:4] == expected
    assert any("its numbers are those of the table" in text for text in words)
    images = [image.get_array() for axes in figure.axes for image in axes.images]
    assert len(images) == 12
    np.testing.assert_array_equal(images[0].ravel(), shown.replayed.images[chosen[0]])
    other = sample_figure(frame.assign(average_accuracy=0.125).iloc[0], n=4)
    assert any("with different numbers from the table" in text for text in texts(other))
    assert any("in the table 0.125 (far, cpu)." in text for text in texts(other))
    samples.plt.close("all")


def test_what_has_no_images_is_an_error_of_one_line(
    outcome: Callable[..., dict[str, Any]],
) -> None:
    plain = configure(replay="none", beta_1=0.1, epochs=1)
    with pytest.raises(InputError, match="it has no replay and learns no reconstruction"):
        sample_figure(table({**config_columns(plain), **outcome(plain)}).iloc[0])
    lost = configure(replay="generative", loss_above=1e-3)
    with pytest.raises(InputError, match="it diverged in train_task_1"):
        sample_figure(table({**config_columns(lost), **outcome(lost)}).iloc[0])


@pytest.mark.slow
def test_the_command_writes_one_figure_of_the_chosen(
    outcome: Callable[..., dict[str, Any]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    configs = [configure(replay=kind, epochs=1) for kind in ("simple", "generative")]
    sweep = tmp_path / "sweep"
    (sweep / "parts").mkdir(parents=True)
    rows = [{**config_columns(config), **outcome(config)} for config in configs]
    pa.parquet.write_table(
        pa.Table.from_pylist(rows, schema=TABLES["trials"].arrow), sweep / "trials.parquet"
    )
    out = tmp_path / "made" / "two.png"
    samples.show([str(sweep)], n=3, out=out)
    assert out.read_bytes().startswith(b"\x89PNG")
    said = capsys.readouterr().out
    assert all(config.id in said for config in configs)
    assert said.count("its numbers are those of the table") == 2
    again = tmp_path / "again.png"
    samples.show([str(sweep)], n=3, out=again)
    assert again.read_bytes() == out.read_bytes()
