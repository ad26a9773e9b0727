"""The stages of an experiment, each for all its lanes at once.

``loop`` is shared by classifier, VIB and VAE; ``forward`` and ``objectives`` define what each of
them computes and minimises; ``step`` does so fast on the tensors of ``batches``; ``loss_monitor``
sums the losses and detects divergence; ``evaluation`` computes the test accuracy.
"""

BLOCK_STEPS = 8
"""Number of training steps whose samples are gathered at once on a CPU."""
