"""Make one self-contained HTML file from the collected data."""

import html
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from plotly.offline import get_plotlyjs

from raysweep.analysis.report.collect import collect
from raysweep.analysis.sweeps import Sweeps
from raysweep.analysis.sweeps import metric as known_metric
from raysweep.clean_text import clean_lines


def report_page(sweeps: Sweeps, metric: str, n_samples: int = 3, data: Path | None = None) -> str:
    """Return the whole report of sweeps as HTML that opens offline.

    It shows ``metric`` first, and images of the ``n_samples`` best configurations, which need the
    data (``data`` is its folder, None for the default). Raises ``InputError`` for an unknown
    metric.
    """
    return page(collect(sweeps, known_metric(sweeps.trials, metric), n_samples, data))


def page(collected: Any) -> str:
    """Build the page around the result of ``collect``, whose text can't become markup."""
    folder = files("raysweep.analysis.report")
    collected = _cleaned(collected)
    data = json.dumps(collected, separators=(",", ":"), allow_nan=False)
    # Inside a script element, only these begin markup.
    data = data.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    parts = {
        "TITLE": html.escape(collected["title"]),
        "CSS": (folder / "report.css").read_text(),
        "DATA": data,
        "PLOTLY": get_plotlyjs(),
        "JS": (folder / "report.js").read_text() + (folder / "charts.js").read_text(),
    }
    text = (folder / "page.html").read_text()
    pieces = []
    for name, content in parts.items():  # in the order of the page, each placeholder once
        before, _, text = text.partition(f"@{name}@")
        pieces += [before, content]
    return "".join([*pieces, text])


def _cleaned(value: Any) -> Any:
    """Clean all text in plain values: bidi controls reorder a page's text, too."""
    if isinstance(value, dict):
        return {_cleaned(key): _cleaned(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_cleaned(inner) for inner in value]
    return clean_lines(value) if isinstance(value, str) else value
