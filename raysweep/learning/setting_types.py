"""What settings are made of: their types, how text becomes a value, what a message shows."""

import types
import typing
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field
from pydantic.fields import FieldInfo

from raysweep.user_text.values import plain_number


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


def show_widths(widths: tuple[int, ...]) -> str:
    """Write widths as the field does: ``200-200``; the empty text where there are none."""
    return "-".join(map(str, widths))
