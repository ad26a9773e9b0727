"""Draws at random in which each name has its own: a name that is added reshuffles no other."""

import random
from collections.abc import Iterable


def draw_of(key: object, name: str) -> random.Random:
    """Return the generator of a name, such as a setting's, in the draw ``key``."""
    return random.Random(f"{key}/{name}")


def some_of(names: Iterable[str], n: int, key: object) -> list[str]:
    """Return ``n`` names drawn by ``key``, in the order drawn: those of the smallest numbers.

    A name that is added takes the place of one at most.
    """
    return sorted(names, key=lambda name: draw_of(f"{key}/which", name).random())[:n]
