"""Command line and driver: ``python -m raysweep.tune FILE`` turns a search space into tables."""
