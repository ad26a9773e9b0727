"""What a column declares, once: labels, units, directions and axes everywhere follow from it."""

from dataclasses import KW_ONLY, dataclass
from enum import StrEnum
from functools import cached_property

import pyarrow as pa

SETTING = "config/"
"""Start of the names of columns that hold settings."""


class Direction(StrEnum):
    """Which values of a measure are better, in the words of ``mode:``."""

    HIGHER = "max"
    LOWER = "min"


@dataclass(frozen=True)
class Column:
    """A column: name, Arrow type, one sentence on what it holds, and how to read its values.

    ``unit`` stands beside values and on axes. ``better`` is None where neither direction is.
    ``is_log`` gives it a logarithmic axis where its values call for one (``raysweep.analysis``).
    ``bounds`` are the least and the largest possible value. ``is_metric`` tells measures, which can
    be ranked, drawn and searched for, from places, counts and circumstances.
    """

    name: str
    type: pa.DataType
    description: str
    _: KW_ONLY
    unit: str = ""
    better: Direction | None = None
    is_log: bool = False
    bounds: tuple[float, float] | None = None
    is_metric: bool = False

    @property
    def is_setting(self) -> bool:
        """Whether it holds a setting of the configuration."""
        return self.name.startswith(SETTING)

    @property
    def is_number(self) -> bool:
        """Whether it holds numbers."""
        return bool(pa.types.is_floating(self.type) or pa.types.is_integer(self.type))

    @property
    def is_whole(self) -> bool:
        """Whether it holds whole numbers."""
        return bool(pa.types.is_integer(self.type))

    @property
    def is_share(self) -> bool:
        """Whether it holds shares, from 0 to 1."""
        return self.bounds == (0.0, 1.0)

    @property
    def label(self) -> str:
        """The name in words; a unit that ends the name is left to ``unit``."""
        suffix = f"_{self.unit}" if self.unit else ""
        return in_words(self.name.removesuffix(suffix))


def in_words(name: str) -> str:
    """Return the name of a column in words: ``average accuracy``."""
    return name.removeprefix(SETTING).replace("_", " ")


@dataclass(frozen=True)
class TableSchema:
    """A table: one row per ``key``."""

    name: str
    key: tuple[str, ...]
    columns: tuple[Column, ...]

    @cached_property
    def arrow(self) -> pa.Schema:
        """The schema that every file of the table is written with."""
        return pa.schema([(column.name, column.type) for column in self.columns])
