"""Private parts of Ray and torch: they work in this version, and their fallbacks do the same."""

import ast
import builtins
import os
import re
import subprocess
import sys
import threading
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from raysweep import _compat

ROOT = Path(__file__).parents[1]
NAMEDTUPLE = {"_asdict", "_fields", "_replace"}


@pytest.fixture(autouse=True)
def forgetful() -> Iterator[None]:
    """Let nothing that was found out in a test stay known."""

    def forget() -> None:
        _compat._relu_kernel.cache_clear()
        _compat._leaky_relu_kernel.cache_clear()
        _compat._chosen.clear()

    forget()
    yield
    forget()


# --- where they are -------------------------------------------------------------------------------


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name != "_compat"


def private_names(source: str) -> Iterator[str]:
    """Yield what a module takes of others by a private name."""
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Attribute):
            is_own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            is_plain = is_own or node.attr in NAMEDTUPLE
            names = [] if is_plain else [node.attr]
            names += ["_ops"] if ast.unparse(node) == "torch.ops" else []
        yield from (name for name in names if any(map(is_private, name.split("."))))


def test_no_other_module_takes_what_is_private() -> None:
    root = ROOT / "raysweep"
    found = {
        str(file.relative_to(root)): names
        for file in root.rglob("*.py")
        if (names := [n for n in private_names(file.read_text()) if not n.startswith("raysweep.")])
    }
    assert {"_private", "_ops"} <= {part for n in found.pop("_compat.py") for part in n.split(".")}
    assert not found, found


def test_bounds_are_the_versions_that_were_tried() -> None:
    pinned = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text().split() if "==" in line
    )
    pinned = {name.lower().replace("_", "-"): version for name, version in pinned.items()}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = (project["dependencies"], *project["optional-dependencies"].values())
    for text in (text for group in groups for text in group):
        name, bounds = re.fullmatch(r"([\w.-]+)(?:\[[\w,]+\])?(.*)", text).groups()  # type: ignore[union-attr]
        if name == "raysweep":
            continue
        major, minor, *_ = pinned[name.lower().replace("_", "-")].split(".")
        above = f",<{major}.{int(minor) + 1}" if name in ("ray", "torch") else ""
        assert bounds == f">={major}.{minor}{above}", text  # above: they are called privately


# --- Ray ------------------------------------------------------------------------------------------

MODE = """
from raysweep import _compat
import ray._raylet
print(_compat.asks_for_token())
del ray._raylet.get_authentication_mode
print(_compat.asks_for_token())
"""


