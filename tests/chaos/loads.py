"""Search spaces of short configurations, to be disturbed."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from sweep_runs import write

from raysweep.learning.config import Config
from raysweep.settings.sweep import load_sweep

_SPACE = """
experiment: replay_vib
data: {{tasks: perm_mnist, source: mnist_5k, task_samples: 200}}
training: {{epochs: {epochs}, batch_size: 100}}
space:
  n_bottleneck: 4
  encoder_widths: [8]
  rec_decoder_widths: [8]
  lr: {{grid_search: [1e-3, 2e-3, 4e-3, 8e-3, 16e-3]}}
  beta_1: {{grid_search: [-0.1, 0.1]}}
  beta_2: {{grid_search: [0.0, 1e-3, 1e-2, 0.1, 1.0]}}
  replay: simple
  n_replay: 100
seeds: {seeds}
pack: {pack}
{more}
"""
CONFIGS_A_SEED = 50


@dataclass(frozen=True)
class Load:
    """A grid of 50 configurations for each seed; ``epochs`` a task say how long each takes.

    Two loads of equal ``epochs`` have the configurations of their common seeds in common.
    """

    n_seeds: int
    epochs: int = 2
    pack: int = 5
    more: str = ""

    @property
    def name(self) -> str:
        """Name of the sweep."""
        return f"load_{self.n_seeds}x{self.epochs}"

    @property
    def n_configs(self) -> int:
        """How many configurations it has."""
        return CONFIGS_A_SEED * self.n_seeds

    @property
    def text(self) -> str:
        """The search space."""
        seeds = list(range(self.n_seeds))
        return _SPACE.format(epochs=self.epochs, seeds=seeds, pack=self.pack, more=self.more)

    def write(self, folder: Path) -> Path:
        """Write the search space into a folder."""
        return write(folder, self.text, f"{self.name}.yaml")

    def configs(self) -> list[Config]:
        """List its configurations."""
        with tempfile.TemporaryDirectory() as folder:
            return list(load_sweep(self.write(Path(folder))).configs)

    def __str__(self) -> str:
        return f"{self.n_configs} configurations, {self.epochs} epochs a task, pack {self.pack}"
