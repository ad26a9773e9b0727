"""What a model is; its file has nothing of torch, so that planning can ask it, too."""

from dataclasses import dataclass
from typing import ClassVar

from raysweep.learning.data.task_kinds import n_classes, n_inputs
from raysweep.learning.declarations import Settings
from raysweep.learning.stacked.layout import Layout, ParameterSpec, chain_specs, gaussian_specs


@dataclass(frozen=True)
class Network:
    """Which chains of a layout a stage trains: encoder, decoders of classes and of images.

    This is the forward pass: ``training.objectives`` computes it under autograd, which is the
    definition, ``training.step`` fast. Without ``has_latent`` z is the encoder's last layer,
    else it is drawn from a Gaussian; ``variance`` says how its spread comes from the encoder's
    output.
    """

    encoder: str
    class_decoder: str | None
    image_decoder: str | None
    nonlinearity: str
    variance: str = "exp"
    has_latent: bool = True


class Model:
    """A model; a subclass a file, whose name is the word for it in ``model:``.

    The defaults are those of a classifier with a stochastic bottleneck of its own.
    """

    experiments: ClassVar[tuple[str, ...]] = ()
    """The experiments that train it."""
    has_latent: ClassVar[bool] = True
    """Whether z is drawn; without it no setting of a bottleneck applies."""
    has_hidden_layers: ClassVar[bool] = True
    """Whether its encoder has layers of ``encoder_widths``; without them neither these nor their
    dropout apply."""
    decodes_images: ClassVar[bool] = False
    """Whether it reconstructs its inputs, and so generates its own replay from z."""
    reduction: ClassVar[str] = "sum"
    optimizer_state: ClassVar[str] = "keep"
    """What ``auto`` stands for."""
    generators: ClassVar[tuple[str, ...]] = ("per_task", "continual")
    """What may generate its replay."""

    def default_generator(self, config: Settings) -> str:
        """Return what ``generator: auto`` stands for."""
        return self.generators[0]

    def loss_weights(self, config: Settings) -> tuple[float, float]:
        """Return the weights of reconstruction and KL where a classifier starts to learn."""
        return 0.0, config.beta_2

    def n_latent(self, config: Settings) -> int:
        """Return the width Z of z."""
        return config.n_bottleneck

    def layout(self, config: Settings, has_images: bool) -> Layout:
        """Lay the parameters out; with ``has_images`` those of the reconstruction, too."""
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
        """Name the chains that a stage trains."""
        return Network(
            "encoder",
            "class_decoder",
            "rec_decoder" if has_images else None,
            config.nonlinearity,
            config.variance,
            self.has_latent,
        )
