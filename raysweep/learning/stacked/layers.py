"""Stacked layers with a hand-written backward: no autograd graph, reused buffers.

Letters: K lanes, B batch. ``forward`` keeps what ``backward`` needs until the next ``forward``.
``backward`` overwrites the gradients of the parameters in ``Parameters.grad``. If it is called
with the first lanes only, the gradients of the others stay unchanged. Tests compare these layers
with ``functional`` under autograd, which is the definition.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from raysweep._compat import leaky_relu_backward_, relu_backward_
from raysweep.learning.stacked.functional import product
from raysweep.learning.stacked.parameters import Parameters


class Workspace:
    """Buffers by name and shape, allocated once and reused at every step."""

    def __init__(self, like: Tensor) -> None:
        self._like = like
        self._buffers: dict[tuple[str, tuple[int, ...]], Tensor] = {}

    def __call__(self, name: str, *shape: int) -> Tensor:
        """Return the buffer for a name and shape, with its previous content."""
        key = (name, shape)
        if key not in self._buffers:
            self._buffers[key] = self._like.new_zeros(shape)
        return self._buffers[key]


class Linear:
    """An affine map per lane: weight (K, in, out) and bias (K, out) of the layer ``name``."""

    def __init__(self, parameters: Parameters, name: str, workspace: Workspace) -> None:
        self._name, self._input_name = name, f"{name} input"
        self._workspace = workspace
        weight, bias = (parameters.values[f"{name}.{part}"] for part in ("weight", "bias"))
        _, self._n_in, self._n_out = weight.shape
        grads = (parameters.grads[f"{name}.{part}"] for part in ("weight", "bias"))
        self._all = (weight, weight.transpose(1, 2), bias.unsqueeze(1), *grads)
        self._first: dict[int, tuple[Tensor, ...]] = {}

    def _of(self, n_lanes: int) -> tuple[Tensor, ...]:
        """Return weight, transposed weight, bias (K, 1, out) and both gradients of some lanes."""
        if n_lanes not in self._first:  # slicing costs microseconds
            self._first[n_lanes] = tuple(tensor[:n_lanes] for tensor in self._all)
        return self._first[n_lanes]

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` (K, B, in) to (K, B, out); the caller may change the result in place."""
        self._x = x
        n_lanes = x.size(0)
        weight, _, bias, _, _ = self._of(n_lanes)
        out = self._workspace(self._name, n_lanes, x.size(1), self._n_out)
        return product(x, weight, add_to=bias, out=out)

    def backward(self, grad: Tensor) -> None:
        """Compute the gradients of weight and bias from that of the output (K, B, out)."""
        n_lanes = grad.size(0)
        _, _, _, grad_weight, grad_bias = self._of(n_lanes)
        product(first(self._x, n_lanes).transpose(1, 2), grad, out=grad_weight)
        torch.sum(grad, 1, out=grad_bias)

    def grad_input(self, grad: Tensor, add_to: Tensor | None = None) -> Tensor:
        """Return the gradient (K, B, in) of the input, added in place to ``add_to`` if given."""
        n_lanes = grad.size(0)
        out = add_to
        if out is None:
            out = self._workspace(self._input_name, n_lanes, grad.size(1), self._n_in)
        return product(grad, self._of(n_lanes)[1], add_to=add_to, out=out)


def first(x: Tensor, n_lanes: int) -> Tensor:
    """Return the first lanes of ``x`` (K, ...), or ``x`` itself for all, as slicing takes time."""
    return x if x.size(0) == n_lanes else x[:n_lanes]


class Chain:
    """Linear layers ``prefix.0``, ``prefix.1``, ... with a nonlinearity after each.

    With ``is_last_linear`` the last layer has no nonlinearity.
    """

    def __init__(
        self,
        parameters: Parameters,
        prefix: str,
        nonlinearity: str,
        is_last_linear: bool,
        workspace: Workspace,
    ) -> None:
        n_layers = parameters.layout.n_layers(prefix)
        self._layers = [Linear(parameters, f"{prefix}.{i}", workspace) for i in range(n_layers)]
        self._activate, self._through = ACTIVATIONS[nonlinearity]
        self._n_active = n_layers - 1 if is_last_linear else n_layers
        self._outputs: list[Tensor] = []
        self._masks: Sequence[Tensor] | None = None
        self._workspace, self._prefix = workspace, prefix

    @property
    def is_empty(self) -> bool:
        """Whether there are no layers, so that the output is the input."""
        return not self._layers

    def forward(self, x: Tensor, masks: Sequence[Tensor] | None = None) -> Tensor:
        """Map (K, B, in) to (K, B, out).

        ``masks``, (K, B, W) for each layer with a nonlinearity, multiply its output.
        """
        self._outputs, self._masks = [], masks
        for i, layer in enumerate(self._layers):
            x = layer.forward(x)
            if i < self._n_active:
                self._activate(x)
            self._outputs.append(x)
            if masks is not None and i < self._n_active:
                # Not in place: backward computes the nonlinearity's slope from its output.
                into = self._workspace(f"{self._prefix}.{i} masked", *x.shape)
                x = torch.mul(x, masks[i], out=into)
        return x

    def backward(
        self, grad: Tensor, n_free: int | None = None, add_to: Tensor | None = None
    ) -> Tensor | None:
        """Compute the gradients from that of the output (K, B, out), which is changed in place.

        Return the gradient (K, B, in) of the input, added in place to ``add_to`` if given. With
        ``n_free`` only that of the first lanes is computed, and for 0 none at all (return None).
        """
        for i in reversed(range(len(self._layers))):
            if i < self._n_active:
                if self._masks is not None:
                    grad.mul_(first(self._masks[i], grad.size(0)))
                self._through(grad, first(self._outputs[i], grad.size(0)))
            self._layers[i].backward(grad)
            if i > 0:
                grad = self._layers[i].grad_input(grad)
        if n_free == 0:
            return None
        grad = grad if n_free is None else first(grad, n_free)
        if self._layers:
            return self._layers[0].grad_input(grad, add_to)
        return grad if add_to is None else add_to.add_(grad)


def _through_leaky_relu(grad: Tensor, out: Tensor) -> None:
    leaky_relu_backward_(grad, out, 0.01)


def _elu(x: Tensor) -> None:
    negative = torch.expm1(x.clamp(max=0))
    x.copy_(torch.where(x > 0, x, negative))


def _sigmoid(x: Tensor) -> None:
    x.mul_(0.5).tanh_().mul_(0.5).add_(0.5)


ACTIVATIONS: dict[str, tuple[Callable[[Tensor], object], Callable[[Tensor, Tensor], object]]] = {
    "relu": (torch.relu_, relu_backward_),
    "leaky_relu": (torch.nn.functional.leaky_relu_, _through_leaky_relu),
    "elu": (_elu, lambda grad, out: grad.mul_(torch.where(out > 0, 1, out + 1))),
    "tanh": (torch.tanh_, lambda grad, out: grad.mul_(1 - out * out)),
    "sigmoid": (_sigmoid, lambda grad, out: grad.mul_(out * (1 - out))),
}
"""By the name of the setting: a function that activates a tensor in place, and one that multiplies
a gradient in place by the slope, which these functions compute from the output."""
