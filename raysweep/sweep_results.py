"""The results of one sweep, as an object for notebooks and scripts."""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path

import pandas as pd

from raysweep import arguments
from raysweep.analysis.leaderboard import DEFAULT_METRIC, rank
from raysweep.analysis.report.page import report_page
from raysweep.analysis.sweeps import Sweeps
from raysweep.arguments import in_python_words
from raysweep.clean_text import clean_line
from raysweep.errors import InputError
from raysweep.monitor.snapshot import SweepStatus
from raysweep.monitor.terminal import Snapshot
from raysweep.settings.sweep import Sweep, sweep_from
from raysweep.settings.yaml_nodes import MAX_BYTES
from raysweep.statuses import Status
from raysweep.tables.json_files import read_limited
from raysweep.tables.paths import ResultsPath
from raysweep.tables.reader import read_accuracy, read_epochs, read_trials
from raysweep.tune.scheduling.ledger import stays
from raysweep.tune.search.suggestions import known_of
from raysweep.user_text.values import NULL_TEXT

_SHOWN = 5


class SweepResults:
    """The results of a sweep: finished, interrupted or running.

    Each access to a table reads it from the folder, so tables grow while the sweep runs; keep one
    in a variable to work on it. They hold the configurations of the search space as it was last
    run, without rows from earlier versions (``raysweep.results.read_trials`` returns all).

    Examples:
        >>> sweep = raysweep.load("results/small")
        >>> sweep.trials["status"].value_counts().to_dict()
        {'finished': 12}
        >>> best = sweep.leaderboard("forgetting", n=3)
        >>> list(best.columns)[:4]
        ['mean', 'sd', 'ci95', 'seeds']
        >>> len(sweep.failed)
        0
    """

    def __init__(self, location: ResultsPath, data: Path | None = None) -> None:
        self._location = location
        self._data = data
        self._read: tuple[bytes, Sweep] | None = None
        self._status = SweepStatus.at(location)

    @property
    def folder(self) -> Path | str:
        """The sweep's folder: a path, or a URL in an object store."""
        return self._location.local or str(self._location)

    @property
    @in_python_words()
    def trials(self) -> pd.DataFrame:
        """One row per configuration that has ended (docs: Tables)."""
        return self._current(read_trials(self._location))

    @property
    @in_python_words()
    def epochs(self) -> pd.DataFrame:
        """One row per configuration, stage and epoch."""
        return self._current(read_epochs(self._location))

    @property
    @in_python_words()
    def accuracy(self) -> pd.DataFrame:
        """One row per configuration, task learned and task tested."""
        return self._current(read_accuracy(self._location))

    @property
    @in_python_words()
    def failed(self) -> pd.DataFrame:
        """The rows of ``trials`` that failed, with the reason in ``error``.

        Diverged configurations did not fail. The next run retries failed ones.
        """
        trials = self.trials
        return trials[trials["status"] == Status.FAILED].reset_index(drop=True)

    @property
    @in_python_words()
    def status(self) -> Snapshot:
        """The sweep's progress; ``print(sweep.status)`` shows what ``raysweep status`` does."""
        return self._status.snapshot()

    @in_python_words()
    def leaderboard(
        self,
        metric: str | Sequence[str] = DEFAULT_METRIC,
        n: int = 10,
        *,
        mode: str | Sequence[str] | None = None,
        where: str | None = None,
    ) -> pd.DataFrame:
        """Rank settings by their mean over seeds; for several metrics, return the Pareto front.

        Args:
            metric: A metric of ``trials``, or several.
            n: Largest number of rows to return.
            mode: ``"max"`` or ``"min"`` for each metric; by default its usual mode.
            where: Only rows that meet a condition such as ``"lr < 0.1"`` (docs: Commands).

        Returns:
            For one metric ``mean``, ``sd``, ``ci95`` (half-width of Student's 95 % interval of
            the mean over seeds; null for one seed), ``seeds`` (finished / all) and the settings
            that differ between rows.

        Raises:
            InputError: An unknown metric or setting, or no row to rank.
        """
        metrics = arguments.words("metric", metric)
        modes = None if mode is None else arguments.words("mode", mode)
        n = arguments.whole_number("n", n)
        trials = Sweeps([self._location], where, self._ids()).trials
        return rank(trials, metrics, modes, n).drop(columns="sweep", errors="ignore")

    @in_python_words()
    def report(
        self,
        file: str | PathLike[str] | None = None,
        *,
        metric: str = DEFAULT_METRIC,
        n_samples: int = 3,
        where: str | None = None,
    ) -> Path:
        """Write a report: one self-contained HTML file.

        Args:
            file: File to write; by default ``NAME.html`` in the current folder.
            metric: The metric to show first.
            n_samples: Show replayed images of this many of the best configurations.
            where: Only rows that meet a condition.

        Returns:
            The file's path.

        Raises:
            InputError: An unknown metric, no row to show, or a file that can't be written.
        """
        n_samples = arguments.whole_number("n_samples", n_samples, least=0)
        path = Path(f"{self._location.name}.html")
        if file is not None:
            path = arguments.path("file", file, "file to write")
        sweeps = Sweeps([self._location], where, self._ids())
        page = report_page(sweeps, metric, n_samples, self._data)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(page, encoding="utf-8")
        except OSError as error:
            reason = error.strerror or error
            raise InputError(f"{path}: expected a file to write, got: {reason}") from None
        return path

    def __repr__(self) -> str:
        try:
            counts = f": {_counts(self.status)}"
        except InputError:
            counts = ""
        return clean_line(f"<SweepResults {self.folder}{counts}>")

    def _repr_html_(self) -> str | None:
        """Show counts and the best settings in a notebook."""
        try:
            counts = _counts(self.status)
            metric, _ = self._sweep().search.objective
            best = self.leaderboard(metric, _SHOWN).rename(columns={"mean": metric})
        except InputError:
            return None
        title = pd.Series([clean_line(f"{self.folder}: {counts}")]).to_frame()
        head = title.to_html(header=False, index=False, border=0)
        return head + best.to_html(index=False, float_format="{:.4g}".format, na_rep=NULL_TEXT)

    def _sweep(self) -> Sweep:
        """Return the search space as last run."""
        file = self._location / "sweep.yaml"
        try:
            content = read_limited(file, MAX_BYTES)
        except (OSError, ValueError) as error:
            reason = (error.strerror if isinstance(error, OSError) else error) or "no such file"
            raise InputError(
                f"{file}: expected the search space of a sweep, got: {reason}; "
                f"raysweep.results.read_trials reads the tables without it"
            ) from None
        if self._read is None or self._read[0] != content:
            self._read = content, sweep_from(str(file), content)
        return self._read[1]

    def _ids(self) -> frozenset[str]:
        sweep = self._sweep()
        configs: Sequence[object] = sweep.configs
        if sweep.space is not None:
            known = known_of(self._location, sweep.space, False, stays(sweep))
            configs = known.configs(sweep.space)
        return frozenset(config.id for config in configs)  # type: ignore[attr-defined]

    def _current(self, frame: pd.DataFrame) -> pd.DataFrame:
        return frame[frame["config_id"].isin(self._ids())].reset_index(drop=True)


def _counts(status: Snapshot) -> str:
    counts = [f"{n} {name}" for name, n in status.parts.items() if n]
    return ", ".join(counts) or "nothing has ended yet"
