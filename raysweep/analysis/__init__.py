"""Scripts over the tables of a sweep: ``python -m analysis.<name> results/<sweep>``."""
