"""Large grids of small continual-learning experiments, trained in stacks on Ray."""

import os

# MKL reads this at its first product. Without it a product depends, in the last bit, on where its
# matrices start in memory, so on the company of a lane. It costs nothing that could be measured.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")

__version__ = "0.2.0"
