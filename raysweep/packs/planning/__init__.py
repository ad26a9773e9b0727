"""Planning: configurations into packs, packs into distinct stages, time and memory in advance."""
