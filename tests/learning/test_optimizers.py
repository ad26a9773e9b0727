"""Stacked optimisers against torch.optim and clip_grad_norm_, lane by lane."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from stacked_networks import (
    F64,
    LAYOUT,
    N_IN,
    N_LANES,
    N_OUT,
    assert_close,
    distinct,
    lane_module,
    lanes_that_differ,
    module_values,
    random,
    random_parameters,
    stacked_forward,
)
from test_step import guarded
from torch import Tensor, nn

from raysweep.learning.stacked.layout import Layout, ParameterSpec
from raysweep.learning.stacked.optimizers import LaneState, Optimizer
from raysweep.learning.stacked.parameters import Parameters

OPTIMISERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "adagrad": torch.optim.Adagrad,
    "rmsprop": torch.optim.RMSprop,
    "sgd": torch.optim.SGD,
}
WITH_MOMENTUM = ("rmsprop", "sgd")
LRS = [1e-3, 0.1, 0.03]

# --- on a network ---------------------------------------------------------------------------------


def drive(
    parameters: Parameters, optimizer: Optimizer, n_steps: int, **how: Any
) -> Iterator[Tensor]:
    """Minimise each lane's mean squared error on a stream of batches; yield each step's batch."""
    everyone = torch.ones(parameters.n_lanes, dtype=torch.bool)
    for i in range(n_steps):
        x = random(6, N_IN, seed=50 + i)
        outputs = stacked_forward(parameters, x, "tanh")
        parameters.differentiate((outputs - x[:, :N_OUT]).square().mean((1, 2)))
        optimizer.step(**({"is_alive": everyone} | how))
        yield x


def module_step(module: nn.Sequential, optimizer: torch.optim.Optimizer, x: Tensor) -> None:
    """Take the same step with an ordinary network."""
    optimizer.zero_grad()
    (module(x) - x[:, :N_OUT]).square().mean().backward()
    optimizer.step()


def make_optimizer(kind: str, parameters: Parameters, decays: Sequence[float]) -> Optimizer:
    """Make a stacked optimiser with the learning rates ``LRS``."""
    return Optimizer(kind, parameters, {"lr": LRS, "weight_decay": decays})


@pytest.mark.parametrize("decays", [(0.0, 0.0, 0.0), (0.0, 0.02, 0.3)], ids=["plain", "decay"])
@pytest.mark.parametrize("kind", OPTIMISERS)
def test_twenty_steps_equal_those_of_a_torch_optimiser_per_lane(
    kind: str, decays: Sequence[float]
) -> None:
    parameters = random_parameters(3)
    modules = [lane_module(parameters, k, "tanh") for k in range(3)]
    theirs = [
        OPTIMISERS[kind](module.parameters(), lr=lr, weight_decay=decay)
        for module, lr, decay in zip(modules, LRS, decays, strict=True)
    ]
    before = parameters.flat.clone()
    optimizer = make_optimizer(kind, parameters, decays)
    for x in drive(parameters, optimizer, 20):
        for module, their in zip(modules, theirs, strict=True):
            module_step(module, their, x)
    assert (parameters.flat - before).abs().max(-1).values.min() > 1e-3
    for k, module in enumerate(modules):
        for name, expected in module_values(module).items():
            actual = parameters.views[name][k].detach()
            torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("kind", OPTIMISERS)
def test_frozen_lane_keeps_its_first_elements_and_the_rest_moves_as_without_them(
    kind: str,
) -> None:
    parameters = random_parameters(3)
    before = parameters.flat.clone()
    module = lane_module(parameters, 1, "tanh")
    their = OPTIMISERS[kind](module[2].parameters(), lr=LRS[1], weight_decay=0.1)
    free = lane_module(parameters, 2, "tanh")
    their_free = OPTIMISERS[kind](free.parameters(), lr=LRS[2], weight_decay=0)
    optimizer = make_optimizer(kind, parameters, (0.0, 0.1, 0.0))
    end = LAYOUT.end_of("first.")
    is_frozen = torch.tensor([False, True, False])
    for x in drive(parameters, optimizer, 10, is_frozen=is_frozen, frozen_end=end):
        module_step(module, their, x)
        module_step(free, their_free, x)
    assert torch.equal(parameters.flat[1, :end], before[1, :end])
    for k, expected_module in ((1, module), (2, free)):
        for name, expected in module_values(expected_module).items():
            actual = parameters.views[name][k].detach()
            torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("kind", OPTIMISERS)
def test_dead_lane_keeps_its_parameters_and_leaves_the_others_unchanged(
    kind: str, bad: float
) -> None:
    decays = (0.0, 0.1, 0.0)
    healthy, struck = random_parameters(3), random_parameters(3)
    optimizers = [make_optimizer(kind, p, decays) for p in (healthy, struck)]
    for _ in drive(healthy, optimizers[0], 8):
        pass
    before = struck.flat.clone()
    is_alive = torch.tensor([True, False, True])
    for i in range(8):
        x = random(6, N_IN, seed=50 + i)
        outputs = stacked_forward(struck, x, "tanh")
        struck.differentiate((outputs - x[:, :N_OUT]).square().mean((1, 2)))
        struck.grad[1] = bad
        optimizers[1].step(is_alive)
    assert torch.equal(struck.flat[1], before[1])
    assert torch.equal(struck.flat[[0, 2]], healthy.flat[[0, 2]])


@pytest.mark.parametrize("kind", OPTIMISERS)
def test_dead_lane_is_left_alone_while_another_is_frozen(kind: str) -> None:
    parameters = random_parameters(3)
    before = parameters.flat.clone()
    optimizer = make_optimizer(kind, parameters, (0.0, 0.0, 0.0))
    parameters.grad.copy_(random(*parameters.grad.shape, seed=9))
    parameters.grad[0] = math.nan
    parameters.grad[1, : LAYOUT.end_of("first.")] = math.nan
    end = LAYOUT.end_of("first.")
    optimizer.step(torch.tensor([False, True, True]), torch.tensor([True, True, False]), end)
    assert torch.equal(parameters.flat[0], before[0])
    assert torch.equal(parameters.flat[1, :end], before[1, :end])
    assert torch.isfinite(parameters.flat).all()
    assert (parameters.flat[1, end:] != before[1, end:]).any()
    assert (parameters.flat[2] != before[2]).any()


@pytest.mark.parametrize("kind", OPTIMISERS)
def test_lane_moved_into_another_optimiser_goes_on_as_if_it_had_stayed(kind: str) -> None:
    decays = (0.0, 0.02, 0.3)
    staying = random_parameters(3)
    stay = make_optimizer(kind, staying, decays)
    for _ in drive(staying, stay, 7):
        pass
    moved = Parameters(LAYOUT, 1, F64)
    move = Optimizer(kind, moved, {"lr": LRS[2:], "weight_decay": decays[2:]})
    move.set_lane(0, stay.lane(2), with_moments=True)
    for _ in drive(staying, stay, 5):
        pass
    for _ in drive(moved, move, 5):
        pass
    assert torch.equal(moved.flat[0], staying.flat[2])


@pytest.mark.parametrize("kind", OPTIMISERS)
def test_lane_set_without_moments_starts_a_new_optimiser(kind: str) -> None:
    parameters = random_parameters(3)
    optimizer = make_optimizer(kind, parameters, (0.0, 0.0, 0.0))
    for _ in drive(parameters, optimizer, 7):
        pass
    module = lane_module(parameters, 1, "tanh")
    their = OPTIMISERS[kind](module.parameters(), lr=LRS[1], weight_decay=0)
    fresh = Parameters(LAYOUT, 1, F64)
    new = Optimizer(kind, fresh, {"lr": LRS[1:2]})
    new.set_lane(0, LaneState(optimizer.lane(1).parameters), with_moments=False)
    for x in drive(fresh, new, 5):
        module_step(module, their, x)
    for name, expected in module_values(module).items():
        assert_close(fresh.views[name][0].detach(), expected)


# --- settings that differ from lane to lane -------------------------------------------------------

Settings = dict[str, list[float]]
SETTINGS: Settings = {
    "lr": [1e-3, 0.03, 0.1, 0.02, 0.005],
    "weight_decay": [0.0, 0.1, 0.0, 0.02, 0.3],
    "momentum": [0.0, 0.9, 0.5, 0.0, 0.99],
    "clip_norm": [0.0, 0.5, 20.0, 1e6, 3.0],
}
MIXES = {
    "plain": ["lr"],
    "decay": ["lr", "weight_decay"],
    "momentum": ["lr", "momentum"],
    "clipping": ["lr", "clip_norm"],
    "all": list(SETTINGS),
}
CASES = [
    pytest.param(kind, {name: SETTINGS[name] for name in names}, id=f"{kind}-{mix}")
    for kind in OPTIMISERS
    for mix, names in MIXES.items()
    if mix != "momentum" or kind in WITH_MOMENTUM
]
ALL_OF_EACH = [pytest.param(kind, SETTINGS, id=kind) for kind in OPTIMISERS]
FORMS = ["step", "step_all"]
END = LAYOUT.end_of("first.")


def of_lanes(settings: Settings, lanes: Sequence[int]) -> Settings:
    """Return the settings of some lanes."""
    return {name: [values[k] for k in lanes] for name, values in settings.items()}


def make(kind: str, settings: Settings, lanes: Sequence[int] = range(N_LANES)) -> Optimizer:
    """Make an optimiser of some of five lanes that differ in their parameters."""
    parameters = Parameters(LAYOUT, len(lanes), F64)
    parameters.flat.copy_(random_parameters(N_LANES).flat[list(lanes)])
    return Optimizer(kind, parameters, of_lanes(settings, lanes))


def gradient(i: int) -> Tensor:
    """Return the i-th gradient of five lanes, of very different norms; 0 in the padding."""
    grads = Parameters(LAYOUT, N_LANES, F64)
    for j, view in enumerate(grads.grads.values()):
        view.copy_(random(*view.shape, seed=1000 * i + j) * 10.0 ** (i % 4 - 2))
    return grads.grad


def take(optimizer: Optimizer, grad: Tensor, form: str = "step", **how: Any) -> None:
    """Take a step with a gradient, in all lanes if nothing else is said."""
    optimizer.parameters.grad.copy_(grad)
    everyone = torch.ones(len(grad), dtype=torch.bool)
    getattr(optimizer, form)(**({"is_alive": everyone} | how))


class PlainLane:
    """One lane by torch.optim: the parameters named, as tensors of their own."""

    def __init__(self, kind: str, state: LaneState, settings: Settings, k: int, prefix: str = ""):
        self.parameters = {
            name: nn.Parameter(tensor.clone())
            for name, tensor in state.parameters.items()
            if name.startswith(prefix)
        }
        numbers = {"weight_decay": 0.0} | {name: values[k] for name, values in settings.items()}
        self._max_norm = numbers.pop("clip_norm", 0.0)
        if kind not in WITH_MOMENTUM:
            numbers.pop("momentum", None)
        self._optimizer = OPTIMISERS[kind](self.parameters.values(), **numbers)
        self.n_clipped = 0

    def step(self, grad: Tensor) -> None:
        """Take one step with a row (P,) as gradient."""
        for name, view in LAYOUT.views(grad[None]).items():
            if name in self.parameters:
                self.parameters[name].grad = view[0].clone()
        if self._max_norm:
            norm = nn.utils.clip_grad_norm_(self.parameters.values(), self._max_norm)
            self.n_clipped += int(norm > self._max_norm)
        self._optimizer.step()

    def check(self, state: LaneState) -> None:
        """Check that a stacked lane has the same parameters."""
        for name, expected in self.parameters.items():
            actual = state.parameters[name]
            torch.testing.assert_close(actual, expected.detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("kind", "settings"), CASES)
def test_lanes_of_different_settings_are_those_of_torch(
    kind: str, settings: Settings, form: str
) -> None:
    optimizer = make(kind, settings)
    theirs = [PlainLane(kind, optimizer.lane(k), settings, k) for k in range(N_LANES)]
    for i in range(12):
        take(optimizer, gradient(i), form)
        for k, their in enumerate(theirs):
            their.step(gradient(i)[k])
            their.check(optimizer.lane(k))
    if "clip_norm" in settings:  # never, each time or now and then
        counts = [their.n_clipped for their in theirs]
        assert counts[0] == counts[3] == 0 < counts[2] < counts[4] < counts[1] < 12


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("kind", "settings"), ALL_OF_EACH)
def test_gradient_that_is_left_over_in_a_frozen_encoder_does_not_count(
    kind: str, settings: Settings, form: str
) -> None:
    optimizer = make(kind, settings)
    before = optimizer.parameters.flat.clone()
    is_frozen = torch.tensor([True, True, False, False, True])
    theirs = [
        PlainLane(kind, optimizer.lane(k), settings, k, "last." if is_frozen[k] else "")
        for k in range(N_LANES)
    ]
    for i in range(8):
        grad = gradient(i)
        for their, row in zip(theirs, grad, strict=True):
            their.step(row)
        grad[0, :END], grad[1, :END], grad[4, :END] = 1e8, math.nan, math.inf
        take(optimizer, grad, form, is_frozen=is_frozen, frozen_end=END)
    assert torch.equal(optimizer.parameters.flat[is_frozen, :END], before[is_frozen, :END])
    for k, their in enumerate(theirs):
        their.check(optimizer.lane(k))


@pytest.mark.slow
@pytest.mark.parametrize(
    "is_frozen", [None, [False, True, False, True, False]], ids=["free", "frozen"]
)
@pytest.mark.parametrize(("kind", "settings"), CASES)
def test_update_lane_by_lane_is_that_of_all_lanes_at_once(
    kind: str, settings: Settings, is_frozen: list[bool] | None
) -> None:
    single, whole = make(kind, settings), make(kind, settings)
    frozen = None if is_frozen is None else torch.tensor(is_frozen)
    is_alive = torch.ones(5, dtype=torch.bool)
    for i in range(60):
        is_alive[3] = i < 20
        is_alive[2] = i < 1
        grad = gradient(i)
        grad[~is_alive] = math.nan
        if frozen is not None:
            grad[frozen, :END] = 0
        for optimizer, form in ((single, "step"), (whole, "step_all")):
            how = {"is_alive": is_alive, "is_frozen": frozen, "frozen_end": END}
            take(optimizer, grad, form, **how)
            assert torch.equal(optimizer.parameters.grad.nan_to_num(), grad.nan_to_num())
        assert_as_near(whole.parameters.flat, single.parameters.flat)
        assert whole.moments.keys() == single.moments.keys()
        for name, moment in single.moments.items():
            for k in is_alive.nonzero().flatten().tolist():
                start = END if frozen is not None and frozen[k] else 0
                assert_as_near(whole.moments[name][k, start:], moment[k, start:])
    assert single.n_steps == whole.n_steps


def assert_as_near(actual: Tensor, expected: Tensor) -> None:
    """Assert equality up to the rounding of float64 over some steps."""
    torch.testing.assert_close(actual, expected, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("kind", "settings"), ALL_OF_EACH)
@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e300])
def test_gradient_that_is_not_finite_leaves_the_other_lanes_as_they_are(
    kind: str, settings: Settings, form: str, bad: float
) -> None:
    healthy, struck = make(kind, settings), make(kind, settings)
    others = [0, 1, 2, 3]
    for i in range(6):
        grad = gradient(i)
        take(healthy, grad, form)
        grad[4, 3] = bad
        take(struck, grad, form)
    assert torch.equal(struck.parameters.flat[others], healthy.parameters.flat[others])
    assert not torch.equal(struck.parameters.flat[4], healthy.parameters.flat[4])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", OPTIMISERS)
def test_lane_without_clipping_and_momentum_is_untouched_by_those_that_have_them(
    kind: str, form: str
) -> None:
    mixed = make(kind, SETTINGS)
    bare = make(kind, {name: SETTINGS[name] for name in ("lr", "weight_decay")})
    assert len(mixed.moments) == len(bare.moments) + (kind in WITH_MOMENTUM)
    for i in range(6):
        for optimizer in (mixed, bare):
            take(optimizer, gradient(i), form)
    assert torch.equal(mixed.parameters.flat[0], bare.parameters.flat[0])
    for name, moment in mixed.moments.items():
        expected = bare.moments.get(name, torch.zeros_like(moment))
        assert torch.equal(moment[0], expected[0])


@pytest.mark.parametrize(("kind", "settings"), CASES)
def test_update_of_all_lanes_reads_no_tensor(kind: str, settings: Settings) -> None:
    optimizer = make(kind, settings)
    optimizer.parameters.grad.copy_(gradient(0))
    is_alive = torch.ones(N_LANES, dtype=torch.bool)
    is_frozen = torch.arange(N_LANES) == 1
    before = optimizer.parameters.flat.clone()
    with guarded([]):
        optimizer.step_all(is_alive, is_frozen, END)
        optimizer.step_all(is_alive)
    assert (optimizer.parameters.flat != before).any(1).all()


# --- states ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "settings"), CASES)
def test_lanes_resumed_in_other_company_go_on_as_if_they_had_stayed(
    kind: str, settings: Settings
) -> None:
    whole = make(kind, settings)
    for i in range(5):
        take(whole, gradient(i))
    # Lanes 0 and 3 have no momentum: alone, and together, there is no buffer.
    stacks = {lanes: make(kind, settings, lanes) for lanes in ((3,), (0, 3), (4, 0, 2), (1,))}
    for lanes, stack in stacks.items():
        for position, k in enumerate(lanes):
            stack.set_lane(position, whole.lane(k), with_moments=True)
    returned = make(kind, settings)
    for k in range(N_LANES):
        lanes = next(lanes for lanes in stacks if k in lanes)
        returned.set_lane(k, stacks[lanes].lane(lanes.index(k)), with_moments=True)
    for i in range(5, 10):
        take(whole, gradient(i))
        take(returned, gradient(i))
        for lanes, stack in stacks.items():
            take(stack, gradient(i)[list(lanes)])
    assert torch.equal(returned.parameters.flat, whole.parameters.flat)
    for lanes, stack in stacks.items():
        assert torch.equal(stack.parameters.flat, whole.parameters.flat[list(lanes)])
        assert stack.n_steps == [10] * len(lanes)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("kind", "settings"), ALL_OF_EACH)
def test_lane_that_begins_among_lanes_that_go_on_takes_its_own_first_step(
    kind: str, settings: Settings, form: str
) -> None:
    earlier = make(kind, settings)
    for i in range(7):
        take(earlier, gradient(i), form)
    optimizer = make(kind, settings)
    begins = (1, 3)
    for k in range(N_LANES):
        optimizer.set_lane(k, earlier.lane(k), with_moments=k not in begins)
    assert optimizer.n_steps == [7, 0, 7, 0, 7]
    theirs = {k: PlainLane(kind, optimizer.lane(k), settings, k) for k in begins}
    for i in range(7, 12):
        take(earlier, gradient(i), form)
        take(optimizer, gradient(i), form)
        for k, their in theirs.items():
            their.step(gradient(i)[k])
    for their, k in zip(theirs.values(), begins, strict=True):
        their.check(optimizer.lane(k))
    stayed = [0, 2, 4]
    assert torch.equal(optimizer.parameters.flat[stayed], earlier.parameters.flat[stayed])


@pytest.mark.parametrize("kind", WITH_MOMENTUM)
def test_state_without_a_momentum_buffer_is_taken_only_where_that_is_zero(kind: str) -> None:
    bare = make(kind, {"lr": SETTINGS["lr"]})
    optimizer = make(kind, SETTINGS)
    for i in range(2):
        take(bare, gradient(i))
        take(optimizer, gradient(i))
    assert "momentum_buffer" in optimizer.lane(1).moments
    assert "momentum_buffer" not in optimizer.lane(3).moments
    optimizer.set_lane(3, bare.lane(3), with_moments=True)
    with pytest.raises(AssertionError, match="a moment is lost"):
        optimizer.set_lane(1, bare.lane(1), with_moments=True)
    assert optimizer.moments["momentum_buffer"][1].any()
    new = bare.lane(1)
    optimizer.set_lane(1, LaneState(new.parameters, new.moments, 0), with_moments=True)
    assert not optimizer.moments["momentum_buffer"][[1, 3]].any()
    assert optimizer.n_steps == [2, 0, 2, 2, 2]


# --- to the last bit ------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.usefixtures("n_threads")
@pytest.mark.parametrize(
    "is_frozen", [[False] * 5, [False, True, False, True, False]], ids=["free", "frozen"]
)
@pytest.mark.parametrize(
    "settings",
    [
        {"lr": [1e-4, 1e-3, 3e-3, 0.1, 0.7], "weight_decay": [0.0, 1e-3, 0.0, 0.1, 0.0]},
        SETTINGS | {"clip_norm": [0.0, 1.0, 300.0, 1e6, 50.0]},
    ],
    ids=["decay", "all"],
)
@pytest.mark.parametrize("kind", OPTIMISERS)
def test_optimiser_moves_a_lane_alike_in_any_company(
    kind: str, settings: Settings, is_frozen: list[bool]
) -> None:
    specs = [("encoder.w", (211, 53)), ("encoder.b", (53,)), ("w", (403, 107)), ("b", (107,))]
    layout = Layout([ParameterSpec(name, shape, 211) for name, shape in specs])
    start, grads = distinct(N_LANES, layout.size), distinct(4, N_LANES, layout.size, seed=1)

    def compute(lanes: list[int]) -> list[Tensor]:
        parameters = Parameters(layout, len(lanes))
        parameters.flat.copy_(start[lanes])
        optimizer = Optimizer(kind, parameters, of_lanes(settings, lanes))
        frozen = torch.tensor([is_frozen[k] for k in lanes])
        for grad in grads:
            parameters.grad.copy_(grad[lanes])
            is_alive = torch.ones(len(lanes), dtype=torch.bool)
            optimizer.step(is_alive, frozen, layout.end_of("encoder."))
        return [parameters.flat]

    assert lanes_that_differ(compute) == []
