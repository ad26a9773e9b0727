"""Planning: configurations into packs, packs into distinct stages, time and memory in advance."""

from raysweep.plan.estimates import (
    BLOCK_STEPS,
    CPU,
    GPU,
    cost,
    memory_bytes,
    n_parameters,
    slots_on,
)
from raysweep.plan.packs import LANES_CPU, LANES_GPU, Plan, make_plan, memory_of, simulate
from raysweep.plan.stages import (
    FEATURE_SELECTIONS,
    LANE_SETTINGS,
    STAGE_VERSION,
    Pack,
    Stage,
    StageKind,
    epochs_of,
    group_stages,
    pack_key,
    replay_weight,
    stages_of,
    trains_decoder,
)

__all__ = [
    "BLOCK_STEPS",
    "CPU",
    "FEATURE_SELECTIONS",
    "GPU",
    "LANES_CPU",
    "LANES_GPU",
    "LANE_SETTINGS",
    "STAGE_VERSION",
    "Pack",
    "Plan",
    "Stage",
    "StageKind",
    "cost",
    "epochs_of",
    "group_stages",
    "make_plan",
    "memory_bytes",
    "memory_of",
    "n_parameters",
    "pack_key",
    "replay_weight",
    "simulate",
    "slots_on",
    "stages_of",
    "trains_decoder",
]
