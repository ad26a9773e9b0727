"""Run search spaces from Python: the functions of ``import raysweep``."""

import warnings
from collections.abc import Mapping
from os import PathLike
from typing import Any

from raysweep import arguments
from raysweep.arguments import in_python_words, translated
from raysweep.clean_text import clean_line
from raysweep.errors import InputError, SweepStoppedError
from raysweep.settings.names import TOP_KEYS, change_meant
from raysweep.settings.sweep import MAX_CONFIGS, Sweep, load_sweep, sweep_from, sweep_of
from raysweep.shipped import find_space
from raysweep.sweep_results import SweepResults
from raysweep.tables.folder import check_name
from raysweep.tune.driver import plan_sweep, run_sweep
from raysweep.tune.options import Options
from raysweep.tune.preview.sweep_plan import SweepPlan
from raysweep.tune.signals import handlers_restored
from raysweep.user_text.values import near

SearchSpace = str | PathLike[str] | Mapping[str, Any]
_OPTIONS = [
    *("results", "name", "fresh", "limit", "address", "wait_for_nodes", "wait_s"),
    *("without_token", "refuse_above", "data_folder", "verbose", "quiet"),
]
_SAME_CALL = "run the same call again to continue"


def run(
    search_space: SearchSpace,
    *,
    results: str | PathLike[str] = "results",
    name: str | None = None,
    fresh: bool = False,
    limit: int | None = None,
    address: str | None = None,
    wait_for_nodes: int | None = None,
    wait_s: float = 600.0,
    without_token: bool = False,
    refuse_above: int = MAX_CONFIGS,
    data_folder: str | PathLike[str] | None = None,
    verbose: bool = False,
    quiet: bool = False,
    **changes: Any,
) -> SweepResults:
    """Train what a search space still lacks on Ray, and return its results.

    Every configuration is trained exactly once: the same call again trains only what is missing,
    and resumes packs that were interrupted. Progress is shown in the notebook's cell or on
    stderr. Ray is shut down at the end, unless this process was already using it.

    Args:
        search_space: A YAML file, the name of a shipped search space such as ``"vib"``, YAML text
            (with line breaks), or a dict of the same form.
        results: Folder of all sweeps, or a URL in an object store (``s3://BUCKET/sweeps``).
        name: Name of this sweep's folder; by default the file's name, ``"sweep"`` for a dict.
        fresh: Start over. Earlier results are moved aside, not deleted.
        limit: Train at most this many configurations now.
        address: Ray cluster to join (``HOST:PORT`` or ``"auto"``); by default ``RAY_ADDRESS``,
            else the Ray that this process already uses, else a new one on this machine.
        wait_for_nodes: Start once this many nodes can run a pack.
        wait_s: Wait at most this many seconds for them.
        without_token: Allow a Ray cluster on which anyone can run code.
        refuse_above: Refuse search spaces with more configurations than this.
        data_folder: Folder of the data sets; by default ``RAYSWEEP_DATA``, else ``"data"``.
        verbose: Show more.
        quiet: Show nothing.
        **changes: Keys of the search space to change: ``space={"lr": 1e-3}`` sets ``space.lr`` and
            leaves the rest of ``space:`` as it is, ``seeds=[0, 1]`` replaces a key.

    Returns:
        The results so far. Configurations that diverged or failed are rows
        (``SweepResults.failed``), not exceptions; a ``UserWarning`` reports that some failed, or
        that ``limit`` or a budget left some for later.

    Raises:
        InputError: A mistake that you can correct, in one line.
        NothingRunsError: No configuration could run, for instance because the cluster has no room.
        SweepStoppedError: Something stopped the sweep early. What was written is kept.
        KeyboardInterrupt: You interrupted it (a notebook's stop button, ctrl-c). What was written
            is kept, and the same call continues.
    """
    with in_python_words(), handlers_restored():
        sweep, options = _asked(
            search_space,
            changes,
            refuse_above=refuse_above,
            results=results,
            name=name,
            fresh=fresh,
            limit=limit,
            address=address,
            wait_for_nodes=wait_for_nodes,
            wait_s=wait_s,
            without_token=without_token,
            data_folder=data_folder,
            verbosity=_verbosity(verbose, quiet),
        )
        outcome, _ = run_sweep(sweep, options)
        message = clean_line(translated(outcome.message))
        if outcome.is_error:
            raise SweepStoppedError(message)
        if outcome.is_interrupted:
            raise KeyboardInterrupt(message)
        if message:
            warnings.warn(f"{options.name}: {message}", stacklevel=2)
        return SweepResults((options.results / options.name).as_root(), options.data)


