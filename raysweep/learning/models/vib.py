"""The variational information bottleneck (Alemi et al. 2017, arXiv 1612.00410) plus decoder."""

from raysweep.learning.declarations import Settings
from raysweep.learning.models._model import Model


class Vib(Model):
    """Encoder, class decoder and an image decoder, which also generates replay."""

    experiments = ("replay_vib", "vib", "joint")
    decodes_images = True
    optimizer_state = "reset"
    generators = ("frozen", "continual")

    def default_generator(self, config: Settings) -> str:
        """Return frozen for two tasks: a frozen decoder has learned task 1 only."""
        return "frozen" if config.n_tasks <= 2 else "continual"

    def loss_weights(self, config: Settings) -> tuple[float, float]:
        """Convert beta_1 and beta_2 into the weights (reconstruction, KL) of task 1.

        The sign of beta_1 decides: if beta_1 <= 0, -beta_1 weighs the reconstruction and beta_2
        the KL; if beta_1 > 0, there is no reconstruction and beta_1 + beta_2 weighs the KL. From
        task 2 on the KL has weight beta_2, unless the decoder keeps training: then the weights of
        task 1 remain.
        """
        if config.beta_1 > 0:
            return 0.0, config.beta_1 + config.beta_2
        return abs(config.beta_1), config.beta_2


MODEL = Vib()
