"""Scripts over the tables of a sweep: ``raysweep NAME results/SWEEP``."""
