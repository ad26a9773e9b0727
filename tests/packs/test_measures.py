"""``accuracy_summary`` and ``best_epoch`` against matrices worked out by hand and plain loops."""

import random
from collections.abc import Sequence

import pytest

from raysweep.packs.rows import Record, accuracy_summary, best_epoch, trial_row
from raysweep.tables.schemas import TABLES

SEQUENTIAL = {
    "forgetting",
    "first_task_accuracy_initial",
    "backward_transfer",
    "forward_transfer",
    "learning_accuracy",
    "average_incremental_accuracy",
}


def by_plain_loops(matrix: Sequence[Sequence[float]], initial: Sequence[float]) -> dict[str, float]:
    """Compute every measure from its formula, with indices from 1 as in the papers."""
    n = len(matrix)

    def r(t: int, i: int) -> float:
        return matrix[t - 1][i - 1]

    sums = dict.fromkeys(("acc", "bwt", "fwt", "forgetting", "learning", "incremental"), 0.0)
    for i in range(1, n + 1):
        sums["acc"] += r(n, i)
        sums["learning"] += r(i, i)
        so_far = 0.0
        for j in range(1, i + 1):
            so_far += r(i, j)
        sums["incremental"] += so_far / i
        if i < n:
            sums["bwt"] += r(n, i) - r(i, i)
            best = -1.0
            for t in range(1, n):
                best = max(best, r(t, i))
            sums["forgetting"] += best - r(n, i)
        if i > 1:
            sums["fwt"] += r(i - 1, i) - initial[i - 1]
    return {
        "average_accuracy": sums["acc"] / n,
        "forgetting": sums["forgetting"] / (n - 1),
        "first_task_accuracy_initial": r(1, 1),
        "first_task_accuracy_final": r(n, 1),
        "last_task_accuracy": r(n, n),
        "backward_transfer": sums["bwt"] / (n - 1),
        "forward_transfer": sums["fwt"] / (n - 1),
        "learning_accuracy": sums["learning"] / n,
        "average_incremental_accuracy": sums["incremental"] / n,
    }


@pytest.mark.parametrize("seed", range(20))
def test_every_measure_is_its_formula_on_random_matrices(seed: int) -> None:
    random_ = random.Random(seed)
    n = random_.randint(2, 8)
    matrix = [[random_.random() for _ in range(n)] for _ in range(n)]
    initial = [random_.random() for _ in range(n)]
    assert accuracy_summary(matrix, initial) == pytest.approx(by_plain_loops(matrix, initial))


def test_two_tasks_give_the_mean_of_the_last_row_and_the_drop_on_the_first() -> None:
    summary = accuracy_summary([[0.9, 0.1], [0.7, 0.8]])
    assert summary == {
        "average_accuracy": pytest.approx(0.75),
        "forgetting": pytest.approx(0.2),
        "first_task_accuracy_initial": 0.9,
        "first_task_accuracy_final": 0.7,
        "last_task_accuracy": 0.8,
        "backward_transfer": pytest.approx(0.7 - 0.9),
        "forward_transfer": None,
        "learning_accuracy": pytest.approx((0.9 + 0.8) / 2),
        "average_incremental_accuracy": pytest.approx((0.9 + 0.75) / 2),
    }


def test_forgetting_counts_from_the_best_earlier_row_also_below_the_diagonal() -> None:
    # Task 1 was best after task 2 (0.95), not right after it was learned (0.9).
    matrix = [[0.9, 0.2, 0.1], [0.95, 0.8, 0.3], [0.6, 0.7, 0.85]]
    summary = accuracy_summary(matrix, initial=[0.5, 0.12, 0.08])
    assert summary == {
        "average_accuracy": pytest.approx((0.6 + 0.7 + 0.85) / 3),
        "forgetting": pytest.approx(((0.95 - 0.6) + (0.8 - 0.7)) / 2),
        "first_task_accuracy_initial": 0.9,
        "first_task_accuracy_final": 0.6,
        "last_task_accuracy": 0.85,
        "backward_transfer": pytest.approx(((0.6 - 0.9) + (0.7 - 0.8)) / 2),
        "forward_transfer": pytest.approx(((0.2 - 0.12) + (0.3 - 0.08)) / 2),
        "learning_accuracy": pytest.approx((0.9 + 0.8 + 0.85) / 3),
        "average_incremental_accuracy": pytest.approx(
            (0.9 + (0.95 + 0.8) / 2 + (0.6 + 0.7 + 0.85) / 3) / 3
        ),
    }


