"""The estimate of a pack's memory against what its tensors take."""

import gc
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from raysweep.learning.config import Config
from raysweep.learning.data.sources import Source
from raysweep.packs.pack import Pack
from raysweep.packs.planning.estimates import memory_bytes
from raysweep.packs.run import PackRun

pytestmark = pytest.mark.slow


class Peak(TorchDispatchMode):
    """Notes the most bytes that tensors made within it took at once."""

    def __init__(self) -> None:
        super().__init__()
        self.n_bytes = 0
        self._alive: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                reference = StorageWeakRef(storage)
                self._alive[reference.cdata] = (reference, storage.nbytes())
        self._alive = {k: v for k, v in self._alive.items() if not v[0].expired()}
        self.n_bytes = max(self.n_bytes, sum(n for _, n in self._alive.values()))
        return out


MLP = {"experiment": "replay", "n_tasks": 3, "replay": "simple", "encoder_widths": (300, 200)}
VAE = {"experiment": "replay", "n_tasks": 3}
VIB = {"model": "vib", "beta_1": -1}


@pytest.mark.parametrize(
    "setting",
    [
        MLP,
        MLP | {"ema_decay": 0.9},
        MLP | {"normalize": True, "n_replay_scope": "total"},
        MLP | {"retrieval": "mir", "n_candidates": 50, "batch_size": 20},
        MLP | {"retrieval": "mir", "n_candidates": 200},
        MLP | {"selection": "herding", "selection_features": "encoder"},
        VAE | {"labeler": "per_task"},
        VAE | {"generator": "continual", "retrieval": "generative_mir"},
        VIB | {"n_tasks": 2},
        VIB | {"n_tasks": 3},
        VIB | {"n_tasks": 2, "retrieval": "generative_mir"},
        {"model": "comparison", "n_tasks": 2, "optimizer_state": "reset"},
        {"experiment": "joint", "n_tasks": 3, "encoder_widths": (600, 600)},
        {"experiment": "vib", "ema_decay": 0.9, "eval_samples": 2, "n_bottleneck": 200},
    ],
    ids=lambda setting: ", ".join(map(str, setting.values())),
)
def test_a_further_lane_takes_what_is_estimated_or_less(
    setting: dict[str, Any], source: Source
) -> None:
    measured, estimated = [], []
    for n_lanes in (1, 3):
        configs = [
            Config.model_validate(
                {"epochs": 1, "task_samples": 200, "n_replay": 200} | setting | {"lr": 1e-3 * k}
            )
            for k in range(1, n_lanes + 1)
        ]
        estimated.append(memory_bytes(Pack(tuple(configs))))
        with Peak() as peak:
            run = PackRun(configs, source)
            while not run.is_done:
                run.advance()
                if run._group is None:
                    gc.collect()  # what a group leaves in cycles
        measured.append(peak.n_bytes)
    ratio = (estimated[1] - estimated[0]) / (measured[1] - measured[0])
    assert 1 <= ratio < 2.5
