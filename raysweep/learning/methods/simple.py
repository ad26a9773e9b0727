"""Experience replay: real samples of earlier tasks are kept."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from raysweep.errors import InputError
from raysweep.learning.data.task_kinds import fewest_train
from raysweep.learning.declarations import Settings
from raysweep.learning.declarations.replay import FEATURE_SELECTIONS
from raysweep.learning.declare import Part
from raysweep.learning.methods._method import Method, buffer_rows, has_total
from raysweep.learning.stages import Stage

if TYPE_CHECKING:
    from raysweep.learning.replay.buffers import Buffer
    from raysweep.learning.training.context import Context, Lane


class Simple(Method):
    """Keeps real samples, which ``selection`` chooses at the end of their task."""

    part = Part.CHOSEN

    def scope(self, config: Settings, generator: str) -> str:
        """Return total for a reservoir, which samples the whole stream, otherwise per_task."""
        return "total" if config.selection == "reservoir" else "per_task"

    def check(self, config: Settings) -> None:
        """Refuse a separate reservoir for each task."""
        if config.selection == "reservoir" and config.n_replay_scope == "per_task":
            raise InputError(
                "space.n_replay_scope: expected total with selection reservoir (it samples the "
                "whole stream), got per_task; use selection: random to draw equally from each task"
            )

    def parents(
        self, config: Settings, models: Sequence[Stage], generators: Sequence[Stage]
    ) -> dict[str, str]:
        """Return the model if distances are measured in its features."""
        is_by_features = config.selection in FEATURE_SELECTIONS
        if is_by_features and config.selection_features == "encoder":
            return {"model": models[-1].fingerprint}
        return {}

    def is_by_task(self, config: Settings) -> bool:
        """Return false for a reservoir."""
        return config.selection != "reservoir"

    def is_by_class(self, config: Settings) -> bool:
        """Return whether samples are selected class by class."""
        return config.selection not in ("random", "reservoir")

    def size(self, config: Settings, n_tasks: int) -> list[object]:
        """Return the size, or what determines it where a task may have fewer samples."""
        if self.is_by_class(config):
            kind = "ring" if config.selection == "ring" else "by_class"
            return [kind, config.n_replay, has_total(config)]
        if config.n_replay > fewest_train(config):
            return [config.selection, config.n_replay, has_total(config)]
        return [buffer_rows(config, n_tasks)]

    def fill(self, context: "Context", lanes: "Sequence[Lane]") -> "list[Buffer]":
        """Choose real samples."""
        from raysweep.learning.replay.filling import choose

        return choose(context, lanes)


METHOD = Simple()
