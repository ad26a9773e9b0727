"""The layout of a lane's parameters in its row, free of torch so that planning can count them."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

_ALIGNMENT = 32
"""In elements: a multiple of 64 bytes and of two vector registers, in float32 and float64."""


@dataclass(frozen=True)
class ParameterSpec:
    """Name and shape of one parameter of one lane; ``fan_in`` sets its initial spread."""

    name: str
    shape: tuple[int, ...]
    fan_in: int


def linear_specs(name: str, n_in: int, n_out: int) -> list[ParameterSpec]:
    """Lay out a linear layer: weight (in, out) and bias (out,)."""
    return [
        ParameterSpec(f"{name}.weight", (n_in, n_out), n_in),
        ParameterSpec(f"{name}.bias", (n_out,), n_in),
    ]


def chain_specs(prefix: str, widths: Sequence[int]) -> list[ParameterSpec]:
    """Lay out linear layers ``prefix.0``, ``prefix.1``, ... between ``widths``."""
    return [
        spec
        for i, (n_in, n_out) in enumerate(pairwise(widths))
        for spec in linear_specs(f"{prefix}.{i}", n_in, n_out)
    ]


def gaussian_specs(prefix: str, widths: Sequence[int], n_latent: int) -> list[ParameterSpec]:
    """Lay out an encoder: a chain, then two heads for mean and spread of z."""
    return [
        *chain_specs(prefix, widths),
        *linear_specs(f"{prefix}.mu", widths[-1], n_latent),
        *linear_specs(f"{prefix}.logvar", widths[-1], n_latent),
    ]


class Layout:
    """The position of each parameter in a lane's row."""

    def __init__(self, specs: Sequence[ParameterSpec]) -> None:
        self.specs = tuple(specs)
        self.offsets: dict[str, int] = {}
        end = 0
        for spec in specs:
            self.offsets[spec.name] = end
            end += -(-math.prod(spec.shape) // _ALIGNMENT) * _ALIGNMENT
        self.size = end

    @property
    def n_parameters(self) -> int:
        """Number of parameters, without the padding between them."""
        return sum(math.prod(spec.shape) for spec in self.specs)

    def views(self, flat: "Tensor") -> "dict[str, Tensor]":
        """Return each parameter of a flat (K, P) tensor as a view (K, *shape)."""
        return {
            spec.name: flat[:, start : start + math.prod(spec.shape)].view(-1, *spec.shape)
            for spec in self.specs
            for start in (self.offsets[spec.name],)
        }

    def n_layers(self, prefix: str) -> int:
        """Count the layers ``prefix.0``, ``prefix.1``, ... of a chain."""
        return count_layers((spec.name for spec in self.specs), prefix)

    def end_of(self, prefix: str) -> int:
        """Return the end in a row of the leading parameters whose names start with ``prefix``."""
        after = [s.name for s in self.specs if not s.name.startswith(prefix)]
        return self.offsets[after[0]] if after else self.size


def count_layers(names: Iterable[str], prefix: str) -> int:
    """Count the layers ``prefix.0``, ``prefix.1``, ... that occur in parameter names."""
    heads = {
        name.removeprefix(f"{prefix}.").partition(".")[0]
        for name in names
        if name.startswith(f"{prefix}.")
    }
    return sum(head.isdigit() for head in heads)