@pytest.mark.parametrize("mode", ["token", "TOKEN", "disabled", None])
def test_whether_a_token_is_asked_for_is_told_with_and_without_rays_own_word(
    mode: str | None,
) -> None:
    environment = {**os.environ, "RAY_AUTH_TOKEN": "0123456789abcdef" * 4}
    environment.pop("RAY_AUTH_MODE", None)
    environment |= {"RAY_AUTH_MODE": mode} if mode else {}
    done = subprocess.run(
        [sys.executable, "-c", MODE], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == 2 * [str(mode in ("token", "TOKEN"))], done.stderr


def test_a_mode_that_can_not_be_asked_for_is_read_from_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import ray._raylet

    def fail() -> None:
        raise RuntimeError("changed")

    monkeypatch.setattr(ray._raylet, "get_authentication_mode", fail)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    assert _compat.asks_for_token()
    monkeypatch.delenv("RAY_AUTH_MODE")
    assert not _compat.asks_for_token()


def test_where_ray_can_not_forget_its_token_that_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray._raylet

    assert _compat.forget_token()
    monkeypatch.delattr(ray._raylet, "AuthenticationTokenLoader")
    assert not _compat.forget_token()
    monkeypatch.delitem(sys.modules, "ray._raylet")  # not imported: there is none to forget
    assert _compat.forget_token()


STARTING = """
import time
import ray
from raysweep import _compat


class Worker:
    def __init__(self, seconds):
        time.sleep(seconds)

    def ready(self):
        return True


assert _compat.n_workers_starting() is None  # no Ray
ray.init("local", num_cpus=1, include_dashboard=False, object_store_memory=80 * 2**20)
assert _compat.n_workers_starting() == 0
worker = ray.remote(Worker).remote(5)
end = time.monotonic() + 30
while _compat.n_workers_starting() != 1:  # it is registered in a moment
    assert time.monotonic() < end
ray.get(worker.ready.remote())
assert _compat.n_workers_starting() == 0
del ray._private.state.actors
assert _compat.n_workers_starting() is None
"""


@pytest.mark.slow
def test_workers_that_start_are_counted_or_unknown(tmp_path: Path) -> None:
    environment = {**os.environ, "RAY_TMPDIR": "/tmp", "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", STARTING],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr


def said_of_a_lost_worker(capsys: pytest.CaptureFixture[str]) -> str:
    """Return what Ray's own listener prints where it hears of a lost worker."""
    from ray import JobID
    from ray._private.worker import listen_error_messages

    over = threading.Event()

    def poll() -> tuple[None, dict[str, Any]]:
        over.set()
        return None, {"job_id": None, "error_message": f"worker lost {os.urandom(4).hex()}"}

    subscriber = SimpleNamespace(subscribe=lambda: None, poll=poll)
    worker = SimpleNamespace(gcs_error_subscriber=subscriber, current_job_id=JobID.from_int(1))
    listen_error_messages(worker, over)
    printed = capsys.readouterr()
    return printed.out + printed.err


def test_a_lost_worker_is_not_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from ray._private import worker

    monkeypatch.setattr(worker, "print_to_stdstream", worker.print_to_stdstream)  # put back later
    assert "worker lost" in said_of_a_lost_worker(capsys)
    _compat.silence_lost_workers()
    assert said_of_a_lost_worker(capsys) == ""


def test_where_ray_prints_by_another_way_it_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._private import worker

    monkeypatch.delattr(worker, "print_to_stdstream")
    _compat.silence_lost_workers()
    assert not hasattr(worker, "print_to_stdstream")
    genuine = builtins.__import__

    def without(name: str, *arguments: Any) -> Any:
        if name.startswith("ray._private"):
            raise ImportError(name)
        return genuine(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", without)
    _compat.silence_lost_workers()


# --- torch: backward passes -----------------------------------------------------------------------


def leaky(grad: Tensor, out: Tensor) -> None:
    _compat.leaky_relu_backward_(grad, out, 0.01)


BACKWARD: dict[str, tuple[Callable[..., Any], Callable[..., Any], Callable[[], Any]]] = {
    "threshold_backward": (torch.relu, _compat.relu_backward_, _compat._relu_kernel),
    "leaky_relu_backward": (
        torch.nn.functional.leaky_relu,
        leaky,
        _compat._leaky_relu_kernel,
    ),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", BACKWARD)
def test_backward_passes_are_autograds_and_the_fallback_gives_the_same_bits(
    monkeypatch: pytest.MonkeyPatch, name: str, dtype: torch.dtype
) -> None:
    forward, backward, kernel = BACKWARD[name]
    torch.manual_seed(0)
    x = torch.randn(3, 5, 37, dtype=dtype, requires_grad=True)
    given = torch.randn(3, 5, 37, dtype=dtype)
    with torch.no_grad():
        x[0, 0, :4] = torch.tensor([0.0, -0.0, torch.inf, -torch.inf])
        x[0, 1, 0] = torch.nan
        given[0, 2, :4] = torch.tensor([torch.nan, torch.inf, -torch.inf, -0.0])
        given[0, 0, :2] = torch.nan
    out = forward(x)
    (expected,) = torch.autograd.grad(out, x, given)
    fast, plain = given.clone(), given.clone()
    backward(fast, out.detach())
    assert kernel().__name__ == "fast"
    whole = torch.ops.aten
    absent = SimpleNamespace(**{n: getattr(whole, n) for n in BACKWARD if n != name})
    monkeypatch.setattr(torch.ops, "aten", absent)
    kernel.cache_clear()  # type: ignore[attr-defined]
    backward(plain, out.detach())
    assert kernel().__name__ == "plain"
    bits = torch.int32 if dtype == torch.float32 else torch.int64
    for found in (fast, plain):
        assert torch.equal(found.view(bits), expected.view(bits))


# --- torch: optimisers ----------------------------------------------------------------------------

ADAM = {"lr": 0.05, "beta1": 0.9, "beta2": 0.99, "eps": 1e-8}
CASES: dict[str, tuple[str, int, dict[str, Any]]] = {
    "adam": ("adam", 2, {**ADAM, "weight_decay": 0.0, "amsgrad": False, "maximize": False}),
    "adam decay": ("adam", 2, {**ADAM, "weight_decay": 0.1, "amsgrad": False, "maximize": True}),
    "amsgrad": ("adam", 3, {**ADAM, "weight_decay": 0.1, "amsgrad": True, "maximize": False}),
    "adamw": ("adamw", 2, {**ADAM, "weight_decay": 0.1, "amsgrad": False, "maximize": False}),
    "adamw amsgrad": ("adamw", 3, {**ADAM, "weight_decay": 0.1, "amsgrad": True, "maximize": True}),
    "adagrad": (
        "adagrad",
        1,
        {"lr": 0.1, "lr_decay": 0.0, "weight_decay": 0.0, "eps": 1e-10, "maximize": False},
    ),
    "adagrad decay": (
        "adagrad",
        1,
        {"lr": 0.1, "lr_decay": 0.2, "weight_decay": 0.1, "eps": 1e-10, "maximize": True},
    ),
    "sgd": ("sgd", 0, {"momentum": 0.0, "dampening": 0.0, "nesterov": False, "maximize": False}),
    "sgd momentum": (
        "sgd",
        1,
        {"momentum": 0.9, "dampening": 0.3, "nesterov": False, "maximize": True},
    ),
    "sgd nesterov": (
        "sgd",
        1,
        {"momentum": 0.9, "dampening": 0.0, "nesterov": True, "maximize": False},
    ),
}


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def train(case: str, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Return the parameters and moments of two tensors after 20 steps."""
    name, n_moments, settings = CASES[case]
    step = getattr(_compat, f"fused_{name}")
    torch.manual_seed(1)
    params = [drawn(41).to(dtype), drawn(3, 7).to(dtype)]
    moments = [[torch.zeros_like(param) for param in params] for _ in range(n_moments)]
    lists = [*moments, [], []][:3] if name.startswith("adam") else moments or [[]]
    steps = [torch.zeros(()) for _ in params]
    for n in range(20):
        grads = [drawn(*param.shape).to(dtype) for param in params]
        for count in steps:
            count.add_(1)
        if name == "sgd":
            first = {"lr": 0.1, "weight_decay": 0.1 * n_moments, "is_first_step": n == 0}
            step(params, grads, *lists, **settings, **first)
        else:
            step(params, grads, *lists, steps, **settings)
    assert all(float(count) == 20 for count in steps)
    return [*params, *(tensor for moment in moments for tensor in moment)]


@pytest.mark.parametrize("case", CASES)
def test_a_fused_optimiser_and_its_fallback_take_the_same_steps(
    monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    fused = train(case)
    kernel = f"_fused_{CASES[case][0]}_"
    (chosen,) = _compat._chosen.values()
    assert chosen is getattr(torch, kernel)
    monkeypatch.delattr(torch, kernel)
    _compat._chosen.clear()
    plain = train(case)
    (chosen,) = _compat._chosen.values()
    assert chosen.__name__ == f"_plain_{CASES[case][0]}"
    for ours, theirs in zip(plain, fused, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    for ours, theirs in zip(train(case, torch.float32), fused, strict=True):
        torch.testing.assert_close(ours, theirs.float(), rtol=1e-3, atol=1e-4)


def test_a_kernel_that_raises_changes_nothing_before_the_fallback_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = train("adam")
    calls: list[int] = []

    def changed(params: list[Tensor], *_: Any, **__: Any) -> None:
        calls.append(1)
        params[0].zero_()
        raise TypeError("expected other arguments")

    monkeypatch.setattr(torch, "_fused_adam_", changed)
    _compat._chosen.clear()
    for ours, theirs in zip(train("adam"), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    assert calls == [1]


def test_a_fused_optimiser_steps_as_torchs_own() -> None:
    kinds = {
        "adam": torch.optim.Adam,
        "adamw": torch.optim.AdamW,
    }
    for name, kind in kinds.items():
        torch.manual_seed(2)
        start = torch.randn(50, dtype=torch.float64)
        ours, theirs = start.clone(), start.clone().requires_grad_()
        optimizer = kind([theirs], lr=0.05, weight_decay=0.1)
        moments, steps = [torch.zeros_like(start), torch.zeros_like(start)], torch.zeros(())
        settings = {**ADAM, "beta2": 0.999, "weight_decay": 0.1}
        for _ in range(10):
            grad = torch.randn_like(start)
            theirs.grad = grad.clone()
            optimizer.step()
            steps.add_(1)
            getattr(_compat, f"fused_{name}")(
                [ours],
                [grad],
                *([m] for m in moments),
                [],
                [steps],
                **settings,
                amsgrad=False,
                maximize=False,
            )
        torch.testing.assert_close(ours, theirs.detach(), rtol=1e-12, atol=1e-12)


def test_nothing_is_imported_before_it_is_needed() -> None:
    code = "import sys, raysweep._compat; print([n for n in ('ray', 'torch') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
