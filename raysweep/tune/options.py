"""What the command line says, and what the command tells its caller."""

from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from raysweep.tables.paths import ResultsPath


class ExitCode(IntEnum):
    """What the command tells its caller."""

    ENDED = 0
    SOME_FAILED = 1
    BAD_INPUT = 2
    INTERRUPTED = 3
    NOTHING_RAN = 4


@dataclass(frozen=True)
class Options:
    """The command line; ``verbosity`` is -1 (quiet), 0 or 1."""

    file: Path
    overrides: tuple[str, ...]
    results: ResultsPath
    name: str
    is_dry_run: bool
    is_fresh: bool
    limit: int | None
    address: str | None
    n_nodes: int | None
    wait_s: float
    max_configs: int
    is_without_token: bool
    data: Path | None
    verbosity: int
    command: tuple[str, ...]
