"""Typed settings: from the text of a search space to a list of configurations.

Everything a user can write is checked here, before anything starts. A mistake raises
``InputError``, whose text is one line: what was expected, what came, where, what to do.
"""

from raysweep.settings.config import (
    SOURCES,
    Config,
    InputError,
    SourceShape,
    TaskKind,
    loss_weights,
    near,
    show_widths,
)
from raysweep.settings.sweep import Resources, StageKeeping, Sweep, load_sweep
from raysweep.settings.yaml_text import dump_yaml, parse_yaml

__all__ = [
    "SOURCES",
    "Config",
    "InputError",
    "Resources",
    "SourceShape",
    "StageKeeping",
    "Sweep",
    "TaskKind",
    "dump_yaml",
    "load_sweep",
    "loss_weights",
    "near",
    "parse_yaml",
    "show_widths",
]
