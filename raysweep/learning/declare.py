"""How to declare a setting: its type, where it may vary, and which stages read it."""

import types
import typing
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, StrEnum
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, GetCoreSchemaHandler
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, core_schema

from raysweep.errors import InputError
from raysweep.user_text.values import plain_number

MOST_LAYERS = 100
"""Planning takes minutes for 20,000 layers."""


def _flag(value: Any) -> Any:
    if not isinstance(value, bool | str):
        raise ValueError("not a flag")
    return value


def _widths(value: Any) -> Any:
    if isinstance(value, str | bytes) or not isinstance(value, list | tuple):
        raise ValueError("not a list of widths")
    if len(value) > MOST_LAYERS:
        raise InputError(f"expected at most {MOST_LAYERS} layers, got {len(value):,}; write fewer")
    if any(isinstance(width, bool) for width in value):
        raise ValueError("not a list of widths")
    return tuple(plain_number(width) for width in value)


def _replay_kind(value: Any) -> Any:
    # `replay: no`, `off`, `false` and `null` all mean none.
    is_no = isinstance(value, str) and value.lower() in ("no", "off", "false")
    return "none" if value is None or value is False or is_no else value


Real = Annotated[float, BeforeValidator(plain_number), Field(allow_inf_nan=False)]
Count = Annotated[int, BeforeValidator(plain_number)]
Flag = Annotated[bool, BeforeValidator(_flag)]
Widths = Annotated[
    tuple[Annotated[int, Field(ge=1, le=100_000)], ...],
    Field(max_length=MOST_LAYERS),
    BeforeValidator(_widths),
]


class Choice:
    """One of a fixed set of words."""

    def __init__(self, words: Sequence[str]) -> None:
        self.words = tuple(words)

    def __get_pydantic_core_schema__(
        self, source: type[Any], handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """Return the pydantic schema of the words."""
        return core_schema.literal_schema(list(self.words))


def words_in(folder: str) -> list[str]:
    """List the words that a folder of ``learning`` defines: the names of its files.

    Each model, method and kind of tasks is one file, so adding a file adds a word. The files are
    not imported. Names that begin with an underscore do not count.
    """
    return sorted(file.stem for file in (Path(__file__).parent / folder).glob("[a-z]*.py"))


def load_words(package: str, name: str) -> dict[str, Any]:
    """Import the files of a package below ``learning``; return the attribute ``name`` of each."""
    folder = package.removeprefix("raysweep.learning.").replace(".", "/")
    return {word: getattr(import_module(f"{package}.{word}"), name) for word in words_in(folder)}


ReplayMethod = Annotated[str, Choice(words_in("methods")), BeforeValidator(_replay_kind)]


class Part(StrEnum):
    """A part of a stage, as far as settings are concerned.

    A stage is a set of parts; each setting names the parts that read it.
    """

    EVERY = "every stage"
    PERMUTED = "permuted tasks"
    SPLIT = "split tasks"
    TRAINING = "every stage that trains"
    CLASSIFIER = "training a classifier"
    HIDDEN_LAYERS = "training a classifier whose encoder has hidden layers"
    LATER_TASK = "training a classifier on a task after the first"
    BOTTLENECK = "training a classifier with a stochastic bottleneck"
    RECONSTRUCTION = "training a classifier that reconstructs its inputs"
    REPLAY = "training a classifier with replay"
    VAE = "training a separate VAE"
    VAE_REPLAY = "training a separate VAE with its own replay"
    BUFFER = "filling a buffer"
    CHOSEN = "filling a buffer with real samples"
    GENERATED = "filling a buffer with generated samples"


class Varies(Enum):
    """Whether the configurations of a pack may differ in a setting."""

    BY_PACK = "shared by a pack: it sets tensor shapes, or the data that all lanes train on"
    BY_LANE = "each lane of a pack may have its own value"
    BY_LANE_SIZE = "each lane may have its own value, which affects the lane's memory use"


@dataclass(frozen=True)
class Reader:
    """A part that reads a setting, provided that other settings have one of the given values."""

    part: Part
    conditions: tuple[tuple[str, tuple[Any, ...]], ...] = ()

    def reads(self, config: Any, parts: Collection[Part]) -> bool:
        """Return whether a stage made of ``parts`` reads the setting in a configuration."""
        return self.part in parts and all(
            getattr(config, name) in values for name, values in self.conditions
        )


def when(part: Part, **conditions: tuple[Any, ...]) -> Reader:
    """Make a reader: ``when(Part.REPLAY, retrieval=("mir",))``."""
    return Reader(part, tuple(conditions.items()))


@dataclass(frozen=True)
class Declaration:
    """The facts about a setting besides its type, default and limits.

    ``section`` is its section in the search-space file; ``decides`` returns whether the setting
    determines which stages a given configuration has.
    """

    section: str
    readers: tuple[Reader, ...]
    varies: Varies
    decides: Callable[[Any], bool] | None

    @property
    def conditions(self) -> Iterator[str]:
        """Names of the settings that determine whether a stage reads this one."""
        return (name for reader in self.readers for name, _ in reader.conditions)


def setting(
    default: Any,
    section: str,
    description: str,
    *readers: Reader | Part,
    varies: Varies = Varies.BY_PACK,
    decides: Callable[[Any], bool] | None = None,
    **limits: Any,
) -> Any:
    """Declare a setting: default, section, description, the parts that read it, and limits."""
    made = tuple(when(reader) if isinstance(reader, Part) else reader for reader in readers)
    return Field(
        default,
        description=description,
        json_schema_extra={"declaration": Declaration(section, made, varies, decides)},  # type: ignore[dict-item]
        **limits,
    )


def declaration_of(field: FieldInfo) -> Declaration:
    """Return the declaration that ``setting`` stored in a field."""
    extra = typing.cast(dict[str, Any], field.json_schema_extra)
    return typing.cast(Declaration, extra["declaration"])


def words_of(field: FieldInfo) -> list[str]:
    """List the words a setting accepts; empty if the setting is not a choice of words."""
    parts = typing.get_args(field.annotation)
    of_parts = [word for part in parts for word in (part, *typing.get_args(part))]
    choices = [part for part in (*field.metadata, *of_parts) if isinstance(part, Choice)]
    if choices:
        return list(choices[0].words)
    return [word for word in of_parts if isinstance(word, str)]


def _takes_files(field: FieldInfo) -> bool:
    return isinstance(field.annotation, types.UnionType) or (
        typing.get_origin(field.annotation) is typing.Union
    )


def describe(field: FieldInfo) -> str:
    """Describe what a setting accepts, from its type and limits."""
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
    """Format widths the way tables store them: ``200-200``; an empty string for no widths."""
    return "-".join(map(str, widths))
