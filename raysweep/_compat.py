"""Private parts of Ray and torch that raysweep calls, each with a fallback in case it is missing.

No other module uses private parts. Each was seen in the minor releases that pyproject.toml allows,
Ray 2.60 and torch 2.14; tests/test_compat.py compares it with its fallback. Both packages are
imported inside the functions: the driver starts without torch, and learning runs without Ray.
"""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

if TYPE_CHECKING:
    from torch import Tensor

    Tensors = Sequence[Tensor]

# --- Ray ------------------------------------------------------------------------------------------


def asks_for_token() -> bool:
    """Return whether Ray requires a token in this process, hence on its node.

    Seen in Ray 2.60: ``ray._raylet.get_authentication_mode``. The fallback reads the environment
    variable that sets the mode; anything but an explicit token mode counts as open and is refused.
    """
    try:
        from ray._raylet import (  # type: ignore[attr-defined]
            AuthenticationMode,
            get_authentication_mode,
        )

        return bool(get_authentication_mode() == AuthenticationMode.TOKEN)
    except Exception:  # noqa: BLE001 (a later Ray may change it in any way)
        return os.environ.get("RAY_AUTH_MODE", "").lower() == "token"


def forget_token() -> bool:
    """Make Ray read its token again at its next start in this process; return whether it will.

    Ray keeps the first one: a cluster with another does not start. Call it after ``ray.shutdown``.
    Seen in Ray 2.60: ``ray._raylet.AuthenticationTokenLoader.reset_cache``.
    """
    raylet = sys.modules.get("ray._raylet")
    if raylet is None:  # Ray has not been imported
        return True
    try:
        raylet.AuthenticationTokenLoader.instance().reset_cache()
    except Exception:  # noqa: BLE001 (a later Ray may change it in any way)
        return False
    return True


def n_workers_starting() -> int | None:
    """Return how many actors of this driver have room and wait for their process; None if unknown.

    Seen in Ray 2.60: ``ray._private.state.actors``. An actor is ``PENDING_CREATION`` from when it
    is asked for, which Tune does once the resources are reserved, to the end of its ``__init__``.
    """
    try:
        import ray
        from ray._private import state

        if not ray.is_initialized():  # the calls below would start it
            return None
        job = ray.JobID.from_hex(ray.get_runtime_context().get_job_id())
        return len(state.actors(job_id=job, actor_state_name="PENDING_CREATION"))
    except Exception:  # noqa: BLE001 (a later Ray may change it in any way)
        return None


def silence_lost_workers() -> None:
    """Keep Ray from printing a long report of each lost worker, which ignores its log settings.

    Call it before ``ray.init``. Seen in Ray 2.60: ``ray._private.worker.print_to_stdstream``. If
    that is missing, Ray prints.
    """
    try:
        from ray._private import worker
    except ImportError:
        return
    if hasattr(worker, "print_to_stdstream"):
        worker.print_to_stdstream = lambda *_, **__: None


# --- torch: backward passes in place --------------------------------------------------------------
# One pass over memory: 40 times as fast as the fallbacks on 16 x 100 x 400 numbers (one thread).


def relu_backward_(grad: "Tensor", out: "Tensor") -> None:
    """Convert the gradient of a ReLU's output ``out`` to that of its input, in place.

    Seen in torch 2.14: ``torch.ops.aten.threshold_backward.grad_input``, which autograd calls. The
    fallback gives the same bits.
    """
    _relu_kernel()(grad, out)


def leaky_relu_backward_(grad: "Tensor", out: "Tensor", slope: float) -> None:
    """Convert the gradient of a leaky ReLU's output to that of its input, in place.

    Seen in torch 2.14: ``torch.ops.aten.leaky_relu_backward.grad_input``. The fallback gives the
    same bits.
    """
    _leaky_relu_kernel()(grad, out, slope)


@cache
def _relu_kernel() -> Callable[["Tensor", "Tensor"], object]:
    import torch

    def plain(grad: "Tensor", out: "Tensor") -> object:
        return grad.masked_fill_(out <= 0, 0)  # not a product: 0 * NaN is NaN

    def fast(grad: "Tensor", out: "Tensor") -> object:
        return kernel(grad, out, 0, grad_input=grad)

    try:
        kernel: Any = torch.ops.aten.threshold_backward.grad_input
        fast(torch.ones(1), torch.ones(1))
    except Exception:  # noqa: BLE001 (a later torch may change it in any way)
        return plain
    return fast


