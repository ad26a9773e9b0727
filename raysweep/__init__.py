"""Large grids of small continual-learning experiments, trained in stacks on Ray."""

__version__ = "0.1.0"
