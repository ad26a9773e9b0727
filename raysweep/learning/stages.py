"""A stage: one phase of an experiment, identified by everything it depends on."""

from dataclasses import dataclass
from typing import Literal

from raysweep.learning.declare import Part

StageKind = Literal["train_task", "train_joint", "train_generator", "fill_buffer"]


@dataclass(frozen=True)
class Stage:
    """One stage of one configuration.

    ``task`` counts from 1; for joint training it is the last task. ``parents`` maps a role
    (``model``, ``generator``, ``buffer``; ``model_1``, ``generator_1`` and so on if there are
    several) to the fingerprint of the stage that provides it. Stages of one pack with equal
    ``group`` have tensors of equal shapes and train as one stacked model. ``parts`` determines
    which settings the stage reads.
    """

    kind: StageKind
    task: int
    fingerprint: str
    parents: tuple[tuple[str, str], ...]
    group: str
    parts: frozenset[Part] = frozenset()

    @property
    def name(self) -> str:
        """The stage's name in the tables, such as ``train_task_1``."""
        return self.kind if self.kind == "train_joint" else f"{self.kind}_{self.task}"

    @property
    def is_classifier(self) -> bool:
        """Whether the stage trains a classifier."""
        return self.kind in ("train_task", "train_joint")

    @property
    def is_first(self) -> bool:
        """Whether the stage trains a new classifier, with the loss of task 1."""
        return self.kind == "train_joint" or (self.kind == "train_task" and self.task == 1)

    def parent(self, role: str) -> str | None:
        """Return the fingerprint of the parent in a role, or None."""
        return dict(self.parents).get(role)

    def numbered_parents(self, role: str) -> list[str]:
        """List the parents in the roles ``role_1``, ``role_2`` and so on."""
        return [parent for name, parent in self.parents if name.startswith(f"{role}_")]
