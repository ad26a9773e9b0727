"""The tables: every column with its type, unit, direction and description."""

import typing
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from raysweep.errors import InputError
from raysweep.learning.config import Config
from raysweep.learning.declarations import DECLARATIONS
from raysweep.learning.declare import show_widths
from raysweep.settings.grid import check_value
from raysweep.statuses import ENDED, Status
from raysweep.tables.columns import SETTING, Column, Direction, TableSchema, in_words

if TYPE_CHECKING:
    import pandas as pd

_TEXT, _WHOLE, _REAL = pa.string(), pa.int64(), pa.float64()
_TIME = pa.timestamp("us", tz="UTC")
_PER_SAMPLE = "mean per training sample"
_STATUSES = f"{', '.join(f'`{word}`' for word in ENDED[:-1])} or `{ENDED[-1]}`"


def _arrow_type(annotation: Any) -> pa.DataType:
    if annotation is bool:
        return pa.bool_()
    if annotation is int:
        return _WHOLE
    if annotation is float:
        return _REAL
    return _TEXT


def _setting(name: str) -> Column:
    """Return the column of a setting; plots choose its axis by its values."""
    field = Config.model_fields[name]
    return Column(f"{SETTING}{name}", _arrow_type(field.annotation), field.description or "")


def _accuracy(name: str, description: str) -> Column:
    return Column(
        name, _REAL, description, better=Direction.HIGHER, bounds=(0.0, 1.0), is_metric=True
    )


def _difference(name: str, description: str, better: Direction) -> Column:
    """Return the column for a difference of accuracies."""
    return Column(name, _REAL, description, better=better, bounds=(-1.0, 1.0), is_metric=True)


def _loss(name: str, description: str) -> Column:
    return Column(
        name,
        _REAL,
        description,
        unit="nats",
        better=Direction.LOWER,
        is_log=True,
        is_metric=True,
    )


def _duration(name: str, description: str) -> Column:
    return Column(
        name, _REAL, description, unit="s", better=Direction.LOWER, is_log=True, is_metric=True
    )


