"""The separate VAE that generates replay for models without an image decoder."""

from raysweep.learning.data.task_kinds import n_inputs
from raysweep.learning.declarations import Settings
from raysweep.learning.models._model import Model, Network
from raysweep.learning.stacked.layout import Layout, chain_specs, gaussian_specs


class Vae(Model):
    """A decoder of ``rec_decoder_widths`` and an encoder that mirrors it (arXiv 1312.6114)."""

    decodes_images = True

    def loss_weights(self, config: Settings) -> tuple[float, float]:
        """Return ones: reconstruction loss and KL are not weighted."""
        return 1.0, 1.0

    def layout(self, config: Settings, has_images: bool = True) -> Layout:
        """Lay out encoder and decoder."""
        z, widths, d = config.n_bottleneck, config.rec_decoder_widths, n_inputs(config)
        specs = gaussian_specs("vae_encoder", (d, *reversed(widths)), z)
        return Layout(specs + chain_specs("vae_decoder", (z, *widths, d)))

    def network(self, config: Settings, has_images: bool = True) -> Network:
        """Return its chains; the nonlinearity is always ReLU."""
        return Network("vae_encoder", None, "vae_decoder", "relu")


VAE = Vae()
