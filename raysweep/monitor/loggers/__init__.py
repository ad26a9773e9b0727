"""Logging configurations to other tools, one run each, through those tools' own clients."""
