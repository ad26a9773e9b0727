"""Typed settings: from the text of a search space to a list of configurations.

Everything a user can write is checked here, before anything starts. A mistake raises
``InputError``, whose text is one line: what was expected, what came, where, what to do. Several
mistakes of one file are one error with a line for each.
"""
