"""The stages of an experiment, each for all its lanes at once.

``train`` has the training loop that classifier, VIB and VAE share, ``objectives`` defines what
each of them minimises, ``step`` computes it fast on the batches of ``feed``, ``tally`` adds it up,
``evaluate`` has the test accuracy, ``fill`` the replay buffer.
"""

BLOCK_STEPS = 8
"""Training steps whose samples are gathered at once on a CPU."""
