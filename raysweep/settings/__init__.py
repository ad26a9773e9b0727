"""Typed settings: from the text of a search space to a list of configurations.

All user input is checked here, before anything starts. A mistake raises ``InputError`` with one
line of text: what was expected, what was found, where, and what to do. Several mistakes in one
file are reported as one error with a line for each.
"""
