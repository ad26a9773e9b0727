"""Waiting for nodes takes nothing from the packs that run on them afterwards."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import ray
from ray.cluster_utils import Cluster

from raysweep.settings.execution import Resources
from raysweep.tune.cluster.nodes import wait_for_nodes

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
said = []


def say(text):
    said.append(text)
    cluster.add_node(num_cpus=1)  # here: Ray starts none outside of the main thread


wait_for_nodes(2, Resources(cpu=1), 60, say)
assert said == ["waiting for nodes: 1 of 2 are ready"], said
wait_for_nodes(2, Resources(cpu=1), 60, say)  # both are there: Ray is asked for nothing
assert len(ray.util.placement_group_table()) == 1
held = ray.util.placement_group([{"CPU": 1}] * 2, strategy="STRICT_SPREAD")
assert held.wait(60), ray.available_resources()
"""


@pytest.mark.slow
def test_cpus_are_free_after_waiting_for_nodes() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "RAY_AUTH_MODE": "disabled"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
