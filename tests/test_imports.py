"""The import directions of docs/design.md, read from the sources."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]


MAY_IMPORT: dict[str, set[str]] = {
    "settings": {"pydantic", "yaml", "numpy", "scipy"},
    "display": {"rich"},
    "loggers": {"atomic", "results", "mlflow", "tensorboard", "wandb"},
    "status": {"display", "results", "settings", "pandas", "rich", "typer"},
    "plan": {"settings"},
    "atomic": set(),
    "versions": set(),
    "results": {"atomic", "settings", "pyarrow", "pandas", "scipy", "numpy"},
    "streams": {"torch"},
    "data": {"settings", "streams", "torch", "torchvision", "numpy", "pyarrow"},
    "stacked": {"streams", "torch", "triton"},
    "models": {"stacked", "settings", "torch"},
    "selection": {"stacked", "streams", "torch"},
    "replay": {"models", "data", "plan", "selection", "stacked", "streams", "settings", "torch"},
    "stages": {"plan", "models", "replay", "data", "stacked", "streams", "settings", "torch"},
    "store": {"atomic", "plan", "replay", "data", "stacked", "settings", "torch", "safetensors"},
    "pack": {"store", "stages", "plan", "data", "replay", "stacked", "settings", "torch"},
    "examples": {"pack", "plan", "store", "data", "replay", "models", "stacked", "settings"}
    | {"torch", "numpy"},
    "trainable": {"pack", "plan", "store", "data", "settings", "versions", "torch", "ray"},
    "tune": {"trainable", "stages", "store", "plan", "data", "results", "settings", "versions"}
    | {"display", "loggers", "status", "nevergrad", "numpy", "optuna", "ray", "typer", "rich"}
    | {"torch", "pyarrow"},
}
"""By module of raysweep: other modules of raysweep and packages beyond the standard library."""

ANALYSIS_MAY_IMPORT = {"results", "examples"} | {
    "pandas",
    "numpy",
    "scipy",
    "sklearn",
    "matplotlib",
    "plotly",
    "typer",
}

PACKAGES = {"pydantic", "yaml", "pyarrow", "pandas", "torch", "torchvision", "numpy", "ray"} | {
    "typer",
    "rich",
    "safetensors",
    "mlxtend",
    "triton",
    "matplotlib",
    "scipy",
    "sklearn",
    "plotly",
    "nevergrad",
    "optuna",
    "mlflow",
    "wandb",
    "tensorboard",
}


def imported(file: Path) -> set[str]:
    """Give the packages, and for raysweep the modules, that a file imports anywhere in it."""
    names = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            names += whole if node.module == "raysweep" else [str(node.module)]
    found = set()
    for name in names:
        first, *rest = name.split(".")
        if first == "raysweep":
            found.add(rest[0] if rest else "raysweep")
        elif first in PACKAGES:
            found.add(first)
    return found - {"__version__"}


def files_of(module: str) -> list[Path]:
    single = ROOT / "raysweep" / f"{module}.py"
    return [single] if single.exists() else sorted((ROOT / "raysweep" / module).rglob("*.py"))


def test_each_module_imports_only_what_the_design_allows() -> None:
    for module, allowed in MAY_IMPORT.items():
        files = files_of(module)
        assert files, module
        for file in files:
            extra = imported(file) - allowed - {module}
            assert not extra, f"{file.relative_to(ROOT)} imports {sorted(extra)}"


def test_every_module_is_in_the_table() -> None:
    modules = {path.stem for path in (ROOT / "raysweep").iterdir() if path.suffix in ("", ".py")}
    assert modules - {"__init__", "__pycache__"} == set(MAY_IMPORT)


def test_the_design_names_every_module() -> None:
    design = (ROOT / "docs" / "design.md").read_text()
    for module in MAY_IMPORT:
        assert f"`raysweep/{module}.py`" in design or f"`raysweep/{module}/`" in design, module


def test_analysis_imports_only_results_and_examples() -> None:
    for file in (ROOT / "analysis").rglob("*.py"):
        extra = imported(file) - ANALYSIS_MAY_IMPORT
        assert not extra, f"{file.relative_to(ROOT)} imports {sorted(extra)}"


def test_no_file_outgrows_400_lines() -> None:
    for folder in ("raysweep", "analysis", "benchmarks"):
        for file in (ROOT / folder).rglob("*.py"):
            assert len(file.read_text().splitlines()) <= 400, file