_TRIALS = (
    Column("config_id", _TEXT, "Configuration: a hash of its settings as canonical JSON."),
    Column("status", _TEXT, f"{_STATUSES}; metrics are null unless {Status.FINISHED}."),
    _accuracy(
        "average_accuracy", "Mean test accuracy over all tasks, measured after the last task."
    ),
    _difference(
        "forgetting",
        "Best earlier minus final test accuracy, averaged over all tasks but the last (Chaudhry et"
        " al. 2018); null for one task and for joint training.",
        Direction.LOWER,
    ),
    _accuracy(
        "first_task_accuracy_initial",
        "Test accuracy on task 1 after task 1; null for joint training.",
    ),
    _accuracy("first_task_accuracy_final", "Test accuracy on task 1 after the last task."),
    _accuracy("last_task_accuracy", "Test accuracy on the last task after the last task."),
    _difference(
        "backward_transfer",
        "Final test accuracy minus the one right after learning the task, averaged over all tasks"
        " but the last (BWT of Lopez-Paz and Ranzato 2017); null for one task and for joint"
        " training.",
        Direction.HIGHER,
    ),
    _difference(
        "forward_transfer",
        "Test accuracy right before learning the task minus the one before any training, averaged"
        " over all tasks but the first (FWT of Lopez-Paz and Ranzato 2017); null for one task, for"
        " joint training, and if accuracy before training was not measured.",
        Direction.HIGHER,
    ),
    _accuracy(
        "learning_accuracy",
        "Test accuracy right after learning the task, averaged over all tasks (Riemer et al."
        " 2019); null for joint training.",
    ),
    _accuracy(
        "average_incremental_accuracy",
        "Mean test accuracy on the tasks learned so far, measured after each task and averaged over"
        " all tasks (Rebuffi et al. 2017); null for joint training.",
    ),
    _accuracy(
        "best_accuracy",
        "Largest test accuracy of any epoch in the last stage that trains a classifier (see"
        " `epochs`); optimistic, as it is selected on test samples, like the published single-task"
        " sweep.",
    ),
    Column("best_epoch", _WHOLE, "Epoch of `best_accuracy`, from 1; the first if several tie."),
    _loss(
        "reconstruction_loss",
        "Binary cross-entropy of the reconstruction of task 1 in the last epoch of training the"
        f" decoder (VIB) or the VAE, summed over pixels, {_PER_SAMPLE}; null if no stage learns to"
        " reconstruct.",
    ),
    Column(
        "replay_label_entropy",
        _REAL,
        "Mean entropy of the labels in the last replay buffer; null without replay.",
        unit="nats",
        better=Direction.LOWER,
        is_metric=True,
    ),
    Column("diverged_stage", _TEXT, "Stage in which training diverged; null unless diverged."),
    Column("diverged_epoch", _WHOLE, "Epoch of that stage in which it diverged, from 1."),
    Column(
        "diverged_step",
        _WHOLE,
        "Step of that stage at which it diverged, counted from 1 over all its epochs.",
    ),
    _loss(
        "last_finite_loss",
        "Last finite total loss of that stage, mean per sample; null if there was none.",
    ),
    Column(
        "stopped_rung",
        _WHOLE,
        "Classifier epochs, over all tasks, after which the configuration was stopped early; null"
        " unless stopped. `epochs` may have later ones, from a run that ended early.",
    ),
    Column("stopped_reason", _TEXT, "Why it was stopped early, in one line; null unless stopped."),
    Column("error", _TEXT, "Why the configuration failed, in one line; null unless failed."),
    Column("n_train_samples", _WHOLE, "Number of training samples of all tasks."),
    Column("n_test_samples", _WHOLE, "Number of test samples of all tasks."),
    Column(
        "weight_rec",
        _REAL,
        "Weight of the reconstruction loss in task 1, computed from beta_1.",
        is_metric=True,
    ),
    Column(
        "weight_kl",
        _REAL,
        "Weight of the KL term in task 1, computed from beta_1 and beta_2.",
        is_metric=True,
    ),
    _duration(
        "duration_s",
        "Training time charged to the configuration: each stage's time is divided equally among"
        " its lanes and the configurations that share a lane. Stages from the stage cache add"
        " nothing, as they were not trained again.",
    ),
    Column(
        "n_stored_stages",
        _WHOLE,
        "Number of the configuration's stages that were taken from the stage cache"
        " (`stage_cache: true`) instead of being run, including its own pack's after a lost"
        " worker; null if it failed.",
    ),
    Column("started_at", _TIME, "When the configuration's pack started.", unit="UTC"),
    Column("ended_at", _TIME, "When the configuration ended.", unit="UTC"),
    Column("host", _TEXT, "Host on which the configuration ended."),
    Column("device", _TEXT, "`cpu` or the name of the GPU."),
    Column("attempt", _WHOLE, "Attempt number: 1, or more after lost workers and failed runs."),
    Column(
        "n_epoch_rows",
        _WHOLE,
        "Number of rows that the configuration has in `epochs`, at least; if fewer are there, some"
        " were lost, and the next run trains it again. 0 if it failed; null in rows of version"
        " 0.3.0 and earlier.",
    ),
    Column("n_accuracy_rows", _WHOLE, "The same for its rows in `accuracy`."),
    Column("raysweep_version", _TEXT, "raysweep version in the worker."),
    Column("torch_version", _TEXT, "torch version in the worker."),
)

_EPOCHS = (
    Column("config_id", _TEXT, "Configuration, as in `trials`."),
    Column("stage", _TEXT, "Stage, such as `train_task_1` or `train_generator_1`."),
    Column("epoch", _WHOLE, "Epoch of the stage, from 1."),
    Column("task", _WHOLE, "Task whose data is new in the stage, from 1."),
    Column("n_steps", _WHOLE, "Training steps in the epoch."),
    Column("n_samples", _WHOLE, "New (not replayed) samples in the epoch."),
    _loss("loss", "Total weighted loss, mean per sample."),
    _loss("class_loss", f"Cross-entropy on new data, {_PER_SAMPLE}."),
    _loss("kl_loss", f"KL term on new data, unweighted, {_PER_SAMPLE}."),
    _loss(
        "rec_loss",
        f"Binary cross-entropy of the reconstruction, unweighted, summed over pixels,"
        f" {_PER_SAMPLE}; null if its weight is 0.",
    ),
    _loss("replay_class_loss", "Cross-entropy on replayed data, mean per replayed sample."),
    _loss("replay_kl_loss", "KL term on replayed data, unweighted, mean per replayed sample."),
    _loss(
        "replay_rec_loss",
        "Binary cross-entropy of the reconstruction of replayed data, unweighted, summed over"
        " pixels, mean per replayed sample; null except for a continual generator.",
    ),
    _accuracy("train_accuracy", "Share of correct predictions on new data during training."),
    _accuracy(
        "test_accuracy",
        "Test accuracy on the stage's task after the epoch; for joint training, the mean over"
        " tasks.",
    ),
    _accuracy(
        "average_accuracy",
        "Mean test accuracy over the tasks so far, including the current one; null unless"
        " `early_stopping` is set.",
    ),
    _duration(
        "duration_s",
        "Time of the epoch, divided among the configurations that share it; null if the stage was"
        " taken from the stage cache.",
    ),
)

