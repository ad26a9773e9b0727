"""The options of a run, and what it returns to its caller."""

from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from raysweep.tables.paths import ResultsPath


class ExitCode(IntEnum):
    """Exit codes of the command."""

    ENDED = 0
    SOME_FAILED = 1
    BAD_INPUT = 2
    INTERRUPTED = 3
    NOTHING_RAN = 4


@dataclass(frozen=True)
class Options:
    """How to run a search space; ``verbosity`` is -1 (quiet), 0 or 1.

    ``command`` is kept in the manifest; ``resume`` is the hint on how to continue, such as
    ``continue with: COMMAND``.
    """

    results: ResultsPath
    name: str
    is_fresh: bool
    limit: int | None
    address: str | None
    n_nodes: int | None
    wait_s: float
    is_without_token: bool
    data: Path | None
    verbosity: int
    command: tuple[str, ...]
    resume: str


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    ``summary`` has the best settings, counts and tables; ``message`` has one line on what is
    missing or failed and how to continue, empty if all is done. ``is_error`` means that the run
    stopped because of an error, ``is_interrupted`` that the user stopped it.
    """

    code: ExitCode
    summary: str = ""
    message: str = ""
    is_error: bool = False
    is_interrupted: bool = False
