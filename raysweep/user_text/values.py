"""Values that users write or read: numbers given as text, values in messages, nulls."""

import math
import re
import sys
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from functools import partial
from typing import Any, TextIO

from raysweep.clean_text import clean_line, clean_lines
from raysweep.errors import InputError, all_of
from raysweep.user_text.secret_names import secret_within

NULL_TEXT = "\N{EN DASH}"
"""How null values are shown to people, such as settings that do not apply."""
_MOST_WHOLE = 1e9
"""Whole numbers below this are shown with all digits."""


def plain_number(value: Any) -> Any:
    """Return a number, also from text that can only be a number; raise ``ValueError`` otherwise."""
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
    """Return the number that a value stands for, or NaN if it is not a number."""
    try:
        return float(plain_number(raw))
    except (TypeError, ValueError, OverflowError):
        return math.nan


_UNITS_S = {"s": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"([0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?)\s*(s|min|m|h|d)(?![a-z])\s*")


def seconds_in(text: str) -> float:
    """Return the seconds of a duration such as ``90s``, ``1.5h`` or ``1h30m``; 0 for other text.

    Each unit may occur once, and the largest comes first, as 30m1h has no agreed meaning.
    """
    text = text.strip()
    matches = list(_DURATION.finditer(text))
    units = [_UNITS_S[match[2]] for match in matches]
    if "".join(match[0] for match in matches) != text or units != sorted(set(units), reverse=True):
        return 0.0
    return sum(float(match[1]) * unit for match, unit in zip(matches, units, strict=True))


def seconds_of(raw: Any, where: str, note: str = "") -> float:
    """Return a duration > 0, given in seconds or as text; raise ``InputError`` otherwise."""
    number = number_of(raw)
    if isinstance(raw, str) and math.isnan(number):
        number = seconds_in(raw) or math.nan
    if not 0 < number < _MOST_SECONDS:
        clock = re.fullmatch(r"([0-9]{1,3}):([0-5][0-9])(?::([0-5][0-9]))?", str(raw).strip())
        hint = reading(raw)
        if clock and clock[3]:
            hint = f"; write {int(clock[1])}h{clock[2]}m{clock[3]}s"
        elif clock:
            short, long = (f"{int(clock[1])}{a}{clock[2]}{b}" for a, b in ("ms", "hm"))
            hint = f"; write {short} or {long}"
        raise InputError(
            f"{where}: expected seconds > 0, or text such as 90s, 30min, 1h30m or 2d{note}, "
            f"got {show(raw)}{hint}"
        )
    return number


_MOST_SECONDS = 1e12


def is_off(raw: Any) -> bool:
    """Return whether a limit is switched off: by null, false or a word such as ``none``."""
    is_word = isinstance(raw, str) and raw.lower() in ("none", "no", "off", "false")
    return raw is None or raw is False or is_word


def check_whole(raw: Any, where: str, least: int, most: int) -> int:
    """Return a whole number from ``least`` to ``most``; raise ``InputError`` for anything else."""
    if isinstance(raw, bool) or not isinstance(raw, int) or not least <= raw <= most:
        raise InputError(
            f"{where}: expected a whole number from {least} to {most:,}, "
            f"got {show(raw)}{reading(raw, 'whole')}"
        )
    return raw


def check_keys(
    raw: Mapping[Any, Any],
    section: str,
    *,
    method: str,
    known: Sequence[str],
    hint_at: Callable[[Any], str] = lambda key: "",
) -> None:
    """Raise ``InputError`` for keys of a section that its method does not take."""

    def check(key: Any) -> None:
        if key not in known:
            where = f"{section}.{key}"
            hint = hint_at(key) or near(key, list(known)) or f"; known: {', '.join(known)}"
            raise InputError(
                f"{where[:60]}: expected a key of method {method}, got {show(key)}{hint}",
                where,
                is_key=True,
            )

    all_of(partial(check, key) for key in raw)


def _ascii_number(text: str) -> str:
    """Convert digits of other scripts and typographic minus signs to ASCII."""
    digits = (str(unicodedata.decimal(char, char)) for char in text.strip())
    return "".join(digits).replace("\N{MINUS SIGN}", "-")


