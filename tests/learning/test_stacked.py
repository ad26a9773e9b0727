"""Stacked layers and losses against torch.nn, lane by lane."""

import itertools
import math
from collections.abc import Callable, Sequence

import pytest
import torch
from stacked_networks import (
    F64,
    LAYOUT,
    MODULES,
    N_HIDDEN,
    N_IN,
    N_LANES,
    assert_close,
    distinct,
    lane_module,
    lanes_that_differ,
    module_values,
    random,
    random_parameters,
    stacked_forward,
)
from torch import Tensor
from torch.nn import functional

from raysweep.learning.stacked.functional import (
    NONLINEARITIES,
    cross_entropy,
    entropy,
    kl_to_standard_normal,
    linear,
    reconstruction_loss,
    sigmoid,
    soft_cross_entropy,
)
from raysweep.learning.stacked.layout import Layout, ParameterSpec
from raysweep.learning.stacked.parameters import Parameters

# --- layers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_shared", [True, False])
@pytest.mark.parametrize("nonlinearity", NONLINEARITIES)
def test_stacked_network_gives_outputs_and_gradients_of_separate_networks(
    nonlinearity: str, is_shared: bool
) -> None:
    parameters = random_parameters(4)
    x = random(6, N_IN, seed=1) if is_shared else random(4, 6, N_IN, seed=1)
    outputs = stacked_forward(parameters, x, nonlinearity)
    weights = random(*outputs.shape, seed=2)
    parameters.differentiate((outputs * weights).sum((1, 2)))
    grads = LAYOUT.views(parameters.grad)
    for k in range(4):
        module = lane_module(parameters, k, nonlinearity)
        output = module(x if is_shared else x[k])
        assert_close(outputs[k], output)
        (output * weights[k]).sum().backward()
        for name, expected in module_values(module, is_grad=True).items():
            assert_close(grads[name][k], expected)


def test_gradient_to_the_input_of_a_stacked_layer_is_that_of_separate_layers() -> None:
    parameters = random_parameters(3)
    x = random(3, 6, N_IN, seed=1).requires_grad_()
    stacked_forward(parameters, x, "tanh").square().sum().backward()
    for k in range(3):
        lane_x = x.detach()[k].clone().requires_grad_()
        lane_module(parameters, k, "tanh")(lane_x).square().sum().backward()
        assert x.grad is not None and lane_x.grad is not None
        assert_close(x.grad[k], lane_x.grad)


@pytest.mark.parametrize("nonlinearity", NONLINEARITIES)
def test_nonlinearity_is_torchs_at_extreme_inputs(nonlinearity: str) -> None:
    x = torch.tensor([-1e4, -800.0, -40.0, -1e-12, 0.0, 1e-12, 40.0, 800.0, 1e4], dtype=F64)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    output, expected = NONLINEARITIES[nonlinearity](ours), MODULES[nonlinearity]()(theirs)
    assert_close(output, expected)
    output.sum().backward()
    expected.sum().backward()
    assert ours.grad is not None and theirs.grad is not None
    assert_close(ours.grad, theirs.grad)


def test_parameters_without_a_part_in_the_objective_get_gradient_zero() -> None:
    parameters = random_parameters(2)
    parameters.grad.fill_(7.0)
    parameters.differentiate(parameters.views["first.bias"].sum(-1))
    grads = LAYOUT.views(parameters.grad)
    assert torch.equal(grads["first.bias"], torch.ones(2, N_HIDDEN, dtype=F64))
    for name in ("first.weight", "last.weight", "last.bias"):
        assert torch.equal(grads[name], torch.zeros_like(grads[name]))


# --- losses -------------------------------------------------------------------------------------

K, B, C, Z, D = 3, 8, 10, 4, 13


def assert_same_loss(
    stacked: Callable[..., Tensor], separate: Callable[..., Tensor], inputs: Sequence[Tensor]
) -> None:
    """Compare a stacked loss and its gradients with a loss of one lane, for each lane."""
    leaves = [x.clone().requires_grad_() for x in inputs]
    losses = stacked(*leaves)
    assert losses.shape == (K,)
    lane_weights = torch.tensor([0.5, 2.0, -3.0], dtype=F64)
    (losses * lane_weights).sum().backward()
    for k in range(K):
        own = [x[k].clone().requires_grad_() for x in inputs]
        expected = separate(*own, k)
        assert_close(losses[k], expected)
        (lane_weights[k] * expected).backward()
        for leaf, lane_leaf in zip(leaves, own, strict=True):
            assert leaf.grad is not None and lane_leaf.grad is not None
            assert_close(leaf.grad[k], lane_leaf.grad)


def test_cross_entropy_is_torchs_summed_over_the_batch() -> None:
    labels = torch.arange(B) * 7 % C
    assert_same_loss(
        lambda logits: cross_entropy(logits, labels),
        lambda logits, _: functional.cross_entropy(logits, labels, reduction="sum"),
        [5 * random(K, B, C)],
    )


