"""One HTML file with all that a sweep found: see ``raysweep report --help``."""
