"""The comparison classifier: a VIB without reconstruction; a separate VAE generates its replay."""

from raysweep.learning.models._model import Model


class Comparison(Model):
    """Encoder with a stochastic bottleneck and class decoder; beta_2 weighs the KL."""

    experiments = ("replay_vib", "joint")


MODEL = Comparison()
