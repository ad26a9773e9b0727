"""Packs: configurations that train together, each distinct stage once. Independent of Ray."""
