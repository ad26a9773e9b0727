"""The import directions and sizes of docs/design.md, read from the sources."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]


MAY_IMPORT: dict[str, set[str]] = {
    "clean_text": set(),
    "command_line": {"clean_text", "typer"},
    "errors": {"clean_text"},
    "_compat": {"ray", "torch"},
    "atomic": set(),
    "local_folder": {"atomic"},
    "sealed": {"safetensors", "torch"},
    "versions": set(),
    "statuses": set(),
    "output_streams": {"errors"},
    "printing_command": {"command_line", "errors", "output_streams", "typer"},
    "user_text": {"clean_text", "errors"},
    "shipped": {"errors", "user_text"},
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
    "settings": {"clean_text", "errors", "user_text", "learning"}
    | {"numpy", "pydantic", "scipy", "yaml"},
    "packs": {"sealed", "statuses", "settings", "learning", "packs/stage_cache"}
    | {"numpy", "torch"},
    "packs/planning": {"settings", "packs", "learning"},
    "packs/stage_cache": {"atomic", "local_folder", "sealed", "learning", "torch"},
    "tables": {"errors", "atomic", "local_folder", "statuses", "user_text", "settings", "learning"}
    | {"botocore", "google", "numpy", "obstore", "pandas", "pyarrow", "scipy"},
    "monitor": {
        "clean_text",
        "errors",
        "_compat",
        "atomic",
        "statuses",
        "printing_command",
        "user_text",
        "settings",
        "tables",
        "pandas",
        "rich",
        "typer",
    },
    "monitor/loggers": {"errors", "statuses", "user_text", "tables"}
    | {"mlflow", "tensorboard", "wandb"},
    "tune": {
        "clean_text",
        "command_line",
        "errors",
        "_compat",
        "sealed",
        "versions",
        "statuses",
        "output_streams",
        "user_text",
        "shipped",
        "settings",
        "learning",
        "packs",
        "tables",
        "monitor",
    }
    | {"IPython", "numpy", "optuna", "pandas", "pyarrow", "ray", "rich", "torch", "typer"},
    "analysis": {"clean_text", "errors", "statuses", "printing_command", "user_text"}
    | {"packs", "tables"}
    | {"cycler", "matplotlib", "numpy", "pandas", "plotly", "scipy", "sklearn", "typer"},
    "results": {"errors", "tables", "pandas"},
    "status": {"monitor"},
    "cli": {"clean_text", "output_streams", "printing_command", "user_text", "shipped"}
    | {"tune", "monitor", "analysis", "typer"},
    "__main__": {"cli"},
    "arguments": {"errors", "tables"},
    "sweep_results": {"clean_text", "errors", "arguments", "statuses", "user_text"}
    | {"settings", "tables"}
    | {"monitor", "analysis", "tune", "pandas"},
    "api": {
        "clean_text",
        "errors",
        "arguments",
        "user_text",
        "shipped",
        "settings",
        "tables",
        "tune",
    }
    | {"sweep_results"},
    "__init__": {"errors", "tune", "sweep_results", "api"},
}
"""By package or module of raysweep: others of raysweep (a package stands for what is below it, but
within a package only those below it that are named) and packages beyond the standard library."""

WINGS = {key.partition("/")[0] for key in MAY_IMPORT}


MAY_BE_LONG = {
    "api.py:run": "most of it declares and documents the arguments",
    "tune/cli.py:tune": "most of it declares the command's options",
}
"""Functions over 60 lines, with the reason."""

TORCH = "the signature is torch's own"
COMMAND = "typer reads the options from the signature and passes them by name"
MAY_BE_POSITIONAL = {
    "_compat.py:fused_adam": TORCH,
    "_compat.py:fused_adamw": TORCH,
    "_compat.py:_plain_adam": TORCH,
    "learning/stacked/adam_kernel.py:_adam": "a Triton kernel takes its arguments in order",
    "tune/cli.py:tune": COMMAND,
    "analysis/compare.py:show": COMMAND,
    "analysis/curves.py:show": COMMAND,
    "analysis/heatmap.py:show": COMMAND,
    "analysis/importance.py:show": COMMAND,
    "analysis/leaderboard.py:show": COMMAND,
    "analysis/report/__main__.py:report": COMMAND,
    "analysis/samples.py:show": COMMAND,
    "analysis/stability.py:show": COMMAND,
    "analysis/tradeoff.py:show": COMMAND,
    "analysis/heatmap_grid.py:create_artists": "matplotlib calls it",
    "analysis/heatmap_grid.py:draw_grid": "not moved to keywords yet",
    "analysis/curves.py:figure": "not moved to keywords yet",
}
"""Functions of more than five arguments that take a third one by position, with the reason."""


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
    return {str(file.relative_to(root)): file for file in root.rglob("*.py")}


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
    assert modules - {"__pycache__"} == WINGS


def test_the_design_names_every_module() -> None:
    design = (ROOT / "docs" / "design.md").read_text()
    for module in MAY_IMPORT:
        assert f"`raysweep/{module}.py`" in design or f"`raysweep/{module}/`" in design, module


def test_no_file_outgrows_400_lines() -> None:
    for folder in ("raysweep", "benchmarks"):
        for file in (ROOT / folder).rglob("*.py"):
            assert len(file.read_text().splitlines()) <= 400, file


def functions() -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Yield each function of raysweep, inner ones too, with its file and name."""
    for path, file in files().items():
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{path}:{node.name}", node


def n_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    assert node.end_lineno is not None
    return node.end_lineno - node.lineno + 1


def takes_many_by_position(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Tell whether there are more than five arguments, of which more than two by position."""
    every = node.args.posonlyargs + node.args.args
    by_position = [arg for arg in every if arg.arg not in ("self", "cls")]
    return len(by_position) > 2 and len(by_position) + len(node.args.kwonlyargs) > 5


def test_no_function_outgrows_60_lines() -> None:
    assert {name for name, node in functions() if n_lines(node) > 60} == set(MAY_BE_LONG)


def test_more_than_five_arguments_are_keywords_from_the_third_on() -> None:
    found = {name for name, node in functions() if takes_many_by_position(node)}
    assert found == set(MAY_BE_POSITIONAL)
