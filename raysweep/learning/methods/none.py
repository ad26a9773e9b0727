"""No replay: the lower bound."""

from raysweep.learning.methods._method import Method

METHOD = Method()
