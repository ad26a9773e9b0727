"""The command line."""

import os
import shlex
import signal
import sys
import types
from pathlib import Path
from typing import Annotated

import typer

from raysweep.clean_text import clean_line
from raysweep.command_line import CleanCommand
from raysweep.errors import InputError, NothingRunsError, SweepStoppedError
from raysweep.output_streams import guarded_output, without_output_errors
from raysweep.settings.sweep import MAX_CONFIGS, load_sweep
from raysweep.shipped import find_space
from raysweep.tables.folder import resume_command
from raysweep.tables.paths import ResultsPath
from raysweep.tune.driver import plan_sweep, run_sweep
from raysweep.tune.options import ExitCode, Options, Outcome
from raysweep.tune.signals import second_signal, stopping_signals
from raysweep.user_text.values import printable

_MODULE = "python -m raysweep.tune"
COMMAND = "RAYSWEEP_COMMAND"
"""Environment variable in which ``bin/sweep`` and ``raysweep run`` record how they were called."""
_APP = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@_APP.command(cls=CleanCommand)
def tune(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="Search space (YAML), or the name of a shipped one."),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...",
            help="Settings that override the file's, such as space.lr=1e-3 or "
            "space.lr='{grid_search: [1e-3, 1e-2]}'.",
        ),
    ] = None,
    results: Annotated[
        str,
        typer.Option(help="Folder of all sweeps: a path, or an s3://, gs:// or file:// URL."),
    ] = "results",
    name: Annotated[str | None, typer.Option(help="Name of the sweep (default: FILE's).")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would run and how long it would take.")
    ] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Start over; earlier results are moved aside.")
    ] = False,
    limit: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Train at most N configurations now.")
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(help="Ray cluster to use (default: start one on this machine)."),
    ] = None,
    wait_for_nodes: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Start when N nodes can run a pack."),
    ] = None,
    wait_s: Annotated[
        float, typer.Option(min=0, help="Wait at most this many seconds for them.")
    ] = 600.0,
    without_token: Annotated[
        bool,
        typer.Option("--without-token", help="Allow a Ray cluster on which anyone can run code."),
    ] = False,
    max_configs: Annotated[
        int, typer.Option(min=1, help="Refuse search spaces with more configurations.")
    ] = MAX_CONFIGS,
    data: Annotated[
        Path | None, typer.Option(help="Data folder (default: RAYSWEEP_DATA or data).")
    ] = None,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Print more.")] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Print only the outcome.")] = False,
) -> None:
    """Train every configuration of a search space on Ray and write Parquet tables.

    Run the same command again to train only what is missing. Exit codes: 0 every
    configuration ended (diverged ones too), 1 some failed, 2 bad input, 3 interrupted or out of
    budget, 4 nothing could run; 130, 143 or 129 after a second ctrl-c, SIGTERM or SIGHUP.
    """
    command = (*shlex.split(os.environ.get(COMMAND, _MODULE)), *sys.argv[1:])
    resume = f"continue with: {resume_command(command)}"
    for number in stopping_signals():
        if number != signal.SIGINT:
            signal.signal(number, _interrupt)
    code: int
    try:
        file = find_space(file, is_quiet=quiet)
        sweep = load_sweep(file, overrides or (), max_configs=max_configs)
        options = Options(
            results=ResultsPath.of(results),
            name=name or file.stem,
            is_fresh=fresh,
            limit=limit,
            address=address,
            n_nodes=wait_for_nodes,
            wait_s=wait_s,
            is_without_token=without_token,
            data=data,
            verbosity=-1 if quiet else int(verbose),
            command=command,
            resume=resume,
        )
        if dry_run:
            plan_sweep(sweep, options, show=lambda text: print(printable(text), flush=True))
            code = ExitCode.ENDED
        else:
            with without_output_errors():
                outcome, _ = run_sweep(sweep, options)
                code = _print_outcome(outcome)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        code = ExitCode.BAD_INPUT
    except NothingRunsError as error:
        print(f"error: {error}", file=sys.stderr)
        code = ExitCode.NOTHING_RAN
    except SweepStoppedError as error:
        print(f"error: {error}", file=sys.stderr)
        code = ExitCode.INTERRUPTED
    except KeyboardInterrupt:
        print(printable(f"interrupted; {resume}", sys.stderr), file=sys.stderr)
        signum = second_signal()
        code = 128 + signum if signum else ExitCode.INTERRUPTED
    sys.exit(int(code))


def _print_outcome(outcome: Outcome) -> ExitCode:
    """Print how a run ended; return the exit code."""
    if outcome.summary:
        print(printable(outcome.summary), flush=True)
    if outcome.message:
        text = f"error: {outcome.message}" if outcome.is_error else outcome.message
        stream = sys.stderr if outcome.is_error else sys.stdout
        print(printable(clean_line(text), stream), file=stream)
    return outcome.code


def _interrupt(signum: int, frame: types.FrameType | None) -> None:
    # Not by SIGINT, which shells have background jobs of scripts ignore.
    raise KeyboardInterrupt


def main(called_as: str | None = None) -> None:
    """Run the command line; ``called_as`` is the program name that its help shows."""
    with guarded_output():
        _APP(prog_name=called_as)
