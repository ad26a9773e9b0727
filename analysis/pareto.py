"""The Pareto front of several objectives: that of ``raysweep.results``, under its name here."""

from raysweep.results import is_lower_better, pareto_front

__all__ = ["is_lower_better", "pareto_front"]
