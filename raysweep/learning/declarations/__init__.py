"""Every setting of an experiment, declared once.

The declarations say what there is. What ``auto`` stands for and which settings go together is in
``rules``, what the stages of a configuration are in ``stage_graph``.
"""

from raysweep.learning.declarations.replay import ReplaySettings
from raysweep.learning.declare import (
    Count,
    Declaration,
    Part,
    Real,
    Varies,
    declaration_of,
    setting,
)


class Settings(ReplaySettings):
    """All settings, in the order of the ``config/<name>`` columns.

    Each names the section of the search-space file it belongs to; every one may also stand under
    ``space:``.
    """

    loss_above: Real = setting(
        1_000_000.0,
        "divergence",
        "Per-sample mean of the total loss above which a configuration has diverged.",
        Part.TRAINING,
        varies=Varies.BY_LANE,
        gt=0,
    )
    loss_factor: Real = setting(
        0.0,
        "divergence",
        "That loss is too high, too, above this factor (> 1) times its lowest in the stage so "
        "far, if that is > 0; 0: no such limit.",
        Part.TRAINING,
        varies=Varies.BY_LANE,
        ge=0,
    )
    loss_patience: Count = setting(
        1,
        "divergence",
        "Steps in a row above one of these limits after which a configuration has diverged; a "
        "loss that is not finite is enough.",
        Part.TRAINING,
        varies=Varies.BY_LANE,
        ge=1,
        le=1_000_000,
    )
    seed: Count = setting(0, "seeds", "Seed of every random draw.", Part.EVERY, ge=0, le=2**32 - 1)


DECLARATIONS: dict[str, Declaration] = {
    name: declaration_of(field) for name, field in Settings.model_fields.items()
}
"""What each setting's declaration says, in the order of the columns."""
