"""Packs through Ray Tune: queue, collector, what is left of earlier runs."""