def test_forgetting_takes_the_best_row_also_before_the_task_was_learned() -> None:
    # Chaudhry et al. take the maximum over all rows t < T: task 2 was best before its own turn.
    summary = accuracy_summary([[0.9, 0.6, 0.1], [0.8, 0.5, 0.1], [0.8, 0.4, 0.7]])
    assert summary["forgetting"] == pytest.approx(((0.9 - 0.8) + (0.6 - 0.4)) / 2)


def test_forgetting_is_negative_where_later_tasks_help_an_earlier_one() -> None:
    # The last row is not among the maximum's, so a gain is not clipped to 0.
    summary = accuracy_summary([[0.5, 0.1], [0.75, 0.8]])
    assert summary["forgetting"] == pytest.approx(-0.25)


def test_one_task_has_neither_forgetting_nor_transfer() -> None:
    assert accuracy_summary([[0.9]], initial=[0.1]) == {
        "average_accuracy": 0.9,
        "forgetting": None,
        "first_task_accuracy_initial": 0.9,
        "first_task_accuracy_final": 0.9,
        "last_task_accuracy": 0.9,
        "backward_transfer": None,
        "forward_transfer": None,
        "learning_accuracy": 0.9,
        "average_incremental_accuracy": 0.9,
    }


def test_joint_training_has_no_measure_of_a_sequence() -> None:
    summary = accuracy_summary([[0.9, 0.8, 0.7]], initial=[0.1, 0.1, 0.1])
    assert {name for name, value in summary.items() if value is None} == SEQUENTIAL
    assert summary["average_accuracy"] == pytest.approx(0.8)
    assert summary["first_task_accuracy_final"] == 0.9
    assert summary["last_task_accuracy"] == 0.7


def test_best_epoch_is_the_earliest_of_equals() -> None:
    assert best_epoch([0.5, 0.9, 0.7, 0.9]) == {"best_accuracy": 0.9, "best_epoch": 2}
    assert best_epoch([0.0, 0.0]) == {"best_accuracy": 0.0, "best_epoch": 1}
    assert best_epoch(None) == {"best_accuracy": None, "best_epoch": None}


def test_a_trial_has_the_best_epoch_of_its_last_classifier() -> None:
    first = Record(accuracy=[0.9, 0.2], initial_accuracy=[0.1, 0.15], test_accuracy=[0.95, 0.9])
    buffer = Record(label_entropy=0.0)
    second = Record(accuracy=[0.6, 0.8], test_accuracy=[0.85, 0.8])
    generator = Record(rec_loss=100.0)
    row = trial_row([first, buffer, second, generator], None)
    assert (row["best_accuracy"], row["best_epoch"]) == (0.85, 1)
    assert row["last_task_accuracy"] == 0.8
    assert row["forward_transfer"] == pytest.approx(0.2 - 0.15)
    assert set(row) <= {column.name for column in TABLES["trials"].columns}


def test_a_trial_without_what_was_not_measured_has_null_there() -> None:
    row = trial_row([Record(accuracy=[0.9, 0.2]), Record(accuracy=[0.6, 0.8])], None)
    assert row["best_accuracy"] is row["best_epoch"] is row["forward_transfer"] is None
    assert row["backward_transfer"] == pytest.approx(-0.3)
