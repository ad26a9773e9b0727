"""The declaration of a column, which determines labels, units, directions and axes everywhere."""

from dataclasses import KW_ONLY, dataclass
from enum import StrEnum
from functools import cached_property

import pyarrow as pa

SETTING = "config/"
"""Prefix of the names of columns that hold settings."""


class Direction(StrEnum):
    """Which values of a metric are better, in the words of ``mode:``."""

    HIGHER = "max"
    LOWER = "min"


@dataclass(frozen=True)
class Column:
    """A column: name, Arrow type, a one-sentence description, and how to interpret its values.

    ``unit`` is shown beside values and on axes. ``better`` is None if neither direction is better.
    ``is_log`` allows a logarithmic axis if the values call for one (``raysweep.analysis``).
    ``bounds`` are the smallest and largest possible values. ``is_metric`` marks metrics, which can
    be ranked, plotted and optimised, as opposed to positions, counts and circumstances.
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
        """Whether it holds shares between 0 and 1."""
        return self.bounds == (0.0, 1.0)

    @property
    def label(self) -> str:
        """The name in words, without a unit at its end."""
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
        """The Arrow schema of every file of the table."""
        return pa.schema([(column.name, column.type) for column in self.columns])
