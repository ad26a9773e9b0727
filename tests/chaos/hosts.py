"""Hosts emulated on one machine: namespaces for network, processes, mounts and name.

A host has a cable to a switch (a bridge in a network namespace of its own), a file system that is
the machine's but for Ray's folder, ``/dev/shm`` and ``HOME``, and a process 1 whose death ends all
that runs there. Nothing has a name outside the namespaces, so two runs can't clash, and every
process dies with the one that made the hosts: there is nothing to clean up even after a SIGKILL.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from runs import ROOT, Process, environment

PORT = 6379
RAY = str(Path(sys.executable).with_name("ray"))
_FOLDER = "/tmp/ray"  # where every Ray of a host looks for the cluster it is part of
_HOME = f"{_FOLDER}/home"
_START_S = 120.0
NOTICED_SOON = {
    "RAY_health_check_initial_delay_ms": "0",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
}
"""Settings with which Ray takes a node for lost after about three seconds of silence."""


def why_not() -> str:
    """Say why no hosts can be emulated here, nothing if they can."""
    if os.geteuid() != 0:
        return "emulated hosts need root"
    missing = [word for word in ("ip", "unshare", "nsenter", "setpriv") if not shutil.which(word)]
    if missing:
        return f"emulated hosts need {', '.join(missing)} (iproute2, util-linux)"
    words = ["unshare", "-n", "-m", "-u", "-p", "-f", "--mount-proc", "true"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return f"emulated hosts need namespaces: {done.stderr.strip()}" if done.returncode else ""


def tied_process(namespace: str, *words: str) -> "subprocess.Popen[bytes]":
    """Start a process in namespaces of its own that dies with this one, and await the first.

    ``namespace`` is its name in /proc, such as ``net``; ``words`` begin with ``unshare``.
    """
    process = subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", *words], env=environment(), stdin=subprocess.DEVNULL
    )
    ours = Path(f"/proc/self/ns/{namespace}").readlink()
    for _ in range(1000):
        if Path(f"/proc/{process.pid}/ns/{namespace}").readlink() != ours:
            return process
        time.sleep(0.01)
    process.kill()
    raise AssertionError("no namespace within ten seconds")


class Mounts:
    """A mount namespace: what is mounted there nobody else sees. A context manager."""

    def __enter__(self) -> "Mounts":
        self._process = tied_process("mnt", "unshare", "-m", "sleep", "infinity")
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait(timeout=30)

    def words(self, words: Sequence[str]) -> list[str]:
        """Return the command that runs a command there, in the checkout's folder."""
        enter = ["nsenter", "-t", str(self._process.pid), "-m"]
        return [*enter, "sh", "-c", 'cd "$0" && exec "$@"', str(ROOT), *words]

    def run(self, *words: str) -> None:
        """Run a command there to its end; raise if it failed."""
        subprocess.run(self.words(words), check=True, timeout=60)

    def path(self, path: Path) -> Path:
        """Return the path by which this process sees a path of there."""
        return Path(f"/proc/{self._process.pid}/root{path}")


def _ip(pid: int, *words: str) -> None:
    subprocess.run(["nsenter", "-t", str(pid), "-n", "ip", *words], check=True)


@dataclass
class Host:
    """One host; ``init`` is the process id, seen from outside, of its process 1."""

    name: str
    address: str
    port: str
    switch: int
    process: subprocess.Popen[bytes]
    init: int
    env: Mapping[str, str]

    def words(self, words: Sequence[str]) -> list[str]:
        """Return the command that runs a command on the host, in the checkout's folder."""
        enter = ["nsenter", "-t", str(self.init), "-m", "-n", "-u", "-p"]
        return [*enter, "sh", "-c", 'cd "$0" && exec "$@"', str(ROOT), *words]

    def start(self, words: Sequence[str], env: Mapping[str, str] | None = None) -> Process:
        """Start a command on the host."""
        return Process(self.words(words), {**self.env, **(env or {})})

    def run(self, words: Sequence[str], env: Mapping[str, str] | None = None) -> str:
        """Run a command on the host to its end; give its output, raise if it failed."""
        process = self.start(words, env)
        assert process.wait(_START_S) == 0, f"{self.name}: {process.output}"
        return process.output

    def power_off(self) -> None:
        """End every process of the host at once."""
        os.kill(self.init, signal.SIGKILL)
        self.process.wait(timeout=30)

    def plug(self, is_in: bool) -> None:
        """Put the cable to the switch in, or pull it."""
        _ip(self.switch, "link", "set", self.port, "up" if is_in else "down")


