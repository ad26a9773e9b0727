"""Results: table schemas, the atomic writer, and readers that give pandas DataFrames.

    from raysweep.results import read_trials
    trials = read_trials("results/vib")

The readers work while a sweep runs: they see every row that was acknowledged, each key once.
"""

from raysweep.results.folder import (
    ResultsFolder,
    WriteError,
    check_name,
    read_runs,
    resume_command,
)
from raysweep.results.leaderboard import (
    LOWER_IS_BETTER,
    SETTING,
    best_of,
    format_leaderboard,
    half_width_in_sd,
    is_lower_better,
    leaderboard,
    mean_over_seeds,
    metrics_of,
    ranked,
    varied_settings,
)
from raysweep.results.locks import Holder, find_holder, this_process
from raysweep.results.pareto import (
    format_best,
    format_pareto,
    pareto_front,
    pareto_leaderboard,
    pareto_settings,
    read_pareto,
    write_pareto,
)
from raysweep.results.places import Place
from raysweep.results.reader import read_accuracy, read_epochs, read_trials, statuses
from raysweep.results.schema import TABLES, Column, TableSchema, config_columns, config_of
from raysweep.results.writer import Writer
from raysweep.settings import InputError, near

__all__ = [
    "LOWER_IS_BETTER",
    "SETTING",
    "TABLES",
    "Column",
    "Holder",
    "InputError",
    "Place",
    "ResultsFolder",
    "TableSchema",
    "WriteError",
    "Writer",
    "best_of",
    "check_name",
    "config_columns",
    "config_of",
    "find_holder",
    "format_best",
    "format_leaderboard",
    "format_pareto",
    "half_width_in_sd",
    "is_lower_better",
    "leaderboard",
    "mean_over_seeds",
    "metrics_of",
    "near",
    "pareto_front",
    "pareto_leaderboard",
    "pareto_settings",
    "ranked",
    "read_accuracy",
    "read_epochs",
    "read_pareto",
    "read_runs",
    "read_trials",
    "resume_command",
    "statuses",
    "this_process",
    "varied_settings",
    "write_pareto",
]
