"""Typed settings: from the text of a search space to a list of configurations.

Everything a user can write is checked here, before anything starts. A mistake raises
``InputError``, whose text is one line: what was expected, what came, where, what to do.
"""

from raysweep.settings.config import Config, defaults_of
from raysweep.settings.execution import Resources, StageKeeping
from raysweep.settings.fields import SOURCES, InputError, SourceShape, TaskKind, near, show_widths
from raysweep.settings.rules import (
    EXPERIMENTS,
    REPLAY_SETTINGS,
    is_by_class,
    loss_weights,
    shares_of_first_task,
)
from raysweep.settings.sampling import Domain, Search
from raysweep.settings.space import BRANCH, Parameters, Space
from raysweep.settings.stopping import Budget, EarlyStopping, Stop, classifier_epochs
from raysweep.settings.sweep import MAX_CONFIGS, Sweep, load_sweep
from raysweep.settings.yaml_text import dump_yaml, parse_yaml

__all__ = [
    "BRANCH",
    "EXPERIMENTS",
    "MAX_CONFIGS",
    "REPLAY_SETTINGS",
    "SOURCES",
    "Budget",
    "Config",
    "Domain",
    "EarlyStopping",
    "InputError",
    "Parameters",
    "Resources",
    "Search",
    "SourceShape",
    "Space",
    "StageKeeping",
    "Stop",
    "Sweep",
    "TaskKind",
    "classifier_epochs",
    "defaults_of",
    "dump_yaml",
    "is_by_class",
    "load_sweep",
    "loss_weights",
    "near",
    "parse_yaml",
    "shares_of_first_task",
    "show_widths",
]
