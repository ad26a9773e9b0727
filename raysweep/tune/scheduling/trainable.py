"""A Ray Tune ``Trainable`` around ``PackRun``: one step is one epoch of a pack.

torch takes seconds to import and the driver does not need it, so only a worker's methods import
it.
"""

import contextlib
import json
import math
import os
import platform
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray import tune

from raysweep import __version__
from raysweep.learning.config import Config
from raysweep.learning.data.sources import Source
from raysweep.packs.stage_cache.entries import StageCache, environment
from raysweep.packs.states import STATE_FILE, PackState, StateError, expect_configs
from raysweep.settings.stopping import Stop
from raysweep.tables.paths import ResultsPath
from raysweep.tune.scheduling.state_keeper import MOST_BYTES, StateMail
from raysweep.tune.scheduling.step_limit import step_limit
from raysweep.versions import difference, versions_of

if TYPE_CHECKING:
    from raysweep.packs.run import PackRun

_SAVE_SHARE = 0.05
"""Share of the training time that checkpoints may take: one about every 2 s, or every epoch."""
_SAVE_S = 0.1
"""Seconds that Tune adds to a checkpoint, apart from writing the file."""
_SEND_S = 1.0
"""Seconds for what else a state costs that is sent to the driver's node: one about every 20 s."""
_NO_MEMORY = ("out of memory", "can't allocate memory", "alloc_failed", "std::bad_alloc")
"""Texts of a ``RuntimeError`` by which torch and CUDA report that memory is short."""

TRIAL = "trial"
"""Key of the Tune config under which a trial's own part stands."""


def trial_config(
    key: str,
    configs: Sequence[Config],
    *,
    cpu: float = 1,
    gpu: float = 0,
    has_checkpoints: bool = True,
    store: StageCache | None = None,
    max_seconds: float | None = None,
    checkpoint: tune.Checkpoint | None = None,
    hung: Path | None = None,
    has_averages: bool = False,
    states: Sequence[Path | ResultsPath] = (),
    is_paused: bool = False,
    mail: Sequence[str] = (),
) -> dict[str, Any]:
    """Make the Tune config of a pack's trial: serialised, so that Tune does not traverse it.

    ``has_checkpoints`` is false if workers do not see the driver's folder; then they do not use a
    ``store`` either, and states travel by ``mail`` (the arguments of ``StateMail``).
    ``max_seconds`` is the time limit of one step, ``checkpoint`` the state to resume from, ``hung``
    the file for the traceback of a step that took longer. ``has_averages`` makes each epoch report
    what early stopping needs. ``states`` are files of packs that were set aside and joined into
    this one; with ``is_paused`` an earlier run left them, and they are used only if that run would
    have got the same numbers as this one.
    """
    pack = json.dumps([config.model_dump(mode="json") for config in configs])
    return {
        "key": key,
        "pack": pack,
        "cpu": cpu,
        "gpu": gpu,
        "has_checkpoints": has_checkpoints,
        "store": json.dumps([str(store.folder), store.max_bytes]) if store else None,
        "max_seconds": max_seconds,
        "checkpoint": checkpoint,
        "hung": str(hung) if hung else None,
        "has_averages": has_averages,
        "states": json.dumps([str(path) for path in states]),
        "is_paused": is_paused,
        "mail": json.dumps(list(mail)),
        "versions": json.dumps(versions_of()),
    }


