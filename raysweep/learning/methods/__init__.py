"""Ways of not forgetting, one a file; the file's name is the word for it in ``replay:``."""

from raysweep.learning.declare import load_words
from raysweep.learning.methods._method import Method, buffer_rows, has_total

__all__ = ["METHODS", "Method", "buffer_rows", "has_total"]

METHODS: dict[str, Method] = load_words(__name__, "METHOD")
