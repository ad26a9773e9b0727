"""How a run ended: the last lines of the command, and its exit code."""

import sys

from raysweep.settings.sweep import Sweep
from raysweep.tables.paths import ResultsPath
from raysweep.tables.reader import statuses
from raysweep.tune.options import ExitCode
from raysweep.tune.scheduling.budgets import ALIKE, End
from raysweep.tune.scheduling.ledger import Ledger


def exit_status(
    sweep: Sweep, location: ResultsPath, n_unasked: int, end: End, resume: str
) -> ExitCode:
    """Print what is missing or failed and how to resume; return the exit code.

    ``n_unasked`` counts the configurations that a search is still to suggest, ``end`` tells why
    the run ended early, if it did.
    """
    ledger = Ledger(statuses(location))
    n_failed = len(ledger.failed(sweep))
    n_missing = len(ledger.missing(sweep)) - n_failed + n_unasked
    logs = location / "logs"
    if end.common_error:
        print(
            f"error: {ALIKE} configurations in a row failed with one message: {end.common_error} "
            f"(see {logs}); {n_missing} are missing; mend it, then go on with: {resume}",
            file=sys.stderr,
        )
        return ExitCode.SOME_FAILED
    if n_missing:
        why = end.over or "interrupted"
        print(f"{why}: {n_missing} configurations are missing; go on with: {resume}")
        return ExitCode.INTERRUPTED
    if n_failed:
        print(f"{n_failed} failed, see {logs}; try them again with: {resume}")
        return ExitCode.SOME_FAILED
    return ExitCode.ENDED
