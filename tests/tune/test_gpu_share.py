"""How much of a GPU a pack gets with ``gpu: auto``, from what the nodes have."""

from pathlib import Path

import pytest
from sweep_runs import run, write

from raysweep.learning.config import Config
from raysweep.packs.planning.estimates import slots_on
from raysweep.settings.execution import Resources
from raysweep.tune.cluster.gpu_share import choose_share
from raysweep.tune.cluster.nodes import Node

AUTO = Resources(cpu=1, gpu=1, is_gpu_auto=True)
CONFIGS = [
    Config(seed=seed, n_bottleneck=size, beta_1=-0.1) for seed in range(4) for size in range(2, 18)
]
GB = 10**9


@pytest.mark.parametrize(
    ("node", "n_sharing", "why"),
    [
        (Node(16, 1, gpu_memory=80 * GB), 4, "raysweep's maximum of 4"),
        (Node(3, 1, gpu_memory=80 * GB), 3, "limited by the number of CPUs"),
        (Node(8, 4, gpu_memory=80 * GB), 2, "limited by the number of CPUs"),
        (Node(16, 1, gpu_memory=int(2.9 * GB)), 2, "limited by its memory"),
        (Node(1, 1, gpu_memory=1 * GB), 1, "limited by the number of CPUs"),
        (Node(16, 1), 4, "of unknown memory"),
    ],
)
def test_packs_share_a_gpu_as_far_as_memory_and_processors_go(
    node: Node, n_sharing: int, why: str
) -> None:
    resources, said = choose_share(AUTO, CONFIGS, [Node(4, 0), node])
    assert slots_on(resources, node.n_cpus, node.n_gpus) == n_sharing * node.n_gpus
    assert why in said and f"chose {n_sharing} pack" in said
    assert not resources.is_gpu_auto


def test_no_more_packs_share_a_gpu_than_there_are() -> None:
    resources, said = choose_share(AUTO, CONFIGS[:1], [Node(16, 1, gpu_memory=80 * GB)])
    assert resources.gpu == 1 and "limited by the number of packs" in said


def test_the_smallest_card_and_the_fewest_processors_decide() -> None:
    nodes = [Node(32, 1, gpu_memory=80 * GB), Node(2, 1, gpu_memory=24 * GB)]
    resources, said = choose_share(AUTO, CONFIGS, nodes)
    assert resources.gpu == 0.5 and "24 GB" in said


@pytest.mark.slow
def test_without_a_gpu_packs_run_on_processors(tmp_path: Path) -> None:
    resources, _ = choose_share(AUTO, CONFIGS, [Node(4, 0)])
    assert resources == Resources(cpu=1, gpu=0)
    done = run(write(tmp_path), "resources.gpu=auto", "--dry-run")
    assert done.returncode == 0
    assert "gpu: auto chose 0: no node has one" in done.stdout
