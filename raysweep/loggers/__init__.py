"""Logging configurations in other tools: a run for each, through those tools' own clients."""

from raysweep.loggers.keeper import FOLDER, LogKeeper, check_installed
from raysweep.loggers.runs import LoggedRun, Logger, run_of

__all__ = ["FOLDER", "LogKeeper", "LoggedRun", "Logger", "check_installed", "run_of"]