@cache
def _leaky_relu_kernel() -> Callable[["Tensor", "Tensor", float], object]:
    import torch

    def plain(grad: "Tensor", out: "Tensor", slope: float) -> object:
        return grad.copy_(torch.where(out > 0, grad, grad * slope))

    def fast(grad: "Tensor", out: "Tensor", slope: float) -> object:
        return kernel(grad, out, slope, True, grad_input=grad)

    try:
        kernel: Any = torch.ops.aten.leaky_relu_backward.grad_input
        fast(torch.ones(1), torch.ones(1), 0.01)
    except Exception:  # noqa: BLE001 (a later torch may change it in any way)
        return plain
    return fast


# --- torch: optimisers in one pass over memory ----------------------------------------------------
# The kernels that torch.optim calls with fused=True, with the names and arguments of torch 2.14.
# Each changes its lists of tensors in place, except ``state_steps``, which already counts the step.


class AdamSettings(TypedDict):
    """The arguments of Adam and AdamW other than tensors."""

    lr: float
    beta1: float
    beta2: float
    weight_decay: float
    eps: float
    amsgrad: bool
    maximize: bool


class AdagradSettings(TypedDict):
    """The arguments of Adagrad other than tensors."""

    lr: float
    lr_decay: float
    weight_decay: float
    eps: float
    maximize: bool


class SGDSettings(TypedDict):
    """The arguments of SGD other than tensors; the first step only writes momentum buffers."""

    weight_decay: float
    momentum: float
    lr: float
    dampening: float
    nesterov: bool
    maximize: bool
    is_first_step: bool


def fused_adam(
    params: "Tensors",
    grads: "Tensors",
    exp_avgs: "Tensors",
    exp_avg_sqs: "Tensors",
    max_exp_avg_sqs: "Tensors",  # empty without amsgrad
    state_steps: "Tensors",  # zero-dimensional
    **settings: Unpack[AdamSettings],
) -> None:
    """Take a step of Adam, with weight decay as part of the gradient.

    Seen in torch 2.14: ``torch._fused_adam_``.
    """
    lists = (params, grads, exp_avgs, exp_avg_sqs, max_exp_avg_sqs, state_steps)
    _step("_fused_adam_", _plain_adam, lists, settings)


def fused_adamw(
    params: "Tensors",
    grads: "Tensors",
    exp_avgs: "Tensors",
    exp_avg_sqs: "Tensors",
    max_exp_avg_sqs: "Tensors",
    state_steps: "Tensors",
    **settings: Unpack[AdamSettings],
) -> None:
    """Take a step of AdamW (Loshchilov & Hutter 2019), with decoupled weight decay.

    The arguments are those of ``fused_adam``. Seen in torch 2.14: ``torch._fused_adamw_``.
    """
    lists = (params, grads, exp_avgs, exp_avg_sqs, max_exp_avg_sqs, state_steps)
    _step("_fused_adamw_", _plain_adamw, lists, settings)


def fused_adagrad(
    params: "Tensors",
    grads: "Tensors",
    state_sums: "Tensors",
    state_steps: "Tensors",
    **settings: Unpack[AdagradSettings],
) -> None:
    """Take a step of Adagrad.

    Seen in torch 2.14: ``torch._fused_adagrad_``.
    """
    lists = (params, grads, state_sums, state_steps)
    _step("_fused_adagrad_", _plain_adagrad, lists, settings)


def fused_sgd(
    params: "Tensors",
    grads: "Tensors",
    momentum_buffer_list: "Tensors",  # empty without momentum
    **settings: Unpack[SGDSettings],
) -> None:
    """Take a step of SGD.

    Seen in torch 2.14: ``torch._fused_sgd_``.
    """
    _step("_fused_sgd_", _plain_sgd, (params, grads, momentum_buffer_list), settings)


_chosen: dict[tuple[str, Any, Any], Callable[..., None]] = {}
"""The function that takes a step, by kernel name, device and dtype."""


