"""One pack's access to the stage cache."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from raysweep.learning.config import Config
from raysweep.learning.data.sources import Source
from raysweep.learning.replay.buffers import BUFFER_FIELDS, Buffer
from raysweep.learning.stacked.optimizers import LaneState
from raysweep.learning.stages import Stage
from raysweep.packs.stage_cache.entries import Entry, StageCache, environment

_PARAMETERS, _MOMENTS = "parameters", "moments"

Kept = dict[str, Any]
"""A stage's values for the tables: ``epochs`` (metrics by epoch), ``accuracy``,
``initial_accuracy``, ``label_entropy`` and ``divergence``."""


@dataclass
class Found:
    """What the cache has for a pack: ``kept`` for every stage in it, by fingerprint.

    ``models`` and ``buffers`` hold the outputs that stages missing from the cache start from.
    """

    kept: dict[str, Kept] = field(default_factory=dict)
    models: dict[str, LaneState] = field(default_factory=dict)
    buffers: dict[str, Buffer] = field(default_factory=dict)


class PackCache:
    """The part of a cache that is valid for one pack: its data, device, precision and process.

    ``seconds`` is the time spent reading and writing so far.
    """

    def __init__(
        self, store: StageCache, source: Source, device: torch.device, dtype: torch.dtype
    ) -> None:
        self._store = store
        self._device = device
        self._environment = environment(source, device, dtype)
        self.seconds = 0.0

    @property
    def failure(self) -> str | None:
        """The error, in one line, after which nothing more is written."""
        return self._store.failure

    def find(
        self, groups: Sequence[Sequence[Stage]], users: Mapping[str, Sequence[Config]]
    ) -> Found:
        """Look up a pack's stages, and load the outputs that the missing ones start from.

        If such an output is unavailable (removed meanwhile, or lacking the optimiser's moments),
        its own stage counts as missing too.
        """
        start = time.perf_counter()
        stages = [stage for group in groups for stage in group]
        found = Found()
        for stage in stages:
            entry = self._store.read(stage.fingerprint, self._environment)
            if entry is not None:
                found.kept[stage.fingerprint] = entry.record
        is_whole = False
        while not is_whole:
            is_whole = True
            for fingerprint, with_moments in _needed(stages, found.kept, users).items():
                if not self._load(fingerprint, with_moments, found):
                    del found.kept[fingerprint]
                    is_whole = False
        self.seconds += time.perf_counter() - start
        return found

    def _load(self, fingerprint: str, with_moments: bool, found: Found) -> bool:
        """Load a stage's output; return whether it is there, with moments if they are needed."""
        model = found.models.pop(fingerprint, None)
        if fingerprint in found.buffers:
            return True
        if model is None or (with_moments and not model.moments):
            model = None
            entry = self._store.read(fingerprint, self._environment)
            if entry is None or (with_moments and not entry.record["has_moments"]):
                return False
            tensors = {name: tensor.to(self._device) for name, tensor in entry.tensors.items()}
            if tensors.keys() == set(BUFFER_FIELDS):
                found.buffers[fingerprint] = Buffer(**tensors)
                return True
            model = _lane_state(tensors, entry.record["n_steps"], with_moments)
            if not model.parameters:
                return False
        found.models[fingerprint] = model
        return True

    def keep(
        self, stage: Stage, kept: Kept, output: LaneState | Buffer | None, has_moments: bool = False
    ) -> None:
        """Add a stage that has ended to the cache.

        ``output`` is None if no stage can start from it. An entry with moments replaces one
        without.
        """
        start = time.perf_counter()
        tensors: dict[str, Tensor] = {}
        n_steps = 0
        if isinstance(output, Buffer):
            tensors = output.tensors()
        elif output is not None:
            tensors = {f"{_PARAMETERS}/{n}": tensor for n, tensor in output.parameters.items()}
            n_steps = output.n_steps
        if isinstance(output, LaneState) and has_moments:
            for moment, values in output.moments.items():
                tensors |= {f"{_MOMENTS}/{moment}/{n}": tensor for n, tensor in values.items()}
        record = {**kept, "has_moments": has_moments, "n_steps": n_steps}
        entry = Entry(record, tensors)
        self._store.write(stage.fingerprint, self._environment, entry, replaces=has_moments)
        self.seconds += time.perf_counter() - start


def _needed(
    stages: Sequence[Stage], kept: Mapping[str, Kept], users: Mapping[str, Sequence[Config]]
) -> dict[str, bool]:
    """Map the cached stages that missing ones start from to whether moments are needed."""
    needed: dict[str, bool] = {}
    for stage in stages:
        if stage.fingerprint in kept:
            continue
        keeps = users[stage.fingerprint][0].keeps_optimizer_state
        goes_on = {"train_task": "model" if keeps else "", "train_generator": "generator"}
        for role, parent in stage.parents:
            # A stage that diverged has no children.
            if parent in kept and not kept[parent]["divergence"]:
                with_moments = role == goes_on.get(stage.kind)
                needed[parent] = needed.get(parent, False) or with_moments
    return needed


def _lane_state(tensors: Mapping[str, Tensor], n_steps: int, with_moments: bool) -> LaneState:
    parameters: dict[str, Tensor] = {}
    moments: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        kind, _, rest = name.partition("/")
        if kind == _PARAMETERS:
            parameters[rest] = tensor
        elif with_moments:
            moment, _, parameter = rest.partition("/")
            moments.setdefault(moment, {})[parameter] = tensor
    return LaneState(parameters, moments, n_steps)