class Hosts:
    """A switch and hosts at it; a context manager that ends all of them."""

    def __init__(self, n_hosts: int, env: Mapping[str, str] | None = None) -> None:
        self._n_hosts = n_hosts
        places = {
            "HOME": _HOME,
            "RAY_TMPDIR": str(Path(_FOLDER).parent),
            # As in an activated environment: `ray symmetric-run` calls `ray`.
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        self._env = {**places, **(NOTICED_SOON if env is None else env)}
        self._children: list[subprocess.Popen[bytes]] = []
        self.all: list[Host] = []

    def __enter__(self) -> "Hosts":
        Path(_FOLDER).mkdir(exist_ok=True)  # to mount on
        try:
            self._switch = self._child("unshare", "-n", "sleep", "infinity").pid
            _ip(self._switch, "link", "add", "bridge0", "type", "bridge")
            _ip(self._switch, "link", "set", "bridge0", "up")
            for number in range(1, self._n_hosts + 1):
                self.all.append(self._host(number))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for child in self._children:
            child.kill()
        for child in self._children:
            child.wait(timeout=30)

    def _child(self, *words: str) -> "subprocess.Popen[bytes]":
        self._children.append(tied_process("net", *words))
        return self._children[-1]

    def _host(self, number: int) -> Host:
        name, address, port = f"host-{number}", f"10.77.0.{number}", f"port{number}"
        # Process 1 takes no notice of its children, so that the kernel buries orphans.
        setup = (
            f"hostname {name} && ip link set lo up && mount -t tmpfs tmpfs {_FOLDER} "
            f"&& mkdir {_HOME} && mount -t tmpfs -o size=1g tmpfs /dev/shm && trap '' CHLD "
            f"&& touch {_FOLDER}/is_set_up && exec sleep infinity"
        )
        unshare = ("unshare", "-n", "-m", "-u", "-p", "-f", "--mount-proc", "--kill-child")
        process = self._child(*unshare, "sh", "-c", setup)
        init = self._await_init(process.pid)
        _ip(
            self._switch,
            *("link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", str(init)),
        )
        _ip(self._switch, "link", "set", port, "master", "bridge0", "up")
        _ip(init, "addr", "add", f"{address}/24", "dev", "eth0")
        _ip(init, "link", "set", "eth0", "up")
        return Host(name, address, port, self._switch, process, init, self._env)

    @staticmethod
    def _await_init(unshare: int) -> int:
        """Wait until a host is set up; give its process 1."""
        for _ in range(1000):
            children = Path(f"/proc/{unshare}/task/{unshare}/children").read_text().split()
            if children and Path(f"/proc/{children[0]}/root{_FOLDER}/is_set_up").exists():
                return int(children[0])
            time.sleep(0.01)
        raise AssertionError("a host was not set up within ten seconds")


def start_cluster(
    hosts: Sequence[Host],
    n_cpus: int = 1,
    env: Mapping[str, str] | None = None,
    has_dashboard: bool = False,
) -> None:
    """Start Ray on hosts: the first is the head, without CPUs, the others have some each."""
    head = hosts[0]
    store = f"--object-store-memory={100 * 2**20}"
    head.run(
        [
            *(RAY, "start", "--head", f"--node-ip-address={head.address}", f"--port={PORT}"),
            *("--num-cpus=0", f"--include-dashboard={str(has_dashboard).lower()}", store),
        ],
        env,
    )
    # One after the other they would take three seconds each.
    joining = [
        host.start(
            [
                *(RAY, "start", f"--address={head.address}:{PORT}"),
                *(f"--node-ip-address={host.address}", f"--num-cpus={n_cpus}", store),
            ],
            env,
        )
        for host in hosts[1:]
    ]
    for process in joining:
        assert process.wait(_START_S) == 0, process.output
