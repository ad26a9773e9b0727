"""The page of the command line, read from the functions that typer makes commands of."""

import inspect
import re
from collections.abc import Callable
from importlib import import_module
from typing import Any, get_args, get_origin

from typer.models import ArgumentInfo, ParamMeta
from typer.utils import get_params_from_function

from raysweep.tune.options import ExitCode

COMMANDS = {
    "run": ("raysweep.tune.cli", "tune"),
    "status": ("raysweep.monitor.status_command", "status"),
    "report": ("raysweep.analysis.report.__main__", "report"),
    "leaderboard": ("raysweep.analysis.leaderboard", "show"),
    "heatmap": ("raysweep.analysis.heatmap", "show"),
    "tradeoff": ("raysweep.analysis.tradeoff", "show"),
    "curves": ("raysweep.analysis.curves", "show"),
    "importance": ("raysweep.analysis.importance", "show"),
    "compare": ("raysweep.analysis.compare", "show"),
    "samples": ("raysweep.analysis.samples", "show"),
    "stability": ("raysweep.analysis.stability", "show"),
}
"""By sub-command of ``raysweep``: the module and the function that declares its options."""

_EXIT_CODES = {
    ExitCode.ENDED: "Every configuration has ended; diverged and stopped early count.",
    ExitCode.SOME_FAILED: "Some configurations failed.",
    ExitCode.BAD_INPUT: "The file or the command line is wrong: one line explains what to fix.",
    ExitCode.INTERRUPTED: "Interrupted, or a budget is used up: the message has the command to "
    "continue with.",
    ExitCode.NOTHING_RAN: "Nothing could run: one line explains why.",
}
_PLACEHOLDERS = {int: "N", float: "X", str: "TEXT", "Path": "PATH"}
_SCRIPTS_BEGIN = "raysweep.analysis."


def commands_page() -> str:
    """Lay out the exit codes of ``raysweep run``, and every command with its options."""
    return "\n\n".join([_exit_codes(), *(_section(name) for name in COMMANDS)])


def _exit_codes() -> str:
    lines = ["## Exit codes", "", "| code | of `raysweep run` |", "|---|---|"]
    lines += [f"| {int(code)} | {_EXIT_CODES[code]} |" for code in ExitCode]
    lines += ["| 130, 143 | Ended at once, by a second ctrl-c or SIGTERM. |", ""]
    lines += ["All other commands end with 0, or with 2 and one line that says what is wrong."]
    return "\n".join(lines)


def _section(name: str) -> str:
    module_name, function_name = COMMANDS[name]
    module = import_module(module_name)
    function: Callable[..., None] = getattr(module, function_name)
    rows = [_row(parameter) for parameter in get_params_from_function(function).values()]
    arguments = " ".join(name for name, _ in rows if not name.startswith("-"))
    doc = module.__doc__ if module_name.startswith(_SCRIPTS_BEGIN) else function.__doc__
    what = inspect.cleandoc(doc or "").partition("Exit codes:")[0].strip()  # they stand above
    lines = [f"## {name}", "", _markdown(what, name), ""]
    lines += ["```text", f"raysweep {name} {arguments} [options]", "```", ""]
    lines += ["| option | meaning |", "|---|---|"]
    lines += [f"| `{name}` | {meaning} |" for name, meaning in rows]
    return "\n".join(lines)


def _row(parameter: ParamMeta) -> tuple[str, str]:
    """Return how a parameter is written, and what it means, with its default."""
    info = parameter.default
    meaning = _in_code((info.help or "").replace("|", "\\|"))
    if isinstance(info, ArgumentInfo):
        return info.metavar or parameter.name.upper(), meaning
    names = ", ".join(info.param_decls or (f"--{parameter.name.replace('_', '-')}",))
    if parameter.annotation is not bool:
        names += f" {info.metavar or _placeholder(parameter.annotation)}"
    default = info.default
    if isinstance(info.show_default, str):
        meaning += f" Default: {info.show_default}."
    elif isinstance(default, str):
        meaning += f" Default: `{default}`."
    elif isinstance(default, int | float) and default is not False:
        meaning += f" Default: {default:,g}." if default < 1e6 else f" Default: {default:,}."
    return names, meaning


def _in_code(text: str) -> str:
    """Put options and overrides into code font."""
    override = r"\b\w+\.\w+=(?:'[^']*'|[^\s,;]+\b)"
    return re.sub(rf"(?<![`\w-])(--[a-z][\w-]*|{override})", r"`\1`", text)


def _placeholder(kind: Any) -> str:
    """Return what stands for a value of a type."""
    inner = [arg for arg in get_args(kind) if arg is not type(None)] or [kind]
    while get_origin(inner[0]) is list:
        inner = list(get_args(inner[0]))
    found = inner[0]
    return _PLACEHOLDERS.get(found) or _PLACEHOLDERS.get(found.__name__) or "VALUE"


def _markdown(doc: str, name: str) -> str:
    """Write a docstring as Markdown: commands as blocks, names and options in code font."""
    parts = []
    for part in re.split(r"\n\n(?=\S)|\n\n(?=    )", doc):
        if part.startswith("    "):
            code = inspect.cleandoc(part).replace(f"python -m analysis.{name}", f"raysweep {name}")
            parts.append(f"```text\n{code}\n```")
            continue
        parts.append(_in_code(part.replace("``", "`")))
    return "\n\n".join(parts)
