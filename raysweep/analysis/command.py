"""Command-line options and functions that the scripts here share."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer

from raysweep.errors import InputError
from raysweep.printing_command import run_as_command
from raysweep.tables.ranking import in_texts
from raysweep.tables.schemas import setting_of
from raysweep.user_text.values import printable

Folders = Annotated[
    list[str],
    typer.Argument(metavar="FOLDER...", help="Sweeps, such as results/vib or s3://bucket/vib."),
]
Where = Annotated[
    str | None,
    typer.Option(help='Only rows that meet a condition in pandas\' query syntax: "lr < 0.1".'),
]
Out = Annotated[Path | None, typer.Option(help="File to write (default: see above).")]
Metric = Annotated[str, typer.Option(help="A metric of the table.")]
run = run_as_command
TABLE_FORMATS = ("text", "csv", "json", "markdown")
TableFormat = Annotated[str | None, typer.Option("--format", help=", ".join(TABLE_FORMATS) + ".")]


def chosen_format(given: str | None, out: Path | None, known: tuple[str, ...]) -> str:
    """Return the given format, else that of the file's extension, else the first known one."""
    name = given or (out.suffix.removeprefix(".") if out and out.suffix else known[0])
    name = {"txt": "text", "md": "markdown"}.get(name, name)
    if name not in known:
        origin = "--format" if given else "--out"
        raise InputError(f"{origin}: expected one of {', '.join(known)}, got {name!r}")
    return name


def write(content: str | bytes, out: Path) -> None:
    """Write a file, creating its folder if needed, and print its name."""
    out.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, str):
        content = content.encode()
    out.write_bytes(content)
    print(f"written to {out}")


def give_table(
    frame: pd.DataFrame,
    out: Path | None,
    given_format: str | None,
    as_text: Callable[[pd.DataFrame], str] | None = None,
) -> None:
    """Print a table, or write it to a file, in one of ``TABLE_FORMATS``."""
    name = chosen_format(given_format, out, TABLE_FORMATS)
    writers: dict[str, Callable[[], Any]] = {
        "text": lambda: (as_text or _plain)(frame),
        "csv": lambda: _with_whole_numbers(frame).to_csv(index=False),
        "json": lambda: _with_whole_numbers(frame).to_json(orient="records", indent=1),
        "markdown": lambda: _markdown(frame),
    }
    content = str(writers[name]()).rstrip("\n") + "\n"
    if out is None:
        print(printable(content), end="")
    else:
        write(content, out)


def _with_whole_numbers(frame: pd.DataFrame) -> pd.DataFrame:
    """Convert integer settings to a type with nulls: pandas reads those with nulls as floats."""
    columns = {name: setting_of(str(name)) for name in frame if frame[name].dtype.kind == "f"}
    return frame.astype(
        {name: "Int64" for name, column in columns.items() if column and column.is_whole}
    )


def _in_texts(frame: pd.DataFrame) -> pd.DataFrame:
    is_measure = {
        str(name): frame[name].dtype.kind == "f" and setting_of(str(name)) is None for name in frame
    }
    return in_texts(frame, [name for name, is_it in is_measure.items() if is_it], ".4g")


def _plain(frame: pd.DataFrame) -> str:
    return _in_texts(frame).to_string(index=False)


def _markdown(frame: pd.DataFrame) -> str:
    rows = [list(frame.columns), ["---"] * len(frame.columns)]
    rows += [
        [text.replace("|", "\\|") for text in row]
        for row in _in_texts(frame).itertuples(index=False)
    ]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in rows)
