"""Hints at the metric that was meant, wherever a metric is named."""

from dataclasses import replace

import pandas as pd
import pytest

from raysweep.analysis.sweeps import metric as known_metric
from raysweep.errors import InputError
from raysweep.settings.sampling import Search
from raysweep.tables.ranking import check_metric
from raysweep.tables.schemas import TABLES
from raysweep.tune.search.suggestions import modes_of
from raysweep.user_text.metric_hints import metric_hint

METRICS = [column.name for column in TABLES["trials"].columns if column.is_metric]
TRIALS = pd.DataFrame({name: [0.5] for name in METRICS})


@pytest.mark.parametrize(
    "name",
    [
        *("accuracy", "acc", "test_accuracy", "test_acc", "val_accuracy", "final_accuracy"),
        *("mean_accuracy", "Accuracy", "test accuracy", "val/acc"),
    ],
)
def test_an_accuracy_of_other_programs_is_the_mean_over_the_tasks(name: str) -> None:
    assert metric_hint(name, METRICS) == " (did you mean average_accuracy?)"


@pytest.mark.parametrize("name", ["loss", "val_loss", "test_loss"])
def test_for_a_loss_the_metrics_are_listed(name: str) -> None:
    assert metric_hint(name, METRICS) == f"; known: {', '.join(METRICS)}"


@pytest.mark.parametrize(
    ("name", "is_meant"), [("best_acuracy", True), ("bst_accuracy", False), ("testaccuracy", False)]
)
def test_the_best_epoch_is_meant_only_by_a_name_that_says_so(name: str, is_meant: bool) -> None:
    assert ("did you mean best_accuracy" in metric_hint(name, METRICS)) == is_meant


def test_other_names_get_the_one_of_similar_spelling() -> None:
    assert metric_hint("forgeting", METRICS) == " (did you mean forgetting?)"


def test_in_a_table_of_epochs_a_test_accuracy_is_one() -> None:
    known = ["loss", "test_accuracy", "average_accuracy"]
    assert metric_hint("test_acc", known) == " (did you mean test_accuracy?)"
    assert metric_hint("acc", known) == " (did you mean average_accuracy?)"


def test_every_check_of_a_metric_has_the_hint() -> None:
    hint = r"got 'acc' \(did you mean average_accuracy\?\)"
    with pytest.raises(InputError, match=hint):
        known_metric(TRIALS, "acc")
    with pytest.raises(InputError, match=hint):
        check_metric(TRIALS, "acc")
    pytest.importorskip("optuna")
    with pytest.raises(InputError, match=f"search.metric: expected a metric of trials, {hint}"):
        modes_of(replace(Search(), method="optuna", n_samples=1, metrics=("acc",)))