def near(word: object, known: list[str]) -> str:
    """Return `` (did you mean ...?)`` if a known word is similar; ignore words of two letters."""
    match = nearest(word, known)
    return f" (did you mean {match}?)" if match else ""


def nearest(word: object, known: Sequence[str]) -> str:
    """Return the known word whose spelling is most similar, '' if none is close."""
    text = str(word)
    if not 2 < len(text) <= _MOST_LETTERS:
        return ""
    matches = get_close_matches(text, known, n=1, cutoff=0.6)
    if not matches and text.lower() != text:
        matches = get_close_matches(text.lower(), known, n=1, cutoff=0.6)
    return matches[0] if matches else ""


_MOST_LETTERS = 200
"""Longer words resemble no name, and comparing them is slow."""


def some_of(known: Sequence[str], page: str) -> str:
    """Return ``; known: ...`` with up to five names, and the page that lists them if more."""
    if len(known) <= _MOST_NAMES:
        return f"; known: {', '.join(known)}"
    return f"; known: {', '.join(known[:_MOST_NAMES])} and others (see page {page!r} of the docs)"


_MOST_NAMES = 5
_GROUPS = re.compile(r"[-+]?[1-9][0-9]{0,2}(,[0-9]{3})+")
"""A number with commas between groups of three digits."""


def reading(value: object, kind: str = "real", several: str = "") -> str:
    """Return a hint at how to write a value that is almost a number, a list or a flag; else ''.

    ``kind`` is what was expected: a ``real`` or ``whole`` number, a ``list`` of whole numbers or a
    ``flag``; ``several`` is the key for a list of values to try, '' if only one value is allowed.
    """
    if isinstance(value, list):
        of_item = "whole" if kind == "list" else kind
        return next(filter(None, (reading(item, of_item) for item in value[:_N_SHOWN])), "")
    if kind == "flag":
        return f"; write {'true' if value else 'false'}" if value in (0, 1) else ""
    if kind == "list":
        return _reading_of_list(value)
    is_short = isinstance(value, str) and len(value) <= _N_SHOWN
    return _reading(_ascii_number(str(value)), kind, several) if is_short else ""


