"""The stages of an experiment, each for all its lanes at once.

``loop`` is what classifier, VIB and VAE share; ``forward`` and ``objectives`` define what each of
them computes and minimises, ``step`` does it fast on the tensors of ``batches``, ``loss_monitor``
adds it up and finds divergence, ``evaluation`` has the test accuracy.
"""

BLOCK_STEPS = 8
"""Training steps whose samples are gathered at once on a CPU."""
