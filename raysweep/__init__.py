"""Large grids of small continual-learning experiments, trained in stacks on Ray."""

import os

# MKL reads this at its first product. Without it, the last bit of a product depends on where its
# matrices start in memory, and thus on the other lanes. There is no measurable cost.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")

__version__ = "0.2.0"
