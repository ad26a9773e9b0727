"""Benchmarks: speed as ratios within one run, and published results against obtained ones."""
