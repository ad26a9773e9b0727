"""Values that users write or read: text as a number, what came in a message, what is null."""

import math
import re
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, TextIO

from raysweep.errors import InputError
from raysweep.user_text.secret_names import secret_within

NULL_TEXT = "\N{EN DASH}"
"""How people are shown a value that is null, such as a setting that does not apply."""
_MOST_WHOLE = 1e9
"""Whole numbers below it are shown with all their digits."""


def plain_number(value: Any) -> Any:
    """Return a number, or text that can be nothing else; raise ``ValueError`` otherwise."""
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
    """Return a number, NaN for what is none."""
    try:
        return float(plain_number(raw))
    except (TypeError, ValueError, OverflowError):
        return math.nan


def is_off(raw: Any) -> bool:
    """Return whether a limit is switched off: nothing, false, or a word for it."""
    is_word = isinstance(raw, str) and raw.lower() in ("none", "no", "off", "false")
    return raw is None or raw is False or is_word


def check_whole(raw: Any, where: str, least: int, most: int) -> int:
    """Return a whole number from ``least`` to ``most``; raise ``InputError`` for anything else."""
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


def near(word: object, known: list[str]) -> str:
    """Return `` (did you mean ...?)`` where a known word is near; two letters are near to none."""
    is_long = len(str(word)) > 2
    matches = get_close_matches(str(word), known, n=1, cutoff=0.6) if is_long else []
    return f" (did you mean {matches[0]}?)" if matches else ""


def reading(value: object) -> str:
    """Explain why text that is nearly a number is none and how to write it; else return ''."""
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


def is_null(value: object) -> bool:
    """Return whether a value of a table is null: None, NaN, or what pandas has for it."""
    is_nan = isinstance(value, float) and math.isnan(value)
    return value is None or is_nan or type(value).__name__ in ("NAType", "NaTType")


def show_value(value: object) -> str:
    """Write a value of a table for people: 0.001 and not 0.0010000000000000002, a dash for null.

    Whole numbers are floats in pandas where others of their column are null: 1000.0 is 1000.
    """
    if is_null(value):
        return NULL_TEXT
    if not isinstance(value, float):
        return str(value)
    is_whole = value.is_integer() and abs(value) < _MOST_WHOLE
    text = f"{value:g}"
    return str(int(value)) if is_whole and "e" in text else text


def printable(text: str, stream: TextIO | None = None) -> str:
    """Return a text as a stream, standard output if none is given, can print it.

    Where that knows no dash, such as ASCII, null is a hyphen, and what else can't be printed is
    a question mark.
    """
    encoding = getattr(stream or sys.stdout, "encoding", None) or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.replace(NULL_TEXT, "-").encode(encoding, "replace").decode(encoding)
    return text


def one_line(text: str) -> str:
    """Escape what would break a line or not print: line ends, control and bidi characters."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )
