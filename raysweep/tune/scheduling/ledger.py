"""What is done in a sweep, and what is left to train."""

from dataclasses import dataclass

from raysweep.learning.config import Config
from raysweep.settings.sweep import Sweep
from raysweep.statuses import Status


def stays(sweep: Sweep) -> frozenset[str]:
    """Return the statuses that a run leaves as they are.

    A configuration that stopped early counts as done as long as the sweep uses early stopping.
    """
    return frozenset(
        {Status.FINISHED, Status.DIVERGED} | ({Status.STOPPED} if sweep.early_stopping else set())
    )


@dataclass(frozen=True)
class Ledger:
    """What is done: the status and attempt count of each configuration that has a row."""

    rows: dict[str, tuple[str, int]]

    def status(self, config: Config) -> str:
        """Return a configuration's status, ``missing`` if it has no row."""
        return self.rows.get(config.id, (Status.MISSING, 0))[0]

    def attempts(self, config: Config) -> int:
        """Count the attempts so far."""
        return self.rows.get(config.id, (Status.MISSING, 0))[1]

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
