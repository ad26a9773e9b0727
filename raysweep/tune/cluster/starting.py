"""Starting or joining Ray, quietly."""

import logging
import os
import shutil
import signal
import socket
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from raysweep._compat import silence_lost_workers
from raysweep.errors import InputError, NothingRunsError
from raysweep.settings.execution import Resources
from raysweep.tables.paths import ResultsPath
from raysweep.tune.cluster.auth import prepare_token, refuse_open
from raysweep.tune.cluster.nodes import (
    Node,
    ask_nodes,
    nodes_up,
    refuse_other_versions,
    this_machine,
    wait_for_nodes,
)
from raysweep.tune.cluster.process_limits import expect_room_for_ray
from raysweep.tune.signals import can_handle_signals

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
_ANSWER_S = 10.0
_SETTINGS, _FRAME_HEADER = 4, 9
_HTTP2_OPENING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, _SETTINGS, 0, 0, 0, 0, 0])
"""A client's preface and an empty settings frame (RFC 9113, section 3.4)."""


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


def _refuse_silence(address: str) -> None:
    """Raise ``OSError`` if nothing answers as Ray's server would: Ray would retry endlessly.

    A gRPC server opens each connection with a settings frame (RFC 9113, sections 3.4 and 6.5).
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or "://" in address:
        return
    with socket.create_connection((host, int(port)), timeout=_ANSWER_S) as connection:
        if os.environ.get("RAY_USE_TLS", "0") not in ("", "0"):
            return
        connection.sendall(_HTTP2_OPENING)
        answer = b""
        while len(answer) < _FRAME_HEADER:
            received = connection.recv(_FRAME_HEADER - len(answer))
            if not received:
                break
            answer += received
    if len(answer) < _FRAME_HEADER or answer[3] != _SETTINGS:
        raise ConnectionError("something other than Ray listens there")


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


def _options(joining: ClusterOptions) -> dict[str, Any]:
    refuse_other_code(Path.cwd())
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    address = joining.address or os.environ.get("RAY_ADDRESS")
    if address is None:
        # Ignore any cluster that `ray start` left on this machine.
        options["address"] = "local"
        options["include_dashboard"] = False
        options["object_store_memory"] = 2 * joining.n_data_bytes + _OBJECT_STORE_SPARE
        n_allowed = int(this_machine().n_cpus)
        if n_allowed < (os.cpu_count() or 1):  # Ray counts all, allowed or not
            options["num_cpus"] = n_allowed
        return options
    options["address"] = address
    if "://" in address:
        raise InputError(
            f"--address: expected HOST:PORT or auto, got {address!r}; run the "
            f"command on the cluster (ray job submit, or on its head with --address auto)"
        )
    # Other nodes run this copy of the code.
    options["runtime_env"] = {"py_modules": [str(_PACKAGE)]}
    return options


def _start(joining: ClusterOptions, options: dict[str, Any], is_local: bool) -> str | None:
    """Start or join Ray; return the URL of its dashboard, if it has one."""
    with _without_advice():
        import ray

    if not joining.is_verbose:
        silence_lost_workers()
    handler = signal.getsignal(signal.SIGTERM)
    try:
        _refuse_silence(options["address"])
        context = ray.init(**options)
        if can_handle_signals():
            signal.signal(signal.SIGTERM, handler)  # Ray installs its own, which aborts
    except (ConnectionError, RuntimeError, ValueError, OSError, ray.exceptions.RayError) as error:
        reason = " ".join(str(error).split())[:200]
        if is_local:
            raise NothingRunsError(
                f"expected Ray to start on this machine, got: {reason}"
            ) from None
        if "Failed to connect" in reason:  # it listens, but rejects us
            reason += "; if one runs there, its token may differ from ours"
        raise InputError(
            f"--address (or RAY_ADDRESS): expected a running Ray cluster at "
            f"{options['address']}, got: {reason}"
        ) from None
    return f"http://{context.dashboard_url}" if context.dashboard_url else None


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
        prepare_token(is_local, joining.is_without_token)
        options = _options(joining)
        if is_local:
            expect_room_for_ray(int(this_machine().n_cpus))
            _note_small_memory(options["object_store_memory"], say)
        dashboard = _start(joining, options, is_local)
        import ray

        try:
            if is_local:  # as in a dry run
                here = this_machine()
                memories = (here.memory, here.gpu_memory)
                nodes = [Node(node.n_cpus, node.n_gpus, *memories) for node in nodes_up()]
                yield Cluster(nodes, sees_scratch=True, dashboard=dashboard)
            else:
                yield _describe(joining, say, dashboard, refuse_without=options["address"])
        finally:
            ray.shutdown()


@contextmanager
def _without_advice() -> Iterator[None]:
    """Silence the advice to install ipywidgets when a notebook imports Ray and tqdm."""
    logging.getLogger("ray.widgets.util").setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="IProgress not found")
        yield


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
