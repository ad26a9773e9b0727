"""Stacked layers, losses and optimisers: everything with a lane axis that knows no experiment.

The lane axis K is always the first. Letters: K lanes, B batch, P padded parameters of a lane.
A lane's numbers do not depend on K or on the other lanes, on a CPU to the last bit. That
rests on three habits: batched products with one matrix a lane, element-wise kernels whose last
elements go the same way as the others (``functional`` says which do not), and sums that reduce
one axis after the other.
"""

from raysweep.stacked.functional import (
    NONLINEARITIES,
    cross_entropy,
    entropy,
    kl_to_standard_normal,
    linear,
    reconstruction_loss,
    row_sum,
    sigmoid,
    soft_cross_entropy,
    softplus,
)
from raysweep.stacked.gradients import SOFTPLUS_SHIFT, Gaussian, cross_entropy_rows, reconstruction
from raysweep.stacked.layers import Chain, Linear, Workspace, first
from raysweep.stacked.notes import add_note, notes
from raysweep.stacked.optimizers import LaneState, Optimizer, stack_views
from raysweep.stacked.parameters import Layout, Parameters, ParameterSpec, count_layers

__all__ = [
    "NONLINEARITIES",
    "SOFTPLUS_SHIFT",
    "Chain",
    "Gaussian",
    "LaneState",
    "Layout",
    "Linear",
    "Optimizer",
    "ParameterSpec",
    "Parameters",
    "Workspace",
    "add_note",
    "count_layers",
    "cross_entropy",
    "cross_entropy_rows",
    "entropy",
    "first",
    "kl_to_standard_normal",
    "linear",
    "notes",
    "reconstruction",
    "reconstruction_loss",
    "row_sum",
    "sigmoid",
    "soft_cross_entropy",
    "softplus",
    "stack_views",
]
