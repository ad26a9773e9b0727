"""Readers of results: tables as pandas DataFrames, while a sweep runs and after.

    from raysweep.results import read_trials
    trials = read_trials("results/vib")

The readers return every acknowledged row, each key once.
"""

from raysweep.errors import InputError
from raysweep.tables.pareto import pareto_front, pareto_settings, read_pareto
from raysweep.tables.ranking import leaderboard, mean_over_seeds, metrics_of, varied_settings
from raysweep.tables.reader import read_accuracy, read_epochs, read_trials
from raysweep.tables.schemas import TABLES, config_of

__all__ = [
    "TABLES",
    "InputError",
    "config_of",
    "leaderboard",
    "mean_over_seeds",
    "metrics_of",
    "pareto_front",
    "pareto_settings",
    "read_accuracy",
    "read_epochs",
    "read_pareto",
    "read_trials",
    "varied_settings",
]
