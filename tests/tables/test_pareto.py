"""The Pareto front: against its definition, and in the cases that are easy to get wrong."""

import numpy as np
import pandas as pd
import pytest

from raysweep.errors import InputError
from raysweep.tables.pareto import pareto_front


def front(rows: dict[str, list[float | None]], *objectives: str) -> list[int]:
    frame = pd.DataFrame({name: pd.Series(column, dtype=float) for name, column in rows.items()})
    return pareto_front(frame, objectives or list(rows)).index.tolist()


def test_a_front_of_two_objectives_in_their_directions() -> None:
    rows: dict[str, list[float | None]] = {
        "average_accuracy": [0.9, 0.8, 0.7, 0.8, 0.95],
        "forgetting": [0.2, 0.1, 0.3, 0.15, 0.5],
    }
    assert front(rows) == [0, 1, 4]


def test_one_objective_gives_its_best_rows() -> None:
    assert front({"forgetting": [0.2, 0.1, 0.1, 0.3]}) == [1, 2]
    assert front({"average_accuracy": [0.2, 0.1, 0.3]}) == [2]


def test_rows_that_tie_in_all_objectives_are_all_kept() -> None:
    rows: dict[str, list[float | None]] = {
        "average_accuracy": [0.9, 0.9, 0.9],
        "forgetting": [0.1, 0.1, 0.2],
    }
    assert front(rows) == [0, 1]


def test_a_row_with_a_null_is_never_on_the_front() -> None:
    rows: dict[str, list[float | None]] = {
        "average_accuracy": [0.99, 0.5, None],
        "forgetting": [None, 0.4, 0.0],
    }
    assert front(rows) == [1]
    assert front({"average_accuracy": [None, None]}) == []


@pytest.mark.parametrize("n_objectives", [2, 3, 4])
def test_the_front_is_what_the_definition_says(n_objectives: int) -> None:
    names = ["average_accuracy", "forgetting", "reconstruction_loss", "learning_accuracy"]
    # Few different values, so that rows tie in some objectives and in all.
    values = np.random.default_rng(0).integers(0, 6, (300, n_objectives)).astype(float)
    frame = pd.DataFrame(values, columns=names[:n_objectives]).set_index(np.arange(300) * 2 + 7)
    signs = np.array([-1, 1, 1, -1])[:n_objectives]
    costs = values * signs
    expected = [
        index
        for index, row in zip(frame.index, costs, strict=True)
        if not any((other <= row).all() and (other < row).any() for other in costs)
    ]
    found = pareto_front(frame, names[:n_objectives])
    assert found.index.tolist() == expected
    pd.testing.assert_frame_equal(found, frame.loc[expected])


def test_columns_that_are_no_numbers_are_refused() -> None:
    frame = pd.DataFrame({"average_accuracy": [0.5], "status": ["finished"]})
    with pytest.raises(InputError, match="got 'status'"):
        pareto_front(frame, ["average_accuracy", "status"])
    with pytest.raises(InputError, match="got 'accuracy'"):
        pareto_front(frame, ["accuracy"])
    with pytest.raises(InputError, match="at least one"):
        pareto_front(frame, [])
