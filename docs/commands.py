"""The page of the command line, generated from the functions that typer turns into commands."""

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
    "spaces": ("raysweep.cli", "spaces"),
}
"""Sub-commands of ``raysweep``, each with the module and function that declare its options."""

_EXIT_CODES = {
    ExitCode.ENDED: "Every configuration has ended, including diverged and early-stopped ones.",
    ExitCode.SOME_FAILED: "Some configurations failed.",
    ExitCode.BAD_INPUT: "The file or the command line is wrong: the message says what to fix.",
    ExitCode.INTERRUPTED: "Interrupted, or a budget is used up: the message has the command that "
    "resumes the sweep.",
    ExitCode.NOTHING_RAN: "Nothing could run: the message says why.",
}
_PLACEHOLDERS = {int: "N", float: "X", str: "TEXT", "Path": "PATH"}
_SCRIPTS_BEGIN = "raysweep.analysis."


def commands_page() -> str:
    """Return the exit codes of ``raysweep run`` and all commands with their options."""
    return "\n\n".join([_exit_codes(), *(_section(name) for name in COMMANDS)])


def _exit_codes() -> str:
    lines = ["## Exit codes", "", "| code | meaning for `raysweep run` |", "|---|---|"]
    lines += [f"| {int(code)} | {_EXIT_CODES[code]} |" for code in ExitCode]
    lines += ["| 130, 143, 129 | Stopped immediately by a second ctrl-c, SIGTERM or SIGHUP. |", ""]
    lines += ["All other commands exit with 0, or with 2 and one line that says what is wrong."]
    return "\n".join(lines)


def _section(name: str) -> str:
    module_name, function_name = COMMANDS[name]
    module = import_module(module_name)
    function: Callable[..., None] = getattr(module, function_name)
    rows = [_row(parameter) for parameter in get_params_from_function(function).values()]
    arguments = " ".join(name for name, _ in rows if not name.startswith("-"))
    doc = module.__doc__ if module_name.startswith(_SCRIPTS_BEGIN) else function.__doc__
    what = inspect.cleandoc(doc or "").partition("Exit codes:")[0].strip()  # they are listed above
    lines = [f"## {name}", "", _markdown(what, name), ""]
    options = " [options]" if any(name.startswith("-") for name, _ in rows) else ""
    lines += ["```text", f"raysweep {name} {arguments}{options}", "```", ""]
    lines += ["| option | meaning |", "|---|---|"]
    lines += [f"| `{name}` | {meaning} |" for name, meaning in rows]
    return "\n".join(lines)


def _row(parameter: ParamMeta) -> tuple[str, str]:
    """Return a parameter's names and its meaning with the default."""
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
    """Format options and overrides as code."""
    override = r"\b\w+\.\w+=(?:'[^']*'|[^\s,;]+\b)"
    return re.sub(rf"(?<![`\w-])(--[a-z][\w-]*|{override})", r"`\1`", text)


def _placeholder(kind: Any) -> str:
    """Return the placeholder for a value of a type."""
    inner = [arg for arg in get_args(kind) if arg is not type(None)] or [kind]
    while get_origin(inner[0]) is list:
        inner = list(get_args(inner[0]))
    found = inner[0]
    return _PLACEHOLDERS.get(found) or _PLACEHOLDERS.get(found.__name__) or "VALUE"


def _markdown(doc: str, name: str) -> str:
    """Return a docstring as Markdown: commands as blocks, names and options as code."""
    parts = []
    for part in re.split(r"\n\n(?=\S)|\n\n(?=    )", doc):
        if part.startswith("    "):
            code = inspect.cleandoc(part).replace(f"python -m analysis.{name}", f"raysweep {name}")
            parts.append(f"```text\n{code}\n```")
            continue
        parts.append(_in_code(part.replace("``", "`")))
    return "\n\n".join(parts)
