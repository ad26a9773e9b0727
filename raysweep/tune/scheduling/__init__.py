"""Running packs through Ray Tune: queue, collector, resuming earlier runs."""