def _step(
    name: str,
    plain: Callable[..., None],
    lists: Sequence["Tensors"],
    settings: Mapping[str, Any],
) -> None:
    """Call a torch kernel, or ``plain`` if it is missing or refuses such tensors."""
    first = lists[0][0]
    key = (name, first.device, first.dtype)
    if key not in _chosen:
        _chosen[key] = _choose(name, plain, lists, settings)
    _chosen[key](*lists, **settings)


def _choose(
    name: str,
    plain: Callable[..., None],
    lists: Sequence["Tensors"],
    settings: Mapping[str, Any],
) -> Callable[..., None]:
    """Return a kernel if it accepts copies of these tensors, otherwise ``plain``."""
    import torch

    copies = [[tensor.detach().clone() for tensor in tensors] for tensors in lists]
    try:
        kernel: Callable[..., None] = getattr(torch, name)
        kernel(*copies, **settings)
    except Exception:  # noqa: BLE001 (a later torch may change it in any way)
        return torch.no_grad()(plain)
    return kernel


def _plain_adam(
    params: "Tensors",
    grads: "Tensors",
    exp_avgs: "Tensors",
    exp_avg_sqs: "Tensors",
    max_exp_avg_sqs: "Tensors",
    state_steps: "Tensors",
    **settings: Unpack[AdamSettings],
) -> None:
    import torch

    beta1, beta2 = settings["beta1"], settings["beta2"]
    for i, (exp_avg, exp_avg_sq) in enumerate(zip(exp_avgs, exp_avg_sqs, strict=True)):
        grad = _direction(params[i], grads[i], settings["weight_decay"], settings["maximize"])
        exp_avg.mul_(beta1).add_(grad, alpha=1 - beta1)
        exp_avg_sq.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        n_steps = state_steps[i].double()  # stays on the GPU: nothing is read back
        second = exp_avg_sq
        if settings["amsgrad"]:
            second = torch.maximum(max_exp_avg_sqs[i], exp_avg_sq, out=max_exp_avg_sqs[i])
        root = (1 - beta2**n_steps).sqrt()
        denominator = second.sqrt().div_(root).add_(settings["eps"])
        params[i].sub_(exp_avg.div(denominator).mul_(settings["lr"] / (1 - beta1**n_steps)))


def _plain_adamw(params: "Tensors", *others: "Tensors", **settings: Unpack[AdamSettings]) -> None:
    for param in params:
        param.mul_(1 - settings["lr"] * settings["weight_decay"])
    settings["weight_decay"] = 0.0
    _plain_adam(params, *others, **settings)


def _plain_adagrad(
    params: "Tensors",
    grads: "Tensors",
    state_sums: "Tensors",
    state_steps: "Tensors",
    **settings: Unpack[AdagradSettings],
) -> None:
    for i, (param, total) in enumerate(zip(params, state_sums, strict=True)):
        grad = _direction(param, grads[i], settings["weight_decay"], settings["maximize"])
        total.addcmul_(grad, grad)
        rate = settings["lr"] / (1 + (state_steps[i].double() - 1) * settings["lr_decay"])
        param.sub_(grad.div(total.sqrt().add_(settings["eps"])).mul_(rate))


def _plain_sgd(
    params: "Tensors",
    grads: "Tensors",
    momentum_buffer_list: "Tensors",
    **settings: Unpack[SGDSettings],
) -> None:
    momentum = settings["momentum"]
    for i, param in enumerate(params):
        grad = _direction(param, grads[i], settings["weight_decay"], settings["maximize"])
        if momentum:
            buffer = momentum_buffer_list[i]
            if settings["is_first_step"]:
                buffer.copy_(grad)
            else:
                buffer.mul_(momentum).add_(grad, alpha=1 - settings["dampening"])
            grad = grad.add(buffer, alpha=momentum) if settings["nesterov"] else buffer
        param.sub_(grad * settings["lr"])


def _direction(param: "Tensor", grad: "Tensor", weight_decay: float, maximize: bool) -> "Tensor":
    grad = -grad if maximize else grad
    return grad.add(param, alpha=weight_decay) if weight_decay else grad
