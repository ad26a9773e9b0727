"""Starting or joining Ray, quietly."""

import gc
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from raysweep.errors import InputError
from raysweep.settings.execution import Resources
from raysweep.tables.paths import ResultsPath
from raysweep.tune.cluster.auth import refuse_open, token_set
from raysweep.tune.cluster.nodes import (
    Node,
    ask_nodes,
    nodes_up,
    refuse_other_versions,
    this_machine,
    wait_for_nodes,
)
from raysweep.tune.cluster.process_limits import expect_room_for_ray
from raysweep.tune.cluster.ray_start import join_ray, start_ray
from raysweep.tune.cluster.session_folder import session_folder

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
    # Packs that Tune may request at once; with a searcher its default is one.
    "TUNE_MAX_PENDING_TRIALS_PG": "200",
    "RAY_enable_worker_prestart": "0",
    "RAY_prestart_worker_first_driver": "0",
}
_PACKAGE = Path(__file__).parents[2]
_OBJECT_STORE_SPARE = 256 * 2**20


class Cluster(NamedTuple):
    """A cluster: its nodes, and whether all of them see the driver's scratch folder.

    ``dashboard`` is the URL of Ray's dashboard, None if there is none, as in clusters started here.
    """

    nodes: list[Node]
    sees_scratch: bool
    dashboard: str | None = None


@dataclass(frozen=True)
class ClusterOptions:
    """Which cluster to use: start one here, or join a running one at ``address``.

    ``scratch`` is a folder of the driver that nodes may see. Wait for ``n_nodes`` nodes that can
    run a pack with these ``resources``, for at most ``wait_s`` seconds. ``is_without_token``
    allows a cluster that requires no token.
    """

    address: str | None
    scratch: ResultsPath
    n_data_bytes: int
    resources: Resources
    n_nodes: int | None = None
    wait_s: float = 600.0
    is_without_token: bool = False
    is_verbose: bool = False


def _note_small_memory(n_bytes: int, say: Callable[[str], None]) -> None:
    """Print that Ray will put its object store on disk, as it does when shared memory is short."""
    try:
        free = shutil.disk_usage("/dev/shm").free  # noqa: S108 (the shared memory)
    except OSError:
        return
    if free < n_bytes:
        say(
            f"note: /dev/shm has {free / 1e6:.0f} MB free, Ray needs {n_bytes / 1e6:.0f} MB: "
            f"it keeps the data on disk, which is slower (in a container, use --shm-size=1g)"
        )


def refuse_other_code(here: Path) -> None:
    """Raise ``InputError`` where the current folder has a raysweep that differs from this one.

    Ray puts the driver's current folder first on its workers' path: they would train with that.
    """
    other = here / "raysweep"
    if not (other / "__init__.py").exists() or other.resolve() == _PACKAGE.resolve():
        return
    if _sources(other) != _sources(_PACKAGE):
        raise InputError(
            f"{other}: expected the code of {_PACKAGE} or none, since Ray's workers import first "
            f"what lies in the current folder, got other code; run the command in another folder"
        )


def _sources(package: Path) -> dict[str, bytes]:
    return {str(file.relative_to(package)): file.read_bytes() for file in package.rglob("*.py")}


_QUIET_OPTIONS: Mapping[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}


def _local_options(joining: ClusterOptions) -> dict[str, Any]:
    refuse_other_code(Path.cwd())
    # Ignore any cluster that `ray start` left on this machine.
    options = {**_QUIET_OPTIONS, "address": "local", "include_dashboard": False}
    options["object_store_memory"] = 2 * joining.n_data_bytes + _OBJECT_STORE_SPARE
    n_allowed = int(this_machine().n_cpus)
    if n_allowed < (os.cpu_count() or 1):  # Ray counts all, allowed or not
        options["num_cpus"] = n_allowed
    return options


def _joining_options(joining: ClusterOptions) -> dict[str, Any]:
    refuse_other_code(Path.cwd())
    address = joining.address or os.environ["RAY_ADDRESS"]
    if "://" in address:
        raise InputError(
            f"--address: expected HOST:PORT or auto, got {address!r}; run the "
            f"command on the cluster (ray job submit, or on its head with --address auto)"
        )
    # Other nodes run this copy of the code.
    return {**_QUIET_OPTIONS, "address": address, "runtime_env": {"py_modules": [str(_PACKAGE)]}}


