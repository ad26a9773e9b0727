"""The data of a run: loaded once, and checked against the settings before anything starts."""

from collections.abc import Callable, Sequence
from pathlib import Path

from raysweep.errors import InputError
from raysweep.learning.config import Config
from raysweep.learning.data.sources import Source, check_fit, is_local, load_source


def load_sources(
    configs: Sequence[Config], folder: Path, file: str, say: Callable[[str], None]
) -> dict[str, Source]:
    """Load the sources of configurations, by name; those not in ``folder`` are downloaded into it.

    Raises ``InputError`` for data that can't be loaded, and for settings of the search space
    ``file`` that do not fit its samples.
    """
    names: list[str] = sorted({config.source for config in configs})
    for name in names:
        if not is_local(name, folder):
            say(f"downloading {name} into {folder}")
    sources = {name: load_source(name, folder) for name in names}
    for name, source in sources.items():
        try:
            check_fit((config for config in configs if config.source == name), source)
        except InputError as error:
            raise InputError(f"{file}: {error}") from None
    return sources
