"""Packs: configurations that train together, each distinct stage once. Knows nothing of Ray."""
