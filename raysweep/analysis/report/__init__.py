"""One HTML file with all that a sweep found: see ``python -m analysis.report --help``."""
