"""A sweep seen from its folder: progress on a terminal, status, loggers."""
