"""Measurements: speed as ratios in one run, published results against obtained ones."""
