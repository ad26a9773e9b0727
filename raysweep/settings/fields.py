"""What settings are made of: their types, how text becomes a value, what a message shows."""

import math
import re
import types
import typing
import unicodedata
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BeforeValidator, Field
from pydantic.fields import FieldInfo

from raysweep.settings.secret_names import secret_within

TaskKind = Literal["perm_mnist", "split_mnist"]


class InputError(Exception):
    """Say in one line what a user got wrong and what to do; the command line exits with 2.

    ``place`` is the path of what is wrong in a search space (``space.lr.grid_search[2]``), by
    which ``load_sweep`` finds its line and column; where none is given it is what stands before
    the message's first colon. ``is_key`` tells that the key is wrong there, not its value.
    """

    def __init__(self, message: str, place: str = "", *, is_key: bool = False) -> None:
        super().__init__(message)
        self.place = place or message.partition(": ")[0]
        self.is_key = is_key


class SourceShape(NamedTuple):
    """What is known of a data source before it is loaded."""

    n_train: int
    n_test: int
    n_inputs: int
    n_classes: int


_FILE_SOURCE = re.compile(r"[\w.-]{1,40}@(\d+)-(\d+)-(\d+)-(\d+)-[0-9a-f]{16}", re.ASCII)


def is_file_source(name: str) -> bool:
    """Tell whether a source's name is that of a user's own file, see ``source_files``."""
    return _FILE_SOURCE.fullmatch(name) is not None


def content_of(source: str) -> str:
    """Give what of a source's name tells its content: of a file, all but what it is called."""
    return source.partition("@")[2] if is_file_source(source) else source


class _Shapes(dict[str, SourceShape]):
    """Sizes by a source's name; a file's name has them in it, so a worker needs no file."""

    def __missing__(self, name: str) -> SourceShape:
        match = _FILE_SOURCE.fullmatch(name)
        if match is None:
            raise KeyError(name)
        return SourceShape(*map(int, match.groups()))


SOURCES = _Shapes(
    {
        "mnist_5k": SourceShape(4_000, 1_000, 784, 10),
        "mnist": SourceShape(60_000, 10_000, 784, 10),
        "fashion_mnist": SourceShape(60_000, 10_000, 784, 10),
        "kmnist": SourceShape(60_000, 10_000, 784, 10),
    }
)
"""The sources that come with raysweep, or are downloaded, and any file's."""


def plain_number(value: Any) -> Any:
    """Give a number, or text that can be nothing else; raise ``ValueError`` otherwise."""
    if isinstance(value, bool) or value is None:
        raise ValueError("not a number")
    if isinstance(value, str):
        text = _ascii_number(value)
        if re.match(r"[-+]?0[0-9_]", text):
            raise ValueError("octal in YAML 1.1, decimal in YAML 1.2")
        value = float(text)
    if isinstance(value, float) and value == 0:
        return 0.0  # -0.0 and 0.0 are one setting
    return value


def number_of(raw: Any) -> float:
    """Give a number, NaN for what is none."""
    try:
        return float(plain_number(raw))
    except (TypeError, ValueError, OverflowError):
        return math.nan


def is_off(raw: Any) -> bool:
    """Tell whether a limit is switched off: nothing, false, or a word for it."""
    is_word = isinstance(raw, str) and raw.lower() in ("none", "no", "off", "false")
    return raw is None or raw is False or is_word


def check_whole(raw: Any, where: str, least: int, most: int) -> int:
    """Give a whole number from ``least`` to ``most``; raise ``InputError`` for anything else."""
    if isinstance(raw, bool) or not isinstance(raw, int) or not least <= raw <= most:
        raise InputError(
            f"{where}: expected a whole number from {least} to {most:,}, "
            f"got {show(raw)}{reading(raw)}"
        )
    return raw


def check_keys(raw: Mapping[Any, Any], section: str, method: str, known: Sequence[str]) -> None:
    """Raise ``InputError`` for a key of a section that its method does not know."""
    for key in raw:
        if key not in known:
            hint = near(key, list(known)) or f"; known: {', '.join(known)}"
            where = f"{section}.{key}"
            raise InputError(
                f"{where[:60]}: expected a key of method {method}, got {show(key)}{hint}",
                where,
                is_key=True,
            )


def _ascii_number(text: str) -> str:
    """Write the digits of other scripts and the minus sign of typeset text in ASCII."""
    digits = (str(unicodedata.decimal(char, char)) for char in text.strip())
    return "".join(digits).replace("\N{MINUS SIGN}", "-")


def _flag(value: Any) -> Any:
    if not isinstance(value, bool | str):
        raise ValueError("not a flag")
    return value


def _widths(value: Any) -> Any:
    if isinstance(value, str | bytes) or not isinstance(value, list | tuple):
        raise ValueError("not a list of widths")
    if any(isinstance(width, bool) for width in value):
        raise ValueError("not a list of widths")
    return tuple(plain_number(width) for width in value)


def _replay_kind(value: Any) -> Any:
    # `replay: no`, `off`, `false` and `null` have one reading.
    is_no = isinstance(value, str) and value.lower() in ("no", "off", "false")
    return "none" if value is None or value is False or is_no else value


