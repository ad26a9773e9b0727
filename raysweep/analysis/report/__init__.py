"""The report of a sweep, as one HTML file: see ``raysweep report --help``."""
