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
    typer.Option(help="Only rows that meet a condition: \"lr < 0.1 and replay == 'simple'\"."),
]
Out = Annotated[Path | None, typer.Option(help="File to write (default: see above).")]
Metric = Annotated[str, typer.Option(help="A metric of the table.")]
run = run_as_command
TABLE_FORMATS = ("text", "csv", "json", "markdown")
_FORMULA = ("=", "+", "-", "@", "\t", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""How a formula begins, in full-width characters, too."""
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
    print(printable(f"written to {out}"))


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
        "csv": lambda: _without_formulas(_with_whole_numbers(frame)).to_csv(index=False),
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


def _without_formulas(frame: pd.DataFrame) -> pd.DataFrame:
    """Prefix texts that a spreadsheet would run as a formula with an apostrophe, headers too.

    This is the advice of OWASP (CSV injection). Numbers stay as they are, also those in texts.
    """

    def plain(value: Any) -> Any:
        if not isinstance(value, str) or _is_number(value):
            return value
        # pandas does not quote a carriage return, so what follows it would begin a row.
        text = value.replace("\r\n", "\n").replace("\r", "\n")
        return f"'{text}" if text.startswith(_FORMULA) else text

    plain_frame = frame.copy()
    for name in frame:
        if frame[name].dtype.kind not in "fiubmM":
            plain_frame[name] = frame[name].map(plain)
    return plain_frame.rename(columns=plain)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return text.strip() == text


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
