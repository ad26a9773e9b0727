"""What the sub-commands share: how they show mistakes in their arguments."""

from typing import Any

from typer.core import TyperCommand

from raysweep.clean_text import clean_line


class CleanCommand(TyperCommand):
    """A command whose messages on arguments are clean: a shell's ``*`` passes any file name."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse arguments as typer does."""
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            message = getattr(error, "message", None)
            if isinstance(message, str):  # an error of click, which typer may bring along
                error.message = clean_line(message)  # type: ignore[attr-defined]
            raise


def os_error_line(error: OSError) -> str:
    """Return one clean line on what a file or folder did not allow."""
    location = f"{error.filename}: " if error.filename else ""
    return clean_line(f"{location}{error.strerror or error}")
