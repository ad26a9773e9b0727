"""The files that start clusters, checked without one: schemas, contents, commands."""

import copy
import json
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import jsonschema
import launcher_schema
import pytest
import yaml

ROOT = Path(__file__).parents[2]
LAUNCHER = ["cluster.yaml", "clusters/gcp.yaml", "clusters/on_premise.yaml"]
KUBERNETES = ["clusters/rayjob.yaml", "clusters/results_pod.yaml"]
SLURM = ROOT / "clusters" / "slurm.sh"
PAGE = ROOT / "docs" / "clusters.md"
NEEDED = {"pyproject.toml", "constraints.txt", "README.md", "bin", "raysweep", "analysis"}
HEALTH = {"initial_delay_ms", "period_ms", "timeout_ms", "failure_threshold"}


def load(name: str) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((ROOT / name).read_text())
    return config


def check_launcher(config: dict[str, Any]) -> list[str]:
    """Return what Ray or our own check has against a launcher file."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    try:
        validate_config(prepare_config(copy.deepcopy(config)))
    except jsonschema.ValidationError as error:
        return [error.message]
    return launcher_schema.complaints(config)


def start_command(config: dict[str, Any], role: str) -> str:
    (command,) = [c for c in config[f"{role}_start_ray_commands"] if "ray start" in c]
    return str(command)


def health(settings: dict[str, str]) -> dict[str, int]:
    prefix = "RAY_health_check_"
    return {k.removeprefix(prefix): int(v) for k, v in settings.items() if k.startswith(prefix)}


@pytest.mark.parametrize("name", LAUNCHER)
def test_launcher_file_passes_rays_check_and_ours(name: str) -> None:
    pytest.importorskip("botocore")
    assert check_launcher(load(name)) == []


@pytest.mark.parametrize(
    ("name", "path", "expected"),
    [
        ("cluster.yaml", "idle_timeout_minute", "idle_timeout_minute"),
        ("cluster.yaml", "provider.cached_stopped_nodes", "provider.cached_stopped_nodes"),
        ("cluster.yaml", "available_node_types.head.min_worker", "min_worker"),
        ("cluster.yaml", "available_node_types.head.node_config.InstanceTyp", "InstanceTyp"),
        ("clusters/gcp.yaml", "provider.project", "provider.project"),
        ("clusters/gcp.yaml", "available_node_types.head.node_config.machine", "machine"),
        ("clusters/on_premise.yaml", "provider.worker_ip", "provider.worker_ip"),
        ("clusters/on_premise.yaml", "provider.region", "provider.region"),
    ],
)
def test_launcher_check_catches_a_typo(name: str, path: str, expected: str) -> None:
    pytest.importorskip("botocore")
    config = load(name)
    *parents, key = path.split(".")
    inner = config
    for parent in parents:
        inner = inner[parent]
    inner[key] = "x"
    assert any(expected in text for text in check_launcher(config))


def test_launcher_check_catches_what_is_missing_or_of_another_type() -> None:
    pytest.importorskip("botocore")
    config = load("clusters/gcp.yaml")
    del config["provider"]["availability_zone"]
    assert check_launcher(config) == ["provider.availability_zone: missing"]
    config = load("cluster.yaml")
    disk = config["available_node_types"]["head"]["node_config"]["BlockDeviceMappings"][0]
    disk["Ebs"]["VolumeSize"] = "120"
    assert any("VolumeSize" in text for text in check_launcher(config))
    config["provider"]["type"] = "asw"
    assert any("provider.type" in text for text in launcher_schema.complaints(config))


@pytest.mark.parametrize("kind", sorted(launcher_schema.PROVIDER_KEYS))
def test_ray_reads_the_provider_keys_that_we_allow(kind: str) -> None:
    import ray.autoscaler

    sources = Path(ray.autoscaler.__file__).parent
    assert launcher_schema.unread_keys(kind, sources) == set()


@pytest.mark.parametrize("name", LAUNCHER)
def test_token_gets_to_every_node_and_only_its_owner_reads_it(name: str) -> None:
    config = load(name)
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert "chmod 600 ~/.ray/auth_token" in config["setup_commands"][0]
    for role in ("head", "worker"):
        before, _, _ = start_command(config, role).partition("ray start")
        assert re.search(r"export\b[^;]*\bRAY_AUTH_MODE=token\b", before)


@pytest.mark.parametrize("name", LAUNCHER)
def test_head_runs_no_trials_and_shows_its_dashboard_to_itself_only(name: str) -> None:
    config = load(name)
    command = start_command(config, "head")
    assert "--dashboard-host=127.0.0.1" in command
    assert "0.0.0.0" not in (ROOT / name).read_text()
    if config["provider"]["type"] == "local":  # Ray passes no resources on there
        assert "--num-cpus=0 --num-gpus=0" in command
        assert re.search(r"export\b[^;]*\bRAY_enable_autoscaler_v2=0\b", command)
        return
    types = config["available_node_types"]
    assert types[config["head_node_type"]]["resources"] == {"CPU": 0}
    workers = [node for key, node in types.items() if key != config["head_node_type"]]
    assert workers and all(node["resources"].get("GPU", 0) >= 1 for node in workers)
    assert all(node["resources"]["CPU"] >= 1 for node in workers)
    assert all(node["min_workers"] == 0 < node["max_workers"] for node in workers)
    assert sum(node["max_workers"] for node in workers) <= config["max_workers"]
    assert 0 < config["idle_timeout_minutes"] <= 10


@pytest.mark.parametrize("name", ["cluster.yaml", "clusters/gcp.yaml"])
def test_nodes_have_one_image_and_so_one_python(name: str) -> None:
    images = set(re.findall(r"(?:ImageId|sourceImage): (\S+)", (ROOT / name).read_text()))
    assert len(images) == 1


@pytest.mark.parametrize("name", [*LAUNCHER, "clusters/slurm.sh", "clusters/rayjob.yaml"])
def test_a_lost_node_is_noticed_within_fifteen_seconds(name: str) -> None:
    text = (ROOT / name).read_text()
    if name == "clusters/rayjob.yaml":
        cluster = list(yaml.safe_load_all(text))[1]["spec"]["rayClusterSpec"]
        container = cluster["headGroupSpec"]["template"]["spec"]["containers"][0]
        checks = health({item["name"]: item["value"] for item in container["env"]})
    else:
        where = text if name.endswith(".sh") else start_command(load(name), "head")
        before = where.partition("ray start")[0]
        checks = health(dict(re.findall(r"\b(RAY_health_check_\w+)=(\d+)", before)))
    assert set(checks) == HEALTH
    slowest = (checks["period_ms"] + checks["timeout_ms"]) * checks["failure_threshold"]
    assert slowest <= 15_000
    # A second or two of silence, which a busy node has, are no loss.
    assert checks["timeout_ms"] > 2000 and checks["failure_threshold"] >= 3


def code_files() -> set[str]:
    folders = [ROOT / name for name in ("raysweep", "analysis", "search_spaces", "bin")]
    found = (file.relative_to(ROOT) for folder in folders for file in folder.rglob("*"))
    return {str(f) for f in found if (ROOT / f).is_file() and "__pycache__" not in f.parts}


@pytest.mark.parametrize("name", LAUNCHER)
def test_sync_brings_the_code_and_nothing_else(name: str) -> None:
    config = load(name)
    mounts = {k: v for k, v in config["file_mounts"].items() if "auth_token" not in k}
    assert mounts == {f"~/raysweep/{source}": source for source in mounts.values()}
    assert set(mounts.values()) >= NEEDED
    assert not {".", ".git", ".venv", "results", "data"} & set(mounts.values())
    excluded = [pattern.strip("/") for pattern in config["rsync_exclude"]]
    for file in code_files():
        # rsync matches a pattern without a slash with each part of a path.
        assert not any(fnmatch(part, e) for part in Path(file).parts for e in excluded), file


@pytest.mark.skipif(shutil.which("rsync") is None, reason="rsync is not installed")
def test_rsync_brings_all_code(tmp_path: Path) -> None:
    config = load("cluster.yaml")
    excludes = [word for e in config["rsync_exclude"] for word in ("--exclude", e)]
    for target, source in config["file_mounts"].items():
        if "auth_token" in target:
            continue
        here, there = ROOT / source, tmp_path / target.removeprefix("~/raysweep/")
        slash = "/" if here.is_dir() else ""  # as Ray calls it
        subprocess.run(["rsync", "-a", *excludes, f"{here}{slash}", f"{there}{slash}"], check=True)
    arrived = {str(f.relative_to(tmp_path)) for f in tmp_path.rglob("*") if f.is_file()}
    assert arrived == code_files() | {"pyproject.toml", "constraints.txt", "README.md"}


@pytest.mark.parametrize("name", LAUNCHER)
def test_launcher_commands_are_shell_and_name_what_is_there(name: str) -> None:
    config = load(name)
    commands = [c for key, value in config.items() if key.endswith("commands") for c in value]
    assert any("bin/setup" in command for command in commands)
    for command in commands:
        subprocess.run(["bash", "-n", "-c", command], check=True)
        assert "bin/setup" not in command or (ROOT / "bin" / "setup").exists()
        # On a node Ray, Python and pip are the environment's; the system's may be none or others.
        if re.search(r"(?<![.\w/])(ray|pip) ", command):
            assert "raysweep/.venv/bin/activate &&" in command or ".venv/bin/python -m" in command
        for words in ray_calls(command):
            check_ray_call(words)


def check_manifest(manifest: dict[str, Any]) -> None:
    schema = yaml.safe_load((ROOT / "tests" / "cluster_files" / "kuberay.yaml").read_text())
    part = {**schema["$defs"][manifest["kind"]], "$defs": schema["$defs"]}
    jsonschema.Draft202012Validator(part).validate(manifest)


def manifests() -> dict[str, dict[str, Any]]:
    documents = [d for name in KUBERNETES for d in yaml.safe_load_all((ROOT / name).read_text())]
    return {document["kind"]: document for document in documents}


@pytest.mark.parametrize("kind", ["RayJob", "PersistentVolumeClaim", "Pod"])
def test_manifest_has_fields_of_its_definition_only(kind: str) -> None:
    check_manifest(manifests()[kind])


def paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """List the ways to all mappings within a document."""
    found = [path] if isinstance(value, dict) else []
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items:
        if isinstance(inner, dict | list):
            found += paths(inner, (*path, key))
    return found


@pytest.mark.parametrize("kind", ["RayJob", "PersistentVolumeClaim", "Pod"])
def test_manifest_check_catches_a_typo_at_every_level(kind: str) -> None:
    free = {"rayStartParams", "limits", "requests"}  # any key
    for path in paths(manifests()[kind]):
        if free & set(path):
            continue
        manifest = copy.deepcopy(manifests()[kind])
        inner: Any = manifest
        for key in path:
            inner = inner[key]
        first = next(iter(inner))
        inner[f"{first}x"] = inner.pop(first)
        with pytest.raises((jsonschema.ValidationError, KeyError)):
            check_manifest(manifest)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("authOptions", "mode"), "tokens"),
        (("headGroupSpec", "rayStartParams", "num-cpus"), 0),
        (("workerGroupSpecs", 0, "maxReplicas"), "8"),
        (("autoscalerOptions", "idleTimeoutSeconds"), "5 minutes"),
    ],
)
def test_manifest_check_catches_a_wrong_value(path: tuple[Any, ...], value: Any) -> None:
    manifest = copy.deepcopy(manifests()["RayJob"])
    inner: Any = manifest["spec"]["rayClusterSpec"]
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        check_manifest(manifest)


def test_ray_job_is_guarded_bounded_and_keeps_its_results() -> None:
    documents = manifests()
    spec = documents["RayJob"]["spec"]
    cluster = spec["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert spec["shutdownAfterJobFinishes"] and spec["activeDeadlineSeconds"]
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    (group,) = cluster["workerGroupSpecs"]
    words = shlex.split(spec["entrypoint"])
    check_program(words[words.index("raysweep.tune") + 1 :])
    n_wanted = int(words[words.index("--wait-for-nodes") + 1])
    assert n_wanted == group["minReplicas"] == group["replicas"] < group["maxReplicas"]
    claim = documents["PersistentVolumeClaim"]["metadata"]["name"]
    location = words[words.index("--results") + 1]
    pods = [cluster["headGroupSpec"]["template"]["spec"], group["template"]["spec"]]
    for pod in [*pods, documents["Pod"]["spec"]]:
        (volume,) = [v for v in pod["volumes"] if "persistentVolumeClaim" in v]
        assert volume["persistentVolumeClaim"]["claimName"] == claim
        mounts = {m["name"]: m["mountPath"] for m in pod["containers"][0]["volumeMounts"]}
        assert location.startswith(mounts[volume["name"]] + "/")
        assert set(mounts) == {v["name"] for v in pod["volumes"]}
    assert len({pod["containers"][0]["image"] for pod in pods}) == 1
    assert f"raysweep-results:{location} results" in PAGE.read_text()


def test_image_has_the_pinned_ray_and_all_that_is_copied_exists() -> None:
    pinned = re.findall(r"^ray==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    text = (ROOT / "clusters" / "Dockerfile").read_text()
    assert re.findall(r"^FROM rayproject/ray:([\d.]+)-py3(\d+)$", text, re.MULTILINE) == [
        (pinned[0], "12")
    ]
    assert manifests()["RayJob"]["spec"]["rayClusterSpec"]["rayVersion"] == pinned[0]
    (workdir,) = re.findall(r"^WORKDIR (\S+)$", text, re.MULTILINE)
    copied = [line.split()[2:-1] for line in text.splitlines() if line.startswith("COPY")]
    sources = {source for words in copied for source in words}
    assert all((ROOT / source).exists() for source in sources)
    kept = (ROOT / "clusters" / "Dockerfile.dockerignore").read_text().splitlines()
    assert {line[1:] for line in kept if line.startswith("!")} == sources
    file = shlex.split(manifests()["RayJob"]["spec"]["entrypoint"])[3]
    space = Path(file).relative_to(workdir)
    assert (ROOT / space).exists() and space.parts[0] in sources


def shellcheck(text: str, *options: str) -> str:
    # Installed with the development tools, next to this Python.
    binary = Path(sys.executable).parent / "shellcheck"
    if not binary.exists():
        pytest.skip("shellcheck is not installed")
    words = [str(binary), "--shell=bash", *options, "-"]
    return subprocess.run(words, input=text, text=True, capture_output=True, check=False).stdout


def test_slurm_script_passes_bash_and_shellcheck() -> None:
    subprocess.run(["bash", "-n", str(SLURM)], check=True)
    assert SLURM.stat().st_mode & 0o100
    assert shellcheck(SLURM.read_text()) == ""


def test_slurm_script_asks_for_what_it_needs() -> None:
    lines = re.findall(r"^#SBATCH --(\S+)$", SLURM.read_text(), re.MULTILINE)
    options = dict(line.partition("=")[::2] for line in lines)
    assert options["ntasks-per-node"] == "1"
    assert {"nodes", "time", "gpus-per-node", "exclusive", "no-kill"} <= set(options)
    assert "--min-nodes" not in re.sub(r"#.*", "", SLURM.read_text())


STUBS = {
    "srun": r"""
