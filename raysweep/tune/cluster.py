"""Starting or joining Ray, quietly, and what its nodes have."""

import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from raysweep.plan import slots_on
from raysweep.settings import InputError, Resources

_QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    "TUNE_ONLY_STORE_CHECKPOINT_SCORE_ATTRIBUTE": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_WARN_THRESHOLD_S": "60",
    "RAY_enable_worker_prestart": "0",
    "RAY_prestart_worker_first_driver": "0",
}
_OBJECT_STORE_SPARE = 256 * 2**20
_ANSWER_S = 10.0
_TORCH_BYTES = 7 * 10**8
_CUDA_BYTES = 10**9
"""What a worker takes before it holds a pack: torch in main memory, CUDA's context on the GPU."""


class Node(NamedTuple):
    """What one node offers; its memory and that of each GPU in bytes, None if unknown."""

    n_cpus: float
    n_gpus: float
    memory: int | None = None
    gpu_memory: int | None = None


class NothingRunsError(Exception):
    """Say in one line why no configuration can run; the command line exits with 4."""


def this_machine() -> Node:
    """Give what Ray would find here, without starting it: CPUs allowed and visible GPUs."""
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
    """Give the memory of this machine's smallest GPU in bytes, None where it can't be asked."""
    words = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(words, capture_output=True, text=True, timeout=10, check=True)
        return min(int(line) for line in answer.stdout.split()) * 2**20
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def memory_a_pack(resources: Resources, nodes: Sequence[Node]) -> int | None:
    """Give the bytes that a pack may take on the smallest node that runs any; None if unknown.

    On a GPU that is its share of the card, else its share of the node's memory.
    """
    amounts = []
    for node in nodes:
        n_slots = slots_on(resources, node.n_cpus, node.n_gpus)
        if resources.gpu and node.gpu_memory and n_slots:
            amounts.append(int(node.gpu_memory * min(1, resources.gpu)) - _CUDA_BYTES)
        elif not resources.gpu and node.memory and n_slots:
            amounts.append(node.memory // n_slots - _TORCH_BYTES)
    return max(0, min(amounts)) if amounts else None


def _protect_token() -> None:
    """Let only its owner read Ray's authentication token; Ray writes it readable by all."""
    token = Path.home() / ".ray" / "auth_token"
    with contextlib.suppress(OSError):
        token.chmod(0o600)


def _alive_nodes() -> list[dict[str, Any]]:
    import ray

    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [node for node in nodes if node["Alive"]]


def all_nodes_see(folder: Path) -> bool:
    """Tell whether every node of the cluster sees a folder of this machine."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    alive = [node["NodeID"] for node in _alive_nodes()]
    if len(alive) == 1:
        return True
    marker = folder / ".seen-by-all-nodes"
    marker.touch()
    look = ray.remote(num_cpus=0, max_retries=0)(os.path.exists)
    answers = [
        look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(
            str(marker)
        )
        for node in alive
    ]
    try:
        return all(ray.get(answers, timeout=60))
    except ray.exceptions.RayError:
        return False
    finally:
        marker.unlink()


def _refuse_silence(address: str) -> None:
    """Raise ``OSError`` where nothing listens: Ray would go on asking for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit() and "://" not in address:
        socket.create_connection((host, int(port)), timeout=_ANSWER_S).close()


@contextmanager
def connect(address: str | None, n_data_bytes: int, is_verbose: bool) -> Iterator[list[Node]]:
    """Start Ray on this machine, or join the cluster at ``address``; give its nodes.

    Unless ``is_verbose``, Ray prints nothing.
    Token authentication stays as Ray has it: on for a cluster that starts here.
    """
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    import ray
    from ray._private import worker

    if not is_verbose and hasattr(worker, "print_to_stdstream"):
        # Ray prints each lost worker at length, past its own log settings.
        worker.print_to_stdstream = lambda *_, **__: None
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    is_local = address is None and "RAY_ADDRESS" not in os.environ
    here = this_machine()
    if is_local:
        # Not whatever `ray start` has left on this machine.
        options["address"] = "local"
        options["include_dashboard"] = False
        options["object_store_memory"] = 2 * n_data_bytes + _OBJECT_STORE_SPARE
        n_allowed = int(here.n_cpus)
        if n_allowed < (os.cpu_count() or 1):  # Ray counts those that are not allowed, too
            options["num_cpus"] = n_allowed
    else:
        # Other nodes run this very code.
        options["address"] = address or os.environ["RAY_ADDRESS"]
        if "://" in options["address"]:
            raise InputError(
                f"--address: expected HOST:PORT or auto, got {options['address']!r}; run the "
                f"command on the cluster (ray job submit, or on its head with --address auto)"
            )
        options["runtime_env"] = {"py_modules": [str(Path(__file__).parents[1])]}
    handler = signal.getsignal(signal.SIGTERM)
    try:
        _refuse_silence(options.get("address", ""))
        ray.init(**options)
        signal.signal(signal.SIGTERM, handler)  # Ray puts its own in place, which aborts
        _protect_token()
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        if is_local:
            raise NothingRunsError(
                f"expected Ray to start on this machine, got: {reason}"
            ) from None
        raise InputError(
            f"--address (or RAY_ADDRESS): expected a running Ray cluster at "
            f"{options['address']}, got: {reason}"
        ) from None
    try:
        amounts = [node["Resources"] for node in _alive_nodes()]
        nodes = [
            # Of another node's GPUs Ray tells the number only.
            Node(r.get("CPU", 0.0), r.get("GPU", 0.0), int(r.get("memory", 0)) or None)
            for r in amounts
        ]
        if is_local:  # as a dry run has it
            nodes = [n._replace(memory=here.memory, gpu_memory=here.gpu_memory) for n in nodes]
        yield nodes
    finally:
        ray.shutdown()
