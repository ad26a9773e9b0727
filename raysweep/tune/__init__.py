"""Command line and driver: ``raysweep run FILE`` turns a search space into tables."""
