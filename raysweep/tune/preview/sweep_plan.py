"""What a run would do now, as data: what ``--dry-run`` prints and ``raysweep.plan`` returns."""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd

from raysweep.clean_text import clean_lines
from raysweep.learning.config import Config
from raysweep.statuses import Status
from raysweep.tables.schemas import config_columns


@dataclass(frozen=True)
class SweepPlan:
    """What a run of a search space would do now, before anything is trained or written.

    Attributes:
        name: Name of the sweep's folder.
        n_configs: Distinct configurations of the search space, all seeds included; for a search,
            how many it will suggest.
        n_done: Number of them that a run leaves as they are.
        n_todo: Number that this run would train.
        n_partly_trained: Number of these that resume where an earlier run stopped.
        n_packs: Number of packs that these make.
        n_at_once: Number of packs that can train at once.
        n_stages: Stages that will be trained; None for a search, which has no packs yet.
        memory_bytes: Estimated memory of the largest pack, without torch itself.
        seconds: Estimated wall-clock seconds on this machine, Ray's start included; None if
            nothing could be measured.
        cpu_hours: Estimated CPU-hours, or None.
        gpu_hours: Estimated GPU-hours, or None.
        n_rows: Expected rows by table.
        table_bytes: Estimated size of the tables in bytes.
        text: All of this as ``--dry-run`` prints it.
    """

    name: str
    n_configs: int
    n_done: int
    n_todo: int
    n_partly_trained: int
    n_packs: int
    n_at_once: int
    n_stages: int | None
    memory_bytes: float
    seconds: float | None = None
    cpu_hours: float | None = None
    gpu_hours: float | None = None
    n_rows: Mapping[str, int] = field(default_factory=dict)
    table_bytes: int = 0
    text: str = field(default="", repr=False)
    _configs: Sequence[Config] = field(default=(), repr=False)
    _statuses: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __str__(self) -> str:
        return clean_lines(self.text)

    def _repr_html_(self) -> str:
        """Show in a notebook what ``--dry-run`` prints."""
        return f"<pre>{html.escape(str(self))}</pre>"

    @property
    def configs(self) -> pd.DataFrame:
        """Every configuration known in advance: its settings (``config/...``) and ``status``.

        ``status`` is ``missing`` for those without a row. A search suggests its configurations
        only while it runs: for a search, these are the configurations of earlier runs.
        """
        rows = [
            {"status": self._statuses.get(config.id, Status.MISSING), **config_columns(config)}
            for config in self._configs
        ]
        # A search that has yet to suggest has the columns, too.
        columns = None if rows else ["status", *config_columns(Config())]
        return pd.DataFrame(rows, columns=columns)