while [[ "$1" == --* ]]; do shift; done
"$@"
""",
    "ray": r"""
printf '%s\n' "$@" > "$RECORD/ray"
stat -c %a "$RAY_AUTH_TOKEN_PATH" "$(dirname "$RAY_AUTH_TOKEN_PATH")" > "$RECORD/modes"
[ -n "$HEAD_FAILS" ] && exit 0
while [ "$1" != -- ]; do shift; done
shift
"$@"
""",
    "python": r"""
if [ "$1" = -c ]; then echo secret; exit; fi
printf '%s\n' "$@" > "$RECORD/program"
env > "$RECORD/environment"
exit 3
""",
    "hostname": "echo 192.0.2.10 198.51.100.10",
}


def run_slurm_script(folder: Path, head_fails: str = "") -> subprocess.CompletedProcess[str]:
    """Run the script with stand-ins for Slurm and Ray, recording what they are told."""
    activate = folder / ".venv" / "bin" / "activate"
    activate.parent.mkdir(parents=True)
    activate.write_text(f'PATH="{activate.parent}:$PATH"\n')
    for name, text in STUBS.items():
        stub = activate.parent / name
        stub.write_text(f"#!/usr/bin/env bash\n{text}")
        stub.chmod(0o755)
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder / "home"),
        "RECORD": str(folder),
        "HEAD_FAILS": head_fails,
        "SLURM_JOB_ID": f"77{os.getpid()}",
        "SLURM_SUBMIT_DIR": str(folder),
        "SLURM_JOB_NUM_NODES": "4",
        "SLURM_CPUS_ON_NODE": "16",
    }
    words = ["bash", str(SLURM), "search_spaces/vib.yaml", "space.lr=1e-3", "--quiet"]
    return subprocess.run(words, env=environment, capture_output=True, text=True, check=False)


def test_slurm_job_passes_on_words_token_and_exit_code(tmp_path: Path) -> None:
    result = run_slurm_script(tmp_path)
    assert result.returncode == 3, result.stderr
    words = (tmp_path / "ray").read_text().splitlines()
    assert words[:5] == ["symmetric-run", "--address", "192.0.2.10:6379", "--num-cpus", "16"]
    assert words[5] == "--"
    program = (tmp_path / "program").read_text().splitlines()
    assert program[:5] == [
        "-m",
        "raysweep.tune",
        "search_spaces/vib.yaml",
        "space.lr=1e-3",
        "--quiet",
    ]
    check_program(program[2:])
    assert program[program.index("--wait-for-nodes") + 1] == "4"
    assert program[program.index("--address") + 1] == "192.0.2.10:6379"
    assert (tmp_path / "modes").read_text().split() == ["600", "700"]
    assert "RAY_AUTH_MODE=token" in (tmp_path / "environment").read_text().splitlines()
    assert list((tmp_path / "home" / ".ray").iterdir()) == []


def test_slurm_job_fails_where_the_head_did_not_start(tmp_path: Path) -> None:
    assert run_slurm_script(tmp_path, head_fails="yes").returncode == 4


def commands_on_page() -> list[str]:
    """Return the commands of the page's shell blocks, one a line."""
    blocks = re.findall(r"^```bash\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) > 10
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]


