"""The command ``raysweep``: sweeps, their status, the scripts and the shipped search spaces.

Each sub-command is the command line of another module, imported only when it is used: torch, Ray
and pandas take seconds to import.
"""

import os
import shlex
import shutil
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from raysweep import __version__, shipped
from raysweep.clean_text import clean_line
from raysweep.output_streams import guarded_output
from raysweep.printing_command import run_as_command
from raysweep.user_text.values import near, printable

SCRIPTS = {
    "report": "Write a report of a sweep: one self-contained HTML file that opens offline.",
    "leaderboard": "Rank the settings of one or several sweeps by a metric, by mean over seeds.",
    "heatmap": "Draw a metric over two settings, faceted by others.",
    "tradeoff": "Draw metrics against each other: with the Pareto front, or with a fitted line.",
    "curves": "Draw learning curves with bands over seeds, or the accuracy matrix.",
    "importance": "Show which settings matter for a metric: permutation importance of a random "
    "forest.",
    "compare": "Compare two sweeps: settings that differ, and a metric where all other settings "
    "are equal.",
    "samples": "Show the replayed images of configurations with their labels, and reconstructions.",
    "stability": "Map where training diverges: over the learning rate and the betas, or any other "
    "settings.",
}
"""Modules of ``raysweep.analysis``, each with its first sentence (a test checks that)."""
_OTHERS = {
    "run": "Train every configuration of a search space on Ray and write Parquet tables.",
    "status": "Show how far a sweep is, while it runs or afterwards; needs no more than its "
    "folder.",
    "spaces": "List the search spaces that come with raysweep, or copy one here.",
}
COMMANDS = {
    **{name: _OTHERS[name] for name in ("run", "status")},
    **SCRIPTS,
    "spaces": _OTHERS["spaces"],
}
"""Every sub-command with its summary, in the order of the help."""


def main() -> None:
    """Run the command named by the arguments; exit with 2 if they name none."""
    with guarded_output():
        _main()


def _main() -> None:
    name, *rest = sys.argv[1:] or [""]
    if name in ("", "-h", "--help", "help"):
        print(_help(), flush=True)
        sys.exit(0 if name else 2)
    if name == "--version":
        print(f"raysweep {__version__}")
        return
    if name not in COMMANDS:
        print(f"error: {clean_line(_unknown(name, rest))}", file=sys.stderr)
        sys.exit(2)
    called_as = f"{_called_as()} {name}"
    del sys.argv[1]
    _function_of(name, called_as)()


def _function_of(name: str, called_as: str) -> Callable[[], None]:
    """Import a sub-command's module; return the function that runs it."""
    if name == "spaces":
        return lambda: run_as_command(spaces, called_as)
    if name == "run":
        from raysweep.tune import cli

        os.environ[cli.COMMAND] = called_as
        return lambda: cli.main(called_as)
    if name == "status":
        from raysweep.monitor import status_command

        return lambda: status_command.main(called_as)
    is_package = name == "report"
    module = import_module(f"raysweep.analysis.{name}{'.__main__' if is_package else ''}")
    return lambda: run_as_command(module.report if is_package else module.show, called_as)


def _called_as() -> str:
    """Return this command as a shell finds it, so that messages name commands to paste."""
    if getattr(sys.modules["__main__"], "__package__", None) == "raysweep":
        return "python -m raysweep"
    found = shutil.which("raysweep")
    if found and Path(found).resolve() == Path(sys.argv[0]).resolve():
        return "raysweep"
    return shlex.quote(sys.argv[0])


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {summary}" for name, summary in COMMANDS.items()]
    return "\n".join(
        (
            "Usage: raysweep COMMAND [ARGUMENTS]",
            "",
            "Large grids of small continual-learning experiments, trained in stacks on Ray.",
            "",
            *lines,
            "",
            "raysweep COMMAND --help explains a command; raysweep --version prints the version.",
        )
    )


def _unknown(name: str, rest: list[str]) -> str:
    hint = near(name, list(COMMANDS))
    if name.endswith((".yaml", ".yml")) or name in shipped.shipped_names():
        hint = f" (did you mean raysweep {shlex.join(['run', name, *rest])}?)"
    known = "" if hint else f"; known: {', '.join(COMMANDS)}"
    return f"raysweep: expected a command, got {name!r}{hint}{known}"


def spaces(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="The search space to copy.")
    ] = None,
    file: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE]", help="File or folder to copy it to (default: here)."),
    ] = None,
) -> None:
    """List the search spaces that come with raysweep, or copy one here.

    ``raysweep run NAME`` runs one as it is. Existing files are never overwritten.
    """
    if name is None:
        names = shipped.shipped_names()
        width = max(map(len, names))
        for each in names:
            print(f"{each:{width}}  {shipped.summary_of(each)}")
        return
    for written in shipped.copy_space(name, file):
        print(printable(f"written to {written}"))