_ACCURACY = (
    Column("config_id", _TEXT, "Configuration, as in `trials`."),
    Column(
        "after_task",
        _WHOLE,
        "Last task learned, from 1; 0 before any training; for joint training, the number of"
        " tasks.",
    ),
    Column("on_task", _WHOLE, "Task tested, from 1; may be a task not learned yet."),
    _accuracy("accuracy", "Test accuracy on `on_task` after learning `after_task`."),
)

TABLES: dict[str, TableSchema] = {
    "epochs": TableSchema("epochs", ("config_id", "stage", "epoch"), _EPOCHS),
    "accuracy": TableSchema("accuracy", ("config_id", "after_task", "on_task"), _ACCURACY),
    "trials": TableSchema(
        "trials",
        ("config_id",),
        (*_TRIALS[:2], *map(_setting, Config.model_fields), *_TRIALS[2:]),
    ),
}
"""The tables by name, in the order they are written: a row of ``trials`` comes last, after the
other rows of its configuration (``raysweep.tables.completeness`` counts these)."""

_BY_NAME = {column.name: column for table in TABLES.values() for column in table.columns}


def column_of(name: str) -> Column | None:
    """Return the declaration of a column of any table; None for the user's own columns.

    A column that several tables have shares unit, direction and axis; the description is that of
    ``trials``.
    """
    return _BY_NAME.get(name)


def setting_of(name: str) -> Column | None:
    """Return the column of a setting by its short or full name; None for anything else."""
    column = _BY_NAME.get(name) or _BY_NAME.get(SETTING + name)
    return column if column is not None and column.is_setting else None


def label_of(name: str) -> str:
    """Return the name of a column in words, without its unit: ``average accuracy``."""
    column = column_of(name)
    return column.label if column else in_words(name)


def unit_of(name: str) -> str:
    """Return the unit of a column; empty if it has none or is not in the tables."""
    column = column_of(name)
    return column.unit if column else ""


def config_columns(config: Config) -> dict[str, Any]:
    """Return the values that a configuration contributes to its row of ``trials``."""
    row: dict[str, Any] = {"config_id": config.id}
    for name in DECLARATIONS:
        value = config.applicable.get(name)  # null where it does not apply
        row[f"config/{name}"] = show_widths(value) if isinstance(value, tuple) else value
    row["weight_rec"], row["weight_kl"] = config.loss_weights
    return row


def config_of(row: "Mapping[Any, Any] | pd.Series[Any]") -> Config:
    """Rebuild the configuration of a row of ``trials``, the inverse of ``config_columns``.

    ``row`` maps columns to values: a dict, or a row of a DataFrame as a pandas Series. Settings
    that do not apply to the configuration are null; those newer than the row may be missing. Raise
    ``InputError`` if other settings are missing, for invalid values, and if the settings do not
    match ``config_id``.
    """
    config_id = row.get("config_id")
    where = f"configuration {config_id}"
    values = {}
    for name in DECLARATIONS:
        column = f"config/{name}"
        value = _plain(row.get(column))
        if value is not None:
            values[name] = check_value(name, _widths_or(name, value), f"{where}: {column}")
    try:
        config = Config(**values)
    except InputError as error:
        raise InputError(f"{where}: {error.mistakes[0]}") from None
    if config.id != config_id:
        missing = next((name for name in config.applicable if name not in values), None)
        if missing is not None:
            raise InputError(
                f"{where}: expected a value in the column config/{missing} of its row, found none; "
                f"read trials with raysweep.results.read_trials"
            )
        raise InputError(
            f"{where}: expected its own settings in its row of trials, found those of {config.id}; "
            f"was the table edited, or written by another version of raysweep?"
        )
    return config


def _plain(value: Any) -> Any:
    """Convert a table's value to a Python value; None for null."""
    value = value.item() if hasattr(value, "item") else value
    return None if str(value) in ("nan", "<NA>") else value  # no setting can be NaN


def _widths_or(name: str, value: Any) -> Any:
    """Parse widths written by ``show_widths``; return other settings' values unchanged."""
    if typing.get_origin(Config.model_fields[name].annotation) is not tuple:
        return value
    return str(value).split("-") if value else ()
