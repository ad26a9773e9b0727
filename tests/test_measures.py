"""``accuracy_summary`` against matrices worked out by hand."""

import pytest

from raysweep.pack import accuracy_summary


def test_two_tasks_give_the_mean_of_the_last_row_and_the_drop_on_the_first() -> None:
    summary = accuracy_summary([[0.9, 0.1], [0.7, 0.8]])
    assert summary == {
        "average_accuracy": pytest.approx(0.75),
        "forgetting": pytest.approx(0.2),
        "first_task_accuracy_initial": 0.9,
        "first_task_accuracy_final": 0.7,
        "last_task_accuracy": 0.8,
    }


def test_forgetting_counts_from_the_best_earlier_row_also_below_the_diagonal() -> None:
    # Task 1 was best after task 2 (0.95), not right after it was learned (0.9).
    summary = accuracy_summary([[0.9, 0.2, 0.1], [0.95, 0.8, 0.3], [0.6, 0.7, 0.85]])
    assert summary == {
        "average_accuracy": pytest.approx((0.6 + 0.7 + 0.85) / 3),
        "forgetting": pytest.approx(((0.95 - 0.6) + (0.8 - 0.7)) / 2),
        "first_task_accuracy_initial": 0.9,
        "first_task_accuracy_final": 0.6,
        "last_task_accuracy": 0.85,
    }


def test_forgetting_takes_the_best_row_also_before_the_task_was_learned() -> None:
    # Chaudhry et al. take the maximum over all rows t < T: task 2 was best before its own turn.
    summary = accuracy_summary([[0.9, 0.6, 0.1], [0.8, 0.5, 0.1], [0.8, 0.4, 0.7]])
    assert summary["forgetting"] == pytest.approx(((0.9 - 0.8) + (0.6 - 0.4)) / 2)


def test_forgetting_is_negative_where_later_tasks_help_an_earlier_one() -> None:
    # The last row is not among the maximum's, so a gain is not clipped to 0.
    summary = accuracy_summary([[0.5, 0.1], [0.75, 0.8]])
    assert summary["forgetting"] == pytest.approx(-0.25)


def test_one_task_has_no_forgetting() -> None:
    assert accuracy_summary([[0.9]]) == {
        "average_accuracy": 0.9,
        "forgetting": None,
        "first_task_accuracy_initial": 0.9,
        "first_task_accuracy_final": 0.9,
        "last_task_accuracy": 0.9,
    }
