"""Monitoring a sweep through its folder: terminal display, status, loggers."""
