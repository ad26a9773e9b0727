"""Time raysweep against the same experiment written as most people would write it.

    python -m benchmarks.reference_like [--data DIR] [--rounds N] [--sweep-rounds N]
                                        [--samples N] [--test-samples N]

The peer is plain torch: torchvision's MNIST with transforms for each sample, a DataLoader, one
model, ``torch.optim.Adam``, ``.item()`` each step. Both sides run configurations of
``search_spaces/vib_published.yaml`` on the first samples of real MNIST, because full MNIST would
take hours, and test equally often. Both take time in proportion to the samples; the clock starts
when they are in memory. Ray is left out.

``configuration_speedup``: one configuration of the peer against a pack divided by its
configurations, at bottleneck 100, in turn on the same core with one thread each.
``published_sweep_speedup``: all 36 configurations in packs on two processes against the peer's 36
runs one after another, with one thread or two, whichever is faster. The peer's time does not depend
on beta_2, so it is measured once a shape (model and bottleneck) and multiplied.

Processes are started and warm before they are timed; the time this takes is printed beside the
figures. Prints figures as JSON lines to stdout and tables to stderr; exit code 1 if a goal is
missed or the two sides do not run the same experiment.
"""
