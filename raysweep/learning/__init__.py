"""The science: settings of an experiment, models, methods, data, training. No Ray, no files."""
