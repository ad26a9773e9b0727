"""The base class of models, free of torch so that planning can import it."""

from dataclasses import dataclass
from typing import ClassVar

from raysweep.learning.data.task_kinds import n_classes, n_inputs
from raysweep.learning.declarations import Settings
from raysweep.learning.stacked.layout import Layout, ParameterSpec, chain_specs, gaussian_specs


@dataclass(frozen=True)
class Network:
    """The chains of a layout that a stage trains: encoder, class decoder and image decoder.

    They describe the forward pass. ``training.objectives`` computes it under autograd, which is
    the definition; ``training.step`` computes it fast. Without ``has_latent``, z is the encoder's
    last layer, otherwise a draw from a Gaussian whose spread follows from the encoder's output as
    set by ``variance``.
    """

    encoder: str
    class_decoder: str | None
    image_decoder: str | None
    nonlinearity: str
    variance: str = "exp"
    has_latent: bool = True


class Model:
    """A model; each subclass has its own file, whose name is its word in ``model:``.

    The defaults here describe a classifier with a stochastic bottleneck.
    """

    experiments: ClassVar[tuple[str, ...]] = ()
    """The experiments that train it."""
    has_latent: ClassVar[bool] = True
    """Whether z is drawn; if not, the settings of the bottleneck do not apply."""
    has_hidden_layers: ClassVar[bool] = True
    """Whether its encoder has the hidden layers of ``encoder_widths``; if not, neither this setting
    nor ``dropout`` applies."""
    decodes_images: ClassVar[bool] = False
    """Whether it reconstructs its inputs and can thus generate its own replay from z."""
    reduction: ClassVar[str] = "sum"
    optimizer_state: ClassVar[str] = "keep"
    """The values that ``auto`` stands for."""
    generators: ClassVar[tuple[str, ...]] = ("per_task", "continual")
    """The values of ``generator`` that it accepts."""

    def default_generator(self, config: Settings) -> str:
        """Return what ``generator: auto`` stands for."""
        return self.generators[0]

    def loss_weights(self, config: Settings) -> tuple[float, float]:
        """Return the weights of reconstruction loss and KL in a classifier's first stage."""
        return 0.0, config.beta_2

    def n_latent(self, config: Settings) -> int:
        """Return the width Z of z."""
        return config.n_bottleneck

    def layout(self, config: Settings, has_images: bool) -> Layout:
        """Lay out the parameters; ``has_images`` adds those of the image decoder."""
        widths = config.encoder_widths if self.has_hidden_layers else ()
        hidden, z = (n_inputs(config), *widths), self.n_latent(config)
        specs = self._encoder(hidden, z)
        specs += chain_specs("class_decoder", (z, *config.class_decoder_widths, n_classes(config)))
        if has_images:
            decoder = (z, *config.rec_decoder_widths, n_inputs(config))
            specs += chain_specs("rec_decoder", decoder)
        return Layout(specs)

    def _encoder(self, hidden: tuple[int, ...], z: int) -> list[ParameterSpec]:
        if self.has_latent:
            return gaussian_specs("encoder", hidden, z)
        return chain_specs("encoder", hidden)

    def network(self, config: Settings, has_images: bool) -> Network:
        """Return the chains that a stage trains."""
        return Network(
            "encoder",
            "class_decoder",
            "rec_decoder" if has_images else None,
            config.nonlinearity,
            config.variance,
            self.has_latent,
        )
