"""A function that only prints, or writes a file, as a command."""

import sys
from collections.abc import Callable

import typer

from raysweep.command_line import CleanCommand, os_error_line
from raysweep.errors import InputError
from raysweep.output_streams import guarded_output


def run_as_command(script: Callable[..., None], called_as: str | None = None) -> None:
    """Run a function as a command; a user's mistake gives one line and exit code 2.

    ``called_as`` is the name that its help shows.
    """
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command(cls=CleanCommand)(script)
    with guarded_output():
        try:
            app(prog_name=called_as, standalone_mode=True)
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)
        except OSError as error:
            print(f"error: {os_error_line(error)}", file=sys.stderr)
            sys.exit(2)