def test_soft_cross_entropy_is_torchs_with_class_probabilities() -> None:
    targets = torch.softmax(3 * random(K, B, C, seed=1), -1)
    assert_same_loss(
        lambda logits: soft_cross_entropy(logits, targets),
        lambda logits, k: functional.cross_entropy(logits, targets[k], reduction="sum"),
        [5 * random(K, B, C)],
    )


def test_soft_cross_entropy_of_one_hot_targets_is_cross_entropy() -> None:
    labels = torch.arange(B) * 7 % C
    logits = 5 * random(K, B, C)
    targets = functional.one_hot(labels, C).to(F64).expand(K, B, C)
    assert_close(soft_cross_entropy(logits, targets), cross_entropy(logits, labels))


def test_kl_to_standard_normal_is_that_of_torch_distributions() -> None:
    def separate(mu: Tensor, logvar: Tensor, _: int) -> Tensor:
        normal = torch.distributions.Normal
        own, prior = normal(mu, torch.exp(logvar / 2)), normal(mu.new_zeros(()), mu.new_ones(()))
        return torch.distributions.kl_divergence(own, prior).sum()

    inputs = [2 * random(K, B, Z), 2 * random(K, B, Z, seed=1)]
    assert_same_loss(kl_to_standard_normal, separate, inputs)


def test_reconstruction_loss_is_binary_cross_entropy_of_the_sigmoid() -> None:
    target = torch.sigmoid(2 * random(B, D, seed=1))
    target[0, :3], target[1, :3] = 0.0, 1.0

    def separate(logits: Tensor, _: int) -> Tensor:
        return functional.binary_cross_entropy(torch.sigmoid(logits), target, reduction="sum")

    assert_same_loss(lambda x: reconstruction_loss(x, target), separate, [3 * random(K, B, D)])


def test_reconstruction_loss_stays_exact_where_the_sigmoid_saturates() -> None:
    target = torch.tensor([[0.0, 1.0, 0.25, 0.0, 1.0]], dtype=F64)
    x = torch.tensor([[[300.0, -300.0, 800.0, -800.0, 800.0]]], dtype=F64, requires_grad=True)
    loss = reconstruction_loss(x, target)
    assert_close(loss, torch.tensor([300.0 + 300.0 + 600.0], dtype=F64))
    loss.sum().backward()
    assert x.grad is not None
    assert_close(x.grad[0, 0], torch.tensor([1.0, -1.0, 0.75, 0.0, 0.0], dtype=F64))


def test_hand_written_reconstruction_gradient_passes_gradcheck() -> None:
    target = torch.sigmoid(random(B, D, seed=1))
    logits = (2 * random(K, B, D)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: reconstruction_loss(x, target), (logits,))


def test_entropy_is_the_mean_over_samples_and_zero_for_one_hot_rows() -> None:
    probabilities = torch.softmax(random(K, B, C), -1)
    probabilities[1] = functional.one_hot(torch.arange(B), C).to(F64)
    expected = torch.distributions.Categorical(probs=probabilities[0]).entropy().mean()
    result = entropy(probabilities)
    assert_close(result[0], expected)
    assert result[1] == 0


# --- initial values and layout ------------------------------------------------------------------


def test_initial_values_are_uniform_within_one_over_root_fan_in_and_equal_in_all_lanes() -> None:
    specs = [ParameterSpec("w", (300, 200), 300), ParameterSpec("b", (20_000,), 50)]
    parameters = Parameters(Layout(specs), 3)
    parameters.initialise(seed=5)
    assert torch.equal(parameters.flat, parameters.flat[:1].expand(3, -1))
    for spec in specs:
        bound = 1 / math.sqrt(spec.fan_in)
        values = (parameters.views[spec.name][0].detach().double().flatten() / bound).sort().values
        assert values.abs().max() <= 1
        # Kolmogorov-Smirnov against U(-1, 1): 1.95 / sqrt(n) is passed once in 1,000 seeds.
        n = len(values)
        uniform = (torch.arange(n, dtype=F64) + 0.5) / n
        assert ((values + 1) / 2 - uniform).abs().max() < 1.95 / math.sqrt(n)


def test_initial_values_depend_on_the_seed_and_on_the_parameters_name_alone() -> None:
    spec, other = ParameterSpec("a", (40, 30), 40), ParameterSpec("b", (40, 30), 40)

    def draw(specs: Sequence[ParameterSpec], seed: int, n_lanes: int) -> dict[str, Tensor]:
        parameters = Parameters(Layout(specs), n_lanes)
        parameters.initialise(seed)
        return {name: view.detach()[-1].clone() for name, view in parameters.views.items()}

    alone, company = draw([spec], 1, 1), draw([other, spec], 1, 4)
    assert torch.equal(alone["a"], company["a"])
    assert not torch.equal(company["a"], company["b"])
    assert not torch.equal(alone["a"], draw([spec], 2, 1)["a"])