def program_options() -> set[str]:
    import typer

    from raysweep.tune import cli

    command = typer.main.get_command(cli._APP)
    return {name for parameter in command.params for name in parameter.opts}


def check_program(words: list[str]) -> None:
    """Hold a call of the program against its options, and its files against the checkout."""
    used = {word for word in words if word.startswith("-")}
    assert used <= program_options(), used - program_options()
    assert any("search_spaces/" in word for word in words)


def ray_calls(command: str) -> list[list[str]]:
    """List the calls of ``ray`` in a command line, as words."""
    lexer = shlex.shlex(command, posix=True, punctuation_chars=True)
    lexer.whitespace_split, lexer.commenters = True, ""
    calls: list[list[str]] = [[]]
    for word in lexer:
        if set(word) <= set("&|;()"):
            calls.append([])
        else:
            calls[-1].append(word)
    found = [words[1:] for words in calls if words and words[0].rpartition("/")[2] == "ray"]
    return found


def check_ray_call(words: list[str]) -> None:
    """Hold a call of ``ray`` against its command line."""
    from ray.scripts.scripts import cli

    command: Any = cli
    while hasattr(command, "commands"):
        command, words = command.commands[words[0]], words[1:]
    words = words[: words.index("--")] if "--" in words else words
    known = {name for p in command.params for name in (*p.opts, *p.secondary_opts)}
    used = {word.partition("=")[0] for word in words if word.startswith("-")}
    assert used <= known, (command.name, used - known)


