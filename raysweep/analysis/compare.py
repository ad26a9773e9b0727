"""Compare two sweeps: settings that differ, and a metric where all other settings are equal.

    raysweep compare results/first results/second [--metric forgetting] [--by replay]
        [--ignore SETTING] [--where "lr < 0.1"] [--format csv] [--out table.csv]

Rows with the same settings and seed are paired, except for settings that are constant in each sweep
and differ between them (and those of --ignore). Differences are the second minus the first, of
pairs that finished in both; ci95 is the half-width of Student's 95 % interval of their mean. It
assumes that pairs are independent, although pairs of one seed share data and initial weights.
Configurations with the same id in both sweeps should have the same numbers; a warning reports those
that do not.

The text format shows everything; csv, json and markdown have the table of differences only.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import pandas as pd
import typer

from raysweep.analysis.command import Folders, Metric, Out, TableFormat, Where, give_table, run
from raysweep.analysis.sweeps import Sweeps, levels, short
from raysweep.analysis.sweeps import metric as known_metric
from raysweep.analysis.sweeps import setting as known_setting
from raysweep.errors import InputError
from raysweep.statuses import Status
from raysweep.tables.columns import SETTING
from raysweep.tables.ranking import in_texts, is_lower_better, mean_over_seeds, metrics_of
from raysweep.tables.schemas import TABLES, column_of
from raysweep.user_text.values import show_value

_SEED = f"{SETTING}seed"
_CIRCUMSTANCES = ("duration_s", "n_stored_stages", "attempt")
"""Numbers that may differ when a configuration is run again."""
_MOST_VALUES = 6


@dataclass(frozen=True)
class Pairs:
    """Rows of two sweeps side by side.

    ``rows`` has the settings of the first, ``config_id``, ``status`` and the metric as
    ``first`` and ``second`` (null unless finished), and ``difference``. ``keys`` are the settings
    that are equal in a pair; ``n_only_first`` and ``n_only_second`` count rows without a partner.
    """

    rows: pd.DataFrame
    keys: list[str]
    n_only_first: int
    n_only_second: int


def settings_that_differ(first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    """List settings whose values differ between two tables ``trials``.

    Columns: ``setting``, the values ``first`` and ``second`` (lists), and ``is_constant``: whether
    each table has only one value.
    """
    rows = []
    for column in first.columns:
        if column.startswith(SETTING) and column in second:
            ours, theirs = levels(first, column), levels(second, column)
            if ours != theirs:
                is_constant = len(ours) == len(theirs) == 1
                rows.append((short(column), ours, theirs, is_constant))
    return pd.DataFrame(rows, columns=["setting", "first", "second", "is_constant"])


def pair(
    first: pd.DataFrame, second: pd.DataFrame, metric: str, ignore: Sequence[str] = ()
) -> Pairs:
    """Pair rows of two tables ``trials`` by their settings and seed.

    Settings that are constant in each table but differ are ignored, and so are the columns
    ``ignore``. Raises ``InputError`` if the remaining settings do not identify a table's rows.
    """
    differ = settings_that_differ(first, second)
    constant = {SETTING + name for name in differ.loc[differ["is_constant"], "setting"]}
    left_out = (constant - {_SEED}) | {*ignore}
    settings = [c for c in first.columns if c.startswith(SETTING) and c in second]
    keys = [column for column in settings if column not in left_out]
    for trials in (first, second):
        if trials.duplicated(keys).any():
            raise InputError(
                f"--ignore: expected settings without which configurations of one sweep still "
                f"differ, got {', '.join(map(short, ignore))}; narrow the sweep with --where"
            )
    values = ["config_id", "status", metric]
    ours, theirs = first[[*settings, *values]].copy(), second[[*keys, *values]].copy()
    for side in (ours, theirs):
        side[metric] = side[metric].where(side["status"] == Status.FINISHED)
    rows = ours.merge(theirs, on=keys, suffixes=("_first", "_second"))
    rows = rows.rename(columns={f"{metric}_first": "first", f"{metric}_second": "second"})
    rows["difference"] = rows["second"] - rows["first"]
    return Pairs(rows, keys, len(first) - len(rows), len(second) - len(rows))


def paired_differences(pairs: Pairs, metric: str, by: Sequence[str] = ()) -> pd.DataFrame:
    """Summarise the differences of a metric by groups of settings, and overall in the last row.

    Columns: those in ``by`` under their short names (null overall), the means ``first`` and
    ``second`` and their ``difference`` with ``ci95`` (null for one pair), ``n_pairs`` that finished
    in both, and ``n_better``, the number of them in which the second is better.
    """
    done = pairs.rows.dropna(subset=["difference"]).assign(status=Status.FINISHED, _all=True)
    better = done["difference"] < 0 if is_lower_better(metric) else done["difference"] > 0
    done = done.assign(_better=better)
    parts = []
    for columns in ([[*by]] if by else []) + [["_all"]]:
        table = mean_over_seeds(done, "difference", columns)
        means = done.groupby(columns, dropna=False, sort=False).agg(
            first=("first", "mean"), second=("second", "mean"), n_better=("_better", "sum")
        )
        table = table.merge(means.reset_index(), on=columns).sort_values(columns, kind="stable")
        parts.append(table.drop(columns="_all", errors="ignore"))
    whole = pd.concat(parts, ignore_index=True) if by else parts[0]
    whole = whole.rename(columns={"mean": "difference", "n_finished": "n_pairs"})
    kept = [*by, "first", "second", "difference", "ci95", "n_pairs", "n_better"]
    return whole[kept].rename(columns={column: short(column) for column in by})


def status_changes(pairs: Pairs) -> pd.DataFrame:
    """Count pairs by their status in the first and the second sweep, most frequent first."""
    columns = {"status_first": "first", "status_second": "second"}
    counts = pairs.rows[[*columns]].rename(columns=columns).value_counts(sort=False)
    table = counts.rename("n").reset_index()
    return table.sort_values(["n", "first", "second"], ascending=[False, True, True])


def unequal(first: pd.DataFrame, second: pd.DataFrame) -> tuple[int, pd.DataFrame]:
    """Compare configurations with the same id in both tables: count them and list differences.

    Columns: ``config_id``, ``column``, and its value in the ``first`` and the ``second``. Status
    and numbers are compared, but not settings and circumstances.
    """
    columns = ["status", *(name for name in _outcomes(first) if name in second)]
    both = first.merge(second, on="config_id", suffixes=("_first", "_second"))
    parts = []
    for column in columns:
        ours, theirs = both[f"{column}_first"], both[f"{column}_second"]
        is_same = (ours == theirs) | (ours.isna() & theirs.isna())
        found = both[~is_same.astype(bool)]
        values = {"first": found[f"{column}_first"], "second": found[f"{column}_second"]}
        part = {"config_id": found["config_id"], "column": column, **values}
        parts.append(pd.DataFrame(part).astype(dict.fromkeys(values, object)))
    table = pd.concat(parts).sort_values("config_id", kind="stable", ignore_index=True)
    return len(both), table


def _outcomes(trials: pd.DataFrame) -> list[str]:
    declared = [column.name for column in TABLES["trials"].columns if column.is_number]
    own = [name for name in metrics_of(trials) if column_of(name) is None]
    return [
        name
        for name in trials.columns
        if name in (*declared, *own) and name not in _CIRCUMSTANCES and not name.startswith(SETTING)
    ]


def _tell(
    names: Sequence[str], tables: Sequence[pd.DataFrame], pairs: Pairs, metric: str
) -> list[str]:
    """Describe what the table of differences compares."""
    first, second = tables
    differ = settings_that_differ(first, second)
    lines = [
        f"first:  {names[0]} ({len(first)} configurations)",
        f"second: {names[1]} ({len(second)} configurations)",
        "",
    ]
    if differ.empty:
        lines.append("all settings have the same values")
    else:
        shown = differ.assign(
            first=differ["first"].map(_values), second=differ["second"].map(_values)
        )
        lines += ["settings that differ", _table(shown[["setting", "first", "second"]])]
    ignored = [short(c) for c in first.columns if c.startswith(SETTING) and c not in pairs.keys]
    but = f" except {', '.join(ignored)}" if ignored else ""
    lines += [
        "",
        f"pairs with equal settings{but}: {len(pairs.rows)}; without a partner: "
        f"{pairs.n_only_first} of the first, {pairs.n_only_second} of the second",
    ]
    for n, before, after in status_changes(pairs)[["n", "first", "second"]].to_numpy().tolist():
        lines.append(f"  {n} {before}" + (" in both" if before == after else f", then {after}"))
    return [*lines, *_identity(first, second, metric)]


def _identity(first: pd.DataFrame, second: pd.DataFrame, metric: str) -> list[str]:
    n, found = unequal(first, second)
    if not n:
        return []
    if found.empty:
        return [f"{n} configurations are in both, with identical numbers"]
    n_found = found["config_id"].nunique()
    of_metric = found[found["column"] == metric]
    row = (found if of_metric.empty else of_metric).iloc[0]
    return [
        f"warning: {n} configurations are in both, {n_found} of them with different numbers, "
        f"such as {row['config_id']}: {row['column']} {show_value(row['first'])}, then "
        f"{show_value(row['second'])}; did the machine, versions or data folder change?"
    ]


def _values(values: Sequence[object]) -> str:
    texts = [show_value(value) or "(none)" for value in values]
    more = [f"... ({len(texts)})"] if len(texts) > _MOST_VALUES else []
    return ", ".join([*texts[:_MOST_VALUES], *more])


def _table(frame: pd.DataFrame) -> str:
    """Format a table with its texts aligned left, indented by two."""
    widths = [max(map(len, [name, *frame[name]])) for name in frame]
    rows = [list(frame.columns), *frame.itertuples(index=False)]
    return "\n".join(
        "  " + "  ".join(f"{text:<{w}}" for text, w in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _layout(frame: pd.DataFrame, by: Sequence[str]) -> str:
    shown = in_texts(frame, ["first", "second", "difference", "ci95"])
    if by:
        shown.loc[shown.index[-1], [*by]] = ["all", *[""] * (len(by) - 1)]
    return shown.to_string(index=False)


def _no_pairs(pairs: Pairs, metric: str, differ: pd.DataFrame) -> str:
    if pairs.rows.empty:
        grids = differ.loc[~differ["is_constant"], "setting"].tolist()
        hint = (
            f"; values differ in {', '.join(grids)}: --ignore leaves a setting out" if grids else ""
        )
        return f"expected configurations with the same settings and seed in both, found none{hint}"
    return f"expected pairs with {metric} in both, found none of {len(pairs.rows)}"


def show(
    folders: Folders,
    metric: Metric = "average_accuracy",
    by: Annotated[
        list[str] | None, typer.Option(help="Group pairs by the values of this setting.")
    ] = None,
    ignore: Annotated[
        list[str] | None, typer.Option(help="A setting that pairs may differ in.")
    ] = None,
    where: Where = None,
    table_format: TableFormat = None,
    out: Out = None,
) -> None:
    """Compare two sweeps: settings that differ, and paired differences of a metric."""
    sweeps = Sweeps(folders, where)
    if len(sweeps.names) != 2 or len({str(location) for location in sweeps.places}) != 2:
        raise InputError(f"expected the folders of two sweeps, got {', '.join(folders)}")
    trials = sweeps.trials
    first, second = (trials[trials["sweep"] == n].reset_index(drop=True) for n in sweeps.names)
    for name, table in zip(sweeps.names, (first, second), strict=True):
        if table.empty:
            raise InputError(f"{name}: expected configurations that have ended, found none")
    columns = [known_setting(trials, name) for name in by or []]
    left_out = [known_setting(trials, name) for name in ignore or []]
    pairs = pair(first, second, known_metric(trials, metric), left_out)
    if "sweep" in columns or not {*columns} <= {*pairs.rows.columns}:
        raise InputError("--by: expected a setting of pairs, got sweep, which pairs compare")
    differences = paired_differences(pairs, metric, columns)
    if differences.empty:
        raise InputError(_no_pairs(pairs, metric, settings_that_differ(first, second)))

    def as_text(frame: pd.DataFrame) -> str:
        head = _tell(sweeps.names, (first, second), pairs, metric)
        title = f"{metric}, the second minus the first"
        return "\n".join([*head, "", title, _layout(frame, [short(column) for column in columns])])

    give_table(differences, out, table_format, as_text)


if __name__ == "__main__":
    run(show)