Real = Annotated[float, BeforeValidator(plain_number), Field(allow_inf_nan=False)]
Count = Annotated[int, BeforeValidator(plain_number)]
Flag = Annotated[bool, BeforeValidator(_flag)]
Widths = Annotated[tuple[Annotated[int, Field(ge=1, le=100_000)], ...], BeforeValidator(_widths)]
ReplayKind = Annotated[Literal["none", "simple", "generative"], BeforeValidator(_replay_kind)]


def setting(default: Any, section: str, description: str, **limits: Any) -> Any:
    """Declare a setting: its default, its section of the file, what it means, and its limits."""
    return Field(
        default,
        description=description,
        json_schema_extra={"section": section},
        **limits,
    )


def words_of(field: FieldInfo) -> list[str]:
    """List the words a setting accepts; empty where it is no choice."""
    parts = typing.get_args(field.annotation)
    words = [word for part in parts for word in (part, *typing.get_args(part))]
    return [word for word in words if isinstance(word, str)]


def _takes_files(field: FieldInfo) -> bool:
    return isinstance(field.annotation, types.UnionType) or (
        typing.get_origin(field.annotation) is typing.Union
    )


def describe(field: FieldInfo) -> str:
    """Say what a setting accepts, by its type and limits."""
    if words_of(field):
        files = ", or a file such as data/letters.npz" if _takes_files(field) else ""
        return f"one of {', '.join(words_of(field))}{files}"
    if field.annotation is bool:
        return "true or false"
    if field.annotation not in (int, float):
        return "a list of whole numbers > 0"
    limits = {
        key: f"{getattr(part, key):g}" if field.annotation is float else str(getattr(part, key))
        for part in field.metadata
        for key in ("gt", "ge", "lt", "le")
        if getattr(part, key, None) is not None
    }
    noun = "a whole number" if field.annotation is int else "a number"
    least = f" > {limits['gt']}" if "gt" in limits else ""
    if "ge" in limits:
        least = f" from {limits['ge']}" if len(limits) > 1 else f" >= {limits['ge']}"
    most = f" to {limits['le']}" if "le" in limits else ""
    if "lt" in limits:
        most = f" to below {limits['lt']}"
    return noun + least + (most.replace(" to ", ", at most ") if "gt" in limits else most)


def near(word: object, known: list[str]) -> str:
    """Give `` (did you mean ...?)`` where a known word is near; two letters are near to none."""
    is_long = len(str(word)) > 2
    matches = get_close_matches(str(word), known, n=1, cutoff=0.6) if is_long else []
    return f" (did you mean {matches[0]}?)" if matches else ""


def reading(value: object) -> str:
    """Say for text that is nearly a number why it is none and how to write it; else nothing."""
    if isinstance(value, list):
        return next(filter(None, map(reading, value[:_N_SHOWN])), "")
    is_short = isinstance(value, str) and len(value) <= _N_SHOWN
    return _reading(_ascii_number(str(value))) if is_short else ""


def _reading(text: str) -> str:
    digits = text.lstrip("+-")
    if re.fullmatch(r"0[0-9]+", digits):
        octal = int(digits, 8) if set(digits) <= set("01234567") else int(digits)
        both = f"{octal} in YAML 1.1 and " if octal != int(digits) else ""
        return f" ({both}{int(digits)} in 1.2); write which" if both else f"; write {int(digits)}"
    if re.fullmatch(r"0(x[0-9a-fA-F]+|o[0-7]+|b[01]+)", digits):
        return f"; write {int(digits, 0)}"
    if re.fullmatch(r"[0-9]+(:[0-5]?[0-9])+", digits):
        return " (of base 60 in YAML 1.1); write it in decimal"
    parts = [part.strip() for part in text.split(",")]
    if len(parts) > 1 and all(re.fullmatch(r"[-+]?[0-9.]+(e[-+]?[0-9]+)?", p) for p in parts):
        is_decimal = re.fullmatch("[-+]?[0-9]+,[0-9]+", text) is not None
        point = f"{parts[0]}.{parts[1]}, or " if is_decimal else ""
        return f"; write {point}{{grid_search: [{', '.join(parts)}]}} to try each"
    return ""


_N_SHOWN = 80


def show(value: object) -> str:
    """Show a user's value in a message, shortened; not what may be a secret."""
    if value is None:
        return "null"
    if isinstance(value, float) and (math.isnan(value) or math.isinf(value)):
        return "NaN" if math.isnan(value) else ("infinity" if value > 0 else "-infinity")
    text = repr(value)
    if secret_within(text[: 2 * _N_SHOWN]):
        return "what may be a secret (not shown)"
    # What looks like ASCII and is not (no-break spaces, typographic quotes) can't be seen.
    chars = str(value)[:_N_SHOWN] if isinstance(value, str) else ""
    odd = next((char for char in chars if ord(char) > 127), "")
    named = f" with U+{ord(odd):04X} {unicodedata.name(odd, '')}".rstrip() if odd else ""
    return (text if len(text) <= _N_SHOWN else f"{text[: _N_SHOWN - 3]}...") + named


def one_line(text: str) -> str:
    """Escape what would break a line or not print: line ends, control and bidi characters."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def show_widths(widths: tuple[int, ...]) -> str:
    """Write widths as the field does: ``200-200``; the empty text where there are none."""
    return "-".join(map(str, widths))
