"""Logging configurations in other tools: a run for each, through those tools' own clients."""
