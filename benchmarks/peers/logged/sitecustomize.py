"""On the path of raysweep's workers: each epoch they train goes into the file of PEERS_LOG."""

import importlib.util
import os
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

WATCHED = "raysweep.packs.run"


class _Watch(MetaPathFinder):
    """Wrap ``PackRun.advance`` as soon as its module is loaded."""

    def find_spec(self, fullname: str, path: object, target: object = None) -> ModuleSpec | None:
        """Return the module's own spec with a loader that wraps; None for all other modules."""
        if fullname != WATCHED:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        assert spec is not None and spec.loader is not None
        load = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            load(module)
            _wrap(module.PackRun)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _wrap(pack_run: Any) -> None:
    advance = pack_run.advance

    def logged(self: Any) -> Any:
        report = advance(self)
        with Path(os.environ["PEERS_LOG"]).open("a") as log:
            for row in report.epochs:
                log.write(f"{row['config_id']} 0 {row['task']} {row['epoch']}\n")
        return report

    pack_run.advance = logged


if os.environ.get("PEERS_LOG"):
    sys.meta_path.insert(0, _Watch())