@contextmanager
def connect(joining: ClusterOptions, say: Callable[[str], None]) -> Iterator[Cluster]:
    """Start Ray on this machine or join a running cluster; yield it.

    If this process already uses Ray, it is left unchanged and running. Unless ``is_verbose``, Ray
    prints nothing. Raises ``InputError`` if there is no cluster, or one that lets anyone in;
    ``NothingRunsError`` if Ray can't start, nodes do not appear, or have other versions.
    """
    with _environment(_QUIET):
        if is_ray_running():
            if joining.address is not None:
                raise InputError(
                    f"--address: expected none, since Ray already runs in this process, got "
                    f"{joining.address!r}; leave it out, or call ray.shutdown() first"
                )
            yield _describe(joining, say, dashboard=None)
            return
        is_local = joining.address is None and "RAY_ADDRESS" not in os.environ
        with (
            token_set(is_local, joining.is_without_token),
            _started(joining, say) if is_local else _joined(joining, say) as cluster,
        ):
            yield cluster


@contextmanager
def _started(joining: ClusterOptions, say: Callable[[str], None]) -> Iterator[Cluster]:
    """Start Ray on this machine; yield it, and stop it at the end."""
    options = _local_options(joining)
    expect_room_for_ray(int(this_machine().n_cpus))
    _note_small_memory(options["object_store_memory"], say)
    with session_folder(say) as folder:
        start_ray(options, folder, say, joining.is_verbose)
        with _shutdown_at_end():
            here = this_machine()  # as in a dry run
            memories = (here.memory, here.gpu_memory)
            nodes = [Node(node.n_cpus, node.n_gpus, *memories) for node in nodes_up()]
            yield Cluster(nodes, sees_scratch=True)


@contextmanager
def _joined(joining: ClusterOptions, say: Callable[[str], None]) -> Iterator[Cluster]:
    """Join a running cluster; yield it, and leave it at the end."""
    options = _joining_options(joining)
    dashboard = join_ray(options, say, joining.is_verbose)
    with _shutdown_at_end():
        yield _describe(joining, say, dashboard, refuse_without=options["address"])


@contextmanager
def _shutdown_at_end() -> Iterator[None]:
    import ray

    try:
        yield
    finally:
        # Seen once: a thread older than Ray, probably a logger's, used Ray while it shut down, and
        # Ray ended the process with code 1. Such a thread can do so by collecting garbage that
        # holds Ray's objects, so that is collected here, before.
        gc.collect()
        was_enabled = gc.isenabled()
        gc.disable()
        try:
            ray.shutdown()
        finally:
            if was_enabled:
                gc.enable()


def is_ray_running() -> bool:
    """Return whether this process is already connected to Ray, without importing it."""
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set those environment variables that are not set yet, and unset them afterwards."""
    added = [name for name in values if name not in os.environ]
    os.environ.update({name: values[name] for name in added})
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def _describe(
    joining: ClusterOptions,
    say: Callable[[str], None],
    dashboard: str | None,
    refuse_without: str | None = None,
) -> Cluster:
    """Query the resources of the nodes of a running cluster.

    ``refuse_without`` is the address of a cluster that must require a token; None skips the check.
    """
    if joining.n_nodes:
        wait_for_nodes(joining.n_nodes, joining.resources, joining.wait_s, say)
    answers = ask_nodes(joining.scratch)
    if refuse_without is not None and not joining.is_without_token:
        refuse_open({a.host: a.has_token for a in answers}, refuse_without)
    refuse_other_versions(answers)
    cards = [a.gpu_memory for a in answers if a.gpu_memory]
    card = min(cards, default=None)
    nodes = [n._replace(gpu_memory=card if n.n_gpus else None) for n in nodes_up()]
    is_seen = len(answers) == len(nodes) and all(a.sees for a in answers)
    return Cluster(nodes, is_seen, dashboard)
