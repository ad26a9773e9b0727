"""A pack: configurations with equal tensor shapes that train together as one stacked model."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from raysweep.learning.config import Config
from raysweep.learning.stage_graph import LANE_SETTINGS, epochs_of, stages_of
from raysweep.learning.stages import Stage


def pack_key(config: Config) -> str:
    """Return the key that configurations must share to train in one pack."""
    return json.dumps(config.model_dump(exclude=set(LANE_SETTINGS)), sort_keys=True)


@dataclass(frozen=True)
class Pack:
    """Configurations with equal tensor shapes that train together as one stacked model."""

    configs: tuple[Config, ...]

    @cached_property
    def groups(self) -> list[tuple[Stage, ...]]:
        """The pack's distinct stages in groups, in the order they run; groups train in lockstep."""
        return group_stages(self.configs)

    @property
    def n_epochs(self) -> int:
        """Number of epochs that the pack trains over all groups if no lane diverges."""
        return sum(epochs_of(self.configs[0], group[0]) for group in self.groups)


def turn_of(stage: Stage) -> tuple[int, int, str]:
    """Return the sort key of a stage's group; groups run in the order of their keys."""
    order = {"train_task": 0, "train_joint": 0, "train_generator": 1, "fill_buffer": 2}
    return stage.task, order[stage.kind], stage.group


def group_stages(configs: Sequence[Config]) -> list[tuple[Stage, ...]]:
    """Group the distinct stages of configurations with one pack key, in the order they run."""
    groups: dict[tuple[int, int, str], dict[str, Stage]] = {}
    for config in configs:
        for stage in stages_of(config):
            groups.setdefault(turn_of(stage), {})[stage.fingerprint] = stage
    return [tuple(groups[key].values()) for key in sorted(groups)]
