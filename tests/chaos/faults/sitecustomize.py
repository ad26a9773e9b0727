"""Faults in real workers: Python imports this at its start where the folder is on PYTHONPATH.

RAYSWEEP_FAULTS holds a JSON list of faults. Each has ``kind`` and, as far as they matter,
``match`` (settings of the configurations it strikes; several values as a list), ``lanes`` (only
packs of more configurations), ``stage`` and ``epoch`` (``nan`` only: where), ``path`` (``log``),
``seconds`` and ``until`` (``slow``: how long at each epoch, and the file that ends it), ``bytes``
and ``until`` (``eat``: memory that is taken at each epoch, and the file that ends it). With
``save`` a checkpoint is written after every epoch.
Without the variable nothing is changed. Nothing of raysweep is imported here: the modules are
wrapped when somebody imports them.
"""

import ctypes
import functools
import importlib.abc
import importlib.machinery
import importlib.util
import json
import math
import os
import signal
import sys
import time
from pathlib import Path

_EATEN = []
_FAULTS = json.loads(os.environ.get("RAYSWEEP_FAULTS", "[]"))


def _matches(fault, config):
    wanted = fault.get("match", {})
    values = {name: getattr(config, name) for name in wanted}
    return all(values[n] in (v if isinstance(v, list) else [v]) for n, v in wanted.items())


def _strike(fault, configs):
    kind = fault["kind"]
    if kind == "raise":
        raise ValueError("a fault of the chaos suite")
    if kind == "memory":
        raise MemoryError
    if kind == "torch_memory":
        import torch

        raise torch.OutOfMemoryError("a fault of the chaos suite")
    if kind == "hang":
        time.sleep(10_000)
    elif kind == "segfault":
        ctypes.string_at(0)
    elif kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif kind == "slow":
        if not Path(fault.get("until", "/never")).exists():
            time.sleep(fault["seconds"])
    elif kind == "eat":
        if not Path(fault.get("until", "/never")).exists():
            _EATEN.append(b"x" * fault["bytes"])
    elif kind == "log":
        line = json.dumps([config.id for config in configs]) + "\n"
        with Path(fault["path"]).open("a") as file:
            file.write(line)


def _wrap_pack(module):
    advance = module.PackRun.advance

    @functools.wraps(advance)
    def disturbed(self):
        is_first = not hasattr(self, "_chaos_is_seen")
        self._chaos_is_seen = True
        for fault in _FAULTS:
            struck = [c for c in self.configs if _matches(fault, c)]
            is_due = fault["kind"] not in ("log", "nan", "save")
            is_due = is_due or (fault["kind"] == "log" and is_first)
            if struck and is_due and len(self.configs) > fault.get("lanes", 0):
                _strike(fault, self.configs)
        return advance(self)

    module.PackRun.advance = disturbed


def _wrap_training(module):
    run_epoch = module.TrainGroup.run_epoch

    @functools.wraps(run_epoch)
    def disturbed(self):
        for fault in _FAULTS:
            where = (fault.get("stage"), fault.get("epoch"))
            if fault["kind"] == "nan" and where == (self.stage.name, self.n_epochs_done + 1):
                for k, lane in enumerate(self.lanes):
                    if _matches(fault, lane.config):
                        self.parameters.flat[k].fill_(math.nan)
        return run_epoch(self)

    module.TrainGroup.run_epoch = disturbed


def _wrap_trainable(module):
    if any(fault["kind"] == "save" for fault in _FAULTS):
        module._SAVE_SHARE = math.inf


_WRAPPERS = {
    "raysweep.packs.run": _wrap_pack,
    "raysweep.learning.training.loop": _wrap_training,
    "raysweep.tune.scheduling.trainable": _wrap_trainable,
}


class _Loader(importlib.abc.Loader):
    def __init__(self, loader, wrap):
        self._loader, self._wrap = loader, wrap

    def create_module(self, spec):
        return self._loader.create_module(spec)

    def exec_module(self, module):
        self._loader.exec_module(module)
        self._wrap(module)


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name not in _WRAPPERS:
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(name, path, target)
            if spec is not None and spec.loader is not None:
                spec.loader = _Loader(spec.loader, _WRAPPERS[name])
                return spec
        return None


def _import_the_one_behind():
    """Run the ``sitecustomize`` that this one hides, if there is one."""
    here = Path(__file__).resolve().parent
    behind = [entry for entry in sys.path if Path(entry or ".").resolve() != here]
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", behind)
    if spec is not None and spec.loader is not None:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


if _FAULTS:
    sys.meta_path.insert(0, _Finder())
_import_the_one_behind()
