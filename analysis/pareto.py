"""The Pareto front of several objectives."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from raysweep.results import LOWER_IS_BETTER, InputError


def is_lower_better(objective: str) -> bool:
    """Tell the direction of a metric: losses, forgetting, entropy and durations are minimised."""
    return objective in LOWER_IS_BETTER or objective.endswith("loss")


def pareto_front(frame: pd.DataFrame, objectives: Sequence[str]) -> pd.DataFrame:
    """Give the rows that no other row beats: at least as good in all objectives, better in one.

    ``objectives`` are columns of numbers; those of ``LOWER_IS_BETTER``, losses and durations are
    minimised, others maximised. Rows that tie are all kept; one with a null is never on the front.
    Index and order are those of ``frame``. Raises ``InputError`` for no objective, an unknown
    column and one that is not of numbers.
    """
    if not objectives:
        raise InputError("objectives: expected at least one column, got none")
    for name in objectives:
        if name not in frame or frame[name].dtype.kind not in "fiu":
            raise InputError(f"objectives: expected columns of numbers, got {name!r}")
    signs = [1.0 if is_lower_better(name) else -1.0 for name in objectives]
    costs = frame[[*objectives]].to_numpy(dtype=float, na_value=np.nan) * signs
    candidates = np.flatnonzero(~np.isnan(costs).any(axis=1))
    # Each row in turn takes away all that it beats, so few rows are left to compare after some.
    costs, i = costs[candidates], 0
    while i < len(candidates):
        is_kept = (costs < costs[i]).any(axis=1) | (costs == costs[i]).all(axis=1)
        i = int(is_kept[:i].sum()) + 1
        candidates, costs = candidates[is_kept], costs[is_kept]
    return frame.iloc[candidates]