class PackTrainable(tune.Trainable):
    """Run packs one after another in one worker.

    Each result has ``rows``: JSON text that maps ``epochs``, ``accuracy`` and ``trials`` to rows.
    If a stage raises, the result has ``error`` and ``traceback`` instead: the error would recur, so
    the driver does not retry the pack as it is. If memory was short, the process ends after that
    result, to free all of it. A step that takes longer than ``max_seconds`` ends the process.
    """

    def setup(self, config: dict[str, Any], sources: Mapping[str, Source] | None = None) -> None:
        """Prepare the process once; start the first pack."""
        import torch

        assert sources is not None
        torch.set_num_threads(max(1, math.floor(config[TRIAL]["cpu"])))
        torch.set_flush_denormal(True)
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # reproducible runs
        self._sources = sources
        self._environments: dict[str, dict[str, Any]] = {}
        self._start(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Start another pack in the same process, keeping nothing of the last one."""
        self._start(new_config)
        return True

    def _start(self, config: dict[str, Any]) -> None:
        trial = config[TRIAL]
        self._began_at = self._started_at = time.time()
        self._configs = [Config(**values) for values in json.loads(trial["pack"])]
        self._gpu = trial["gpu"]
        self._wants_gpu = self._gpu > 0
        self._has_checkpoints = trial["has_checkpoints"]
        self._store: StageCache | None = None
        if trial["store"]:
            folder, max_bytes = json.loads(trial["store"])
            self._store = StageCache(Path(folder), max_bytes)
        self._device = "cuda" if self._wants_gpu else "cpu"
        self._run: PackRun | None = None
        mail = json.loads(trial["mail"])
        self._mail = StateMail(*mail) if mail else None
        self._save_s = _SEND_S if mail else _SAVE_S
        self._trained_s = 0.0
        self._n_steps = 0
        self._max_seconds: float | None = trial["max_seconds"]
        self._hung: str | None = trial["hung"]
        self._has_averages: bool = trial["has_averages"]
        self._checkpoint: tune.Checkpoint | None = trial["checkpoint"]
        self._states: list[str] = json.loads(trial["states"])
        self._is_paused: bool = trial["is_paused"]
        self._notes: list[str] = []
        self._aside: str | None = None
        self._is_tainted = False
        self._foreign = difference(json.loads(trial["versions"]), versions_of(), platform.node())

    def _pack_run(self) -> "PackRun":
        import torch

        if self._run is None:
            if self._wants_gpu and not torch.cuda.is_available():
                raise RuntimeError(
                    "resources.gpu: expected torch to see the GPU that Ray assigned, got none; "
                    "install torch with CUDA, or set resources.gpu to 0"
                )
            if self._wants_gpu:
                self._take_share()
            self._run = self._new_run()
            self._go_on()
        return self._run

    def _new_run(self) -> "PackRun":
        from raysweep.packs.run import PackRun

        return PackRun(
            self._configs,
            self._source,
            device=self._device,
            store=self._store,
            has_averages=self._has_averages,
        )

    @property
    def _source(self) -> Source:
        return self._sources[self._configs[0].source]

    def _take_share(self) -> None:
        """Limit memory to the pack's share of the GPU; raise ``OutOfMemoryError`` if taken."""
        import torch

        from raysweep.packs.pack import Pack
        from raysweep.packs.planning.estimates import memory_bytes

        torch.cuda.set_per_process_memory_fraction(min(1.0, self._gpu))
        free, _ = torch.cuda.mem_get_info()
        needed = memory_bytes(Pack(tuple(self._configs)))
        if free < needed and len(self._configs) > 1:
            raise torch.OutOfMemoryError(
                f"expected {needed / 1e9:.1f} GB free on the GPU, got {free / 1e9:.1f} GB"
            )

    def _go_on(self) -> None:
        """Resume from the states that the pack was left in; start over if one does not fit."""
        checkpoint, self._checkpoint = self._checkpoint, None
        name = str(checkpoint.path) if checkpoint else ""
        try:
            if checkpoint is not None:
                with checkpoint.as_directory() as folder:  # downloaded from an object store
                    self._take_up([self._state(f"{folder}/{STATE_FILE}")])
                return
            states = []
            for name in self._states:
                states.append(self._state(name))
            if states:
                self._take_up(states)
        except Exception as error:  # noqa: BLE001 (a state can be damaged in any way)
            self._run = self._new_run()
            self._started_at, self._n_steps = self._began_at, 0
            why = str(error) if isinstance(error, StateError) else "does not fit"
            self._notes.append(f"a pack starts over: its state {name} {why}")

    def _state(self, name: str) -> PackState:
        try:
            content = self._mail.fetch(name) if self._mail else ResultsPath.of(name).read_bytes()
        except OSError as error:
            raise StateError(f"can't be read: {error.strerror or error}") from None
        state = PackState.decode(content, self._device)
        state.expect_terms(self._terms(), self._is_paused)
        return state

    def _take_up(self, states: Sequence[PackState]) -> None:
        from raysweep.packs.merging import joined

        assert self._run is not None
        expect_configs(states, {config.id for config in self._configs})
        self._run.restore(joined([state.pack for state in states], self._configs))
        self._started_at = min(state.started_at for state in states)
        self._n_steps = max(state.n_steps for state in states)

    def step(self) -> dict[str, Any]:
        """Train one epoch."""
        import torch

        if self._is_tainted:
            raise RuntimeError("this worker ran out of memory; another takes its place")
        if self._foreign:
            return {"done": True, "error": self._foreign, "is_foreign": True}
        try:
            with step_limit(self._max_seconds, self._hung):
                run = self._pack_run()
                cpu_s = time.process_time()
                aside, self._aside = self._aside, None
                report = run.settle() if aside else run.advance()
                cpu_s = time.process_time() - cpu_s
        except Exception as error:
            self._is_tainted = _is_memory(error)
            if self._wants_gpu and torch.cuda.is_available() and not self._is_tainted:
                raise  # CUDA may be unusable in this process: the driver starts another
            return {
                "done": not self._is_tainted,
                "error": " ".join(f"{type(error).__name__}: {error}".split()),
                "traceback": traceback.format_exc(),
                "circumstances": self._circumstances(),
            }
        self._n_steps += not aside
        for row in report.trials:
            row.update(self._circumstances())
        self._trained_s += report.train_s
        rows = {"epochs": report.epochs, "accuracy": report.accuracy, "trials": report.trials}
        is_aside = aside is not None and not run.is_done and self._write(Path(aside))
        is_due = not (run.is_done or is_aside) and self._save_s <= _SAVE_SHARE * self._trained_s
        return {
            "done": run.is_done or is_aside,
            "sent": self._send() if is_due and self._mail else None,
            **({"state": aside, "turn": run.turn} if is_aside else {}),
            "n_steps": self._n_steps,
            "rows": json.dumps(rows),
            "train_s": report.train_s,
            "train_cpu_s": cpu_s,
            "prepare_s": report.prepare_s,
            "notes": [*run.notes, *self._notes],
            **({"actor": _own_handle()} if self._has_averages else {}),
            "should_checkpoint": is_due and self._has_checkpoints,
        }

    def stop_lanes(self, stops: str) -> None:
        """Remove configurations from the pack before its next epoch.

        ``stops`` is JSON that maps their ids to rung and reason. The driver calls this between two
        steps.
        """
        if self._run is not None:
            self._run.stop({i: Stop(**stop) for i, stop in json.loads(stops).items()})

    def set_aside(self, path: str) -> None:
        """Write the pack's state to a file at the next step, then stop training."""
        self._aside = path

    def _write(self, path: Path) -> bool:
        """Write the pack's state for a later job to resume from; return whether that worked."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._save(path)
        except OSError:
            with contextlib.suppress(OSError):
                path.unlink()
            return False
        return True

    def _send(self) -> str | None:
        """Send the pack's state to the driver's node; return its name there, None on failure."""
        assert self._mail is not None
        self._terms()
        start = time.perf_counter()
        content = self._encoded()
        name = None
        try:
            if len(content) > MOST_BYTES:
                raise OSError(f"expected at most {MOST_BYTES / 1e6:.0f} MB, got {len(content)}")
            name = self._mail.send(content)
        except OSError as error:
            self._notes.append(f"a pack's state did not reach the driver's node: {error}")
        self._trained_s = 0.0
        self._save_s = 2 * (time.perf_counter() - start) + _SEND_S
        return name

    def _circumstances(self) -> dict[str, Any]:
        import torch

        has_gpu = self._wants_gpu and torch.cuda.is_available()
        device = torch.cuda.get_device_name() if has_gpu else "cpu"
        return {
            "started_at": self._started_at,
            "ended_at": time.time(),
            "host": platform.node(),
            "device": device,
            "raysweep_version": __version__,
            "torch_version": str(torch.__version__),
        }

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Write the pack's state after its last epoch."""
        self._terms()
        start = time.perf_counter()
        self._save(Path(checkpoint_dir) / STATE_FILE)
        self._trained_s = 0.0
        # Tune copies the file to its storage.
        self._save_s = 2 * (time.perf_counter() - start) + _SAVE_S

    def _save(self, path: Path) -> None:
        path.write_bytes(self._encoded())

    def _encoded(self) -> bytes:
        run = self._pack_run()
        rows, terms = run.rows_behind(), self._terms()
        return PackState(run.state(), rows, self._started_at, self._n_steps, terms).encode()

    def _terms(self) -> dict[str, Any]:
        """Return what this run's numbers depend on besides its settings, and what it keeps."""
        import torch

        name = self._configs[0].source
        if name not in self._environments:  # once per process: it reads all of the data
            device = torch.device(self._device)
            self._environments[name] = environment(self._source, device, torch.float32)
        keeps = {"stages": self._store is not None, "averages": self._has_averages}
        return {**self._environments[name], "keeps": keeps}

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Resume from a state written by ``save_checkpoint``; raise ``StateError`` if it differs.

        Tune would call this if it retried trials itself.
        """
        state = self._state(f"{checkpoint}/{STATE_FILE}")
        if state.pack["configs"] != [config.id for config in self._configs]:
            raise StateError("holds other configurations")
        self._pack_run().restore(state.pack)
        self._started_at, self._n_steps = state.started_at, state.n_steps

    def cleanup(self) -> None:
        """Drop the pack."""
        self._run = None


def _own_handle() -> Any:
    """Return the handle by which the driver calls this worker, None outside of a worker.

    Tune does not pass its handles to callbacks.
    """
    if not ray.is_initialized():
        return None
    context = ray.get_runtime_context()
    return context.current_actor if context.get_actor_id() else None


def _is_memory(error: Exception) -> bool:
    import torch

    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(w in str(error).lower() for w in _NO_MEMORY)
