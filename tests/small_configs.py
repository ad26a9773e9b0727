"""Configurations that train in a moment."""

from typing import Any

from raysweep.learning.config import Config


def configure(**settings: Any) -> Config:
    """Make a configuration with small widths and two epochs."""
    small: dict[str, Any] = {
        "n_bottleneck": 5,
        "encoder_widths": (20, 16),
        "rec_decoder_widths": (18, 14),
        "epochs": 2,
        "batch_size": 50,
        "n_replay": 70,
        "replay_weight": 0.7,
        "beta_1": -0.02,
        "beta_2": 0.01,
        "lr": 3e-3,
        "seed": 3,
    }
    return Config(**(small | settings))