def _reading_of_list(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"; write [{value}]" if value > 0 else ""
    text = _ascii_number(value) if isinstance(value, str) and len(value) <= _N_SHOWN else ""
    numbers = re.split(r"\s*[,;x]\s*|[\s-]+", text.strip("()[]"))
    if numbers and all(re.fullmatch("[1-9][0-9]*", number) for number in numbers):
        return f"; write [{', '.join(numbers)}]"
    return ""


def _reading(text: str, kind: str, several: str) -> str:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if kind == "whole" and math.isfinite(number) and number != int(number):
        return ""  # 1.5 and 1e-1 are numbers, but not whole ones
    forms = _forms_of(text, kind)
    parts = [part.strip() for part in re.split("[,;]", text)]
    is_list = len(parts) > 1 and all(re.fullmatch(_NUMBER, part) for part in parts)
    if kind == "whole":
        is_list &= all(re.fullmatch("[-+]?(0|[1-9][0-9]*)", part) for part in parts)
    if is_list and several:
        forms.append(f"{{{several}: [{', '.join(parts)}]}} to try each")
    if forms:
        return f"; write {', or '.join(forms)}"
    return _reading_of_digits(text)


_NUMBER = r"[-+]?((?:0|[1-9][0-9]*)\.?[0-9]*|\.[0-9]+)(e[-+]?[0-9]+)?"
_FACTORS = {"k": 1_000, "K": 1_000, "M": 1_000_000, "%": 0.01}


def _forms_of(text: str, kind: str) -> list[str]:
    """Return the valid forms of numbers that a text may mean: 10000 for ``10,000`` and ``10k``."""
    forms = []
    spaced = re.sub(r"(?<=[0-9])['_ \u00a0\u202f](?=[0-9]{3}(?![0-9]))", ",", text)
    if _GROUPS.fullmatch(spaced):
        forms.append(spaced.replace(",", ""))
    if kind == "real" and re.fullmatch("[-+]?[0-9]+,[0-9]+", text):
        forms.append(text.replace(",", "."))
    factor = re.fullmatch(rf"({_NUMBER})\s*([kKM%])", text)
    if factor:
        number = float(factor[1]) * _FACTORS[factor[4]]
        if kind == "real" or number == int(number):
            forms.append(f"{number:.15g}")
    fraction = re.fullmatch(r"([0-9]{1,9})\s*/\s*([1-9][0-9]{0,8})", text)
    if fraction and kind == "real":
        forms.append(f"{int(fraction[1]) / int(fraction[2]):.6g}")
    power = re.fullmatch(r"(?:([0-9.]+)\s*(?:\*|x)\s*)?(2|10)\s*(?:\*\*|\^)\s*(-?[0-9]{1,2})", text)
    if power and len(power[1] or "") < 10 and (power[1] or "1").count(".") < 2:
        number = float(power[1] or 1) * float(power[2]) ** int(power[3])
        if kind == "real" or number == int(number):
            forms.append(f"{number:.15g}")
    return forms


def _reading_of_digits(text: str) -> str:
    digits = text.lstrip("+-")
    if re.fullmatch(r"0[0-9]+", digits):
        octal = int(digits, 8) if set(digits) <= set("01234567") else int(digits)
        both = f"{octal} in YAML 1.1 and " if octal != int(digits) else ""
        return (
            f" ({both}{int(digits)} in 1.2); write the one you mean"
            if both
            else f"; write {int(digits)}"
        )
    if re.fullmatch(r"0(x[0-9a-fA-F]+|o[0-7]+|b[01]+)", digits):
        return f"; write {int(digits, 0)}"
    if re.fullmatch(r"[0-9]+(:[0-5]?[0-9])+", digits):
        return " (base 60 in YAML 1.1); write it in decimal"
    return ""


_N_SHOWN = 80


def show(value: object) -> str:
    """Return a user's value for a message, shortened, hiding possible secrets."""
    if value is None:
        return "null"
    if isinstance(value, float) and (math.isnan(value) or math.isinf(value)):
        return "NaN" if math.isnan(value) else ("infinity" if value > 0 else "-infinity")
    text = repr(value)
    if secret_within(text[: 2 * _N_SHOWN]):
        return "a possible secret (not shown)"
    # Name characters that only look like ASCII, such as no-break spaces and typographic quotes.
    chars = str(value)[:_N_SHOWN] if isinstance(value, str) else ""
    odd = next((char for char in chars if ord(char) > 127), "")
    named = f" with U+{ord(odd):04X} {unicodedata.name(odd, '')}".rstrip() if odd else ""
    return (text if len(text) <= _N_SHOWN else f"{text[: _N_SHOWN - 3]}...") + named


def is_null(value: object) -> bool:
    """Return whether a table value is null: None, NaN, or pandas' NA or NaT."""
    is_nan = isinstance(value, float) and math.isnan(value)
    return value is None or is_nan or type(value).__name__ in ("NAType", "NaTType")


def show_value(value: object) -> str:
    """Return a table value for people: 0.001 for 0.0010000000000000002, a dash for null.

    pandas stores whole numbers as floats in columns that have nulls, so 1000.0 is shown as 1000.
    """
    if is_null(value):
        return NULL_TEXT
    if not isinstance(value, float):
        return clean_line(str(value))
    is_whole = value.is_integer() and abs(value) < _MOST_WHOLE
    text = f"{value:g}"
    return str(int(value)) if is_whole and "e" in text else text


def printable(text: str, stream: TextIO | None = None) -> str:
    """Return text in a form that is safe to print on a stream (by default stdout).

    All but line feeds that does not print is escaped (``clean_text``). In encodings without a dash,
    such as ASCII, null becomes a hyphen and other unsupported characters become question marks.
    """
    text = clean_lines(text)
    encoding = getattr(stream or sys.stdout, "encoding", None) or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.replace(NULL_TEXT, "-").encode(encoding, "replace").decode(encoding)
    return text
