"""How much of a GPU a pack is given, where the search space leaves that to the driver."""

import math
from collections.abc import Sequence
from dataclasses import replace

from raysweep.learning.config import Config
from raysweep.packs.planning.packing import make_plan, memory_of
from raysweep.settings.execution import Resources
from raysweep.tune.cluster.nodes import CUDA_BYTES, Node

_MOST = 4
"""Packs on one GPU: each has a process and a CUDA context of its own, which take turns."""


def choose_share(
    resources: Resources, configs: Sequence[Config], nodes: Sequence[Node]
) -> tuple[Resources, str]:
    """Return the resources of a pack with ``gpu: auto`` decided, and why in one line.

    As many packs share a GPU as its memory holds of the largest one, as there are CPUs for, and as
    there are packs, at most 4. Without a GPU anywhere packs run on CPUs.
    """
    with_gpu = [node for node in nodes if node.n_gpus]
    if not with_gpu:
        return replace(resources, gpu=0.0, is_gpu_auto=False), "gpu: auto chose 0: no node has one"
    n_gpus = int(sum(node.n_gpus for node in with_gpu))
    cards = [node.gpu_memory for node in with_gpu if node.gpu_memory]
    memory = min(cards) - CUDA_BYTES if cards else None
    plan = make_plan(configs, n_gpus, memory=memory, has_gpu=True)
    largest, _ = memory_of(plan, 1)
    limits = {
        "packs for each GPU": math.ceil(len(plan.packs) / n_gpus),
        "CPUs for each": math.floor(
            min(node.n_cpus / node.n_gpus for node in with_gpu) / resources.cpu
        ),
        "packs at most on one": _MOST,
    }
    if cards:
        limits["fit into its memory"] = min(cards) // (largest + CUDA_BYTES)
    n_sharing = max(1, min(limits.values()))
    why = next(name for name, limit in limits.items() if max(1, limit) == n_sharing)
    size = f"{min(cards) / 1e9:.0f} GB" if cards else "of unknown memory"
    return (
        # Rounded down: three thirds must fit.
        replace(resources, gpu=math.floor(1000 / n_sharing) / 1000, is_gpu_auto=False),
        f"gpu: auto chose {n_sharing} packs a GPU ({size}; the largest takes "
        f"{largest / 1e9:.1f} GB and CUDA {CUDA_BYTES / 1e9:.0f} GB): {limits[why]} {why}",
    )
