"""A small stacked network and the ordinary ones it stands for; lanes alone and in company."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from raysweep.learning.stacked.functional import NONLINEARITIES, linear
from raysweep.learning.stacked.layout import Layout, ParameterSpec
from raysweep.learning.stacked.parameters import Parameters

F64 = torch.float64
MODULES: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}
N_IN, N_HIDDEN, N_OUT = 7, 5, 3
LAYOUT = Layout(
    [
        ParameterSpec("first.weight", (N_IN, N_HIDDEN), N_IN),
        ParameterSpec("first.bias", (N_HIDDEN,), N_IN),
        ParameterSpec("last.weight", (N_HIDDEN, N_OUT), N_HIDDEN),
        ParameterSpec("last.bias", (N_OUT,), N_HIDDEN),
    ]
)


def random(*shape: int, seed: int = 0, dtype: torch.dtype = F64) -> Tensor:
    """Draw standard normal numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def random_parameters(n_lanes: int, seed: int = 0) -> Parameters:
    """Make parameters that differ from lane to lane; the padding stays 0."""
    parameters = Parameters(LAYOUT, n_lanes, F64)
    with torch.no_grad():
        for i, view in enumerate(parameters.views.values()):
            view.copy_(random(*view.shape, seed=100 * seed + i))
    return parameters


def lane_module(parameters: Parameters, k: int, nonlinearity: str) -> nn.Sequential:
    """Make an ordinary network with lane ``k``'s weights."""
    first, last = nn.Linear(N_IN, N_HIDDEN, dtype=F64), nn.Linear(N_HIDDEN, N_OUT, dtype=F64)
    with torch.no_grad():
        for name, layer in (("first", first), ("last", last)):
            layer.weight.copy_(parameters.views[f"{name}.weight"][k].T)
            layer.bias.copy_(parameters.views[f"{name}.bias"][k])
    return nn.Sequential(first, MODULES[nonlinearity](), last)


def stacked_forward(parameters: Parameters, x: Tensor, nonlinearity: str) -> Tensor:
    """Pass ``x`` through all lanes' networks; gives (K, B, N_OUT)."""
    views = parameters.views
    hidden = linear(x, views["first.weight"], views["first.bias"])
    hidden = NONLINEARITIES[nonlinearity](hidden)
    return linear(hidden, views["last.weight"], views["last.bias"])


def module_values(module: nn.Sequential, is_grad: bool = False) -> dict[str, Tensor]:
    """Return a network's parameters or gradients by the layout's names, weights as (in, out)."""
    values = {}
    for name, layer in (("first", module[0]), ("last", module[2])):
        for kind in ("weight", "bias"):
            tensor = getattr(layer, kind)
            tensor = tensor.grad if is_grad else tensor.detach()
            values[f"{name}.{kind}"] = tensor.T if kind == "weight" else tensor
    return values


def assert_close(actual: Tensor, expected: Tensor) -> None:
    """Assert equality up to the rounding of float64."""
    torch.testing.assert_close(actual, expected, rtol=1e-11, atol=1e-12)


N_LANES = 5
COMPANIES = [[0, 1], [2, 0, 1], [4, 3, 2, 1, 0]]


def lanes_that_differ(compute: Callable[[list[int]], list[Tensor]]) -> list[str]:
    """Name the results that are not those of the lane alone; ``compute`` gives (K, ...) each."""
    alone = [compute([k]) for k in range(N_LANES)]
    return [
        f"result {i} of lane {k} in {company}"
        for company in COMPANIES
        for i, together in enumerate(compute(company))
        for position, k in enumerate(company)
        if not torch.equal(together[position], alone[k][i][0])
    ]


def distinct(*shape: int, seed: int = 0) -> Tensor:
    """Draw numbers of many sizes in float32: rounding shows in all of them."""
    return 3 * random(*shape, seed=seed, dtype=torch.float32)
