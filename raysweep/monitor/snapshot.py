"""The state of a sweep, read from its folder: tables, lock, and the driver's report."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from raysweep.errors import InputError
from raysweep.monitor.driver_report import STATUS_FILE, DriverReport
from raysweep.monitor.terminal import Snapshot, show_duration
from raysweep.settings.sweep import sweep_from
from raysweep.settings.yaml_nodes import MAX_BYTES
from raysweep.statuses import Status
from raysweep.tables.folder import read_runs, resume_command
from raysweep.tables.holders import WHOLE_S, Holder, HolderWatch
from raysweep.tables.json_files import read_limited
from raysweep.tables.paths import ResultsPath
from raysweep.tables.paused import partly_trained
from raysweep.tables.ranking import best_of, is_lower_better
from raysweep.tables.reader import read_trials
from raysweep.tables.survey import loss_notes

_RATE_S = 300.0
_FRESH_S = 60.0
"""A driver writes its report every few seconds; an older one is out of date."""
_MOST_ERRORS = 5
_FIRST_YEAR, _LAST_YEAR = 1971, 2261
"""Differences of times between these fit into nanoseconds, as pandas counts them."""


@dataclass(frozen=True)
class _Driver:
    """The holder of the folder; ``is_running`` is None if that cannot be determined from here."""

    holder: Holder | None
    is_running: bool | None
    report: DriverReport | None = None
    report_age_s: float = 0.0


@dataclass
class SweepStatus:
    """A view of a sweep's folder for repeated snapshots. Writes nothing and takes no lock.

    Raise ``InputError`` if the folder is not a sweep's, or cannot be read.
    """

    location: ResultsPath
    _sweep_yaml: bytes | None = None
    _ids: frozenset[str] | None = None
    _n_total: int | None = None
    _objective: tuple[str, str | None] = ("average_accuracy", None)
    _doubts: list[str] = field(default_factory=list)
    _seen: tuple[int, list[str]] | None = None
    _watch: HolderWatch | None = None

    @classmethod
    def at(cls, folder: str | Path | ResultsPath) -> "SweepStatus":
        """Return the status of the sweep in a folder, given by path or address."""
        return cls(ResultsPath.of(folder))

    def snapshot(self) -> Snapshot:
        """Return the current state of the sweep."""
        trials = read_trials(self.location)
        try:
            self._load_sweep()
            driver = self._driver()
        except OSError as error:
            reason = error.strerror or error
            raise InputError(f"{self.location}: expected to read it, got: {reason}") from None
        runs = read_runs(self.location)
        if self._ids is not None:
            n_others = len(trials)
            trials = trials[trials["config_id"].isin(self._ids)]
            n_others -= len(trials)
        else:
            n_others = 0
        last_run = runs[-1] if runs else {}
        snapshot = self._counted(trials, driver, last_run)
        losses = [] if driver.is_running else self._losses(len(trials))
        notes = [_who(driver, last_run), *_errors(trials), *losses, *self._doubts]
        if n_others:
            notes.append(f"{n_others} more rows are from earlier versions of the search space")
        if driver.is_running and driver.report and driver.report.dashboard:
            notes.append(f"Ray's dashboard: {driver.report.dashboard}")
        is_all = snapshot.n_total is not None and snapshot.n_ended >= snapshot.n_total
        is_left = not is_all or snapshot.counts.get(Status.FAILED)
        n_partly = len(partly_trained(self.location) - set(trials["config_id"]))
        if n_partly and not driver.is_running:
            notes.append(f"{n_partly} are partly trained and resume where they stopped")
        if is_left and not driver.is_running and last_run.get("command"):
            notes.append(f"continue with: {resume_command(last_run['command'])}")
        return replace(snapshot, notes=notes, losses=losses)

    def _losses(self, n_ended: int) -> list[str]:
        """Return lines about rows that are lost; look again only if configurations have ended."""
        if self._seen is None or self._seen[0] != n_ended:
            try:
                lines = loss_notes(self.location, self._ids)
            except InputError as error:
                lines = [str(error)]
            self._seen = n_ended, lines
        return self._seen[1]

    def _load_sweep(self) -> None:
        """Count the configurations to run, again if the search space has changed."""
        try:
            content = read_limited(self.location / "sweep.yaml", MAX_BYTES)
        except FileNotFoundError:
            self._ids, self._n_total = None, None
            self._doubts = ["no sweep.yaml: the number of configurations is unknown"]
            return
        except ValueError as error:
            self._ids, self._n_total, self._sweep_yaml = None, None, None
            self._doubts = [f"the number of configurations is unknown: sweep.yaml has {error}"]
            return
        if content == self._sweep_yaml:
            return
        self._sweep_yaml = content
        try:
            sweep = sweep_from("sweep.yaml", content)
            self._ids, self._doubts = frozenset(c.id for c in sweep.configs), []
            self._n_total = len(self._ids)
            self._objective = sweep.search.objective
            if sweep.space is not None:  # suggested configurations are not known in advance
                self._ids = None
                self._n_total = sweep.search.n_samples * len(sweep.space.seeds)
        except InputError as error:  # from another version, or damaged
            self._ids, self._n_total = None, None
            self._doubts = [f"the number of configurations is unknown: {error}"]

    def _driver(self) -> _Driver:
        if self._watch is None:
            self._watch = HolderWatch(self.location)
        holder = self._watch.look()
        if holder is None:
            return _Driver(None, False)
        file = self.location / STATUS_FILE
        try:
            report = DriverReport.from_bytes(read_limited(file))
            age_s = (datetime.now(UTC) - file.written_at()).total_seconds()
        except (OSError, ValueError):  # none, or something else of this name
            report, age_s = None, 0.0
        if report is not None and report.driver != holder.name:
            report = None  # from an earlier driver
        is_running = holder.is_alive
        if is_running is None and report is not None and -WHOLE_S <= age_s < _FRESH_S:
            is_running = True  # a report from the future would say that the clocks are apart
        return _Driver(holder, is_running, report, max(0.0, age_s))

    def _counted(
        self, trials: pd.DataFrame, driver: _Driver, last_run: Mapping[str, Any]
    ) -> Snapshot:
        counts = Counter(trials["status"].tolist())
        n_total, (metric, mode) = self._n_total, self._objective
        since = _time(last_run.get("start"))
        ended = trials["ended_at"].dropna()
        until = pd.Timestamp.now(UTC) if driver.is_running else _end(ended, last_run)
        elapsed_s = max(0.0, (until - since).total_seconds()) if since and until else 0.0
        snapshot = Snapshot(
            title=self.location.name,
            n_total=n_total,
            counts=counts,
            n_running=0,
            elapsed_s=elapsed_s,
            metric=metric,
            best=best_of(trials, metric, mode),
            history=_history(trials, since, metric, mode),
        )
        if since and until:
            window_s = min(elapsed_s, _RATE_S) if driver.is_running else elapsed_s
            n_lately = int((ended > until - pd.Timedelta(seconds=window_s)).sum())
            per_min = 60 * n_lately / window_s if n_lately and window_s else None
            snapshot = replace(snapshot, per_min=per_min)
        return _with_driver(snapshot, driver) if driver.is_running else snapshot


def _with_driver(snapshot: Snapshot, driver: _Driver) -> Snapshot:
    """Add the workers' state and the time left: the driver's estimate, or one from the rate."""
    n_left = max(0, (snapshot.n_total or 0) - snapshot.n_ended)
    left_s = 60 * n_left / snapshot.per_min if snapshot.per_min and snapshot.n_total else None
    report = driver.report
    if report is None or driver.report_age_s > _FRESH_S:
        return replace(snapshot, left_s=left_s)
    if report.left_s is not None:
        left_s = max(0.0, report.left_s - driver.report_age_s)
    return replace(
        snapshot,
        left_s=left_s,
        n_running=report.n_running,
        workers=[replace(w, heard_s=w.heard_s + driver.report_age_s) for w in report.workers],
    )


def _who(driver: _Driver, last_run: Mapping[str, Any]) -> str:
    """Describe whether a driver is running, and which one."""
    if driver.holder is None:
        return _last(last_run, "no driver is running")
    name = driver.holder.name
    if driver.is_running:
        since = _time(last_run.get("start"))
        line = f"running in {name}"
        line += f" since {since.astimezone():%Y-%m-%d %H:%M}" if since else ""
        if driver.report and driver.report_age_s > _FRESH_S:
            line += f"; last report {show_duration(driver.report_age_s)} ago"
        return line
    if driver.is_running is False and last_run.get("end"):  # it ended, although its lock is left
        return _last(last_run, "no driver is running")
    if driver.is_running is False:
        return f"no driver is running: {name} ended without releasing the folder"
    line = f"{name} holds the folder; it is not visible from here whether it still runs"
    if driver.report:
        line += f" (last report {show_duration(driver.report_age_s)} ago)"
    return line


def _last(last_run: Mapping[str, Any], text: str) -> str:
    end = _time(last_run.get("end"))
    return f"{text}; the last one ended {end.astimezone():%Y-%m-%d %H:%M}" if end else text


def _errors(trials: pd.DataFrame) -> list[str]:
    """Return the errors of failed configurations, the most frequent first."""
    failed = trials[trials["status"] == Status.FAILED]
    if failed.empty:
        return []
    groups = failed.fillna({"error": "no reason given"}).groupby("error")["config_id"]
    errors = sorted(groups, key=lambda item: -len(item[1]))
    lines = [
        f"{len(ids)} failed: {error}" if len(ids) > 1 else f"{ids.iloc[0]} failed: {error}"
        for error, ids in errors[:_MOST_ERRORS]
    ]
    if len(errors) > _MOST_ERRORS:
        n_more = sum(len(ids) for _, ids in errors[_MOST_ERRORS:])
        lines.append(f"{n_more} more failed with other errors (column error of trials)")
    return lines


def _history(
    trials: pd.DataFrame, since: datetime | None, metric: str, mode: str | None
) -> list[tuple[float, float]]:
    """Return the best values over time, as pairs of seconds in the last run and value."""
    if metric not in trials:  # from a damaged sweep.yaml
        return []
    rows = trials[trials["status"] == Status.FINISHED]
    rows = rows.dropna(subset=[metric, "ended_at"]).sort_values("ended_at")
    if rows.empty or since is None:
        return []
    seconds = (rows["ended_at"] - since).dt.total_seconds().clip(lower=0.0)
    values = rows[metric]
    best = values.cummin() if is_lower_better(metric, mode) else values.cummax()
    steps = pd.DataFrame({"seconds": seconds, "best": best}).drop_duplicates("best")
    # Values from earlier runs are shown at the start of this one.
    steps = steps.drop_duplicates("seconds", keep="last")
    return list(zip(steps["seconds"].tolist(), steps["best"].tolist(), strict=True))


def _end(ended: pd.Series, last_run: Mapping[str, Any]) -> datetime | None:
    """Return when a run ended, from the manifest or else from its last row."""
    return _time(last_run.get("end")) or (None if ended.empty else ended.max().to_pydatetime())


def _time(text: Any) -> datetime | None:
    try:
        time = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return None
    if not _FIRST_YEAR <= time.year <= _LAST_YEAR:
        return None
    return time if time.tzinfo else time.replace(tzinfo=UTC)
