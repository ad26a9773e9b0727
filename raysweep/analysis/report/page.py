"""From what was collected to one HTML file that needs nothing else."""

import html
import json
from importlib.resources import files
from typing import Any

from plotly.offline import get_plotlyjs


def page(collected: Any) -> str:
    """Write the page around what ``collect`` gave; its text can't become markup."""
    folder = files("raysweep.analysis.report")
    data = json.dumps(collected, separators=(",", ":"), allow_nan=False)
    # Inside a script element only these begin markup.
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
    for name, content in parts.items():  # in the order of the page, each mark once
        before, _, text = text.partition(f"@{name}@")
        pieces += [before, content]
    return "".join([*pieces, text])
