"""Settings of the experiment, its tasks and their data."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict

from raysweep.learning.data.source_files import FileSource
from raysweep.learning.data.source_shapes import NAMED_SOURCES
from raysweep.learning.declare import (
    Choice,
    Count,
    Flag,
    Part,
    setting,
    words_in,
)
from raysweep.learning.experiments import EXPERIMENTS


class TaskSettings(BaseModel):
    """Settings of the experiment and its data."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    experiment: Annotated[str, Choice(list(EXPERIMENTS))] = setting(
        "replay_vib",
        "top",
        "replay_vib: tasks in sequence with replay, learned by a VIB or comparison model; replay: "
        "the same, learned by an MLP; vib: one task, learned by a VIB; joint: all tasks at once, "
        "the upper bound.",
        decides=lambda config: True,
    )
    tasks: Annotated[str, Choice(words_in("data/task_kinds"))] = setting(
        "perm_mnist", "data", "How tasks are made from the source.", Part.EVERY
    )
    n_tasks: Count = setting(2, "data", "Number of tasks in sequence.", Part.EVERY, ge=1, le=100)
    source: Annotated[str, Choice(list(NAMED_SOURCES))] | FileSource = setting(
        "mnist_5k",
        "data",
        "Data set; for your own data, the path of an .npz file.",
        Part.EVERY,
    )
    task_samples: Count = setting(
        0,
        "data",
        "Training samples per task, drawn at random (by seed); 0 uses all.",
        Part.EVERY,
        ge=0,
        le=60_000,
    )
    normalize: Flag = setting(
        False,
        "data",
        "Whether to normalise classifier inputs: (x - mean) / sd of the source's pixels.",
        Part.EVERY,
    )
    shuffle_tasks: Flag = setting(
        False, "data", "Whether split tasks pair the classes at random (by seed).", Part.SPLIT
    )
    first_task_identity: Flag = setting(
        False, "data", "Whether the first permuted task keeps the original pixels.", Part.PERMUTED
    )
    drop_last: Flag = setting(
        True, "data", "Whether an epoch drops an incomplete last batch.", Part.EVERY
    )

    @property
    def is_joint(self) -> bool:
        """Whether all tasks are learned at once."""
        return EXPERIMENTS[self.experiment].is_joint

    @property
    def n_stored_tasks(self) -> int:
        """Number of tasks after which the buffer is filled: all but the last of a sequence."""
        return 0 if self.is_joint else self.n_tasks - 1
