"""The Triton kernel of Adam and AdamW, in Triton's interpreter: no GPU, but its own process."""

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

pytest.importorskip("triton")

CHECK = """
import sys
import torch
from raysweep.learning.stacked.optimizers import Optimizer
from raysweep.learning.stacked.layout import Layout, ParameterSpec
from raysweep.learning.stacked.parameters import Parameters

SETTINGS = {"lr": [1e-3, 0.02, 0.1, 5e-4], "weight_decay": [0.0, 0.3, 0.01, 0.2]}
if sys.argv[2] == "clipped":
    SETTINGS["clip_norm"] = [0.0, 2.0, 1.0, 30.0]
ALIVE = [True, True, False, True]
FROZEN = [False, True, False, False]

def make():
    layout = Layout([ParameterSpec("encoder.a", (37, 41), 37), ParameterSpec("b", (5, 3), 5)])
    parameters = Parameters(layout, 4, torch.float32)
    parameters.initialise(3)
    return parameters, Optimizer(sys.argv[1], parameters, SETTINGS)

(defined, all_lanes), (computed, kernel) = make(), make()
start = defined.flat.clone()
stream = torch.Generator().manual_seed(1)
flags = torch.tensor(ALIVE), torch.tensor(FROZEN), defined.layout.end_of("encoder.")
for _ in range(30):
    grad = torch.randn(defined.grad.shape, generator=stream)
    for parameters in (defined, computed):
        parameters.grad.copy_(grad)
    all_lanes.step_all(*flags)
    kernel.step_kernel(*flags)
torch.testing.assert_close(computed.flat, defined.flat, rtol=2e-6, atol=2e-7)
assert kernel.n_steps == all_lanes.n_steps == [30] * 4
assert torch.equal(computed.flat[2], start[2])  # dead
end = flags[2]
assert torch.equal(computed.flat[1, :end], start[1, :end])  # frozen
assert not torch.equal(computed.flat[1, end:], start[1, end:])
assert not torch.isclose(computed.flat[0, :1500], start[0, :1500], atol=1e-4).all()
print("equal")
"""


@pytest.mark.parametrize("clipping", ["free", "clipped"])
@pytest.mark.parametrize("kind", ["adam", "adamw"])
def test_adam_kernel_equals_the_definition_with_dead_and_frozen_lanes(
    kind: str, clipping: str
) -> None:
    answer = subprocess.run(
        [sys.executable, "-c", CHECK, kind, clipping],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert answer.stdout == "equal\n", answer.stderr
