"""Running packs as Ray Tune trials."""

import logging
import signal
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.error import TuneError

from raysweep.data.sources import Source
from raysweep.plan import Pack
from raysweep.settings import Resources
from raysweep.store.files import StageStore
from raysweep.trainable import TRIAL, PackTrainable, trial_config
from raysweep.tune.collector import LOST_WORKERS, Collector, pack_name

_ROUNDS = 3
"""How often packs that Tune gave up on without a reason of their own are handed to it."""


def run_packs(
    packs: Sequence[Pack],
    resources: Resources,
    sources: Mapping[str, Source],
    collector: Collector,
    storage: Path,
    has_checkpoints: bool,
    store: StageStore | None = None,
) -> None:
    """Run every pack as a trial; return at the end or on an interrupt.

    Raises ``WriteError`` where the tables could not be written.
    """
    for name in ("ray", "ray.tune", "ray.train"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    amount = {"cpu": resources.cpu, "gpu": resources.gpu}
    trainable = tune.with_resources(
        tune.with_parameters(PackTrainable, sources=dict(sources)), amount
    )
    left = list(packs)
    for number in range(1, _ROUNDS + 1):
        configs = [
            trial_config(
                pack_name(pack),
                pack.configs,
                resources.cpu,
                resources.gpu,
                has_checkpoints,
                store,
            )
            for pack in left
        ]
        collector.begin(left)
        with _stop_on_signals():
            _fit(trainable, configs, collector, storage, f"round_{number}")
        if collector.is_interrupted or not collector.unsettled:
            return
        unsettled, collector.unsettled = collector.unsettled, {}
        left = [pack for pack in left if pack_name(pack) in unsettled]
    for name, text in unsettled.items():
        collector.fail(name, text.splitlines()[-1], text, n_failures=_ROUNDS)


class NextConfig:
    """Give Tune the config of one trial after the other.

    Tune copies a whole grid for each trial that it makes of it: time grows with the square of the
    number of packs (6 s for 625, profiled). Tune pickles this for a restore that is never
    used: the configs stay behind.
    """

    def __init__(self, configs: Sequence[Mapping[str, Any]]) -> None:
        self._configs = iter(configs)

    def __call__(self, resolved: dict[str, Any]) -> Mapping[str, Any]:
        """Give the next trial's config, whatever Tune has resolved so far."""
        return next(self._configs)

    def __deepcopy__(self, memo: dict[int, Any]) -> "NextConfig":
        return self  # Tune copies its search space for each trial

    def __reduce__(self) -> tuple[type["NextConfig"], tuple[tuple[()]]]:
        return NextConfig, ((),)


def _fit(
    trainable: type[tune.Trainable],
    configs: Sequence[Mapping[str, Any]],
    collector: Collector,
    storage: Path,
    name: str,
) -> None:
    tuner = tune.Tuner(
        trainable,
        param_space={TRIAL: tune.sample_from(NextConfig(configs))},
        tune_config=tune.TuneConfig(
            num_samples=len(configs),
            reuse_actors=True,
            trial_name_creator=lambda trial: f"pack_{trial.trial_id}",
            trial_dirname_creator=lambda trial: f"pack_{trial.trial_id}",
        ),
        run_config=tune.RunConfig(
            name=name,
            storage_path=str(storage),
            verbose=0,
            callbacks=[collector],
            failure_config=tune.FailureConfig(max_failures=LOST_WORKERS),
            # Not num_to_keep=1: with it Tune writes the state of all trials at each checkpoint.
            # The collector removes the older ones.
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        ),
    )
    collector.failure = None
    try:
        tuner.fit()
    except TuneError:
        if collector.failure is None:
            raise
    if collector.failure is not None:
        raise collector.failure


@contextmanager
def _stop_on_signals() -> Iterator[None]:
    """Let SIGINT and SIGTERM end Tune's run in order; a second one ends it at once.

    Tune takes SIGUSR1 for its own end of a run (its handler of SIGINT is switched off).
    """

    def stop(signum: int, frame: types.FrameType | None) -> None:
        signal.signal(signum, at_once)
        print("stopping, rows are kept; again to stop at once", file=sys.stderr, flush=True)
        signal.raise_signal(signal.SIGUSR1)

    def at_once(signum: int, frame: types.FrameType | None) -> None:
        raise KeyboardInterrupt

    handlers = {signal.SIGINT: stop, signal.SIGTERM: stop, signal.SIGUSR1: at_once}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
