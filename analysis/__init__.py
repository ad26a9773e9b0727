"""``python -m analysis.NAME`` in a checkout runs ``raysweep.analysis.NAME``."""

from raysweep import analysis

__path__ = analysis.__path__
