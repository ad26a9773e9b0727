"""Methods against forgetting, one file each; the file's name is its word in ``replay:``."""

from raysweep.learning.declare import load_words
from raysweep.learning.methods._method import Method, buffer_rows, has_total

__all__ = ["METHODS", "Method", "buffer_rows", "has_total"]

METHODS: dict[str, Method] = load_words(__name__, "METHOD")
