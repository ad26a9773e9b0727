"""How a run ended: its last line and its exit code."""

from raysweep.settings.sweep import Sweep
from raysweep.tables.paths import ResultsPath
from raysweep.tune.options import ExitCode, Outcome
from raysweep.tune.scheduling.budgets import ALIKE, End
from raysweep.tune.scheduling.ledger import Ledger


def exit_status(
    sweep: Sweep,
    location: ResultsPath,
    *,
    ledger: Ledger,
    n_unasked: int,
    n_paused: int,
    end: End,
    resume: str,
) -> Outcome:
    """Return how a run ended: what is missing or failed, how to continue, and the exit code.

    ``ledger`` is what was done at the end.
    ``n_unasked`` counts the configurations that a search has yet to suggest, ``n_paused`` those
    that are partly trained; ``end`` is why the run ended early, if it did.
    """
    n_failed = len(ledger.failed(sweep))
    n_missing = len(ledger.missing(sweep)) - n_failed + n_unasked
    logs = location / "logs"
    if end.common_error:
        message = (
            f"{ALIKE} configurations in a row failed with the same error: {end.common_error} "
            f"(see {logs}); {n_missing} are missing; fix it, then {resume}"
        )
        return Outcome(ExitCode.SOME_FAILED, message=message, is_error=True)
    if n_missing:
        why = end.over or "interrupted"
        partly = f", {n_paused} of them partly trained" if n_paused else ""
        message = f"{why}: {n_missing} configurations are missing{partly}; {resume}"
        return Outcome(ExitCode.INTERRUPTED, message=message, is_interrupted=end.over is None)
    if n_failed:
        message = f"{n_failed} failed, see {logs}; to retry them, {resume}"
        return Outcome(ExitCode.SOME_FAILED, message=message)
    return Outcome(ExitCode.ENDED)
