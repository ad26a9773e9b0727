"""What settings are made of: their types, how text becomes a value, what a message shows."""

import math
import re
import typing
from difflib import get_close_matches
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BeforeValidator, Field
from pydantic.fields import FieldInfo

TaskKind = Literal["perm_mnist", "split_mnist"]


class InputError(Exception):
    """Say in one line what a user got wrong and what to do; the command line exits with 2."""


class SourceShape(NamedTuple):
    """What is known of a data source before it is loaded."""

    n_train: int
    n_test: int
    n_inputs: int
    n_classes: int


SOURCES: dict[str, SourceShape] = {
    "mnist_5k": SourceShape(4_000, 1_000, 784, 10),
    "mnist": SourceShape(60_000, 10_000, 784, 10),
    "fashion_mnist": SourceShape(60_000, 10_000, 784, 10),
    "kmnist": SourceShape(60_000, 10_000, 784, 10),
}


def plain_number(value: Any) -> Any:
    """Give a number, or text that can be nothing else; raise ``ValueError`` otherwise."""
    if isinstance(value, bool) or value is None:
        raise ValueError("not a number")
    if isinstance(value, str):
        if re.match(r"[-+]?0[0-9]", value.strip()):
            raise ValueError("octal in YAML 1.1, decimal in YAML 1.2")
        value = float(value)
    if isinstance(value, float) and value == 0:
        return 0.0  # -0.0 and 0.0 are one setting
    return value


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
    return [str(word) for word in typing.get_args(field.annotation) if isinstance(word, str)]


def describe(field: FieldInfo) -> str:
    """Say what a setting accepts, by its type and limits."""
    if words_of(field):
        return f"one of {', '.join(words_of(field))}"
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


def show(value: object) -> str:
    """Show a user's value in a message, shortened."""
    if isinstance(value, float) and (math.isnan(value) or math.isinf(value)):
        return "NaN" if math.isnan(value) else ("infinity" if value > 0 else "-infinity")
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def show_widths(widths: tuple[int, ...]) -> str:
    """Write widths as the field does: ``200-200``; the empty text where there are none."""
    return "-".join(map(str, widths))
