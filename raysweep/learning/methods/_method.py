"""The base class of methods against forgetting."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from raysweep.learning.declarations import Settings
from raysweep.learning.declare import Part
from raysweep.learning.stages import Stage

if TYPE_CHECKING:
    from raysweep.learning.replay.buffers import Buffer
    from raysweep.learning.training.context import Context, Lane


class Method:
    """What a configuration keeps between tasks.

    Each subclass has its own file, whose name is its word in ``replay:``. The defaults here
    describe a method that keeps nothing.
    """

    part: ClassVar[Part | None] = None
    """The part of a stage that fills the buffer; None if there is no such stage."""
    generates: ClassVar[bool] = False
    """Whether the replayed samples are generated rather than real."""

    def scope(self, config: Settings, generator: str) -> str:
        """Return what ``n_replay_scope: auto`` stands for, given the resolved ``generator``."""
        return "per_task"

    def check(self, config: Settings) -> None:
        """Raise ``InputError`` for settings that are incompatible with the method."""

    def parents(
        self, config: Settings, models: Sequence[Stage], generators: Sequence[Stage]
    ) -> dict[str, str]:
        """Return the stages that a filled buffer depends on, as fingerprints by role."""
        return {}

    def keeps_earlier(self, config: Settings) -> bool:
        """Return whether a buffer includes the buffer of the earlier tasks."""
        return True

    def is_by_task(self, config: Settings) -> bool:
        """Return whether a buffer has a separate budget for each task."""
        return True

    def is_by_class(self, config: Settings) -> bool:
        """Return whether the samples of a buffer are chosen class by class."""
        return False

    def size(self, config: Settings, n_tasks: int) -> list[object]:
        """Return a value that is equal for buffers of equal size after ``n_tasks`` tasks."""
        return [buffer_rows(config, n_tasks)]

    def fill(self, context: "Context", lanes: "Sequence[Lane]") -> "list[Buffer]":
        """Make a task's samples for the buffers of the lanes, which form one group of stages."""
        raise NotImplementedError


def has_total(config: Settings) -> bool:
    """Return whether ``n_replay`` is the budget of all tasks together."""
    return config.n_replay_scope == "total"


def buffer_rows(config: Settings, n_tasks: int) -> int:
    """Return the largest size of a buffer after ``n_tasks`` tasks."""
    return config.n_replay * (1 if has_total(config) else n_tasks)
