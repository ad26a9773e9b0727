"""The import directions of docs/design.md, read from the sources."""

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "_compat": {"ray", "torch"},
    "atomic": set(),
    "versions": set(),
    "statuses": set(),
    "user_text": {"errors"},
    "learning": {"errors", "user_text", "learning/declarations", "learning/data"}
    | {"learning/models", "learning/methods", "pydantic", "pydantic_core", "torch"},
    "learning/declarations": {"learning", "learning/data", "pydantic"},
    "learning/data": {"errors", "learning", "learning/declarations"}
    | {"numpy", "pyarrow", "pydantic", "torch", "torchvision"},
    "learning/stacked": {"_compat", "learning", "torch", "triton"},
    "learning/models": {"learning", "learning/declarations", "learning/data", "learning/stacked"},
    "learning/methods": {"errors", "learning", "learning/declarations", "learning/data"}
    | {"learning/models", "learning/replay", "learning/training"},
    "learning/replay": {"learning", "learning/data", "learning/declarations", "learning/models"}
    | {"learning/stacked", "learning/training", "torch"},
    "learning/training": {"learning", "learning/data", "learning/models", "learning/replay"}
    | {"learning/stacked", "torch"},
    "settings": {"errors", "user_text", "learning", "numpy", "pydantic", "scipy", "yaml"},
    "packs": {"statuses", "settings", "learning", "packs/stage_cache", "numpy", "torch"},
    "packs/planning": {"settings", "packs", "learning"},
    "packs/stage_cache": {"atomic", "learning", "safetensors", "torch"},
    "tables": {"errors", "atomic", "statuses", "user_text", "settings", "learning"}
    | {"numpy", "pandas", "pyarrow", "scipy"},
    "monitor": {
        "errors",
        "_compat",
        "atomic",
        "statuses",
        "user_text",
        "settings",
        "tables",
        "pandas",
        "rich",
        "typer",
    },
    "monitor/loggers": {"errors", "atomic", "statuses", "user_text", "tables"}
    | {"mlflow", "tensorboard", "wandb"},
    "tune": {
        "errors",
        "_compat",
        "versions",
        "statuses",
        "user_text",
        "settings",
        "learning",
        "packs",
        "tables",
        "monitor",
    }
    | {"numpy", "optuna", "pyarrow", "ray", "rich", "torch", "typer"},
    "analysis": {"errors", "statuses", "user_text", "packs", "tables"}
    | {"cycler", "matplotlib", "numpy", "pandas", "plotly", "scipy", "sklearn", "typer"},
    "results": {"errors", "tables"},
    "status": {"monitor"},
}
"""By package or module of raysweep: others of raysweep (a package stands for what is below it, but
within a package only those below it that are named) and packages beyond the standard library."""

WINGS = {key.partition("/")[0] for key in MAY_IMPORT}


def key_of(path: str) -> str:
    """Return the longest key of the table that a path below raysweep belongs to."""
    keys = [key for key in MAY_IMPORT if path == key or path.startswith((f"{key}/", f"{key}.py"))]
    return max(keys, key=len)


def imported(file: Path) -> set[str]:
    """Return the keys of raysweep and the other packages that a file imports anywhere in it."""
    names = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    found = set()
    for name in names:
        first, _, rest = name.partition(".")
        if first == "raysweep":
            found |= {key_of(rest.replace(".", "/"))} if rest != "__version__" else set()
        elif first not in sys.stdlib_module_names:
            found.add(first)
    return found


def is_allowed(name: str, own: str, allowed: set[str]) -> bool:
    wing = name.partition("/")[0]
    is_elsewhere = wing in WINGS and wing != own.partition("/")[0]
    return name == own or name in allowed or (is_elsewhere and wing in allowed)


def files() -> dict[str, Path]:
    """Return the sources of raysweep by their path below it."""
    root = ROOT / "raysweep"
    found = {str(file.relative_to(root)): file for file in root.rglob("*.py")}
    return {path: file for path, file in found.items() if path != "__init__.py"}


def test_each_module_imports_only_what_the_design_allows() -> None:
    for path, file in files().items():
        own = key_of(path)
        extra = {n for n in imported(file) if not is_allowed(n, own, MAY_IMPORT[own])}
        assert not extra, f"{path} imports {sorted(extra)}"


def test_arrows_between_the_wings_run_down_only() -> None:
    order = list(dict.fromkeys(key.partition("/")[0] for key in MAY_IMPORT))
    for path, file in files().items():
        own = order.index(path.partition("/")[0].removesuffix(".py"))
        for name in imported(file):
            wing = name.partition("/")[0]
            assert wing not in WINGS or order.index(wing) <= own, f"{path} imports {name}"


def test_every_module_is_in_the_table() -> None:
    modules = {path.stem for path in (ROOT / "raysweep").iterdir() if path.suffix in ("", ".py")}
    assert modules - {"__init__", "__pycache__"} == WINGS


def test_the_design_names_every_module() -> None:
    design = (ROOT / "docs" / "design.md").read_text()
    for module in MAY_IMPORT:
        assert f"`raysweep/{module}.py`" in design or f"`raysweep/{module}/`" in design, module


def test_no_file_outgrows_400_lines() -> None:
    for folder in ("raysweep", "benchmarks"):
        for file in (ROOT / folder).rglob("*.py"):
            assert len(file.read_text().splitlines()) <= 400, file
