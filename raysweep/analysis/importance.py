"""Show which settings matter for a metric: permutation importance of a random forest.

    raysweep importance results/vib [--metric forgetting] [--where "replay != 'none'"]
        [--format csv] [--out table.csv] [--figure importance.png]

A forest learns the metric from the settings that differ, on four fifths of their combinations, and
predicts it for the rest; all seeds of a combination are on the same side. The importance of a
setting is how much the squared error of these predictions rises when its values are shuffled
(Breiman 2001; here as a share of the metric's variance, so 0 is none). R2 is the share of the
variance that is predicted: if it is low, importances mean little. The row ``seed`` shows the size
of noise. ci95 is the half-width of Student's 95 % interval over repeats, each with different
splits, forests and shuffles: it shows how certain the number is for these rows, not for others.

Settings that change together share their importance; one that only renames another's values is left
out. Only finished rows count; ``--metric diverged`` shows which settings decide whether a
configuration diverges. The same tables give the same numbers.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import RandomForestRegressor
from sklearn.inspection import permutation_importance
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder

from raysweep.analysis.command import (
    TABLE_FORMATS,
    Folders,
    Metric,
    Out,
    TableFormat,
    Where,
    chosen_format,
    give_table,
    run,
)
from raysweep.analysis.figures import COLORS, FORMATS, give_figure, setting_words, style, words
from raysweep.analysis.sweeps import Sweeps, short
from raysweep.analysis.sweeps import metric as known_metric
from raysweep.errors import InputError
from raysweep.statuses import Status
from raysweep.tables.columns import SETTING
from raysweep.tables.ranking import in_texts, summarise, varied_settings

DIVERGED = Status.DIVERGED.value
"""Used like a metric: 1 for rows that diverged, 0 for those that finished."""
LOW_R2 = 0.5
"""Below this held-out R2, a warning says that importances mean little."""
_SEED = f"{SETTING}seed"
_N_FOLDS, _N_REPEATS, _N_SHUFFLES, _N_TREES = 5, 5, 5, 100
_MOST_SAMPLES = 2000
"""Most rows that a tree sees: thousands of configurations would take minutes."""


@dataclass(frozen=True)
class Importance:
    """Importances and what they are based on.

    ``table`` has ``setting`` (short), ``importance``, ``ci95``, ``n_values``, ``n_rows`` and
    ``r2``, the most important first. ``noise`` is the share of the variance between the seeds of a
    setting, which no forest can predict; None with one seed.
    """

    table: pd.DataFrame
    r2: float
    n_rows: int
    n_settings: int
    noise: float | None


def importance(trials: pd.DataFrame, metric: str, n_repeats: int = _N_REPEATS) -> Importance:
    """Measure how much each setting that differs matters for a metric, or for ``diverged``.

    Rows with the same ``config_id`` count once. Raises ``InputError`` if rows, settings or values
    are too few or all the same.
    """
    rows = trials.drop_duplicates("config_id").reset_index(drop=True)
    rows, target = _target(rows, metric)
    columns = varied_settings(rows)
    if not columns:
        raise InputError("importance: expected settings that differ among rows, found none")
    groups = rows.groupby(columns, dropna=False, sort=True).ngroup().to_numpy(dtype=np.int64)
    n_settings = int(groups.max()) + 1
    if n_settings < 2 * _N_FOLDS:
        raise InputError(
            f"importance: expected rows of at least {2 * _N_FOLDS} settings with {metric}, "
            f"got {n_settings}"
        )
    variance = float(target.var())
    if variance == 0:
        raise InputError(f"importance: expected {metric} to differ among rows, all are equal")
    if rows[_SEED].nunique() > 1:
        columns = [*columns, _SEED]
    features = _features(rows, columns)
    repeats = [_repeat(features, target, groups, repeat) for repeat in range(n_repeats)]
    shares = np.stack([rises for rises, _ in repeats], axis=1) / variance
    sums = [summarise(of_setting) for of_setting in shares.tolist()]
    r2 = 1 - float(np.mean([error for _, error in repeats])) / variance
    table = pd.DataFrame(
        {
            "setting": [short(column) for column in columns],
            "importance": [found.mean for found in sums],
            "ci95": [found.half_width for found in sums],
            "n_values": [rows[column].nunique(dropna=False) for column in columns],
            "n_rows": len(rows),
            "r2": r2,
        }
    ).astype({"ci95": float})
    table = table.sort_values("importance", ascending=False, kind="stable", ignore_index=True)
    return Importance(table, r2, len(rows), n_settings, _noise(target, groups))


def figure(found: Importance, metric: str) -> Figure:
    """Draw importances as bars with their intervals, the seed (which is noise) in grey."""
    table = found.table.iloc[::-1]
    with style():
        drawing, axes = plt.subplots(figsize=(6.2, 1.3 + 0.3 * len(table)))
        names = [setting_words(name) for name in table["setting"]]
        colors = [COLORS[7] if name == "seed" else COLORS[0] for name in table["setting"]]
        error = table["ci95"].fillna(0).to_numpy()
        axes.barh(
            names,
            table["importance"],
            xerr=error,
            color=colors,
            height=0.7,
            capsize=2.5,
            ecolor="#333333",
        )
        ends = (table["importance"].clip(lower=0) + error).to_numpy()
        for location, (end, value) in enumerate(zip(ends, table["importance"], strict=True)):
            text = f"{value:.3f}".replace("-", "\N{MINUS SIGN}")
            axes.annotate(
                text, (end, location), (4, 0), textcoords="offset points", va="center", fontsize=8
            )
        axes.axvline(0, color="black", linewidth=0.8)
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.set_xlim(float((table["importance"] - error).clip(upper=0).min()), ends.max() * 1.12)
        axes.set_xlabel("rise of held-out squared error when shuffled (in variances of the metric)")
        title = f"What matters for {_words(metric)}\n{_behind(found)}"
        axes.set_title(title + (f"\n{_warning(found)}" if _warning(found) else ""), loc="left")
    return drawing


def _words(metric: str) -> str:
    return "whether it diverges" if metric == DIVERGED else words(metric)


def _behind(found: Importance) -> str:
    noise = "" if found.noise is None else f"; between seeds: {found.noise:.1%} of the variance"
    return f"{found.n_rows} rows of {found.n_settings} settings, held-out R² {found.r2:.2f}{noise}"


def _warning(found: Importance) -> str:
    if found.r2 >= LOW_R2:
        return ""
    return f"warning: the forest predicts poorly (R² below {LOW_R2}): importances mean little"


def _target(rows: pd.DataFrame, metric: str) -> tuple[pd.DataFrame, NDArray[np.float64]]:
    """Return the rows that count and their values of the metric."""
    is_used = rows["status"] == Status.FINISHED
    values = rows["status"] == Status.DIVERGED
    if metric == DIVERGED:
        is_used |= values
    else:
        values = rows[known_metric(rows, metric)]
        is_used &= values.notna()
    if not is_used.any():
        raise InputError(f"importance: expected finished rows with {metric}, found none")
    kept = rows[is_used].reset_index(drop=True)
    return kept, np.asarray(values[is_used], dtype=np.float64)


def _features(rows: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """Keep numbers as they are (null as NaN, which trees split on); convert all else to texts."""
    features = {}
    for column in columns:
        is_number = rows[column].dtype.kind in "if"
        if is_number and not (column == _SEED and rows[column].nunique() <= 50):
            features[column] = rows[column].astype(float)
        else:  # the magnitude of a seed means nothing
            features[column] = rows[column].map(str, na_action="ignore").fillna("").astype(object)
    return pd.DataFrame(features)


def _repeat(
    features: pd.DataFrame,
    target: NDArray[np.float64],
    groups: NDArray[np.integer[Any]],
    repeat: int,
) -> tuple[NDArray[np.float64], float]:
    """Cross-validate once; return the mean rise of the squared error (features,) and the error."""
    stream = np.random.default_rng([2001, repeat])
    folds = stream.permutation(int(groups.max()) + 1) % _N_FOLDS
    rises = np.zeros(features.shape[1])
    error = 0.0
    for fold in range(_N_FOLDS):
        is_held_out = folds[groups] == fold
        model = _forest(features, int((~is_held_out).sum()), seed=repeat * _N_FOLDS + fold)
        model.fit(features[~is_held_out], target[~is_held_out])
        test, expected = features[is_held_out], target[is_held_out]
        share = len(expected) / len(target)
        error += share * float(np.mean((model.predict(test) - expected) ** 2))
        found: Any = permutation_importance(
            model,
            test,
            expected,
            scoring="neg_mean_squared_error",
            n_repeats=_N_SHUFFLES,
            random_state=repeat * _N_FOLDS + fold,
        )
        rises += share * found["importances_mean"]
    return rises, error


def _forest(features: pd.DataFrame, n_rows: int, seed: int) -> Pipeline:
    texts = [name for name in features if features[name].dtype == object]
    encoder = ColumnTransformer(
        [("texts", OneHotEncoder(handle_unknown="ignore"), texts)],
        remainder="passthrough",
        sparse_threshold=0,
    )
    forest = RandomForestRegressor(
        _N_TREES, max_samples=min(n_rows, _MOST_SAMPLES), random_state=seed, n_jobs=1
    )
    return make_pipeline(encoder, forest)


def _noise(target: NDArray[np.float64], groups: NDArray[np.integer[Any]]) -> float | None:
    """Return the variance between seeds of one setting as a share of the total variance."""
    frame = pd.DataFrame({"value": target, "group": groups})
    by_group = frame.groupby("group")["value"]
    n_free = len(frame) - by_group.ngroups
    if not n_free:
        return None
    squares = float(((frame["value"] - by_group.transform("mean")) ** 2).sum())
    return squares / n_free / float(target.var(ddof=1))


def show(
    folders: Folders,
    metric: Metric = "average_accuracy",
    where: Where = None,
    table_format: TableFormat = None,
    out: Out = None,
    figure_file: Annotated[
        Path | None, typer.Option("--figure", help="Picture to write: png, svg or pdf.")
    ] = None,
) -> None:
    """Show which settings matter for a metric (or for divergence: --metric diverged)."""
    chosen_format(None, figure_file, FORMATS)  # check it before anything is written
    chosen_format(table_format, out, TABLE_FORMATS)
    found = importance(Sweeps(folders, where).trials, metric)

    def as_text(table: pd.DataFrame) -> str:
        lines = [f"{metric}: {_behind(found)}", _warning(found)]
        if found.noise is None:
            lines.append("one seed per setting: the size of noise is unknown")
        shown = table[["setting", "importance", "ci95", "n_values"]]
        layout = in_texts(shown, ["importance", "ci95"]).to_string(index=False)
        return "\n".join([*filter(None, lines), "", layout])

    give_table(found.table, out, table_format, as_text)
    if figure_file is not None:
        give_figure(figure(found, metric), figure_file, None, "importance")


if __name__ == "__main__":
    run(show)