def plan(
    search_space: SearchSpace,
    *,
    results: str | PathLike[str] = "results",
    name: str | None = None,
    fresh: bool = False,
    limit: int | None = None,
    refuse_above: int = MAX_CONFIGS,
    data_folder: str | PathLike[str] | None = None,
    measure: bool = True,
    **changes: Any,
) -> SweepPlan:
    """Return what ``run`` would do with the same arguments, without doing it.

    Args:
        search_space: As for ``run``.
        results: As for ``run``: what is done there counts as done.
        name: As for ``run``.
        fresh: As for ``run``.
        limit: As for ``run``.
        refuse_above: As for ``run``.
        data_folder: As for ``run``. Nothing is downloaded.
        measure: Train a few steps of each shape, for at most a minute, to estimate the time.
        **changes: As for ``run``.

    Raises:
        InputError: A mistake that you can correct, in one line.
    """
    with in_python_words():
        sweep, options = _asked(
            search_space,
            changes,
            refuse_above=refuse_above,
            results=results,
            name=name,
            fresh=fresh,
            limit=limit,
            data_folder=data_folder,
            verbosity=-1,
        )
        return plan_sweep(sweep, options, is_measured=measure)


def load(
    folder: str | PathLike[str], *, data_folder: str | PathLike[str] | None = None
) -> SweepResults:
    """Return the results of the sweep in a folder: finished, interrupted or running.

    Warn if rows of configurations that have ended are lost, unless a run is training them again.

    Args:
        folder: The sweep's folder, such as ``"results/vib"``, or its URL in an object store.
        data_folder: Folder of the data sets, for images in the report.

    Raises:
        InputError: There is no sweep in this folder.
    """
    with in_python_words():
        data = None if data_folder is None else arguments.path("data_folder", data_folder)
        found = SweepResults(arguments.place("folder", folder), data)
        for loss in found.status.losses:
            warnings.warn(f"{found.folder}: {loss}", stacklevel=2)
        return found


def _asked(
    search_space: SearchSpace,
    changes: Mapping[str, Any],
    *,
    refuse_above: int,
    results: str | PathLike[str],
    name: str | None,
    fresh: bool,
    limit: int | None,
    data_folder: str | PathLike[str] | None,
    verbosity: int,
    address: str | None = None,
    wait_for_nodes: int | None = None,
    wait_s: float = 600.0,
    without_token: bool = False,
) -> tuple[Sweep, Options]:
    """Read and check a search space and the options of a call."""
    _check_changes(changes)
    refuse_above = arguments.whole_number("refuse_above", refuse_above)
    place = arguments.place("results", results)
    name = None if name is None else check_name(name)
    data = None if data_folder is None else arguments.path("data_folder", data_folder)
    if limit is not None:
        limit = arguments.whole_number("limit", limit)
    if wait_for_nodes is not None:
        wait_for_nodes = arguments.whole_number("wait_for_nodes", wait_for_nodes)
    is_fresh = arguments.flag("fresh", fresh)
    is_without_token = arguments.flag("without_token", without_token)
    wait_s, address = arguments.seconds("wait_s", wait_s), arguments.text("address", address)
    sweep, stem = _read(search_space, changes, refuse_above)
    name = name or stem
    file = place / name / "sweep.yaml"
    options = Options(
        results=place,
        name=name,
        is_fresh=is_fresh,
        limit=limit,
        address=address,
        n_nodes=wait_for_nodes,
        wait_s=wait_s,
        is_without_token=is_without_token,
        data=data,
        verbosity=verbosity,
        # The resolved search space: the call itself may not fit on a command line.
        command=("raysweep", "run", str(file), "--name", name, "--results", str(place)),
        resume=_SAME_CALL,
    )
    return sweep, options


def _read(
    search_space: SearchSpace, changes: Mapping[str, Any], refuse_above: int
) -> tuple[Sweep, str]:
    """Return a search space, and the default name of its sweep."""
    if isinstance(search_space, Mapping):
        return sweep_of("search space", search_space, changes, max_configs=refuse_above), "sweep"
    if isinstance(search_space, str) and "\n" in search_space:
        text = search_space.encode(errors="surrogatepass")
        return sweep_from("search space", text, changes, max_configs=refuse_above), "sweep"
    what = "file, the name of a shipped search space, YAML text or a dict"
    file = find_space(arguments.path("search space", search_space, what), is_quiet=True)
    return load_sweep(file, changes, max_configs=refuse_above), file.stem


def _verbosity(verbose: bool, quiet: bool) -> int:
    is_verbose, is_quiet = arguments.flag("verbose", verbose), arguments.flag("quiet", quiet)
    return -1 if is_quiet else int(is_verbose)


def _check_changes(changes: Mapping[str, Any]) -> None:
    """Raise ``InputError`` for keywords that are neither options nor keys of a search space."""
    for key, value in changes.items():
        if key not in TOP_KEYS:
            hint = change_meant(key) or near(key, [*TOP_KEYS, *_OPTIONS])
            raise InputError(f"expected an option or a key of a search space, got {key!r}{hint}")
        if key == "data" and isinstance(value, str | PathLike):
            raise InputError(
                f"data: expected settings such as {{'source': 'mnist'}}, got {str(value)!r}; "
                f"the data folder is data_folder={str(value)!r}"
            )
