"""The parameters of K lanes in one flat tensor, with one padded row per lane."""

import math

import torch
from torch import Tensor

from raysweep.learning.stacked.layout import Layout
from raysweep.learning.streams import generator


class Parameters:
    """Parameters and their gradients: ``flat`` and ``grad`` are (K, P).

    ``values`` and ``grads`` are their parts by name, views (K, *shape); ``views`` are the values
    as leaf tensors of autograd in the same memory.
    """

    def __init__(
        self,
        layout: Layout,
        n_lanes: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        self.layout = layout
        self.flat = torch.zeros(n_lanes, layout.size, dtype=dtype, device=device)
        self.grad = torch.zeros_like(self.flat)
        self.values = layout.views(self.flat)
        self.grads = layout.views(self.grad)
        self.views = {name: view.requires_grad_() for name, view in layout.views(self.flat).items()}

    @property
    def n_lanes(self) -> int:
        """Number of lanes K."""
        return self.flat.shape[0]

    def initialise(self, seed: int) -> None:
        """Draw U(-1/sqrt(fan_in), 1/sqrt(fan_in)) like torch.nn.Linear, the same in all lanes."""
        for spec in self.layout.specs:
            stream = generator(seed, "initial", spec.name)
            draw = torch.rand(spec.shape, generator=stream, dtype=self.flat.dtype)
            self.values[spec.name].copy_((draw * 2 - 1) / math.sqrt(spec.fan_in))

    def differentiate(self, objective: Tensor) -> None:
        """Write the gradient of each lane's entry of ``objective`` (K,) into ``grad``."""
        grads = torch.autograd.grad(
            objective, list(self.views.values()), torch.ones_like(objective), allow_unused=True
        )
        for view, grad in zip(self.grads.values(), grads, strict=True):
            if grad is None:
                view.zero_()
            else:
                view.copy_(grad)

    def are_finite(self) -> Tensor:
        """Return whether all parameters of each lane (K,) are finite."""
        return torch.isfinite(self.flat).all(-1)
