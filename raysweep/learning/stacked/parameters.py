"""The parameters of K lanes in one flat tensor, a padded row a lane."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from raysweep.learning.streams import generator

_ALIGNMENT = 32
"""Elements: a multiple of 64 bytes and of two vector registers, in float32 and float64."""


@dataclass(frozen=True)
class ParameterSpec:
    """Name and shape of one parameter of one lane; ``fan_in`` sets its initial spread."""

    name: str
    shape: tuple[int, ...]
    fan_in: int


class Layout:
    """Where each parameter stands in a lane's row."""

    def __init__(self, specs: Sequence[ParameterSpec]) -> None:
        self.specs = tuple(specs)
        self.offsets: dict[str, int] = {}
        end = 0
        for spec in specs:
            self.offsets[spec.name] = end
            end += -(-math.prod(spec.shape) // _ALIGNMENT) * _ALIGNMENT
        self.size = end

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        """Give each parameter of a flat (K, P) tensor as a view (K, *shape)."""
        return {
            spec.name: flat[:, start : start + math.prod(spec.shape)].view(-1, *spec.shape)
            for spec in self.specs
            for start in (self.offsets[spec.name],)
        }

    def n_layers(self, prefix: str) -> int:
        """Count the layers ``prefix.0``, ``prefix.1``, ... of a chain."""
        return count_layers((spec.name for spec in self.specs), prefix)

    def end_of(self, prefix: str) -> int:
        """Give where the leading parameters whose names start with ``prefix`` end in a row."""
        after = [s.name for s in self.specs if not s.name.startswith(prefix)]
        return self.offsets[after[0]] if after else self.size


def count_layers(names: Iterable[str], prefix: str) -> int:
    """Count the layers ``prefix.0``, ``prefix.1``, ... that parameters are named for."""
    heads = {
        name.removeprefix(f"{prefix}.").partition(".")[0]
        for name in names
        if name.startswith(f"{prefix}.")
    }
    return sum(head.isdigit() for head in heads)


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
        """Draw U(-1/sqrt(fan_in), 1/sqrt(fan_in)) as torch.nn.Linear does, equal in all lanes."""
        for spec in self.layout.specs:
            stream = generator(seed, "initial", spec.name)
            draw = torch.rand(spec.shape, generator=stream, dtype=self.flat.dtype)
            self.values[spec.name].copy_((draw * 2 - 1) / math.sqrt(spec.fan_in))

    def differentiate(self, objective: Tensor) -> None:
        """Put each lane's gradient of its entry of ``objective`` (K,) into ``grad``."""
        grads = torch.autograd.grad(
            objective, list(self.views.values()), torch.ones_like(objective), allow_unused=True
        )
        for view, grad in zip(self.grads.values(), grads, strict=True):
            if grad is None:
                view.zero_()
            else:
                view.copy_(grad)

    def are_finite(self) -> Tensor:
        """Tell for each lane (K,) whether all its parameters are finite."""
        return torch.isfinite(self.flat).all(-1)
