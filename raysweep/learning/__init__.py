"""The science: experiment settings, models, methods, data and training. No Ray, no files."""
