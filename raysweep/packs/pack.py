"""A pack: configurations of equal shapes, trained at once as one stacked model."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from raysweep.learning.config import Config
from raysweep.learning.stage_graph import LANE_SETTINGS, epochs_of, stages_of
from raysweep.learning.stages import Stage


def pack_key(config: Config) -> str:
    """Return the text that configurations must share to train in one pack."""
    return json.dumps(config.model_dump(exclude=set(LANE_SETTINGS)), sort_keys=True)


@dataclass(frozen=True)
class Pack:
    """Configurations of equal shapes that train at once as one stacked model."""

    configs: tuple[Config, ...]

    @cached_property
    def groups(self) -> list[tuple[Stage, ...]]:
        """Group the pack's distinct stages, in the order they run; a group trains in step."""
        return group_stages(self.configs)

    @property
    def n_epochs(self) -> int:
        """Number of epochs that the pack trains, group after group, if no lane diverges."""
        return sum(epochs_of(self.configs[0], group[0]) for group in self.groups)


def turn_of(stage: Stage) -> tuple[int, int, str]:
    """Return the key of a stage's group in a pack; groups run in the order of their keys."""
    order = {"train_task": 0, "train_joint": 0, "train_generator": 1, "fill_buffer": 2}
    return stage.task, order[stage.kind], stage.group


def group_stages(configs: Sequence[Config]) -> list[tuple[Stage, ...]]:
    """Group the distinct stages of configurations of one pack key, in the order they run."""
    groups: dict[tuple[int, int, str], dict[str, Stage]] = {}
    for config in configs:
        for stage in stages_of(config):
            groups.setdefault(turn_of(stage), {})[stage.fingerprint] = stage
    return [tuple(groups[key].values()) for key in sorted(groups)]
