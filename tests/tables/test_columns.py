"""Columns are declared once: directions, units, axes and lists of metrics follow from it."""

import pandas as pd
import pyarrow as pa
import pytest

from raysweep.analysis.figures import is_log, is_log_setting, metric_label
from raysweep.learning.config import Config
from raysweep.monitor.loggers.logged_run import METRIC_NAMES
from raysweep.settings.stopping import STOP_METRICS
from raysweep.tables.columns import Column, Direction
from raysweep.tables.pareto import pareto_front
from raysweep.tables.ranking import best_of, is_lower_better, metrics_of, usual_mode
from raysweep.tables.schemas import TABLES, column_of, label_of, unit_of

COLUMNS = [column for table in TABLES.values() for column in table.columns]
LOWER = {
    *("forgetting", "reconstruction_loss", "replay_label_entropy", "last_finite_loss"),
    *("duration_s", "loss", "class_loss", "kl_loss", "rec_loss"),
    *("replay_class_loss", "replay_kl_loss", "replay_rec_loss"),
}
NATS = LOWER - {"forgetting", "duration_s"}


def test_directions_are_those_of_the_measures() -> None:
    assert {column.name for column in COLUMNS if is_lower_better(column.name)} == LOWER
    assert column_of("weight_kl").better is None  # type: ignore[union-attr]
    for name in ("average_accuracy", "backward_transfer", "weight_kl"):
        assert usual_mode(name) == "max"


def test_a_mode_that_is_given_counts() -> None:
    assert is_lower_better("average_accuracy", "min")
    assert not is_lower_better("forgetting", "max")


def test_units_are_declared_and_no_sentence_repeats_them() -> None:
    assert {column.name for column in COLUMNS if column.unit == "nats"} == NATS
    assert unit_of("duration_s") == "s"
    for column in COLUMNS:
        text = column.description.lower()
        assert not any(word in text for word in ("nats", "seconds", "utc", "0 to 1")), column.name


def test_only_losses_and_durations_may_have_logarithmic_axes() -> None:
    declared = {column.name for column in COLUMNS if column.is_log}
    assert declared == LOWER - {"forgetting", "replay_label_entropy"}
    assert is_log("loss", 0.01, 1.01)
    assert not is_log("loss", 0.01, 1.0)
    assert not is_log("loss", 0.0, 1.0)
    assert not is_log("forgetting", 0.001, 1.0)


@pytest.mark.parametrize(
    ("values", "expected"),
    [([1, 10, 99], False), ([1, 100], True), ([-0.1, 0, 10], True), ([-5, 0, 5], False)],
)
def test_axes_of_settings_follow_from_their_values(values: list[float], expected: bool) -> None:
    assert is_log_setting(pd.Series(values, dtype=float)) is expected


def test_metrics_are_what_is_declared_and_what_a_user_adds() -> None:
    names = {
        table.name: [column.name for column in table.columns if column.is_metric]
        for table in TABLES.values()
    }
    assert names["trials"] == [
        *("average_accuracy", "forgetting", "first_task_accuracy_initial"),
        *("first_task_accuracy_final", "last_task_accuracy", "backward_transfer"),
        *("forward_transfer", "learning_accuracy", "average_incremental_accuracy"),
        *("best_accuracy", "reconstruction_loss", "replay_label_entropy", "last_finite_loss"),
        *("weight_rec", "weight_kl", "duration_s"),
    ]
    for table in TABLES.values():
        frame = table.arrow.empty_table().to_pandas()
        assert metrics_of(frame) == names[table.name]
    # Where some rows have no value pandas makes real numbers of whole ones.
    frame = pd.DataFrame(
        {"config/lr": [0.1], "diverged_epoch": [1.0], "margin": [0.5], "forgetting": [0.2]}
    )
    assert metrics_of(frame) == ["margin", "forgetting"]


def test_columns_of_the_user_s_own_are_maximised_on_a_linear_axis() -> None:
    assert column_of("margin_loss") is None
    assert not is_lower_better("margin_loss")
    assert not is_log("margin_loss", 1e-6, 1.0)
    assert (metric_label("margin_loss"), unit_of("margin_loss")) == ("margin loss", "")
    frame = pd.DataFrame({"margin_loss": [0.1, 0.3], "status": ["finished", "finished"]})
    assert best_of(frame, "margin_loss") == 0.3
    assert pareto_front(frame, ["margin_loss"]).index.tolist() == [1]


def test_labels_leave_a_unit_that_ends_a_name_to_the_unit() -> None:
    assert label_of("duration_s") == "duration"
    assert label_of("config/replay_weight") == "replay weight"
    assert metric_label("duration_s") == "duration (s)"
    assert metric_label("loss") == "loss (nats)"
    assert Column("rate", pa.float64(), "Epochs.", unit="1/min").label == "rate"


def test_a_name_of_several_tables_means_the_same_in_each() -> None:
    for column in COLUMNS:
        found = column_of(column.name)
        assert found is not None
        for attribute in ("type", "unit", "better", "is_log", "bounds", "is_metric"):
            assert getattr(found, attribute) == getattr(column, attribute), column.name
    assert column_of("average_accuracy") in TABLES["trials"].columns


def test_only_metrics_have_a_direction_or_a_logarithmic_axis() -> None:
    for column in COLUMNS:
        is_measure = column.better is not None or column.is_log
        assert column.is_metric or not is_measure, column.name
        assert not (column.is_metric and column.is_setting), column.name


def test_early_stopping_compares_metrics_of_epochs_in_their_directions() -> None:
    columns = {column.name: column for column in TABLES["epochs"].columns}
    for name, mode in STOP_METRICS.items():
        assert columns[name].better == Direction(mode), name


def test_settings_are_columns_of_their_types() -> None:
    columns = {column.name: column for column in TABLES["trials"].columns if column.is_setting}
    assert list(columns) == [f"config/{name}" for name in Config.model_fields]
    assert columns["config/lr"].type == pa.float64()
    assert columns["config/seed"].type == pa.int64()
    assert columns["config/tf32"].type == pa.bool_()
    assert columns["config/encoder_widths"].type == pa.string()


def test_loggers_take_every_number_that_is_an_outcome() -> None:
    metrics = [column.name for column in TABLES["trials"].columns if column.is_metric]
    counts = ["best_epoch", "n_train_samples", "n_test_samples", "n_stored_stages"]
    assert sorted(METRIC_NAMES) == sorted([*metrics, *counts])