def test_every_parameter_starts_on_its_own_64_bytes() -> None:
    parameters = Parameters(LAYOUT, 3)
    size = parameters.flat.element_size()
    for name, view in parameters.views.items():
        for k in range(3):
            offset = view[k].data_ptr() - parameters.flat.data_ptr()
            assert offset % 64 == 0, name
    assert LAYOUT.size * size % 64 == 0
    ends = sorted((LAYOUT.offsets[s.name], math.prod(s.shape)) for s in LAYOUT.specs)
    for (start, n), (following, _) in itertools.pairwise(ends):
        assert start + n <= following
    assert LAYOUT.end_of("first.") == LAYOUT.offsets["last.weight"]
    assert LAYOUT.end_of("") == LAYOUT.size


# --- to the last bit ----------------------------------------------------------------------------

SHAPES = [(100, 10), (53, 7), (3, 5), (100, 200), (21, 784), (1, 1)]


def operations(
    n_rows: int, n_columns: int
) -> dict[str, tuple[Callable[..., Tensor], list[Tensor]]]:
    """Return each functional operation and its inputs (K, ...) for one shape."""
    shape = (N_LANES, n_rows, n_columns)
    x, y = distinct(*shape), distinct(*shape, seed=1)
    labels = torch.arange(n_rows) * 7 % n_columns
    target = torch.rand((n_rows, n_columns), generator=torch.Generator().manual_seed(3))
    soft = torch.softmax(y, -1)
    shared = distinct(n_rows, n_columns, seed=6)
    return {
        **{name: (function, [x]) for name, function in NONLINEARITIES.items()},
        "sigmoid of logits": (sigmoid, [x]),
        "cross entropy": (lambda a: cross_entropy(a, labels), [x]),
        "soft cross entropy": (lambda a, b: soft_cross_entropy(a, b.detach()), [x, soft]),
        "kl": (kl_to_standard_normal, [x, y]),
        "reconstruction": (lambda a: reconstruction_loss(a, target), [x]),
        "softmax": (lambda a: torch.softmax(a, -1), [x]),
        "entropy": (lambda a: entropy(torch.softmax(a, -1)), [x]),
        "sample": (lambda m, v: m + shared * torch.exp(0.5 * v), [x, y]),
    }


def values_and_gradients(function: Callable[..., Tensor], inputs: Sequence[Tensor]) -> list[Tensor]:
    """Return an operation's output and the gradient of its sum to each input."""
    leaves = [x.clone().requires_grad_() for x in inputs]
    output = function(*leaves)
    grads = torch.autograd.grad(output, leaves, torch.ones_like(output), allow_unused=True)
    return [output.detach(), *(grad for grad in grads if grad is not None)]


@pytest.mark.slow
@pytest.mark.usefixtures("n_threads")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_lane_of_each_operation_equals_itself_alone_to_the_last_bit(shape: tuple[int, int]) -> None:
    wrong = {}
    for name, (function, inputs) in operations(*shape).items():

        def compute(
            lanes: list[int],
            function: Callable[..., Tensor] = function,
            inputs: list[Tensor] = inputs,
        ) -> list[Tensor]:
            return values_and_gradients(function, [x[lanes] for x in inputs])

        if found := lanes_that_differ(compute):
            wrong[name] = found
    assert wrong == {}


LAYERS = [
    # batch, in, out: the shapes of the models with whole batches ...
    (100, 784, 200),
    (100, 200, 10),
    (100, 200, 32),
    (100, 100, 10),
    (100, 10, 2),
    # ... with a bottleneck and widths that fill no vector register ...
    (100, 200, 7),
    (100, 17, 10),
    (50, 200, 7),
    # ... and with the batch that is left at an epoch's end.
    (53, 200, 10),
    (53, 10, 10),
    (7, 784, 200),
    (7, 200, 32),
    (3, 5, 33),
    (1, 200, 10),
]


@pytest.mark.slow
@pytest.mark.usefixtures("n_threads")
@pytest.mark.parametrize("is_shared", [True, False], ids=["shared input", "own input"])
@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_lane_of_a_layer_equals_itself_alone_to_the_last_bit(
    layer: tuple[int, int, int], is_shared: bool
) -> None:
    n_batch, n_in, n_out = layer
    specs = [ParameterSpec("w", (n_in, n_out), n_in), ParameterSpec("b", (n_out,), n_in)]
    layout = Layout(specs)
    flat = distinct(N_LANES, layout.size)
    x, grad = distinct(N_LANES, n_batch, n_in, seed=1), distinct(N_LANES, n_batch, n_out, seed=2)

    def compute(lanes: list[int]) -> list[Tensor]:
        parameters = Parameters(layout, len(lanes))
        parameters.flat.copy_(flat[lanes])
        weight, bias = parameters.views["w"], parameters.views["b"]
        inputs = x[0].clone() if is_shared else x[lanes].requires_grad_()
        output = linear(inputs, weight, bias)
        leaves = [weight, bias] if is_shared else [weight, bias, inputs]
        return [output.detach(), *torch.autograd.grad(output, leaves, grad[lanes])]

    assert lanes_that_differ(compute) == []
