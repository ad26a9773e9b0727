"""The parts that make up the stages of a configuration, as far as settings are concerned."""

from operator import attrgetter
from typing import Any

from raysweep.learning.data.task_kinds import TASK_KINDS
from raysweep.learning.declarations import DECLARATIONS, Settings
from raysweep.learning.declare import Part
from raysweep.learning.methods import METHODS
from raysweep.learning.models import MODELS

Parts = frozenset[Part]

_DECIDE = ("experiment", "tasks", "n_tasks", "model", "replay", "generator")
"""The settings that determine the parts of the stages."""

DECIDING = (
    *_DECIDE,
    *(n for declared in DECLARATIONS.values() for n in declared.conditions if n not in _DECIDE),
)
"""The settings that determine whether other settings apply."""

BY_DEPENDENCE = tuple(dict.fromkeys([*DECIDING, *DECLARATIONS]))
"""All settings, starting with those that determine whether others apply."""


_applicable: dict[tuple[Any, ...], list[str]] = {}
_readers: dict[tuple[Any, ...], list[str]] = {}
"""Caches by the deciding settings: there are many configurations, but of few kinds."""


def applicable(settings: Settings) -> list[str]:
    """List the settings that apply: some stage reads them, or they determine the stages.

    Every `auto` must be resolved.
    """
    key = _deciding(settings)
    if key not in _applicable:
        read = {name for parts in stage_parts(settings) for name in read_by(settings, parts)}
        _applicable[key] = [
            name
            for name, declared in DECLARATIONS.items()
            if name in read or (declared.decides is not None and declared.decides(settings))
        ]
    return _applicable[key]


def read_by(settings: Settings, parts: Parts) -> list[str]:
    """List the settings that a stage made of ``parts`` reads."""
    key = (*_deciding(settings), parts)
    if key not in _readers:
        _readers[key] = [
            name
            for name, declared in DECLARATIONS.items()
            if any(reader.reads(settings, parts) for reader in declared.readers)
        ]
    return _readers[key]


_deciding = attrgetter(*DECIDING)


def stage_parts(settings: Settings) -> set[Parts]:
    """Return the parts of each kind of stage that a configuration has."""
    method = METHODS[settings.replay]
    found = {classifier_parts(settings, is_first=True, has_buffer=False)}
    n_stored = settings.n_stored_tasks
    if n_stored:
        has_buffer = method.part is not None
        found.add(classifier_parts(settings, is_first=False, has_buffer=has_buffer))
    if n_stored and method.part is not None:
        found.add(buffer_parts(settings))
        if method.generates and not MODELS[settings.model].decodes_images:
            found.add(vae_parts(settings, has_buffer=False))
            if n_stored > 1 and settings.generator == "continual":
                found.add(vae_parts(settings, has_buffer=True))
    return found


def decodes_images(settings: Settings, is_first: bool) -> bool:
    """Return whether a classifier stage trains an image decoder."""
    if not MODELS[settings.model].decodes_images:
        return False
    is_generated = settings.n_stored_tasks > 0 and METHODS[settings.replay].generates
    return is_first or (is_generated and settings.generator == "continual")


def classifier_parts(settings: Settings, is_first: bool, has_buffer: bool) -> Parts:
    """Return the parts of a stage that trains the classifier."""
    parts = {Part.TRAINING, Part.CLASSIFIER}
    model = MODELS[settings.model]
    if model.has_hidden_layers:
        parts.add(Part.HIDDEN_LAYERS)
    if model.has_latent:
        parts.add(Part.BOTTLENECK)
    if decodes_images(settings, is_first):
        parts.add(Part.RECONSTRUCTION)
    if not is_first:
        parts.add(Part.LATER_TASK)
    if has_buffer:
        parts.add(Part.REPLAY)
    return _with_data(settings, parts)


def vae_parts(settings: Settings, has_buffer: bool) -> Parts:
    """Return the parts of a stage that trains a separate VAE."""
    parts = {Part.TRAINING, Part.VAE}
    if has_buffer:
        parts.add(Part.VAE_REPLAY)
    return _with_data(settings, parts)


def buffer_parts(settings: Settings) -> Parts:
    """Return the parts of a stage that fills the buffer."""
    part = METHODS[settings.replay].part
    assert part is not None
    return _with_data(settings, {Part.BUFFER, part})


def _with_data(settings: Settings, parts: set[Part]) -> Parts:
    own = TASK_KINDS[settings.tasks].part
    return frozenset(parts | {Part.EVERY} | ({own} if own else set()))
