"""Pictures of the design: the layers of the package, from its imports, and a sweep's steps."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

PACKAGE = Path(__file__).parents[1] / "raysweep"
WIDTH = 400
"""Width of the pictures; text is 14 units high, which a phone shows at 12 pixels."""


class Box(NamedTuple):
    """A box of a picture: position, title, and lines below the title."""

    x: int
    y: int
    width: int
    title: str
    lines: tuple[str, ...]

    @property
    def height(self) -> int:
        """Return the height needed for the text."""
        return 34 + 18 * len(self.lines)


_LEFT, _RIGHT, _HALF = 8, 208, 184
WINGS = (
    Box(_LEFT, 8, 384, "analysis", ("report, figures and rankings, from the tables",)),
    Box(44, 100, 142, "tune", ("everything with Ray:", "driver, cluster,", "scheduling")),
    Box(214, 100, 142, "monitor", ("a sweep, from its", "folder: status,", "loggers")),
    Box(_LEFT, 228, _HALF, "packs", ("configurations that", "train together", "as stacked models")),
    Box(
        _RIGHT,
        228,
        _HALF,
        "tables",
        ("columns, writer and", "readers of Parquet, on", "a disk or in a store"),
    ),
    Box(_LEFT, 356, 384, "settings", ("a search space in YAML, checked,", "as configurations")),
    Box(
        _LEFT,
        466,
        384,
        "learning",
        ("tasks, models, methods, replay, training:", "the science, without Ray or files"),
    ),
)
"""The wings as drawn."""
NOT_DRAWN = {"user_text"}
"""Packages that most others use."""

STEPS = (
    ("search space", "settings", ("vib.yaml: fixed values and grids",)),
    (
        "configurations",
        "settings",
        ("each complete, with its own id;", "equal ones are merged"),
    ),
    ("packs", "packs", ("those of equal shapes train as one", "stacked model and share stages")),
    (
        "Ray workers",
        "tune, learning",
        ("one trial for each pack; each lane", "reports a row after every epoch"),
    ),
    (
        "tables",
        "tables",
        ("the driver alone writes Parquet parts,", "merged into one file per table"),
    ),
    ("report", "analysis, monitor", ("read at any time: status, report,", "figures, pandas")),
)
"""Steps of a sweep: result, the wings that produce it, and details."""

_STYLE = """
text { font: 14px system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; fill: #1f2933; }
.title { font-weight: 600; font-size: 15px; }
.wing { fill: #52606d; text-anchor: end; }
.paper { fill: #ffffff; }
.box { fill: #eef2f7; stroke: #7b8794; }
.arrow { fill: none; stroke: #52606d; stroke-width: 1.5; }
.head { fill: #52606d; }
@media (prefers-color-scheme: dark) {
  text { fill: #e4e7eb; }
  .wing { fill: #b8c2cc; }
  .paper { fill: #1e2129; }
  .box { fill: #2c313c; stroke: #7b8794; }
  .arrow { stroke: #b8c2cc; }
  .head { fill: #b8c2cc; }
}
"""


def imports() -> dict[str, set[str]]:
    """Map each wing to the wings that its files import."""
    names = {box.title for box in WINGS}
    folders = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    if others := folders - names - NOT_DRAWN:
        raise SystemExit(f"docs/architecture.py: add a box for {', '.join(sorted(others))}")
    return {
        name: {wing for file in (PACKAGE / name).rglob("*.py") for wing in _imported(file)}
        & (names - {name})
        for name in names
    }


def _imported(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom):
            found = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        else:
            continue
        yield from (name.split(".")[1] for name in found if name.startswith("raysweep."))


def arrows() -> list[tuple[str, str]]:
    """List the imports between wings, leaving out those implied by other imports."""
    direct = imports()

    def reached(start: str) -> set[str]:
        return direct[start].union(*(reached(name) for name in direct[start]))

    return sorted(
        (one, other)
        for one, others in direct.items()
        for other in others
        if not any(other in reached(between) for between in others - {other})
    )


def layers_picture() -> str:
    """Draw the wings, with an arrow from each to the wings it imports."""
    boxes = {box.title: box for box in WINGS}
    parts = [_box(box) for box in WINGS]
    for one, other in arrows():
        parts.append(_arrow(*_ends(boxes[one], boxes[other])))
    last = WINGS[-1]
    what = "The wings of raysweep; an arrow leads from a wing to a wing that it imports."
    return _svg(parts, last.y + last.height + 8, what)


def _ends(one: Box, other: Box) -> tuple[int, int, int, int]:
    """Return the start and end of an arrow between two boxes."""
    if one.y == other.y:
        y = one.y + one.height // 2
        is_right = other.x > one.x
        return (
            (one.x + one.width, y, other.x, y) if is_right else (one.x, y, other.x + other.width, y)
        )
    low, high = max(one.x, other.x), min(one.x + one.width, other.x + other.width)
    middle = (low + high) // 2
    between = [box for box in WINGS if one.y < box.y < other.y]
    free = [
        x
        for x in range(low + 8, high - 7)
        if not any(box.x - 14 < x < box.x + box.width + 14 for box in between)
    ]
    x = min(free, key=lambda x: abs(x - middle))
    return x, one.y + one.height, x, other.y


def way_picture() -> str:
    """Draw the steps of a sweep from the file to the report."""
    parts, y = [], 8
    for i, (title, wings, lines) in enumerate(STEPS):
        box = Box(_LEFT, y, 384, title, lines)
        parts.append(_box(box))
        parts.append(f'<text class="wing" x="{box.x + box.width - 12}" y="{y + 24}">{wings}</text>')
        y += box.height
        if i < len(STEPS) - 1:
            parts.append(_arrow(WIDTH // 2, y, WIDTH // 2, y + 26))
            y += 26
    what = "The steps of a sweep: " + ", ".join(title for title, *_ in STEPS) + "."
    return _svg(parts, y + 8, what)


def _box(box: Box) -> str:
    size = f'width="{box.width}" height="{box.height}"'
    lines = [
        f'<rect class="box" x="{box.x}" y="{box.y}" {size} rx="6"/>',
        f'<text class="title" x="{box.x + 12}" y="{box.y + 24}">{box.title}</text>',
    ]
    for i, line in enumerate(box.lines):
        lines.append(f'<text x="{box.x + 12}" y="{box.y + 44 + 18 * i}">{line}</text>')
    return "\n".join(lines)


def _arrow(x: int, y: int, to_x: int, to_y: int) -> str:
    dx, dy = (to_x > x) - (to_x < x), (to_y > y) - (to_y < y)
    base_x, base_y = to_x - 8 * dx, to_y - 8 * dy
    head = f"{to_x},{to_y} {base_x + 5 * dy},{base_y + 5 * dx} {base_x - 5 * dy},{base_y - 5 * dx}"
    return (
        f'<path class="arrow" d="M{x} {y}L{base_x} {base_y}"/>\n'
        f'<polygon class="head" points="{head}"/>'
    )


def _svg(parts: list[str], height: int, what: str) -> str:
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
            f"<title>{what}</title>",
            f"<style>{_STYLE}</style>",
            f'<rect class="paper" width="{WIDTH}" height="{height}" rx="8"/>',
            *parts,
            "</svg>\n",
        ]
    )
