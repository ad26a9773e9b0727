"""What is done in a sweep, and what is left to train."""

from collections.abc import Callable
from dataclasses import dataclass

from raysweep.learning.config import Config
from raysweep.settings.sweep import Sweep
from raysweep.statuses import Status
from raysweep.tables.paths import ResultsPath
from raysweep.tables.survey import Survey, survey


def stays(sweep: Sweep) -> frozenset[str]:
    """Return the statuses that a run leaves as they are.

    A configuration that stopped early counts as done as long as the sweep uses early stopping.
    """
    return frozenset(
        {Status.FINISHED, Status.DIVERGED} | ({Status.STOPPED} if sweep.early_stopping else set())
    )


@dataclass(frozen=True)
class Ledger:
    """What is done, from a look at the tables."""

    found: Survey

    @classmethod
    def of(cls, location: ResultsPath) -> "Ledger":
        """Return what is done in a folder; raise ``InputError`` like ``survey``."""
        return cls(survey(location))

    def status(self, config: Config) -> str:
        """Return a configuration's status, ``missing`` if it has no row or lacks other rows."""
        if config.id in self.found.lacking:
            return Status.MISSING
        return self.found.rows.get(config.id, (Status.MISSING, 0))[0]

    def attempts(self, config: Config) -> int:
        """Count the attempts so far."""
        return self.found.rows.get(config.id, (Status.MISSING, 0))[1]

    def say_lost(self, sweep: Sweep, say: Callable[[str], None]) -> None:
        """Report the lost rows of the sweep's configurations and stray files, a line each.

        A search has more configurations than are known before its rows are read.
        """
        ids = None if sweep.space else {config.id for config in sweep.configs}
        gaps = self.found.gap_note(ids)
        if gaps:
            say(f"note: {gaps}; they are trained again")
        if self.found.strays:
            say(f"note: {self.found.strays}")

    def ended(self, sweep: Sweep) -> list[Config]:
        """List the configurations that a run leaves as they are."""
        return [config for config in sweep.configs if self.status(config) in stays(sweep)]

    def failed(self, sweep: Sweep) -> set[str]:
        """Return the ids of the configurations that failed and should be retried."""
        return {config.id for config in sweep.configs if self.status(config) == Status.FAILED}

    def missing(self, sweep: Sweep) -> list[Config]:
        """List the configurations that need training."""
        done = {config.id for config in self.ended(sweep)}
        return [config for config in sweep.configs if config.id not in done]