def test_commands_on_the_page_use_options_that_exist() -> None:
    n_programs = n_ray = 0
    for line in commands_on_page():
        quoted = re.findall(r"'([^']*)'", line)
        for text in [re.sub(r"'[^']*'", "x", line), *quoted]:
            for call in ray_calls(text):
                n_ray += 1
                check_ray_call(call)
            match = re.search(r"(?:-m raysweep\.tune|bin/sweep|clusters/slurm\.sh) (.*)", text)
            if match:
                n_programs += 1
                check_program(shlex.split(match[1]))
    assert n_programs >= 5 and n_ray >= 15


def test_page_names_files_that_exist() -> None:
    text = PAGE.read_text()
    pattern = r"(?<![/\w~.])((?:bin|clusters|search_spaces|docs)/[\w./-]*\w|cluster\.yaml)"
    names = set(re.findall(pattern, text))
    assert {*LAUNCHER, "clusters/slurm.sh", *KUBERNETES, "clusters/Dockerfile"} <= names
    for name in names:
        assert (ROOT / name).exists(), name


def test_page_is_shell() -> None:
    text = "\n".join(commands_on_page())
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)
    # The environment is not there to follow, and a page's cd may fail where one reads it.
    found = shellcheck(text, "--exclude=SC1091,SC2164", "--severity=warning")
    assert found == "", found


def test_page_replaces_what_the_files_leave_open() -> None:
    text = PAGE.read_text()
    for name, mark in {
        "cluster.yaml": "ami-00000000000000000",
        "clusters/gcp.yaml": "YOUR-PROJECT",
        "clusters/rayjob.yaml": "YOUR-REGISTRY",
    }.items():
        assert mark in (ROOT / name).read_text()
        assert re.search(rf'sed "s[/|]{mark}[/|][^\n]*{re.escape(name)}', text), name


@pytest.mark.parametrize(
    "name", [*LAUNCHER, *KUBERNETES, "clusters/Dockerfile", "clusters/slurm.sh"]
)
def test_files_hold_no_secret_and_no_path_of_one_machine(name: str) -> None:
    text = (ROOT / name).read_text()
    assert not re.search(r"\b[0-9a-f]{32,}\b|AKIA[0-9A-Z]{16}", text)
    assert str(ROOT) not in text
    json.dumps(text)  # plain text
    assert not stat.S_IMODE((ROOT / name).stat().st_mode) & stat.S_IWOTH
