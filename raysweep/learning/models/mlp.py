"""The multi-layer perceptron: z is its last hidden layer."""

from raysweep.learning.data.task_kinds import n_inputs
from raysweep.learning.declarations import Settings
from raysweep.learning.models._model import Model


class Mlp(Model):
    """Hidden layers and a class decoder, without a bottleneck."""

    experiments = ("replay", "joint")
    has_latent = False
    reduction = "mean"

    def loss_weights(self, config: Settings) -> tuple[float, float]:
        """Return zeros: there is neither reconstruction nor KL."""
        return 0.0, 0.0

    def n_latent(self, config: Settings) -> int:
        """Return the width of the last hidden layer, or of the input if there is none."""
        return (n_inputs(config), *config.encoder_widths)[-1]


MODEL = Mlp()
