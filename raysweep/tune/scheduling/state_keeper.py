"""States of packs on the driver's disk, for workers on nodes that do not see it.

They travel between a worker and an actor on the driver's node, so neither the driver nor Ray Tune
has to wait for them.
"""

import uuid
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raysweep.sealed import SUFFIX

MOST_BYTES = 2**28
"""Larger states are not sent: these take two seconds in a network of 1 Gbit/s."""
_WAIT_S = 60.0


class StateKeeper:
    """Reads and writes states below a folder of its node: a Ray actor."""

    def __init__(self, root: str) -> None:
        self._root = Path(root)

    def write(self, name: str, content: bytes) -> None:
        """Write a file; raise ``OSError`` on failure."""
        path = self._path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def read(self, name: str) -> bytes:
        """Read a file; raise ``OSError`` on failure."""
        return self._path(name).read_bytes()

    def _path(self, name: str) -> Path:
        path = Path(name)
        if not path.is_relative_to(self._root) or ".." in path.parts:
            raise PermissionError(f"{name} is not in {self._root}")
        return path


def start_keeper(root: Path) -> tuple[str, Any]:
    """Start an actor for files below a folder of this node; return its name and handle.

    It ends with the handle.
    """
    name = f"raysweep-states-{uuid.uuid4().hex}"
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor = ray.remote(StateKeeper).options(
        name=name, num_cpus=0, max_restarts=-1, scheduling_strategy=here
    )
    return name, actor.remote(str(root))


class StateMail:
    """A worker's way to the keeper of this name; its states go into ``folder`` on that node."""

    def __init__(self, name: str, folder: str) -> None:
        self._name = name
        self._folder = folder

    def send(self, content: bytes) -> str:
        """Send a state; return its name there. Raise ``OSError`` if that failed."""
        name = f"{self._folder}/{uuid.uuid4().hex}{SUFFIX}"
        self._call("write", name, content)
        return name

    def fetch(self, name: str) -> bytes:
        """Fetch a state by its name there. Raise ``OSError`` if that failed."""
        content: bytes = self._call("read", name)
        return content

    def _call(self, method: str, *arguments: object) -> bytes:
        try:
            keeper = ray.get_actor(self._name)
            answer: bytes = ray.get(getattr(keeper, method).remote(*arguments), timeout=_WAIT_S)
        except ray.exceptions.RayTaskError as error:
            raise OSError(str(error.cause)) from None
        except (ray.exceptions.RayError, ValueError) as error:  # it ended, or is out of reach
            raise OSError(" ".join(str(error).split())[:120]) from None
        return answer
