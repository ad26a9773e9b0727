"""What a file for Ray's cluster launcher may say, where Ray's own schema lets anything pass."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

_COMMON = {"type", "use_internal_ips", "use_external_head_ip", "disable_node_updaters"}
_COMMON |= {"disable_launch_config_check", "foreground_node_launch", "worker_liveness_check"}
PROVIDER_KEYS = {
    "aws": _COMMON
    | {"region", "availability_zone", "cache_stopped_nodes", "aws_credentials", "key_pair"}
    | {"security_group", "cloudwatch"},
    "gcp": _COMMON
    | {"region", "availability_zone", "project_id", "cache_stopped_nodes", "gcp_credentials"},
    "local": _COMMON | {"head_ip", "worker_ips", "external_head_ip", "coordinator_address"},
}
"""The keys of ``provider`` that Ray 2.60 reads; a test finds each of them in its sources."""
REQUIRED = {
    "aws": {"region"},
    "gcp": {"region", "availability_zone", "project_id"},
    "local": {"head_ip", "worker_ips"},
}
_INSTANCE_KEYS = {
    "machineType",
    "disks",
    "guestAccelerators",
    "scheduling",
    "networkInterfaces",
    "serviceAccounts",
    "metadata",
    "labels",
    "tags",
    "minCpuPlatform",
    "sourceInstanceTemplate",
}
"""Fields of Google's instance resource that a node's configuration may have."""


def complaints(config: Mapping[str, Any]) -> list[str]:
    """Say what is wrong with the open parts of a launcher file; empty if nothing is."""
    provider = config["provider"]
    kind = provider.get("type")
    if kind not in PROVIDER_KEYS:
        return [f"provider.type: expected one of {sorted(PROVIDER_KEYS)}, got {kind!r}"]
    unknown = sorted(set(provider) - PROVIDER_KEYS[kind])
    missing = sorted(REQUIRED[kind] - set(provider))
    said = [f"provider.{key}: no key that Ray reads for {kind}" for key in unknown]
    said += [f"provider.{key}: missing" for key in missing]
    nodes = config.get("available_node_types", {})
    for name, node in nodes.items():
        check = {"aws": _aws_node, "gcp": _gcp_node}.get(kind)
        if check:
            said += [f"{name}.node_config: {text}" for text in check(node["node_config"])]
    return said


def _aws_node(node_config: Mapping[str, Any]) -> list[str]:
    """Hold a node against EC2's RunInstances, whose description comes with botocore."""
    import botocore.session
    from botocore.validate import ParamValidator

    request = {k: v for k, v in node_config.items() if k != "SubnetIds"}  # Ray's own key
    request |= {"MinCount": 1, "MaxCount": 1}
    model = botocore.session.get_session().get_service_model("ec2")
    report = ParamValidator().validate(request, model.operation_model("RunInstances").input_shape)
    return report.generate_report().splitlines() if report.has_errors() else []


def _gcp_node(node_config: Mapping[str, Any]) -> list[str]:
    unknown = sorted(set(node_config) - _INSTANCE_KEYS)
    return [f"{key}: no field of Google's instance resource" for key in unknown]


def unread_keys(kind: str, sources: Path) -> set[str]:
    """List the keys of a provider that do not occur in Ray's sources, its ``autoscaler`` folder."""
    own = {"aws": "aws", "gcp": "gcp", "local": "local"}[kind]
    files = [*(sources / "_private").glob("*.py"), *(sources / "_private" / own).rglob("*.py")]
    text = "".join(file.read_text() for file in files)
    return {key for key in PROVIDER_KEYS[kind] if f'"{key}"' not in text}
