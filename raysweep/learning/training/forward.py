"""The forward pass of a network, as functions for autograd and as layers with a backward.

Letters: K lanes, B batch, D input size, Z bottleneck, C classes. Parameters come as views by the
names of their ``Layout``; every function takes and returns a leading K.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from raysweep.learning.config import Config
from raysweep.learning.models import Network
from raysweep.learning.stacked.functional import NONLINEARITIES, linear, softplus
from raysweep.learning.stacked.gradients import SOFTPLUS_SHIFT, Gaussian
from raysweep.learning.stacked.layers import Chain, Linear, Workspace
from raysweep.learning.stacked.layout import count_layers
from raysweep.learning.stacked.parameters import Parameters
from raysweep.learning.stage_graph import network_of
from raysweep.learning.stages import Stage

Views = Mapping[str, Tensor]


@dataclass(frozen=True)
class Latent:
    """A Gaussian over z: ``mu`` and ``logvar`` (K, B, Z); if ``logvar`` is None, z is mu."""

    mu: Tensor
    logvar: Tensor | None

    def sample(self, noise: Tensor) -> Tensor:
        """Draw z = mu + noise * exp(logvar / 2); ``noise`` (B, Z) is the same for all lanes."""
        return self.mu if self.logvar is None else self.mu + noise * torch.exp(0.5 * self.logvar)


def _through(
    views: Views,
    prefix: str,
    *,
    x: Tensor,
    nonlinearity: str,
    is_last_linear: bool,
    masks: Sequence[Tensor] | None = None,
) -> Tensor:
    activate = NONLINEARITIES[nonlinearity]
    n_layers = count_layers(views, prefix)
    for i in range(n_layers):
        x = linear(x, views[f"{prefix}.{i}.weight"], views[f"{prefix}.{i}.bias"])
        if not is_last_linear or i < n_layers - 1:
            x = activate(x)
            x = x if masks is None else x * masks[i]
    return x


Z_NOISE = "noise"
"""The noise from which z is drawn; noises are named after their streams."""


_DROPOUT = "dropout"


@dataclass(frozen=True)
class Noise:
    """The noise of a training step: (R, width) numbers, normal or uniform in [0, 1)."""

    width: int
    is_uniform: bool = False

    def fill(self, into: Tensor, stream: torch.Generator) -> None:
        """Fill a tensor with the noise."""
        if self.is_uniform:
            into.uniform_(generator=stream)
        else:
            into.normal_(generator=stream)


def noises_of(stage: Stage, configs: Sequence[Config]) -> dict[str, Noise]:
    """Return the noises that a group of a training stage needs in each step, by name."""
    has_latent = network_of(configs[0], stage).has_latent
    noises = {Z_NOISE: Noise(configs[0].n_bottleneck if has_latent else 0)}
    if stage.is_classifier and any(config.dropout for config in configs):
        noises[_DROPOUT] = Noise(sum(configs[0].encoder_widths), is_uniform=True)
    return noises


def dropout_masks(
    noises: Mapping[str, Tensor], lanes: Mapping[str, Tensor], widths: Sequence[int]
) -> list[Tensor] | None:
    """Return the dropout masks (K, B, W) of hidden layers of ``widths``; None without dropout.

    A unit is kept if its noise is at least the lane's ``dropout`` rate, and scaled by 1 / (1 -
    rate) (Srivastava et al. 2014, JMLR 15, section 4; scaled as in torch.nn.Dropout).
    """
    if _DROPOUT not in noises or _DROPOUT not in lanes:
        return None
    rate = lanes[_DROPOUT][:, None, None]
    mask = torch.where(noises[_DROPOUT] >= rate, 1 / (1 - rate), 0)
    return list(torch.split(mask, list(widths), -1))


def encode(
    views: Views,
    x: Tensor,  # (K, B, D), or (B, D) for the same input in all lanes
    network: Network,
    noises: Mapping[str, Tensor] | None = None,
    lanes: Mapping[str, Tensor] | None = None,
) -> Latent:
    """Encode ``x``; for a network without a latent, mu is its last hidden layer.

    ``network.variance`` determines the standard deviation from the second head's output s:
    exp(s / 2) or softplus(s - 5) (Alemi et al. 2017, arXiv 1612.00410, section 4.1). A training
    step passes its ``noises``, (B, W) by name, and settings ``lanes``, (K,) by name; without them
    this is a test pass.
    """
    prefix = network.encoder
    widths = [views[f"{prefix}.{i}.bias"].size(-1) for i in range(count_layers(views, prefix))]
    masks = dropout_masks(noises or {}, lanes or {}, widths)
    hidden = _through(
        views, prefix, x=x, nonlinearity=network.nonlinearity, is_last_linear=False, masks=masks
    )
    if f"{prefix}.mu.weight" not in views:
        first = next(iter(views.values()))
        return Latent(hidden if hidden.dim() == 3 else hidden.expand(len(first), -1, -1), None)
    mu = linear(hidden, views[f"{prefix}.mu.weight"], views[f"{prefix}.mu.bias"])
    logvar = linear(hidden, views[f"{prefix}.logvar.weight"], views[f"{prefix}.logvar.bias"])
    if network.variance == "softplus":
        logvar = 2 * torch.log(softplus(logvar - SOFTPLUS_SHIFT))
    return Latent(mu, logvar)


def decode(views: Views, z: Tensor, nonlinearity: str, prefix: str) -> Tensor:
    """Decode ``z`` (K, B, Z) or (B, Z) into logits, (K, B, C) for the class decoder or (K, B, D).

    The sigmoid of ``rec_decoder``'s and ``vae_decoder``'s logits is the image.
    """
    return _through(views, prefix, x=z, nonlinearity=nonlinearity, is_last_linear=True)


class Encoder:
    """The encoder of ``encode``, including the draw of z and its KL, with a backward pass."""

    def __init__(
        self,
        parameters: Parameters,
        network: Network,
        workspace: Workspace,
        lanes: Mapping[str, Tensor],
    ) -> None:
        prefix = network.encoder
        self._hidden = Chain(parameters, prefix, network.nonlinearity, False, workspace)
        self.has_latent = network.has_latent
        n_layers = parameters.layout.n_layers(prefix)
        biases = [parameters.values[f"{prefix}.{i}.bias"] for i in range(n_layers)]
        self._lanes, self._widths = lanes, [bias.size(-1) for bias in biases]
        if not self.has_latent:
            return
        self._mu = Linear(parameters, f"{prefix}.mu", workspace)
        self._logvar = Linear(parameters, f"{prefix}.logvar", workspace)
        self._gaussian = Gaussian(workspace, network.variance)

    def forward(self, x: Tensor, noises: Mapping[str, Tensor]) -> Tensor:
        """Draw z (K, B, Z) for ``x`` (K, B, D), given ``noises`` (B, W) by name."""
        hidden = self._hidden.forward(x, dropout_masks(noises, self._lanes, self._widths))
        if not self.has_latent:
            return hidden
        mu, logvar = self._mu.forward(hidden), self._logvar.forward(hidden)
        return self._gaussian.sample(mu, logvar, noises[Z_NOISE])

    def kl_rows(self) -> Tensor:
        """Compute the KL to N(0, 1) in nats for each sample, (K, B)."""
        return self._gaussian.kl_rows()

    def backward(self, grad_z: Tensor, kl_weight: Tensor) -> None:
        """Compute the gradients from that of z (K, B, Z) and the KL weights; see ``Gaussian``."""
        if not self.has_latent:
            self._hidden.backward(grad_z, n_free=0)
            return
        grad_mu, grad_logvar = self._gaussian.backward(grad_z, kl_weight)
        self._mu.backward(grad_mu)
        self._logvar.backward(grad_logvar)
        if not self._hidden.is_empty:
            grad = self._logvar.grad_input(grad_logvar, add_to=self._mu.grad_input(grad_mu))
            self._hidden.backward(grad, n_free=0)
