"""The nodes of a cluster: their resources, and whether they can work for this driver."""

import contextlib
import os
import platform
import subprocess
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from raysweep._compat import asks_for_token
from raysweep.errors import NothingRunsError
from raysweep.packs.planning.estimates import slots_on
from raysweep.settings.execution import Resources
from raysweep.tables.paths import ResultsPath
from raysweep.versions import difference, versions_of

_ANSWER_S = 60.0
_LOOK_EVERY_S = 1.0
_PLACED_S = 10.0
_TORCH_BYTES = 7 * 10**8
CUDA_BYTES = 10**9
"""Memory of a worker without a pack: torch in main memory, the CUDA context on the GPU."""


class Node(NamedTuple):
    """Resources of one node; its memory and that of each GPU in bytes, None if unknown."""

    n_cpus: float
    n_gpus: float
    memory: int | None = None
    gpu_memory: int | None = None


class NodeReport(NamedTuple):
    """A node's report on itself; ``sees`` is whether it sees the driver's folder."""

    host: str
    versions: dict[str, str]
    has_token: bool
    gpu_memory: int | None
    sees: bool


def this_machine() -> Node:
    """Return what Ray would find here, without starting it: allowed CPUs and visible GPUs."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        n_gpus = len([device for device in visible.split(",") if device.strip()])
    else:
        n_gpus = len(list(Path("/proc/driver/nvidia/gpus").glob("*")))
    affinity = getattr(os, "sched_getaffinity", None)  # Linux has it
    n_cpus = len(affinity(0)) if affinity else os.cpu_count() or 1
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with contextlib.suppress(OSError, ValueError):  # "max", or no such file
        memory = min(memory, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return Node(n_cpus, n_gpus, memory, _gpu_memory() if n_gpus else None)


@cache
def _gpu_memory() -> int | None:
    """Return the memory of this machine's smallest GPU in bytes, None if it can't be queried."""
    words = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(words, capture_output=True, text=True, timeout=10, check=True)
        return min(int(line) for line in answer.stdout.split()) * 2**20
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def memory_a_pack(resources: Resources, nodes: Sequence[Node]) -> int | None:
    """Return the bytes that a pack may use on the smallest node that can run one; None if unknown.

    On a GPU that is its share of the card, else its share of the node's memory.
    """
    amounts = []
    for node in nodes:
        n_slots = slots_on(resources, node.n_cpus, node.n_gpus)
        if resources.gpu and node.gpu_memory and n_slots:
            amounts.append(int(node.gpu_memory * min(1, resources.gpu)) - CUDA_BYTES)
        elif not resources.gpu and node.memory and n_slots:
            amounts.append(node.memory // n_slots - _TORCH_BYTES)
    return max(0, min(amounts)) if amounts else None


def n_slots_of(resources: Resources, nodes: Sequence[Node], most: int | None = None) -> int:
    """Return the number of packs that run at once, at most ``most``."""
    n_slots = sum(slots_on(resources, node.n_cpus, node.n_gpus) for node in nodes)
    return n_slots if most is None else min(n_slots, most)


def alive_nodes() -> list[dict[str, Any]]:
    """List Ray's nodes that are up."""
    import ray

    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [node for node in nodes if node["Alive"]]


def nodes_up() -> list[Node]:
    """Return the nodes' resources; Ray reports only the number of another machine's GPUs."""
    amounts = [node["Resources"] for node in alive_nodes()]
    return [
        Node(r.get("CPU", 0.0), r.get("GPU", 0.0), int(r.get("memory", 0)) or None) for r in amounts
    ]


def wait_for_nodes(
    n_wanted: int, resources: Resources, limit_s: float, say: Callable[[str], None]
) -> None:
    """Wait until ``n_wanted`` nodes can run a pack; an autoscaler sees the demand.

    Raises ``NothingRunsError`` after ``limit_s`` seconds.
    """
    if _n_able(resources) >= n_wanted:
        return
    from ray.util.placement_group import placement_group, remove_placement_group

    # One bundle per node: one large node would satisfy a plain request for several. The request
    # ends here or with the driver, so idle nodes may be removed later.
    bundle = {"CPU": resources.cpu, "GPU": resources.gpu}
    bundles = [{name: n for name, n in bundle.items() if n} for _ in range(n_wanted)]
    wish = placement_group(bundles, strategy="STRICT_SPREAD")
    end = time.monotonic() + limit_s
    shown = -1
    try:
        while (n_able := _n_able(resources)) < n_wanted:
            if n_able != shown:
                shown = n_able
                say(f"waiting for nodes: {n_able} of {n_wanted} are ready")
            if time.monotonic() >= end:
                raise NothingRunsError(
                    f"--wait-for-nodes: expected {n_wanted} nodes that can run a pack "
                    f"(cpu {resources.cpu:g}, gpu {resources.gpu:g}) within {limit_s:g} s, got "
                    f"{n_able}; check why the others did not start, or lower --wait-for-nodes"
                )
            time.sleep(_LOOK_EVERY_S)
        # Removed while Ray reserves it on several nodes, it keeps their CPUs for good: 25 groups
        # that were removed at once took both CPUs of two nodes, 100 that were waited for took none
        # (Ray 2.60).
        wish.wait(_PLACED_S)
    finally:
        remove_placement_group(wish)


def _n_able(resources: Resources) -> int:
    """Count the nodes that can run a pack."""
    return sum(slots_on(resources, node.n_cpus, node.n_gpus) > 0 for node in nodes_up())


def describe_node(marker: ResultsPath) -> NodeReport:
    """Describe the node that this runs on, and whether it sees a file that the driver wrote."""
    return NodeReport(
        platform.node(),
        versions_of(),
        asks_for_token(),
        this_machine().gpu_memory,
        _sees(marker),
    )


def _sees(location: ResultsPath) -> bool:
    try:
        return location.exists()
    except OSError:  # no network, or no credentials there
        return False


def ask_nodes(scratch: ResultsPath) -> list[NodeReport]:
    """Collect a report from each node, including whether it sees the driver's folder ``scratch``.

    A node that does not answer within a minute is left out. Raises ``NothingRunsError`` for one
    that can't load this package.
    """
    scratch.make_folder()
    marker = scratch / "seen-by-nodes"
    marker.write_bytes(b"raysweep")
    try:
        return _answers(marker)
    finally:
        marker.delete()


def _answers(marker: ResultsPath) -> list[NodeReport]:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ask = ray.remote(num_cpus=0, max_retries=1)(describe_node)
    pending = []
    for node in alive_nodes():
        where = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        reference = ask.options(scheduling_strategy=where).remote(marker)
        pending.append((node["NodeManagerHostname"], reference))
    answers = []
    end = time.monotonic() + _ANSWER_S
    for host, reference in pending:
        try:
            answers.append(ray.get(reference, timeout=max(0.1, end - time.monotonic())))
        except (ray.exceptions.RayTaskError, ray.exceptions.RuntimeEnvSetupError) as error:
            reason = " ".join(str(error).split())[-200:]
            raise NothingRunsError(
                f"expected {host} to load raysweep and its dependencies, got: {reason}; install "
                f"the same packages on all nodes (in a checkout, bin/setup does)"
            ) from None
        except ray.exceptions.RayError:
            continue
    return answers


def refuse_other_versions(answers: Sequence[NodeReport]) -> None:
    """Raise ``NothingRunsError`` for a node whose versions differ from the driver's."""
    for answer in answers:
        if differs := difference(versions_of(), answer.versions, answer.host):
            raise NothingRunsError(differs)
