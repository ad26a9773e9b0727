"""Choose how much of a GPU each pack gets if the search space leaves that to the driver."""

import math
from collections.abc import Sequence
from dataclasses import replace

from raysweep.learning.config import Config
from raysweep.packs.planning.packing import make_plan, memory_of
from raysweep.settings.execution import Resources
from raysweep.tune.cluster.nodes import CUDA_BYTES, Node

_MOST = 4
"""Most packs on one GPU: each has its own process and CUDA context, which take turns."""


def choose_share(
    resources: Resources,
    configs: Sequence[Config],
    nodes: Sequence[Node],
    max_packs: int | None = None,
) -> tuple[Resources, str]:
    """Return a pack's resources with ``gpu: auto`` resolved, and the reason in one line.

    The number of packs that share a GPU is limited by its memory (for packs as large as the
    largest), by the CPUs for each GPU, by the number of packs, by ``max_packs`` at once, and to 4.
    Without any GPU, packs run on CPUs.
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
        "the number of packs": math.ceil(len(plan.packs) / n_gpus),
        "the number of CPUs": math.floor(
            min(node.n_cpus / node.n_gpus for node in with_gpu) / resources.cpu
        ),
        f"raysweep's maximum of {_MOST}": _MOST,
    }
    if max_packs is not None:
        limits["max_packs"] = math.ceil(max_packs / n_gpus)
    if cards:
        limits["its memory"] = min(cards) // (largest + CUDA_BYTES)
    n_sharing = max(1, min(limits.values()))
    why = next(name for name, limit in limits.items() if max(1, limit) == n_sharing)
    size = f"{min(cards) / 1e9:.0f} GB" if cards else "of unknown memory"
    packs = "1 pack" if n_sharing == 1 else f"{n_sharing} packs"
    return (
        # Rounded down: three thirds must fit.
        replace(resources, gpu=math.floor(1000 / n_sharing) / 1000, is_gpu_auto=False),
        f"gpu: auto chose {packs} per GPU ({size}; the largest takes "
        f"{largest / 1e9:.1f} GB and CUDA {CUDA_BYTES / 1e9:.0f} GB), limited by {why}",
    )
