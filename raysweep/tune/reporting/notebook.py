"""Progress in the output of a notebook cell: lines, and below them a display that updates."""

import io
import sys
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.text import Text

_WIDTH = 100
_STYLE = (
    "<pre style='line-height: 1.25; font-family: monospace; margin: 0'><code>{code}</code></pre>"
)


def is_notebook() -> bool:
    """Return whether this process is the kernel of a notebook, without importing IPython."""
    ipython = sys.modules.get("IPython")
    shell: Any = ipython.get_ipython() if ipython is not None else None
    return shell is not None and hasattr(shell, "kernel")


class CellOutput:
    """One output of the running cell, replaced in place whenever it changes.

    It needs no widgets: Jupyter Notebook, JupyterLab, VS Code and exported pages all show it.
    """

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._display: RenderableType | None = None
        self._handle: Any = None

    def add(self, line: str) -> None:
        """Add a line that stays."""
        self._lines.append(line)
        self._refresh()

    def show(self, display: RenderableType | None) -> None:
        """Show a display below the lines, replacing the previous one; None removes it."""
        if display is None and self._display is None:
            return
        self._display = display
        self._refresh()

    def _refresh(self) -> None:
        from IPython import display

        bundle = self._rendered()
        if self._handle is None:
            show: Any = display.display
            self._handle = show(bundle, raw=True, display_id=True)
        else:
            self._handle.update(bundle, raw=True)

    def _rendered(self) -> dict[str, str]:
        """Return the output as text and as HTML (MIME types)."""
        parts: list[RenderableType] = [Text("\n".join(self._lines))]
        if self._display is not None:
            parts.append(self._display)
        console = Console(
            file=io.StringIO(),
            record=True,
            width=_WIDTH,
            color_system="truecolor",
            force_jupyter=False,
        )
        console.print(Group(*parts))
        html = console.export_html(inline_styles=True, code_format=_STYLE, clear=False)
        return {"text/plain": console.export_text(), "text/html": html}
